"""A stack with workers on several hosts: what happens to it while jobs are enqueued, and what became of each."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.celery_jobs import Shop
from tests.e2e.tools import docker
from tests.jobs import Journal, Kill, Kind, until
from tests.queues import PATIENCE, SHORT, WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.hosts import HostsStand
    from tests.e2e.remote import Host

#: Where a host's jobs say that they start and end: what no other host has, and their unit may write.
JOURNAL = "/var/lib/cluster-{stack}/home/jobs.log"


#: What systemd calls it in its journal that a unit begins to stop, and that it was started (systemd's sd-messages.h).
STOPPING, STARTED = "de5b426a63be47a7b6ac3eaac82e2f6f", "39f53479d3a045ac8e11786248231fbf"


class HostsJournal(Journal):
    """What jobs on several hosts say."""

    def __init__(self, stand: HostsStand) -> None:
        self.stand = stand
        self.skipped = 0

    def _lines(self) -> Iterator[list[str]]:
        path, found = JOURNAL.format(stack=self.stand.name), []
        for host in self.stand.all_hosts:
            text = host.run("cat", path, check=False) if "app" in host.roles else ""
            found += [line.split() for line in text.splitlines()]
        yield from sorted(found, key=lambda words: float(words[3]))[self.skipped :]


class HostsQueue(Shop):
    """The queue of a stack on hosts."""

    def __init__(self, stand: HostsStand) -> None:
        self.hosts = stand
        self.stand = stand
        self.journal = HostsJournal(stand)
        self.releases = self.held = self.first = 0
        self.orders, self.kills = list(), list()  # noqa: C408 - their types are known
        self.forget()

    def host(self, name: str) -> Host:
        return self.hosts.host_named(name)

    def parent(self, worker: str) -> int:
        """Return the process of the runtime that keeps a worker, on whichever host that is, by its id here."""
        until(lambda: self._parent(worker), PATIENCE, lambda: f"{worker} does not run")
        return self._parent(worker)

    def _parent(self, worker: str) -> int:
        units = f"cluster-{self.hosts.name}.{worker}@*"
        for host in self.hosts.all_hosts:
            ids = host.run("systemctl", "show", units, "--property=MainPID", "--value", "--state=active").split()
            for inside in filter(lambda one: one != "0", ids):
                return _outside(host, inside)
        return 0

    def without_broker(self, what: str, kind: Kind, end: str, *, waiting: int = 0) -> None:
        """Let the broker end while all workers are at a job and more jobs wait; return when all is well again.

        end: `kill` for its process, `restart` for its unit, `boot` for its host; `crash` for its host without any word.
        """
        hit = self.processes(*WORKERS)
        self.hold(hit, kind)
        self.enqueue(waiting, Kind(kind.name, SHORT))
        store, unit = self.host("store1"), f"cluster-{self.hosts.name}.broker.service"
        before = store.run("systemctl", "show", unit, "--property=MainPID", "--value")
        with self.hits(what, hit):
            if end == "kill":
                store.run("kill", "-KILL", before)
            elif end == "restart":
                store.run("systemctl", "restart", unit)
            elif end == "boot":
                store.restart()
            else:
                docker("kill", store.container)
                store.start()
            until(lambda: _is_there(store, unit, "" if end in {"boot", "crash"} else before), PATIENCE)
            self.wait_well()

    @contextlib.contextmanager
    def broker_starts(self, what: str) -> Iterator[None]:
        """Count each time that the broker is started again in it as a kill that hit all processes."""
        store, began = self.host("store1"), time.monotonic()
        yield
        said = store.run("journalctl", f"--unit=cluster-{self.hosts.name}.broker.service", "--output=json")
        stopped = 0.0
        hit = frozenset(run.process for runs in self.journal.runs().values() for run in runs)
        for line in map(json.loads, said.splitlines()):
            at = int(line["__MONOTONIC_TIMESTAMP"]) / 1e6
            if line.get("MESSAGE_ID") == STOPPING:
                stopped = at
            elif line.get("MESSAGE_ID") == STARTED and began < stopped < at:
                self.kills.append(Kill(what, stopped, at, hit))


def _is_there(store: Host, unit: str, former: str) -> bool:
    found = store.run("systemctl", "show", unit, "--property=MainPID", "--value", check=False)
    return found not in ("", "0", former) and store.run("systemctl", "is-active", unit, check=False) == "active"


def _outside(host: Host, inside: str) -> int:
    """Return the id here of a host's process; 0 where it is no more."""
    first = docker("inspect", "--format", "{{.State.Pid}}", host.container)
    own = Path(f"/proc/{first}/ns/pid").readlink()
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and (path / "ns" / "pid").readlink() == own:
                status = (path / "status").read_text()
                if next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")) == inside:
                    return int(path.name)
        except OSError:
            continue
    return 0


def write_journal(project: Path) -> None:
    """Let the project's jobs say what they do where the stack file says."""
    settings = project / "shop" / "settings.py"
    text = settings.read_text()
    assert text.count('BASE_DIR / "journal" / "jobs.log"') == 1
    settings.write_text(text.replace('BASE_DIR / "journal" / "jobs.log"', 'Path(os.environ["JOURNAL"])'))
