"""The project is loaded before gunicorn forks where that is safe, and by each worker where not."""

from __future__ import annotations

import contextlib
import http.client
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.runtime.standing import SETTINGS, Running, Stand, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a project does when it is loaded, and what is said of it.
UNSAFE = {
    "a thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        "1 threads",
    ),
    "a socket": ("import socket\nkept = socket.socketpair()\n", "opens socket:"),
    "a file to read": ("kept = open(__file__)\n", "settings.py"),
    "an error": ("import os\nif os.environ.get('CLUSTER_PRELOAD') != 'no':\n    raise ValueError\n", "ValueError"),
}

SAFE = {
    "nothing": "",
    "a log": "kept = open(__file__ + '.log', 'a')\n",
    "a file that it closes": "open(__file__).close()\n",
}


@pytest.fixture
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as made:
        yield made


def loads(path: Path) -> str:
    """Say who loads the settings, and how often."""
    return f"import os\nwith open({str(path)!r}, 'a') as _log:\n    _log.write(str(os.getpid()) + chr(10))\n"


@pytest.mark.parametrize("what", SAFE)
def test_a_project_is_loaded_once_by_gunicorn(stand: Stand, what: str) -> None:
    log = stand.root / "loads"
    stand.write({"mini/settings.py": loads(log) + SAFE[what] + SETTINGS})
    running = stand.serving(workers=2)
    assert log.read_text().split() == [str(running.gunicorn)], running.log


@pytest.mark.parametrize("what", UNSAFE)
def test_what_a_fork_does_not_copy_is_loaded_by_each_worker(stand: Stand, what: str) -> None:
    log = stand.root / "loads"
    text, said = UNSAFE[what]
    stand.write({"mini/settings.py": loads(log) + text + SETTINGS})
    stand.secret("secret_environment", '{"HIDDEN_WORD": "sesame"}')
    running = stand.serving()
    assert said in running.log
    assert set(log.read_text().split()) == {str(running.gunicorn)} | {str(pid) for pid in running.workers}
    # It began anew, and took no secret into the environment that others can read.
    environment = Path(f"/proc/{running.gunicorn}/environ").read_bytes()
    assert b"CLUSTER_PRELOAD=no" in environment
    assert b"sesame" not in environment


def test_without_preload_each_worker_loads_it(stand: Stand) -> None:
    log = stand.root / "loads"
    stand.write({"mini/settings.py": loads(log) + SETTINGS})
    running = stand.serving(preload=False)
    assert set(log.read_text().split()) == {str(pid) for pid in running.workers}


def wait_for_another_worker(running: Running, before: set[int]) -> None:
    wait_until(lambda: running.workers - before, "a new worker", running)


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_the_third_beginning_of_a_request_that_kills_is_answered(stand: Stand, interface: str) -> None:
    if interface == "asgi":
        pytest.importorskip("uvicorn_worker", reason="uvicorn-worker is not installed")
    running = stand.serving(interface=interface)
    died, request = stand.root / "died", uuid.uuid4().hex
    for _ in range(2):
        before = running.workers
        with pytest.raises((OSError, http.client.HTTPException)):
            running.get(f"/die?how=exit&log={died}", X_Cluster_Request=request)
        wait_for_another_worker(running, before)
    assert running.get(f"/die?how=exit&log={died}", X_Cluster_Request=request)[0] == 502
    assert running.get("/sleep?for=0", X_Cluster_Request=uuid.uuid4().hex)[0] == 200
    assert len(died.read_text().splitlines()) == 2
    assert "ended two workers" in running.log
    assert os.stat(running.name.directory.parent / ".begun").st_mode & 0o007 == 0  # noqa: PTH116
