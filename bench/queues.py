"""What Celery and django-tasks-db do by themselves when they are stopped or killed: `python -m bench.queues`.

It writes docs/benchmarks/queues.md. Nothing of the cluster runs here: the workers are those of tests/cases, started by
hand beside a redis-server behind a socket (valkey-server where that is installed), or beside an sqlite file. A worker
of Celery's does two jobs at a time, one of django-tasks-db one; what is killed is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uv

from bench.results import keep
from tests.jobs import Journal, called, children, until
from tests.processes import lives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "PYTHONPATH=.:runtime .venv/bin/python -m bench.queues"

#: Times that something is stopped or killed while jobs of milliseconds are handed over all the time, and jobs for each.
TIMES, JOBS = 12, 150

#: Seconds of a job that is under way when something is killed; and that anything may take at most.
AT_WORK, PATIENCE = 3.0, 120.0

#: Seconds without an end of a job after which none is waited for: more than the visibility timeout.
SETTLED = 25.0

CELERY = ("celery", "-A", "shop", "worker", "--loglevel", "INFO", "--without-gossip", "--without-mingle", "-c", "2")
DB_WORKER = ("python", "manage.py", "db_worker", "--no-startup-delay", "--interval", "0.1")

SEND = """
import sys
from shop.celery import app
from orders import tasks
kind, first, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with app.producer_pool.acquire() as producer:
    for number in range(first, first + count):
        getattr(tasks, kind).apply_async((f"job-{number}", seconds), producer=producer)
"""

PUT = """
import django, sys
django.setup()
from django.db import transaction
from core.tasks import job
with transaction.atomic():
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
        job.enqueue(f"job-{number}", float(sys.argv[4]))
"""

#: As the cluster sets sqlite up for several processes.
SQLITE = """
DEBUG = False
DATABASES["default"].update(OPTIONS={
    "timeout": 30,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=wal; PRAGMA synchronous=normal",
})
"""


class Place:
    """A project of tests/cases with an environment of its own, and the processes that were started for it."""

    def __init__(self, root: Path, case: str, script: str, settings: str = "") -> None:
        self.root = root / case
        self.project = self.root / "project"
        self.root.mkdir(exist_ok=True)
        shutil.copytree(ROOT / "tests" / "cases" / case / "project", self.project, dirs_exist_ok=True)
        (self.project / "journal").mkdir()
        self.journal = Journal(self.project / "journal" / "jobs.log")
        self.log = self.root / "log"
        self.script = script
        self.number = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        module = "shop" if case == "shop" else "mysite"
        with (self.project / module / "settings.py").open("a") as file:
            file.write(settings)
        broker = f"redis+socket://{self.socket}"
        self.environment = {**os.environ, "CLUSTER_BROKER_URL": broker, "DJANGO_SETTINGS_MODULE": f"{module}.settings"}
        self._install()

    @property
    def socket(self) -> Path:
        return self.root / "broker.sock"

    def _install(self) -> None:
        tool, python = uv.find_uv_bin(), str(self.root / "venv" / "bin" / "python")
        subprocess.run([tool, "venv", "--quiet", "--python", sys.executable, str(self.root / "venv")], check=True)
        requirements = str(self.project / "requirements.txt")
        subprocess.run([tool, "pip", "install", "--quiet", "--python", python, "-r", requirements], check=True)

    def versions(self, *packages: str) -> str:
        words = [uv.find_uv_bin(), "pip", "list", "--format", "json", "--python", str(self.root / "venv")]
        listed = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        return ", ".join(f"{one['name']} {one['version']}" for one in listed if one["name"].lower() in packages)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own."""
        own = self.root / "venv" / "bin" / words[0]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(own) if own.exists() else words[0], *words[1:]],
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def enqueue(self, count: int, seconds: float = 0.0, kind: str = "late") -> list[str]:
        """Enqueue so many jobs; return their names."""
        first, self.number = self.number, self.number + count
        words = ("python", "-c", self.script, kind, str(first), str(count), str(seconds))
        assert self.start(*words).wait(PATIENCE) == 0, self.log.read_text()[-2000:]
        return [f"job-{number}" for number in range(first, first + count)]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Shop(Place):
    """The project with Celery, and its broker."""

    def __init__(self, root: Path, *, appendonly: bool = True) -> None:
        self.appendonly = appendonly
        super().__init__(root, "shop", SEND)
        self.broker = self.start_broker()

    def start_broker(self) -> subprocess.Popen[bytes]:
        program = shutil.which("valkey-server") or "redis-server"
        kept = ("--appendonly", "yes", "--appendfsync", "always") if self.appendonly else ("--appendonly", "no")
        place = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.root))
        self.socket.unlink(missing_ok=True)
        process = self.start(program, *place, "--save", "", *kept)
        until(self.socket.exists, PATIENCE)
        return process

    def kill_broker(self) -> None:
        """Kill the broker, and start it again."""
        self.broker.kill()
        self.broker.wait()
        self.broker = self.start_broker()

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker; return when it takes jobs."""
        said = self.log.read_text().count(" ready.")
        process = self.start(*CELERY)
        until(lambda: self.log.read_text().count(" ready.") > said, PATIENCE, self.log.read_text)
        return process


def at_work(place: Place, pids: list[int]) -> None:
    """Wait until each of these processes has been at a job for a while."""
    processes = {called(pid) for pid in pids}
    until(lambda: place.journal.busy(processes, since=0.5, left=1.0) == processes, PATIENCE)


def nothing() -> None:
    return None


def busy(place: Place, jobs: list[str], meanwhile: Callable[[], None] = nothing) -> None:
    """Wait until some of these jobs have ended: the others are handed over just then."""
    most = random.randrange(JOBS // 10, JOBS // 2)

    def enough() -> bool:
        meanwhile()
        return len(place.journal.ended() & set(jobs)) >= most

    until(enough, PATIENCE)


def count(
    place: Place, jobs: list[str], row: dict[str, Any], meanwhile: Callable[[], None] = nothing
) -> dict[str, Any]:
    """Return what became of jobs, once nothing more ends."""
    last, since = -1, time.monotonic()
    while len(place.journal.ended() & set(jobs)) < len(jobs) and time.monotonic() - since < SETTLED:
        meanwhile()
        ended = len(place.journal.ended() & set(jobs))
        last, since = ended, since if ended == last else time.monotonic()
        time.sleep(0.2)
    every = place.journal.runs()
    runs = {job: every.get(job, []) for job in jobs}
    again = [second[1].began - second[0].began for second in runs.values() if len(second) > 1]
    row["jobs"] = len(jobs)
    row["lost"] = sum(all(run.ended is None for run in found) for found in runs.values())
    row["twice"] = len(again)
    row["again after"] = f"{max(again):.0f} s" if again else ""
    return row


# --- what is measured


def stopped_with_short_jobs(place: Place, start: Callable[[], subprocess.Popen[bytes]]) -> dict[str, Any]:
    """SIGTERM to the worker's first process, while it does jobs of milliseconds one after another."""
    jobs, seconds = [], []
    for _time in range(TIMES):
        worker = start()
        jobs += (own := place.enqueue(JOBS))
        busy(place, own)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE)
        seconds.append(time.monotonic() - began)
    worker = start()
    told = f"median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s"
    row = count(place, jobs, {"what": f"SIGTERM, {TIMES} times, jobs of milliseconds", "took": told})
    worker.kill()
    return row


