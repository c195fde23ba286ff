"""What is done on hosts once the engine has done its part, or has failed: beside its steps, by what was found."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from cluster.acme.status import await_first
from cluster.services import Kind
from cluster.tls.certificates import names_of
from platforms.remote.renewing import said_of
from platforms.remote.ssh import LOOK_SECONDS, HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.acme.kept import Said
    from cluster.placement import Placement
    from cluster.topology import Topology
    from platforms.remote.looked import Seen
    from platforms.remote.paths import RemotePaths
    from platforms.remote.ssh import Ssh


def tidied(ssh: Ssh, placement: Placement) -> str:
    """Stop what was started on one host and won't serve, since another one failed; return what could not be done.

    On one host what failed has done so itself. Its secrets go in any case.
    """
    said, words = [], ["stop"] if len(placement.app) > 1 else []
    for host in placement.app:
        try:
            ssh.run(host, "tidy", *words)
        except HostError as error:
            said.append(f"what was started there may still run: {error}\n")
    return "".join(said)


def shut_out(ssh: Ssh, seen: Seen) -> None:
    """Let nobody get to the database or the broker any more by what former releases had: what they did is done now.

    Nor are those heard that held the site's address, and have given it up.
    """
    for name, looked in seen.each.items():
        if looked.address and looked.address["left"]:
            ssh.run(name, "part")
    for host in {seen.placement.database, seen.placement.broker} - {None, *seen.away}:
        stack = seen.each[str(host)].stack or {}
        found, jobs = stack.get("database") or {}, stack.get("broker") or {}
        if found.get("left") or found.get("owner_logs_in") or jobs.get("left"):
            ssh.run(str(host), "shut-out")


def await_certificates(ssh: Ssh, topology: Topology, placement: Placement, say_of: Callable[[str, str], None]) -> None:
    """Wait until the authority has given each host the first certificate, or has said why not; that is said."""

    def look(host: str) -> tuple[Said, str | None]:
        return said_of(json.loads(ssh.run(host, "renewal", seconds=LOOK_SECONDS)))

    for host in placement.nginx if topology.of_kind(Kind.ACME) else ():
        await_first(partial(look, host), partial(say_of, host), names_of(topology.config))


def forget_archives(paths: RemotePaths, keep: set[str | None]) -> None:
    """Remove what was sent: a host has it. keep: the releases of which it stays."""
    for path in paths.releases.iterdir() if paths.releases.is_dir() else ():
        if path.name.partition("-")[0] not in keep:
            path.unlink()


__all__ = ["await_certificates", "forget_archives", "shut_out", "tidied"]
