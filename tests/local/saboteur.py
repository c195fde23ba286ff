"""`python -m tests.local.saboteur HOW COMMAND…`: the `cluster` command with a part of the protocol switched off."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli import main
from cluster.machine import nginx as machine_nginx
from cluster.plan.nginx_check import Checker
from cluster.render import site as nginx_site
from cluster.render.maintenance import MaintenanceFile
from cluster.services import Daemon
from cluster_runtime.instance_link import InstanceLink
from platforms.local import daemons as local_daemons
from platforms.local import maintaining as local_maintaining
from platforms.local import nginx as local_nginx
from platforms.local import platform as local_platform
from platforms.local import rolling as local_rolling
from platforms.local.cluster import LocalCluster
from platforms.local.rolling import Rolling
from platforms.local.shared_data import SharedData
from platforms.local.starting import Starting
from platforms.local.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator


def no_health_gate() -> None:
    """Names are taken as soon as the processes were started."""

    def take(paths: Any, instance: str, release: str) -> None:
        InstanceLink(paths, instance).take(release)

    Starting._await_one = lambda *_arguments: None  # type: ignore[method-assign]
    Rolling._judge = lambda *_arguments: None  # type: ignore[method-assign]
    local_rolling.serve = take  # type: ignore[attr-defined,assignment]


def no_drain() -> None:
    """The old release is killed before the new one has the names."""
    original = Rolling.roll

    def roll(self: Rolling, plan: Any, release: Any) -> None:
        self.ending.stop_other_releases(self.site.topology.names, release)
        original(self, plan, release)

    Rolling.roll = roll  # type: ignore[method-assign]


def no_retry() -> None:
    """nginx tries no other instance."""
    original = nginx_site._proxy_defaults

    def defaults(*arguments: Any) -> list[Any]:
        return [d if d["directive"] != "proxy_next_upstream" else {**d, "args": ["off"]} for d in original(*arguments)]

    nginx_site._proxy_defaults = defaults  # type: ignore[assignment]


def broken_rendering() -> None:
    """The renderer writes what nginx does not know."""
    original = nginx_site._maps
    nginx_site._maps = lambda topology: [*original(topology), {"directive": "no_such_directive", "args": []}]


def no_closing() -> None:
    """An old nginx is just reloaded."""
    local_nginx.KEEPALIVE_MIN_TIMEOUT_SINCE = (0, 0, 0)  # type: ignore[attr-defined]


def broken_maintenance() -> None:
    """nginx's file of a maintenance is none that it reads."""
    broken = MaintenanceFile(text="page {", digest="")
    local_maintaining.render_maintenance = lambda _maintenance: broken  # type: ignore[attr-defined,assignment]


def no_lock() -> None:
    """Nothing keeps two `up`s apart."""

    @contextmanager
    def locked(*_arguments: object) -> Iterator[None]:
        yield

    local_platform.locked = locked  # type: ignore[attr-defined,assignment]


def no_filling() -> None:
    """The memcached nodes are started again together, and none is filled from another."""

    def ensure(self: Starting, _plan: Any, nodes: Any) -> None:
        self.site.supervisor.ensure([program for _service, program in nodes])

    Starting._ensure_memcached = ensure  # type: ignore[method-assign,assignment]


def no_second_copy() -> None:
    """What is written while a path becomes a shared one stays with the former release."""
    SharedData.take_written = lambda *_arguments: None  # type: ignore[method-assign]


def no_nginx() -> None:
    """nginx is not installed, wherever one looks."""
    machine_nginx.search_path = lambda: "/nonexistent"


def no_memcached() -> None:
    """memcached is not installed, wherever one looks."""
    local_daemons.search_path = lambda: "/nonexistent"  # type: ignore[attr-defined]


def plan_that_makes() -> None:
    """A plan makes what it lacks, as `up` does."""
    LocalCluster.look = LocalCluster.specify  # type: ignore[method-assign]


def no_appendonly() -> None:
    """The broker keeps what it has in memory alone."""

    original = Daemon.words

    def words(self: Daemon, **given: Any) -> tuple[str, ...]:
        return tuple("no" if word == "yes" else word for word in original(self, **given))

    Daemon.words = words  # type: ignore[method-assign]


def plan_that_asks_no_nginx() -> None:
    """Whatever nginx would say of its configuration, a plan does not ask."""
    Checker.refusals = lambda *_arguments: []  # type: ignore[method-assign]


def late_up() -> None:
    """`up` is so late that what Supervisor starts by itself is healthy, or has ended, before it goes on."""
    original = Supervisor.start_daemon

    def start(self: Supervisor) -> None:
        original(self)
        began = self.processes()
        while any(self.processes()[name].pid == one.pid and not said(self, name) for name, one in began.items()):
            time.sleep(0.05)

    def said(self: Supervisor, program: str) -> bool:
        name, _, release = program.rpartition("-")
        return not name or InstanceLink(self.paths.run, name).status(release) is not None

    Supervisor.start_daemon = start  # type: ignore[method-assign]


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    del sys.argv[1]
    main()
