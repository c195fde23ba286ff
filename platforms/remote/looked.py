"""What a host was seen to hold: of the machine, and of a stack on it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Said
from cluster.lint import Facts
from cluster.placement import place
from cluster.render.versions import DISTRIBUTIONS, KEEPALIVE_MIN_TIMEOUT_SINCE, OLDEST
from cluster_runtime.status import STARTING
from platforms.base import by_holder
from platforms.pulumi.live import Live
from platforms.remote.host.paths import THERE, HostPaths
from platforms.remote.ssh import LOOK_SECONDS, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from cluster.config.hosts import Host
    from cluster.placement import Placement
    from cluster.render.nginx import NginxConfig
    from cluster.render.versions import Version
    from cluster.topology import Topology
    from platforms.remote.ssh import Ssh

#: Bytes that a release and its environment may need.
ROOM = 500 * 1024**2

#: Of a machine that is away.
UNKNOWN: Mapping[str, Any] = {"nginx": None, "codename": ""}

#: Hosts that are looked at, at a time; and seconds by which their clocks may differ.
MOST_AT_ONCE, CLOCKS_APART = 32, 30.0

#: What a stack may be called on a host: it is a part of its user's name, which has 32 characters at most.
#: One that ends in -nginx would have its sockets where another one's nginx has its own (HostPaths.nginx_run).
NAME = re.compile(r"(?!.*-nginx$)[a-z][a-z0-9-]{0,23}")

#: Where a preview finds what was looked at just before it: its path.
LOOKED_VARIABLE = "CLUSTER_LOOKED"


def digests(texts: Mapping[str, str]) -> dict[str, str]:
    """Return what a host says of files with these texts, by their names."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A host as it was found. machine, stack: as `host.look` says them; stack None: it was never here."""

    host: str
    places: HostPaths
    machine: Mapping[str, Any]
    stack: Mapping[str, Any] | None

    @property
    def nginx(self) -> Version:
        """The version of its nginx, or of the one that its distribution has."""
        found = self.machine["nginx"]
        if found is not None:
            return (int(found[0]), int(found[1]), int(found[2]))
        return DISTRIBUTIONS.get(str(self.machine["codename"]), OLDEST)

    @property
    def http3(self) -> bool | None:
        """Whether its nginx was built with HTTP/3; None where it has none yet."""
        found: bool | None = self.machine.get("http3")
        return found

    @property
    def polite(self) -> bool:
        """Whether clients' connections are closed before a reload: its nginx would close idle ones by itself."""
        return self.nginx < KEEPALIVE_MIN_TIMEOUT_SINCE

    @property
    def live(self) -> Live:
        """What nginx and the instances really run."""
        stack = self.stack
        if stack is None:
            return Live()
        instances: Mapping[str, Any] = stack["instances"]
        return Live(
            nginx=stack["nginx"],
            nginx_generation=stack["nginx_turn"],
            holders={name: one["holder"] for name, one in instances.items()},
            generations={name: one["turn"] for name, one in instances.items()},
            given={name: one["given"] for name, one in instances.items()},
            answers={name: one["answers"] for name, one in instances.items()},
            statuses={
                (name, process): by_holder(said, holds=one["holder"] == process)
                for name, one in instances.items()
                for process, said in one["said"].items()
            },
            static=stack["static"],
            static_generation=stack["static_turn"],
        )

    @property
    def releases(self) -> Sequence[str]:
        """The releases that are there, the latest last."""
        found: Sequence[str] = (self.stack or {}).get("releases", ())
        return found

    @property
    def served(self) -> Sequence[str]:
        """Those of them that served once all was done, the latest last; one that failed is there, too."""
        found: Sequence[str] = (self.stack or {}).get("served", ())
        return found

    def has_secrets(self, release: str) -> bool:
        """Tell whether systemd has a release's secrets to give."""
        return release in (self.stack or {}).get("secrets", ())

    def lacks_secrets(self, release: str) -> bool:
        """Tell whether a release that is there could not start for want of them."""
        return release in self.releases and not (
            self.has_secrets(release) or release in (self.stack or {}).get("read_files", ())
        )

    @property
    def environments(self) -> Sequence[str]:
        """The environments of packages that are there."""
        found: Sequence[str] = (self.stack or {}).get("environments", ())
        return found

    @property
    def units(self) -> Mapping[str, Mapping[str, Any]]:
        """What systemd says of the stack's units, by their names."""
        found: Mapping[str, Mapping[str, Any]] = (self.stack or {}).get("units", {})
        return found

    @property
    def made_by(self) -> str:
        """By which resource of a program the stack was set up there the last time."""
        return str((self.stack or {}).get("made_by", ""))

    @property
    def between(self) -> Mapping[str, Any]:
        """Digests of what it shows other hosts, and of whom it believes."""
        found: Mapping[str, Any] = (self.stack or {}).get("between", {})
        return found

    @property
    def renewal(self) -> Mapping[str, Any]:
        """What keeps its certificate by ACME, what that says, and which one nginx has read."""
        found: Mapping[str, Any] = (self.stack or {}).get("renewal", {})
        return found

    @property
    def address(self) -> Mapping[str, Any] | None:
        """What lets it hold the site's address, as `host.address.found` says it; None where it is none of those."""
        found: Mapping[str, Any] | None = (self.stack or {}).get("address")
        return found

    def has_files(self, texts: Mapping[str, str]) -> bool:
        """Tell whether systemd is told what it should be; texts: of the units and of the directories."""
        found = (self.stack or {}).get("files", {})
        return all(found.get(name) == digest for name, digest in digests(texts).items())

    def has_site(self, rendered: NginxConfig) -> bool:
        """Tell whether nginx runs a configuration, and would run it again."""
        stack = self.stack or {}
        files = digests(rendered.files)
        links = {path: os.path.normpath(target) for path, target in rendered.links.items()}
        there = stack.get("site", {})
        return stack.get("nginx") == rendered.digest and all(
            there.get(path) == found for path, found in {**files, **links}.items()
        )

    def has_relay(self, files: Mapping[str, str], *, alone: bool) -> bool:
        """Tell whether nginx does this for other hosts; alone: and nothing else of the stack's."""
        found = (self.stack or {}).get("relay", {"files": {}, "runs": False})
        wanted = digests(files)
        there = found["files"] if alone else {path: told for path, told in found["files"].items() if path in wanted}
        return bool(there == wanted and (found["runs"] or not wanted))

    def has_database(self, digest: str) -> bool:
        """Tell whether the database that was made so runs, and nobody gets to it who must not."""
        found = (self.stack or {}).get("database")
        return found is not None and bool(found["digest"] == digest and found["active"] and found["safe"])

    def has_broker(self, digest: str, name: str, unit: str) -> bool:
        """Tell whether the broker that was made so runs, by this unit, and nobody gets to it who must not."""
        found = (self.stack or {}).get("broker")
        there = found is not None and bool(found["digest"] == digest and found["safe"] and found["whole"])
        return there and self.has_daemons({self.places.daemon(name).name: unit})

    @property
    def asked_for_broker(self) -> bool:
        """Whether other hosts could ask for a broker there."""
        return (self.stack or {}).get("broker") is not None

    @property
    def has_visitors(self) -> bool:
        """Whether nginx has the site."""
        return any(path.startswith("sites-enabled/") for path in (self.stack or {}).get("site", {}))

    @property
    def has_renewer(self) -> bool:
        """Whether something keeps its certificate by ACME."""
        return bool(self.renewal.get("units") or self.renewal.get("sent"))

    @property
    def has_uploads(self) -> bool:
        """Whether it has itself what the project has written."""
        return "shared" in (self.stack or {}).get("kept", ())

    @property
    def statics(self) -> Sequence[str]:
        """The releases whose static files are there."""
        found: Sequence[str] = (self.stack or {}).get("statics", ())
        return found

    def run(self, instances: Sequence[str], release: str) -> bool:
        """Tell whether instances of a release run."""
        return self.are_active(self.places.unit_of(name, release) for name in instances)

    def are_active(self, units: Iterable[str]) -> bool:
        """Tell whether units run."""
        return all(self.units.get(unit, {}).get("state") == "active" for unit in units)

    def has_daemons(self, units: Mapping[str, str]) -> bool:
        """Tell whether programs of the distribution's run, started by these units; units: their texts by name."""
        found = (self.stack or {}).get("daemons", {})
        return all(
            found.get(name) == {"state": "active", "unit": digest, "started": digest}
            for name, digest in digests(units).items()
        )

    def hold_names(self, instances: Sequence[str], release: str) -> bool:
        """Tell whether instances of a release hold their names, or will: one that is starting again takes its own."""
        live = self.live
        return all(
            live.holders.get(name) == release
            or (
                live.holders.get(name) is None
                and live.given.get(name) == release
                and live.statuses.get((name, release), {}).get("state") == STARTING
            )
            for name in instances
        )

    def runs_only(self, wanted: set[str], daemons: set[str]) -> bool:
        """Tell whether units run, are those that a boot starts, and no other is there; nor another of daemons."""
        if set((self.stack or {}).get("daemons", {})) != daemons:
            return False
        there = {unit for unit, said in self.units.items() if said["state"] in THERE or said.get("enabled")}
        enabled = {unit for unit, said in self.units.items() if said.get("enabled")}
        return there == enabled == wanted

    def turn(self, step: str, *, done: bool) -> str:
        """Return the turn of a step: the last one where what it does is so, else one that was never before.

        It is an input of the step, so that it is done again wherever it is undone, even if the state believes it done.
        """
        last = (self.stack or {}).get("turns", {}).get(step, 0)
        return str(last if done and last else int(time.time()))

    def problems(self) -> list[str]:
        """Return why nothing can run on it, a line each."""
        machine = self.machine
        found = []
        if not machine["systemd"]:
            found.append("systemd does not run there")
        if machine["distribution"] not in ("debian", "ubuntu"):
            found.append(f"its distribution is {machine['distribution'] or 'unknown'}: Debian or Ubuntu is needed")
        if machine["nginx"] is not None and self.nginx < OLDEST:
            found.append(f"its nginx is {'.'.join(map(str, self.nginx))}: {'.'.join(map(str, OLDEST))} is needed")
        return [f"hosts: {self.host}: {line}" for line in found]

    def check_room(self) -> None:
        """Refuse to send a release where there may be no room for it; HostError says how much there is."""
        free = self.machine["free"]
        if free < ROOM:
            raise HostError(
                f"hosts: {self.host}: {free // 1024**2} MB are free in {self.machine['fullest']}: "
                f"{ROOM // 1024**2} MB are needed for a release"
            )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All hosts of a stack as they were found.

    each: by their names, in the stack file's order; of one that is away it is as if there were nothing of the stack.
    away: why hosts are away, by their names.
    """

    each: Mapping[str, Looked]
    topology: Topology
    away: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def placement(self) -> Placement:
        """Which host runs what."""
        return place(self.topology)

    @property
    def edges(self) -> list[Looked]:
        """The hosts that have visitors, and are not away."""
        return [self.each[name] for name in self.placement.nginx if name not in self.away]

    @property
    def leader(self) -> Looked:
        """The host on which is done what is done once."""
        return self.each[self.placement.leader]

    @property
    def edge(self) -> Looked:
        """The first host that has visitors."""
        return self.each[self.placement.nginx[0]]

    @property
    def nginx(self) -> Version:
        """The oldest version of what visitors meet."""
        return min(self.each[name].nginx for name in self.placement.nginx)

    @property
    def http3(self) -> bool | None:
        """Whether every nginx that visitors meet was built with HTTP/3; None where that is not known of one."""
        found = {self.each[name].http3 for name in self.placement.nginx}
        return False if False in found else None if None in found else True

    def of(self, service: str) -> Looked:
        """Return the host on which a service is to run."""
        return self.each[self.placement.host_of[service]]

    @cached_property
    def live(self) -> Live:
        """What really runs: each instance where it should, or where it was found; nginx as the first with visitors."""
        found = {name: looked.live for name, looked in self.each.items()}
        host_of = self.placement.host_of
        names = {name: host for host, live in found.items() for name in live.holders}
        where = {name: host_of.get(name, host) for name, host in names.items()}
        where = {name: host if name in found[host].holders else names[name] for name, host in where.items()}
        return replace(
            found[self.edge.host],
            holders={name: found[host].holders.get(name) for name, host in where.items()},
            generations={name: found[host].generations.get(name, 0) for name, host in where.items()},
            given={name: found[host].given.get(name) for name, host in where.items()},
            answers={name: found[host].answers.get(name, False) for name, host in where.items()},
            statuses={
                key: said
                for host, live in found.items()
                for key, said in live.statuses.items()
                if where.get(key[0]) == host
            },
        )

    @property
    def release(self) -> str | None:
        """The release that serves: the one that every instance's name leads to, where its host answers; else None."""
        live, host_of = self.live, self.placement.host_of
        held = {live.holders.get(name) for name in self.topology.names if host_of[name] not in self.away}
        return held.pop() if len(held) == 1 else None

    @property
    def issued(self) -> list[tuple[str, str]]:
        """When its hosts got certificates by ACME of late, and for which names."""
        return [one for looked in self.each.values() for one in Said.of(looked.renewal.get("said")).issued]

    @property
    def is_new(self) -> bool:
        """Whether the stack was never on any of them."""
        return all(looked.stack is None for looked in self.each.values())

    def check_room(self) -> None:
        """Refuse to send a release where there may be no room for it; HostError has a line for each host."""
        _all_of([looked.check_room for name, looked in self.each.items() if name in self.placement.app])