def stopped_at_work(shop: Shop, kind: str, *, group: bool) -> dict[str, Any]:
    """SIGTERM to the first process alone, or to all of them, while both are at a job of three seconds."""
    worker = shop.worker()
    jobs = shop.enqueue(2, AT_WORK, kind)
    at_work(shop, children(worker.pid))
    began = time.monotonic()
    os.killpg(worker.pid, signal.SIGTERM) if group else worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE)
    took = f"{time.monotonic() - began:.1f} s"
    worker = shop.worker()
    whom = "all processes" if group else "the first process"
    row = count(shop, jobs, {"what": f"SIGTERM to {whom}, {kind} jobs of 3 s under way", "took": took})
    end(worker)
    return row


def killed_at_work(shop: Shop, kind: str, *, first: bool) -> dict[str, Any]:
    """Kill the first process, or one of those that it has forked, while both are at a job."""
    worker = shop.worker()
    jobs = shop.enqueue(2, AT_WORK, kind)
    pids = children(worker.pid)
    at_work(shop, pids)
    began = time.monotonic()
    os.kill(worker.pid if first else pids[0], signal.SIGKILL)
    took = ""
    if first:
        worker.wait()
        until(lambda: not any(lives(pid) for pid in pids), PATIENCE)
        took = f"the others ended after {time.monotonic() - began:.2f} s"
        worker = shop.worker()
    whom = "the first process" if first else "one that does jobs"
    row = count(shop, jobs, {"what": f"{whom} killed, two {kind} jobs under way", "took": took})
    end(worker)
    return row


