"""A filesystem that a stack's hosts share: whether all have it, whether it is the same, and whose files are there."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cluster.checks import Check
from cluster.sessions import discard_key
from platforms.remote.paths import kept_there, written
from platforms.remote.ssh import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from platforms.remote.looked import Looked, Seen
    from platforms.remote.ssh import Ssh

#: The numbers of which a user of the system's may have one.
FIRST_NUMBER, LAST_NUMBER = 100, 999

#: Where it is said how to put it right that a user has different numbers.
HOW = 'docs/remote.md, "Shared uploads", says how to give it one number'


def number(seen: Seen) -> int:
    """Return the number of the stack's user, which is the same on all hosts; HostError where none is free on all.

    It is the one that the user has already; else that of whoever has the stack's files; else a free one.
    """
    known = [*_own(seen).values(), *_owners(seen).values()]
    if known:
        return known[0]
    taken = {one for looked in _hosts(seen) for one in _numbers(looked)["taken"]}
    for found in range(LAST_NUMBER, FIRST_NUMBER - 1, -1):
        if found not in taken:
            return found
    raise HostError("hosts: no number of a system's user is free on all of them")


def wanted(seen: Seen, host: str) -> dict[str, Any] | None:
    """Return what a host is told of the filesystem; None where it needs none."""
    config = seen.topology.config
    if config.app.shared_filesystem is None or host not in seen.placement.hosts:
        return None
    return {"path": config.app.shared_filesystem, "number": number(seen), "shared": kept_there(config)}


def is_ready(looked: Looked, told: dict[str, Any] | None) -> bool:
    """Tell whether a host has what it is told of the filesystem."""
    found = (looked.stack or {}).get("filesystem")
    if told is None or found is None:
        return told is None and found is None
    return bool(found["path"] == told["path"] and found["seen"] and _numbers(looked)["own"] == told["number"])


def problems(seen: Seen) -> list[str]:
    """Return why the hosts can't share a filesystem as they were found, a line each."""
    path = seen.topology.config.app.shared_filesystem
    if path is None:
        return []
    unmounted = [f"hosts: {looked.host}: {why}" for looked in _hosts(seen) if (why := _found(looked)["problem"])]
    try:
        return unmounted or [*_different(seen, path), *_owned_otherwise(seen, number(seen))]
    except HostError as error:
        return [str(error)]


def _different(seen: Seen, path: str) -> Iterator[str]:
    tokens = {looked.host: _found(looked)["token"] for looked in _hosts(seen)}
    first = next((host for host, token in tokens.items() if token), None)
    for host, token in tokens.items() if first is not None else ():
        if first is not None and token != tokens[first]:
            yield f"hosts: {host}: what is mounted at {path} is not what {first} has there"


def _owned_otherwise(seen: Seen, chosen: int) -> Iterator[str]:
    """Yield where a number is another user's: on NFS files are a number's, whoever has it on a host."""
    config, name = seen.topology.config, next(iter(seen.each.values())).places.name
    own = _own(seen)
    if len(set(own.values())) > 1:
        said = ", ".join(f"{one} on {host}" for host, one in own.items())
        yield f"app.shared_filesystem: the user {name} has different numbers ({said}), and files are a number's: {HOW}"
        return
    for looked in _hosts(seen):
        if looked.host not in own and chosen in _numbers(looked)["taken"]:
            why = f"number {chosen} is another user's there, and {name} has it elsewhere"
            yield f"hosts: {looked.host}: {why}: {HOW}"
    for host, owner in _owners(seen).items():
        if owner != chosen:
            yield (
                f"hosts: {host}: {written(config, seen.each[host].places)} is the user {owner}'s, and {name} is "
                f"{chosen}: chown it where the filesystem is, with all below it"
            )
    groups = {looked.host: _numbers(looked)["nginx"] for looked in _hosts(seen)}
    if len(set(groups.values())) > 1:
        said = ", ".join(f"{group} on {host}" for host, group in groups.items())
        yield f"hosts: nginx's group has different numbers ({said}), and could not read what is shared"