def _all_of(checks: Iterable[Callable[[], None]]) -> None:
    problems = []
    for check in checks:
        try:
            check()
        except HostError as error:
            problems.append(str(error))
    if problems:
        raise HostError("\n".join(problems))


def look_around(ssh: Ssh, topology: Topology) -> Seen:
    """Look at all hosts at once, as far as they answer; HostError where none does."""
    with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
        ask = partial(_looked, ssh, shared_filesystem=topology.config.app.shared_filesystem)
        found = dict(zip((host.name for host in ssh.hosts), pool.map(ask, ssh.hosts), strict=True))
    away = {name: str(one) for name, one in found.items() if isinstance(one, HostError)}
    if len(away) == len(found):
        raise HostError("\n".join(away.values()))
    places = HostPaths(ssh.stack)
    nothing = {name: Looked(host=name, places=places, machine=UNKNOWN, stack=None) for name in away}
    each = {name: one if isinstance(one, Looked) else nothing[name] for name, one in found.items()}
    return Seen(each=each, topology=topology, away=away)


def look(ssh: Ssh, topology: Topology) -> Seen:
    """Look at all hosts at once; HostError has a line for each that is away, or can't be what it is to be."""
    seen = look_around(ssh, topology)
    if seen.away:
        raise HostError("\n".join(seen.away.values()))
    check_clocks(seen.each.values())
    return seen


