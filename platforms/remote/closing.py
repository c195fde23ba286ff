"""Lets responses end their connections before a reload of nginx, while other things are done (nginx before 1.27.4)."""

from __future__ import annotations

import contextlib
import subprocess
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

    def begin(self, hosts: Iterable[Looked]) -> None:
        """Begin it where a reload would close idle connections, and it was not begun yet."""
        for one in hosts:
            if one.polite and one.host not in self._begun:
                with contextlib.suppress(OSError):
                    self._begun[one.host] = self._start(one.host, "closing")

    def go_on(self, site: Site, planned: Planned) -> None:
        """Let it be where nothing comes before nginx's reload; what comes before that may take its time."""
        steps, hosts = {one.name for one in planned.resources}, reloaded(site)
        wanted = [hosts[name] for name in sorted(steps)] if steps <= hosts.keys() else []
        self._end(self._begun.keys() - {one.host for one in wanted})
        self.begin(wanted)

    def close(self) -> None:
        """End it everywhere."""
        self._end([*self._begun])

    def _end(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            end(self._begun.pop(host))


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command of a host's, which does so as its standard input ends."""
    try:
        process.communicate(timeout=LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


__all__ = ["Closing", "end", "reloaded", "will_reload"]
