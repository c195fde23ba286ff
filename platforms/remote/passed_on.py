"""A former release that is to serve again, for a host that did not have instances when it was sent."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from platforms.remote.ssh import HostError, explain
from platforms.remote.wheels import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from platforms.remote.looked import Seen
    from platforms.remote.ssh import Ssh


def sources(seen: Seen, release: str) -> dict[str, str] | None:
    """Return where each host with instances that lacks a release can get it from; None where one can't.

    From a host of its kind (Python, architecture, distribution): packages of another one would not run.
    """
    having = [name for name, looked in seen.each.items() if release in looked.releases]
    lacking = [name for name in seen.placement.app if name not in having]
    found = {
        host: next((one for one in having if kind_of(seen.each[one]) == kind_of(seen.each[host])), None)
        for host in lacking
    }
    known = {host: source for host, source in found.items() if source is not None}
    return known if known.keys() == found.keys() else None


def pass_on(ssh: Ssh, seen: Seen, release: str, away: Mapping[str, str], say: Callable[[str, str], None]) -> None:
    """Send a release and its packages from host to host; HostError where that fails. away: as `sources` says."""
    for host, source in away.items():
        say(host, "sending the release")
        environment = ssh.run(source, "environment-of", release).strip()
        if environment not in seen.each[host].environments:
            _send(ssh, source, host, "environment", environment)
        _send(ssh, source, host, "release", release)


def _send(ssh: Ssh, source: str, host: str, kind: str, name: str) -> None:
    receive = ssh.script(host, "receive", f"receive={int(time.time())}", kind, name)
    # What comes is looked at as a whole: of an archive that ends too soon nothing is left.
    script = f"{ssh.script(source, 'send', kind, name)} </dev/null | {receive}"
    done = subprocess.run(
        ["sh", "-c", script], cwd=ssh.root, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise HostError(f"{host}: {explain(done.stderr.strip() or f'the {kind} {name} did not come')}")


__all__ = ["pass_on", "sources"]
