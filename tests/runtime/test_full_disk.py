"""An instance serves on whatever needs no disk while the one of its sockets is full or read-only."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from cluster_runtime import unfollowed
from cluster_runtime.instance_link import put
from tests.runtime.standing import Running, Stand, processes, wait_until
from tests.small_disk import SmallDisk, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUESTS = 200


@pytest.fixture
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as made:
        yield made


@pytest.fixture
def disk(stand: Stand) -> Iterator[SmallDisk]:
    """The disk of the sockets."""
    with small_disk(stand.root / "disk", stand.sockets) as made:
        yield made
        for running in stand.running:
            running.kill()


def failures(running: Running, count: int = REQUESTS) -> int:
    return sum(not answers(running) for _ in range(count))


def answers(running: Running) -> bool:
    try:
        return running.get("/sleep?for=0", X_Cluster_Request=os.urandom(16).hex())[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_full_disk_costs_no_request_and_the_status_stays_true(stand: Stand, disk: SmallDisk) -> None:
    running = stand.serving()
    disk.fill()
    failed = failures(running)
    print(f"full disk: {failed} of {REQUESTS} requests failed")
    assert failed == 0
    unfollowed.link(running.name.link, "two.sock")
    running.wait_for("ready")
    assert running.process.poll() is None
    os.kill(next(iter(running.workers)), signal.SIGKILL)
    wait_until(lambda: answers(running), "answered by another worker", running)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_started_again_on_a_full_disk_serves(stand: Stand, disk: SmallDisk, end: signal.Signals) -> None:
    former = stand.serving()
    disk.fill()
    workers = former.workers
    former.process.send_signal(end)
    former.ended()
    # Those of one that was killed end a moment later, and answer until then.
    wait_until(lambda: not workers & {pid for pid, _parent, _session in processes()}, "ended, its workers too", former)
    disk.fill()  # what it has left
    running = stand.start()
    wait_until(lambda: running.name.holder() == "one" and answers(running), "serving", running)
    assert failures(running) == 0
    disk.free()
    running.wait_for("serving")
    assert running.log.count("No space left") <= 2, running.log


def test_without_its_gunicorn_on_a_full_disk_it_ends_and_is_started_again(stand: Stand, disk: SmallDisk) -> None:
    former = stand.serving()
    disk.fill()
    os.kill(former.gunicorn, signal.SIGKILL)
    assert former.ended() == 1
    running = stand.start()
    wait_until(lambda: running.name.holder() == "one" and answers(running), "serving", running)


def test_a_read_only_disk_costs_no_request(stand: Stand, disk: SmallDisk) -> None:
    running = stand.serving()
    disk.break_down()
    failed = failures(running)
    print(f"read-only disk: {failed} of {REQUESTS} requests failed")
    assert failed == 0
    os.kill(next(iter(running.workers)), signal.SIGKILL)
    wait_until(lambda: answers(running), "answered by another worker", running)
    assert running.process.poll() is None
    running.process.terminate()
    assert running.ended() == 0
    assert 'cluster_runtime/instance.py", line' not in running.log, "a traceback"
    disk.repair()
    assert failures(stand.serving()) == 0, "it is back"


def test_a_state_is_written_over_what_is_not_true_any_more(
    stand: Stand, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.path / "status.json"
    put(file, json.dumps({"state": "serving", "since": 1}))
    disk.fill()
    put(file, json.dumps({"state": "ready"}))
    assert json.loads(file.read_text()) == {"state": "ready"}
    monkeypatch.setattr(unfollowed, "overwrite", lambda *_: None)
    put(file, json.dumps({"state": "draining"}))
    assert json.loads(file.read_text()) == {"state": "ready"}, "nobody would notice"


def test_what_can_not_be_written_for_another_reason_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "nowhere" / "status.json", "{}")
