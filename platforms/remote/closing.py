"""Lets responses end their connections before a reload of nginx, while other things are done (nginx before 1.27.4)."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from platforms.pulumi.progress import NGINX_CONFIG
from platforms.remote.ssh import LOOK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cluster.plan import Planned
    from platforms.remote.looked import Looked
    from platforms.remote.planning import Site
    from platforms.remote.told import Hosted


def reloaded(site: Site) -> dict[str, Looked]:
    """Return the hosts that have visitors, by the step in which each nginx is told its configuration."""
    return {f"{one.host}-{NGINX_CONFIG}": one for one in site.seen.edges}


def will_reload(hosts: Iterable[Hosted]) -> Iterator[Looked]:
    """Yield the hosts whose nginx runs another configuration than it is to have, as is known before any preview."""
    for one in hosts:
        runs = one.looked.live.nginx
        if one.rendered is not None and runs not in (None, one.rendered.digest):
            yield one.looked


class Closing:
    """Hosts whose responses end their connections, until it is closed, or a reload has come that needed it.

    A reload waits for as long itself where that was never begun, or has ended.

    start: begins a command of a host's, which ends as its standard input does; OSError where it can't.
    """

    def __init__(self, start: Callable[[str, str], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._begun: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: list[subprocess.Popen[bytes]] = []

    def begin(self, hosts: Iterable[Looked]) -> None:
        """Begin it where a reload would close idle connections, and it does not go on already."""
        for one in hosts:
            begun = self._begun.get(one.host)
            if one.polite and (begun is None or begun.poll() is not None):
                if begun is not None:
                    self._tell([one.host])
                with contextlib.suppress(OSError):
                    self._begun[one.host] = self._start(one.host, "closing")

    def go_on(self, site: Site, planned: Planned) -> None:
        """Let it be where nothing comes before nginx's reload; what comes before that may take its time."""
        steps, hosts = {one.name for one in planned.resources}, reloaded(site)
        wanted = [hosts[name] for name in sorted(steps)] if steps <= hosts.keys() else []
        self._tell(self._begun.keys() - {one.host for one in wanted})
        self.begin(wanted)

    def close(self) -> None:
        """End it everywhere."""
        self._tell([*self._begun])
        deadline = time.monotonic() + LOOK_SECONDS
        for process in self._ending:
            end(process, deadline - time.monotonic())
        self._ending.clear()

    def _tell(self, hosts: Iterable[str]) -> None:
        """Tell hosts that it is to end; nobody waits for that yet."""
        for host in hosts:
            process = self._begun.pop(host)
            _tell_to_end(process)
            self._ending.append(process)


def _tell_to_end(process: subprocess.Popen[bytes]) -> None:
    """Tell a command of a host's to end: it does so as its standard input ends."""
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(OSError):  # what it would not take
        process.stdin.close()


def end(process: subprocess.Popen[bytes], seconds: float = LOOK_SECONDS) -> None:
    """End a command of a host's, which has that long for it."""
    _tell_to_end(process)
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


__all__ = ["Closing", "end", "reloaded", "will_reload"]