def killed_while_handing_over(shop: Shop) -> dict[str, Any]:
    """Kill the first process while it takes jobs of milliseconds one after another."""
    jobs = []
    for _time in range(TIMES):
        worker = shop.worker()
        jobs += (own := shop.enqueue(JOBS))
        busy(shop, own)
        worker.kill()
        worker.wait()
    worker = shop.worker()
    row = count(shop, jobs, {"what": f"the first process killed, {TIMES} times, late jobs of milliseconds", "took": ""})
    end(worker)
    return row


def broker_killed_while_handing_over(shop: Shop) -> dict[str, Any]:
    """Kill the broker while jobs of milliseconds are taken from it; start a worker again that ends by itself."""
    jobs: list[str] = []
    workers = [shop.worker()]

    def revive() -> None:
        if workers[-1].poll() is not None:
            workers.append(shop.worker())

    for _time in range(TIMES):
        jobs += (own := shop.enqueue(JOBS))
        busy(shop, own, revive)
        shop.kill_broker()
    took = f"the worker ended by itself {len(workers) - 1} times"
    row = count(
        shop, jobs, {"what": f"the broker killed, {TIMES} times, late jobs of milliseconds", "took": took}, revive
    )
    end(workers[-1])
    return row


def broker_killed_at_work(shop: Shop) -> dict[str, Any]:
    """Kill the broker while two jobs are under way, and twenty wait."""
    worker = shop.worker()
    jobs = shop.enqueue(2, AT_WORK)
    at_work(shop, children(worker.pid))
    jobs += shop.enqueue(20)
    shop.kill_broker()
    kept = "appendonly" if shop.appendonly else "nothing on disk"
    row = count(shop, jobs, {"what": f"the broker ({kept}) killed, two late jobs under way, 20 wait", "took": ""})
    end(worker)
    return row


def database_worker_killed(place: Place, start: Callable[[], subprocess.Popen[bytes]]) -> dict[str, Any]:
    """Kill a worker of the database's queue at a job, and start another one."""
    worker = start()
    jobs = place.enqueue(1, AT_WORK)
    at_work(place, [worker.pid])
    worker.kill()
    worker.wait()
    worker = start()
    row = count(place, jobs, {"what": "killed, a job under way", "took": ""})
    end(worker)
    return row


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker that is at no job."""
    worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cq") as directory:
        yield Path(directory)


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {"celery": [], "tasks": []}
    with temporary() as root, contextlib.closing(Shop(root)) as shop:
        found["versions"] = shop.versions("celery", "kombu", "billiard", "redis")
        for group in (False, True):
            found["celery"] += [stopped_at_work(shop, kind, group=group) for kind in ("late", "early")]
        found["celery"].append(stopped_with_short_jobs(shop, shop.worker))
        for first in (False, True):
            found["celery"] += [killed_at_work(shop, kind, first=first) for kind in ("late", "early")]
        found["celery"] += [broker_killed_at_work(shop), killed_while_handing_over(shop)]
        found["celery"].append(broker_killed_while_handing_over(shop))
    with temporary() as root, contextlib.closing(Shop(root, appendonly=False)) as shop:
        found["celery"].append(broker_killed_at_work(shop))
    with temporary() as root, contextlib.closing(Place(root, "tasks", PUT, SQLITE)) as place:
        found["tasks versions"] = place.versions("django-tasks", "django-tasks-db")
        assert place.start("python", "manage.py", "migrate").wait(PATIENCE) == 0
        for one in (stopped_with_short_jobs, database_worker_killed):
            found["tasks"].append(one(place, lambda: place.start(*DB_WORKER)))
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| what | jobs | lost | begun again | that long after | took |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        numbers = f"{row['jobs']:,} | {row['lost']:,} | {row['twice']:,}"
        lines.append(f"| {row['what']} | {numbers} | {row['again after']} | {row['took']} |")
    return lines


def report(found: dict[str, Any]) -> str:
    lines = [
        "# What Celery and django-tasks-db do when they are stopped or killed",
        "",
        "Without the cluster: a worker started by hand, one thing done to it, another worker started, each job",
        "counted. `late` jobs are acknowledged when they have ended (`acks_late`, `reject_on_worker_lost`), `early`",
        "ones when they begin, as Celery does by itself. The visibility timeout is 20 s (Celery's own: an hour).",
        "Killed is by SIGKILL.",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores. Command: `{COMMAND}`.",
        "",
        f"## Celery ({found['versions']})",
        "",
        *table(found["celery"]),
        "",
        f"## django-tasks-db ({found['tasks versions']}), on sqlite",
        "",
        *table(found["tasks"]),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_what: sys.exit(1))  # what was started is ended
    found = measure()
    keep("queues", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