def handed(seen: Seen) -> str:
    """Return what was found, as JSON, for a program that begins at once: it need not look again."""
    return json.dumps({name: {"machine": one.machine, "stack": one.stack} for name, one in seen.each.items()})


def taken(text: str, ssh: Ssh, topology: Topology) -> Seen | None:
    """Return what was handed; None where it is of other hosts."""
    found = json.loads(text)
    if [*found] != [host.name for host in ssh.hosts]:
        return None
    places = HostPaths(ssh.stack)
    return Seen(
        each={name: Looked(host=name, places=places, **told) for name, told in found.items()}, topology=topology
    )


def look_at_former(ssh: Ssh) -> list[Looked]:
    """Look at the hosts that the stack file does not name any more, as far as they are known here and answer."""
    with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
        found = list(pool.map(partial(_looked, ssh), ssh.former()))
    return [one for one in found if isinstance(one, Looked)]


def _looked(ssh: Ssh, host: Host, shared_filesystem: str | None = None) -> Looked | HostError:
    words = () if shared_filesystem is None else (shared_filesystem,)
    try:
        found = json.loads(ssh.run(host.name, "look", *words, seconds=LOOK_SECONDS))
    except HostError as error:
        return error
    found["machine"]["late"] = time.time() - float(found["machine"]["clock"])
    looked = Looked(host=host.name, places=HostPaths(ssh.stack), machine=found["machine"], stack=found["stack"])
    problems = looked.problems()
    return HostError("\n".join(problems)) if problems else looked


