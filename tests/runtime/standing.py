"""Small Django projects in directories of their own, and real instance processes that run them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.unix_http import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]

#: Generous: other work may keep the machine busy. What waits, polls.
PATIENCE = 30.0

SECRET_KEY = "the-key-of-this-test-which-is-fifty-characters-long"

SETTINGS = """
SECRET_KEY = "the-project's-own"
ROOT_URLCONF = "mini.urls"
INSTALLED_APPS = []
MIDDLEWARE = []
"""

URLS = '''
import ctypes
import os
import signal
import threading
import time

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path


def home(request):
    return JsonResponse({
        "pid": os.getpid(),
        "host": request.get_host(),
        "address": request.META.get("REMOTE_ADDR"),
        "secure": request.is_secure(),
    })


def sleep(request):
    time.sleep(float(request.GET["for"]))
    return HttpResponse("slept")


def block(request):
    threading.Event().wait()


def hold(request):
    """Hold the interpreter's lock: PyDLL, unlike CDLL, does not let it go during the call."""
    ctypes.PyDLL(None).sleep(int(request.GET["for"]))


def stream(request):
    def parts():
        for _number in range(int(request.GET["parts"])):
            time.sleep(float(request.GET["every"]))
            yield b"part" * int(request.GET.get("size", "1"))
    return StreamingHttpResponse(parts())


def broken_stream(request):
    def parts():
        yield b"part"
        raise RuntimeError("in the middle")
    return StreamingHttpResponse(parts())


def file(request):
    return FileResponse(open(request.GET["path"], "rb"))


def boom(request):
    raise RuntimeError("boom")


def die(request):
    """Take the worker process with it, in one of the ways that requests do."""
    how, _, code = request.GET["how"].partition("-")
    with open(request.GET["log"], "a") as log:
        log.write(os.environ["CLUSTER_INSTANCE"] + "\\n")
    if how == "exit":
        os._exit(int(code or 1))
    elif how == "sys.exit":
        raise SystemExit(int(code or 1))
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)


def slowly(request):
    with open(request.GET["log"], "a") as log:
        log.write(os.environ["CLUSTER_INSTANCE"] + "\\n")
    return sleep(request)


def environment(request):
    return JsonResponse(dict(os.environ))


def requests(request):
    """How many requests the runtime counts, this one aside."""
    if os.environ.get("TEST_INTERFACE") == "asgi":
        from cluster_runtime.asgi import application
    else:
        from cluster_runtime.wsgi import application
    return JsonResponse({"requests": application.activity.requests - 1})


def descriptors(request):
    return JsonResponse({"descriptors": len(os.listdir("/proc/self/fd"))})


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


