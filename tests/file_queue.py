"""A queue of files, whose every job is counted, and the worker that takes jobs from it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from tests.conformance import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A queue of files, which a rename takes a job out of: a job that was taken and is not done was lost with its worker.
PROGRAM = """
import os, pathlib, signal, sys, time

# release: {release}
queue = pathlib.Path("queue")
for name in ("new", "taken", "done"):
    (queue / name).mkdir(exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_what: stop.append(True))
while not stop:
    job = next(iter(sorted((queue / "new").iterdir())), None)
    if job is None:
        time.sleep(0.1)
        continue
    try:
        job.rename(queue / "taken" / job.name)
    except FileNotFoundError:
        continue
    time.sleep(0.05)
    with (queue / "log").open("a") as log:
        log.write(f"{{job.name}} {{os.environ['CLUSTER_SERVICE']}} {{os.environ['CLUSTER_RELEASE']}}\\n")
    (queue / "taken" / job.name).rename(queue / "done" / job.name)
"""

#: startsecs of a worker that ends at its first line: longer than a busy machine takes to come to that.
LONG_START = "20s"

#: Jobs that wait at any time while a test changes something.
LEAST_WAITING = 20


class Jobs:
    """The jobs in a directory that the project shares as `queue`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0

    def put(self, count: int) -> None:
        """Put jobs into the queue, each at once or not at all."""
        for _one in range(count):
            path = self.directory / "new" / f"{self.number:06d}"
            fresh = self.directory / f".{path.name}"
            fresh.touch()
            fresh.chmod(0o666)
            fresh.rename(path)
            self.number += 1

    @contextlib.contextmanager
    def kept_busy(self) -> Iterator[None]:
        """Let there be more jobs than workers all the time."""
        over = threading.Event()

        def feed() -> None:
            while not over.wait(0.05):
                if len(list((self.directory / "new").iterdir())) < LEAST_WAITING:
                    self.put(LEAST_WAITING)

        feeding = threading.Thread(target=feed, daemon=True)
        feeding.start()
        try:
            yield
        finally:
            over.set()
            feeding.join()

    def wait_done(self) -> Counter[str]:
        """Wait until the queue is empty; return how often each job was done."""
        wait_until(lambda: not any((self.directory / "new").iterdir()), "the queue is empty", 120)
        with contextlib.suppress(AssertionError):  # what was lost stays there
            wait_until(lambda: not any((self.directory / "taken").iterdir()), "all are done", 5)
        return Counter(line.split()[0] for line in self.lines())

    def lines(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()

    def lost(self, done: Counter[str]) -> list[str]:
        return [f"{number:06d}" for number in range(self.number) if not done[f"{number:06d}"]]


def _done(result: Any) -> None:
    assert result.status == 0, result.output


class Site(Protocol):
    """What is asked of a stand, wherever its site is."""

    stack: dict[str, Any]

    def edit_stack(self, change: Callable[[dict[str, Any]], object]) -> None: ...
    def up(self) -> Any: ...
    def rollback(self) -> Any: ...
    def release(self) -> str: ...


def count_a_release_and_the_way_back(site: Site, jobs: Jobs, write: Callable[[str], None]) -> None:
    """See that neither loses a job, nor does one twice. write: makes another release."""
    first = site.release()
    with jobs.kept_busy():
        write("second")
        _done(site.up())
        _done(site.rollback())
    done = jobs.wait_done()
    print(f"a release and the way back: {len(jobs.lost(done))} of {jobs.number} jobs lost")
    assert (jobs.lost(done), [job for job, times in done.items() if times > 1]) == ([], [])
    assert len({line.split()[2] for line in jobs.lines()}) == 2, "both releases have done some"
    assert site.release() == first


def count_what_is_cut_off(site: Site, jobs: Jobs, write: Callable[[str], None], releases: int) -> None:
    """The saboteur: workers that are given no time lose jobs, within so many releases; what was lost is removed."""
    worker = dict(site.stack["workers"][0])
    site.edit_stack(lambda stack: stack["workers"][0].update(graceful_timeout="0"))
    _done(site.up())
    lost: list[str] = []
    for number in range(releases):
        with jobs.kept_busy():
            write(f"cut off {number}")
            _done(site.up())
        lost = jobs.lost(jobs.wait_done())
        if lost:
            break
    print(f"with graceful_timeout 0: {len(lost)} of {jobs.number} jobs lost")
    assert lost
    for job in lost:
        (jobs.directory / "taken" / job).unlink()
    jobs.number = 0
    (jobs.directory / "log").unlink()
    site.edit_stack(lambda stack: stack["workers"].__setitem__(0, worker))