def check_clocks(hosts: Iterable[Looked]) -> None:
    """Refuse hosts whose clocks differ: what one has begun may have ended for another. HostError names them."""
    late = {looked.host: float(looked.machine["late"]) for looked in hosts}
    first, last = min(late, key=lambda name: late[name]), max(late, key=lambda name: late[name])
    # How long an answer took is in it.
    if late[last] - late[first] > CLOCKS_APART:
        raise HostError(
            f"hosts: the clocks of {first} and {last} differ by {late[last] - late[first]:.0f} s: let them keep the "
            "time (apt-get install systemd-timesyncd)"
        )


def check_name(name: str) -> None:
    """Refuse a stack that can't be called so on a host; HostError says why."""
    if NAME.fullmatch(name) is None:
        raise HostError(
            f"stack {name}: on a host its user is called after it: lower-case letters, digits and -, beginning with a "
            "letter, 24 at most, and not ending in -nginx"
        )


def facts_of(root: Path, stack: str, secrets: frozenset[str], seen: Seen | None) -> Facts:
    """Return what the lints may look at of a stack on hosts."""
    return Facts(
        root=root,
        nginx=None if seen is None else seen.nginx,
        http3=None if seen is None else seen.http3,
        secrets=secrets,
        privileged=True,
        stack=stack,
        now=dt.datetime.now(dt.UTC),
        issued=[] if seen is None else seen.issued,
    )


def said_of_sessions(ssh: Ssh, host: str) -> dict[str, Any] | None:
    """Return what an instance says of the session store; None where none says it."""
    try:
        found: dict[str, Any] = json.loads(ssh.run(host, "ask", "/-/probe/sessions"))
    except (HostError, ValueError):
        return None
    return found