VIEWS = (
    sleep, block, hold, stream, broken_stream, file, boom, die, slowly, environment, requests, descriptors,
    visits,
)
urlpatterns = [path("", home), *(path(view.__name__, view) for view in VIEWS)]
'''


class Stand:
    """A directory with a project, its secrets, the sockets, and the instance processes started here."""

    def __init__(self, files: dict[str, str] | None = None) -> None:
        # A short path: sockets stand in it.
        self.root = Path(tempfile.mkdtemp(prefix="rt"))
        self.sockets = self.root / "s"
        self.sockets.mkdir()
        self.project = self.root / "project"
        self.write({"mini/__init__.py": "", "mini/settings.py": SETTINGS, "mini/urls.py": URLS, **(files or {})})
        self.secrets = self.root / "secrets"
        self.secrets.mkdir()
        self.secret("secret_key", SECRET_KEY)
        self.running: list[Running] = []

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def secret(self, name: str, value: str) -> None:
        (self.secrets / name).write_text(value)

    def config(self, release: str = "one", **values: Any) -> Path:
        """Write the configuration file of a release; what is not given here is quick."""
        health = {"interval": 0.3, "timeout": 5.0, "start_timeout": PATIENCE, **values.pop("health", {})}
        config = {
            "release": release,
            "project": str(self.project),
            "settings": "mini.settings",
            "secrets": str(self.secrets),
            "graceful_timeout": 10,
            "drain": 0.3,
            "health": health,
            **values,
        }
        path = self.root / f"{release}-config.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(config))
        new.rename(path)  # another instance of the release may be reading it
        return path

    def environment(self, config: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLUSTER_CONFIG": str(config),
        }

    def start(self, release: str = "one", *, instance: str = "app1", **values: Any) -> Running:
        """Start an instance process; see `config` for the values."""
        running = Running(self, instance, release, self.config(release, **values))
        self.running.append(running)
        return running

    def serving(self, release: str = "one", **values: Any) -> Running:
        """Start an instance process and wait until it serves."""
        running = self.start(release, **values)
        running.wait_for("serving")
        return running

    def close(self) -> None:
        for running in self.running:
            running.kill()
        shutil.rmtree(self.root)


class Running:
    """One instance process, and what can be seen of it."""

    def __init__(self, stand: Stand, instance: str, release: str, config: Path) -> None:
        self.name = InstanceLink(stand.sockets, instance)
        self.instance = instance
        self.release = release
        self.log_file = stand.root / f"{instance}-{release}-{len(stand.running)}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster_runtime.instance", "run", "--instance", instance),
                    *("--config", str(config), "--sockets", str(stand.sockets)),
                ],
                env=stand.environment(config),
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def state(self) -> str | None:
        """What this very process says, not the one before it."""
        status = self.name.status(self.release)
        return None if status is None or status["pid"] != self.process.pid else str(status["state"])

    @property
    def gunicorn(self) -> int:
        status = self.name.status(self.release)
        assert status is not None
        return int(status["gunicorn"])

    @property
    def workers(self) -> set[int]:
        """The processes that gunicorn started."""
        arbiter = self.gunicorn
        return {pid for pid, parent, _session in processes() if parent == arbiter}

    def wait_for_message(self, text: str) -> None:
        """Wait until the status says why it is not healthy yet."""

        def told() -> bool:
            status = self.name.status(self.release)
            return status is not None and text in status["message"]

        wait_until(told, f"told: {text}", self)

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.state == state or self.process.poll() is not None, f"{state}", self)
        assert self.state == state, f"ended with {self.process.returncode}:\n{self.log}"

    def ended(self) -> int:
        """Wait for the end; return the exit status."""
        return self.process.wait(PATIENCE)

    def get(self, url: str, **headers: str) -> tuple[int, str]:
        """GET over the release's own socket; a header's `_` is a `-`."""
        connection = UnixConnection(str(self.name.socket(self.release)), PATIENCE)
        try:
            connection.request("GET", url, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def json(self, url: str, **headers: str) -> dict[str, Any]:
        status, body = self.get(url, **headers)
        assert status == 200, (status, body)
        found: dict[str, Any] = json.loads(body)
        return found

    def wait_for_silence(self) -> None:
        """Wait until nothing accepts connections any more."""
        wait_until(lambda: not self.name.alive(self.release), "silent", self)

    def kill(self) -> None:
        """End what is left of it, whatever a test did to it."""
        status = self.name.status(self.release)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        arbiter = status["gunicorn"] if status else None
        for pid, parent, session in processes():
            if arbiter is not None and arbiter in (pid, parent, session):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Asking(threading.Thread):
    """A GET in the background; `answer` is what came of it."""

    def __init__(self, running: Running, url: str) -> None:
        super().__init__(daemon=True)
        self.running = running
        self.url = url
        self.answer: tuple[int, str] | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.answer = self.running.get(self.url)

    def wait(self) -> tuple[int, str] | None:
        self.join(PATIENCE)
        return self.answer


def ask(running: Running, url: str, count: int) -> list[Asking]:
    """Send `count` requests, and give them the time to begin."""
    asked = [Asking(running, url) for _number in range(count)]
    time.sleep(0.2)
    return asked


def processes() -> list[tuple[int, int, int]]:
    """Return pid, parent's pid and session of every living process."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found.append((int(directory.name), int(fields[1]), int(fields[3])))
    return found


def wait_until(holds: Callable[[], object], what: str, running: Running | None = None) -> None:
    """Poll until something holds; fail with `what` and the log when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        log = running.log if running is not None else ""
        assert time.monotonic() < deadline, f"never {what}\n{log}"
        time.sleep(0.02)