def left(seen: Seen, *, may: bool) -> str | None:
    """Return why a release must not serve: what the project has written is on another filesystem than it would look.

    may: whether the stack file lets it be left behind.
    """
    config = seen.topology.config
    for looked in seen.each.values():
        kept = (looked.stack or {}).get("filesystem")
        if may or kept is None or looked.host not in seen.placement.hosts:
            continue
        path = config.app.shared_filesystem
        is_same = path is not None and kept["token"] == _found(looked)["token"]
        # What can't be seen now may hold anything.
        if not is_same and (kept["holds"] or not kept["seen"]):
            where = "with the host itself" if path is None else f"at {path}"
            key = discard_key(config.database)
            if path == kept["path"]:
                return (
                    f"app.shared_filesystem: {looked.host} has what the project has written at {path}, on another "
                    f"filesystem than is mounted there now: mount that one, or set `{key}: true` for one `up` and copy "
                    "the files"
                )
            return (
                f"app.shared_filesystem: {looked.host} has what the project has written at {kept['path']}, and now it "
                f"would be looked for {where}: put that back, or set `{key}: true` for one `up` and copy the files"
            )
    return None


# --- that all see the same


def unproven(ssh: Ssh, seen: Seen, *, instances: bool = False, away: Collection[str] = ()) -> list[str]:
    """Let each host with instances write, and all read what the others wrote; return what is wrong, a line each.

    instances: whether those that run must see it, too. away: hosts that can't be asked.
    """
    config, placement = seen.topology.config, seen.placement
    path = config.app.shared_filesystem
    if path is None:
        return []
    told, once = {"path": path, "number": number(seen)}, secrets.token_hex(8)
    marks = {f"{once}.{host}": secrets.token_hex(8) for host in placement.app if host not in away}

    def write(host: str) -> None:
        name = f"{once}.{host}"
        ssh.run(host, "prove", told=json.dumps({**told, "name": name, "mark": marks[name]}))

    def read(host: str) -> list[str]:
        runs = host in placement.app
        asked = {
            **told,
            "number": told["number"] if runs else None,
            "visited": host in placement.nginx,
            "marks": marks,
            "shared": kept_there(config) if instances and runs else None,
        }
        said = json.loads(ssh.run(host, "unread", told=json.dumps(asked)))
        others = " and ".join(name.partition(".")[2] for name in said["unread"])
        lines = [f"hosts: {host}: what {others} has just written at {path} is not there"] if others else []
        return [*lines, *(f"hosts: {host}: {unit} does not see what is at {path}" for unit in said["blind"])]

    failed = _on_each([host for host in placement.app if host not in away], write)
    return failed or _on_each([host for host in placement.hosts if host not in away], read)


def _on_each(hosts: Sequence[str], ask: Callable[[str], list[str] | None]) -> list[str]:
    """Return the lines of all hosts, which are asked at once."""

    def asked(host: str) -> list[str]:
        try:
            return ask(host) or []
        except HostError as error:
            return [f"hosts: {error}"]

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return [line for lines in pool.map(asked, hosts) for line in lines]


def checked(ssh: Ssh, seen: Seen) -> list[Check]:
    """Return what `verify` says of it; nothing where the hosts share none."""
    path = seen.topology.config.app.shared_filesystem
    if path is None:
        return []
    wrong = problems(seen) if not seen.away else []
    wrong = wrong or unproven(ssh, seen, instances=True, away=seen.away)
    expected = f"all see at {path} what each writes"
    return [Check(name="shared filesystem", ok=not wrong, expected=expected, found="; ".join(wrong) or "so it is")]


# --- what was found


def _hosts(seen: Seen) -> list[Looked]:
    return [seen.each[name] for name in seen.placement.hosts if name not in seen.away]


def _found(looked: Looked) -> dict[str, Any]:
    found: dict[str, Any] = looked.machine["filesystem"]
    return found


def _numbers(looked: Looked) -> dict[str, Any]:
    found: dict[str, Any] = looked.machine["numbers"]
    return found


def _own(seen: Seen) -> dict[str, int]:
    return {one.host: own for one in _hosts(seen) if (own := _numbers(one)["own"]) is not None}


def _owners(seen: Seen) -> dict[str, int]:
    return {one.host: owner for one in _hosts(seen) if (owner := _found(one)["owner"])}
