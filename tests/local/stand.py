"""A stack of the example project in a repository of its own, on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.stack.history import History
from cluster.stack.secrets import write_secret
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.unix_http import UnixConnection
from platforms.local.listeners import with_children
from platforms.local.orphans import stack_processes
from platforms.local.paths import LocalPaths
from platforms.local.supervisor import Process, Supervisor
from tests.jobs import LOOK, until
from tests.local.forked import Commands, Request, leave_environments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.local.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]


#: Seconds in which whatever is killed ends on the busiest machine.
ENDED = 60.0


@cache
def _commands() -> Commands:
    """Return who runs the commands of all stands of this process."""
    return Commands(_environment())


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}


@dataclass(frozen=True)
class Result:
    status: int
    output: str


#: The ports that this process has drawn, by sockets whose names nobody else can have meanwhile.
_drawn: dict[int, socket.socket] = {}


def _draw(port: int) -> bool:
    """Take a port among all test processes of this machine, for as long as this one lives: it may not listen yet."""
    mine = socket.socket(socket.AF_UNIX)
    try:
        mine.bind(f"\0cluster-tests-port-{port}")
    except OSError:
        mine.close()
        return False
    _drawn[port] = mine
    return True


def free_port(*, consecutive: int = 1) -> int:
    """Return a port that is free, and the next ones too."""
    for port in range(20000 + os.getpid() % 300 * 40, 60000, 7):
        free = True
        for number in range(port, port + consecutive):
            with socket.socket() as trial:
                try:
                    trial.bind(("127.0.0.1", number))
                except OSError:
                    free = False
        if free and all(one in _drawn or _draw(one) for one in range(port, port + consecutive)):
            return port
    raise AssertionError("no free port")


def stack_of_case(case: str) -> dict[str, Any]:
    """Return the stack of a project of tests/cases: its own, or the least that brings it up."""
    file = ROOT / "tests" / "cases" / case / "stack.yaml"
    if file.exists():
        found = yaml.safe_load(file.read_text())["config"]
        return {key.removeprefix("cluster:"): value for key, value in found.items()}
    manage = (ROOT / "tests" / "cases" / case / "project" / "manage.py").read_text()
    settings = re.search(r"""['"](\w+\.settings[\w.]*)['"]""", manage)
    assert settings is not None, manage
    return {
        "platform": "local",
        "app": {"project": "./project", "settings": settings[1], "requirements": "requirements.txt"},
        "upstream": {"servers": 2},
        "sessions": {"engine": "cached_db"},
        "database": {"engine": "sqlite"},
        "site": {"server_names": ["localhost", "127.0.0.1"]},
    }


class Stand:
    """A repository with one stack, and the `cluster` command run in it.

    forks: whether commands are forks of one that has imported all (tests/local/forked.py), or start like a user's.
    """

    name: str = "t"
    forks = True

    #: What keeps a worker, and ends with its first process.
    keeper = "parent"

    def __init__(
        self,
        stack: dict[str, Any] | None = None,
        *,
        path: Path | None = None,
        database: Postgres | None = None,
        case: str | None = None,
        instances: int = 0,
    ) -> None:
        """Make the repository.

        instances: how many there are; two, or as many as the case's stack has, where it is not said. One costs least,
        where a test needs no second. database: the stack's external database; sqlite where there is none. case: the
        name of a project of tests/cases with its stack, which stand in the example's place.
        """
        # Reachable for the unprivileged user that root's instances run as, unlike pytest's own directories.
        self.root = Path(tempfile.mkdtemp(prefix="cl")) if path is None else path
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        (self.root / "stacks").mkdir()
        self.source = ROOT / "tests" / "cases" / case / "project" if case else ROOT / "example"
        self.project = self.root / self.source.name
        shutil.copytree(self.source, self.project, ignore=shutil.ignore_patterns("__pycache__"))
        if case and stack is None:
            stack = stack_of_case(case)
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.launcher: tuple[str, ...] = ("cluster",)
        self.database = database
        self.stack: dict[str, Any] = stack or {
            "platform": "local",
            "app": {
                "project": "./example",
                "settings": "example.settings",
                "requirements": "requirements.txt",
                "health": {"start_timeout": "25s"},
            },
            "upstream": {"servers": [{"name": f"app{n + 1}", "weight": 1 if n else 3} for n in range(instances or 2)]},
            "sessions": {"engine": "cached_db"},
            "database": {"engine": "external" if database else "sqlite"},
            "site": {"server_names": ["cluster", "localhost", "127.0.0.1"]},
        }
        if case:
            self.stack["upstream"] |= {"servers": instances} if instances else {}
            self.stack["site"]["listen"] = self.port
            self.stack["database"] = {"engine": "external"} if database else self.stack["database"]
        self.stack["site"].setdefault("listen", self.port)
        self.write()
        if database is not None:
            self.paths.secrets.mkdir(mode=0o700, parents=True)
            write_secret(self.paths.secrets / "database_url", database.url)
            with (self.project / "requirements.txt").open("a") as requirements:
                requirements.write("psycopg[binary]\n")

    @property
    def paths(self) -> LocalPaths:
        return LocalPaths(self.root, self.name)

    @property
    def shared(self) -> Path:
        """Where the paths of app.shared are."""
        return self.paths.shared

    @property
    def file(self) -> Path:
        return self.root / "stacks" / f"Pulumi.{self.name}.yaml"

    def write(self) -> None:
        document = {"config": {f"cluster:{key}": value for key, value in self.stack.items()}}
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def edit_stack(self, change: Callable[[dict[str, Any]], object]) -> None:
        change(self.stack)
        self.write()

    def edit_code(self, path: str, text: str) -> None:
        """Add `text` to a file of the project as it is in the repository; a model or migration is replaced."""
        original = self.source / path
        whole = not original.exists() or path.endswith("models.py")
        (self.project / path).write_text(text if whole else original.read_text() + text)

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret of the stack's."""
        write_secret(self.paths.secrets / name, value)

    def kept_secrets(self) -> dict[str, str]:
        """Return the stack's secrets, to be put back."""
        return {path.name: path.read_text() for path in self.paths.secrets.iterdir()}

    def put_back_secrets(self, kept: dict[str, str]) -> None:
        """Keep these secrets, and no other."""
        for path in self.paths.secrets.iterdir():
            path.unlink()
        for name, value in kept.items():
            self.keep_secret(name, value)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *self.launcher, *arguments]

    def environment(self) -> dict[str, str]:
        return _environment()

    def run(self, *arguments: str, timeout: float = 300, **environment: str) -> Result:
        environment = self.environment() | environment
        if self.forks and self.launcher == ("cluster",):
            request = Request([*arguments], str(self.root), environment)
            return Result(*_commands().run(request, timeout))
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command, and return it with its output to be read line by line; an interrupt reaches it.

        Where the tests run as a shell's background job, it would inherit that interrupts are ignored.
        """
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env={**self.environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing else is done
        )

    def take_initialised(self) -> None:
        """Take the stack file that init wrote for this stack's, on this stand's port.

        init looks for a free one from 8080 on, and tells a stand beside this one of the same.
        """
        found = yaml.safe_load(self.file.read_text())["config"]
        self.stack = {key.removeprefix("cluster:"): value for key, value in found.items()}
        self.stack["site"]["listen"] = self.port
        self.write()

    def up(self) -> Result:
        return self.run("up", self.name)

    def rollback(self) -> Result:
        return self.run("rollback", self.name)

    def verify(self) -> Result:
        return self.run("verify", self.name)

    def down(self) -> Result:
        return self.run("down", self.name)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", self.name, "--json").output)
        return found

    def release(self) -> str:
        """Return what the status calls the release."""
        return str(History.load(self.paths).current)

    def supervisor(self) -> Supervisor:
        return Supervisor(self.paths)

    def process_of(self, service: str) -> int:
        """Return the first process of a service; 0 while there is none."""
        found = self.supervisor().processes()
        return next((one.pid for name, one in found.items() if name.partition("@")[0] == service and one.pid), 0)

    def processes(self, instance: str) -> dict[str, int]:
        """Return the ids of an instance's processes: the instance process, gunicorn, and its workers."""
        found = {}
        for process in self.supervisor().processes().values():
            if process.name.rpartition("-")[0] != instance or not process.pid:
                continue
            release = process.name.rpartition("-")[2]
            status = InstanceLink(self.paths.run, instance).status(release) or {}
            found[process.name] = process.pid
            others = sorted(with_children({process.pid}) - {process.pid, status.get("gunicorn")})
            found[f"{process.name} gunicorn"] = status.get("gunicorn") or 0
            found |= {f"{process.name} worker {number}": pid for number, pid in enumerate(others)}
        return found

    def kill(self, instance: str, sent: signal.Signals) -> None:
        """Send a signal to every process of an instance."""
        for pid in self.processes(instance).values():
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue

    def stop_worker(self, instance: str) -> int:
        pid = next(pid for name, pid in self.processes(instance).items() if name.endswith("worker 0"))
        os.kill(pid, signal.SIGSTOP)
        return pid

    def restart(self, instance: str) -> None:
        program = next(iter(self.processes(instance)))
        conf = str(self.supervisor().conf)
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", conf, "restart", program]
        subprocess.run(control, check=True, timeout=120, capture_output=True)

    def kill_memcached(self, *names: str) -> None:
        """Kill nodes; return when Supervisor has started them again, with nothing in them."""
        before = self.supervisor().processes()
        for name in names:
            os.kill(before[name].pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            processes = self.supervisor().processes()
            if all(self._is_new(processes[name], before[name].pid) for name in names):
                return
            assert time.monotonic() < deadline, processes
            time.sleep(0.05)

    @staticmethod
    def _is_new(process: Process, former: int) -> bool:
        return process.state == "RUNNING" and process.pid not in (0, former)

    def restart_database(self) -> None:
        """Restart what the stack calls an external database; a file has nothing to restart."""
        assert self.database is not None, "the database of this stand is a file"
        self.database.restart()

    def kill_database(self) -> None:
        """Kill what the stack calls an external database, and start it again."""
        assert self.database is not None, "the database of this stand is a file"
        self.database.kill()
        self.database.start()

    def end_waiting_of_rotation(self) -> None:
        """Let the last step of a rotation be due, as it is when everything that the old key signed is over."""
        path = self.root / ".cluster" / self.name / "rotation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "since": 0.0}))

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + 60
        while not (status := self.status())["ok"]:
            assert time.monotonic() < deadline, status
            time.sleep(LOOK)

    def nginx_workers(self) -> set[int]:
        pid = self.supervisor().processes()["nginx"].pid
        return with_children({pid})

    def nginx_digest(self) -> str | None:
        """Return the digest of the configuration that nginx runs; None where it does not answer."""
        connection = UnixConnection(str(self.paths.nginx_socket), timeout=5.0)
        try:
            connection.request("GET", "/-/config", headers={"Host": "internal"})
            return connection.getresponse().read().decode().strip()
        except OSError:
            return None
        finally:
            connection.close()

    def serving(self) -> dict[str, Any]:
        """Return all that a user's requests meet: processes, who holds which name, static files, nginx's workers."""
        processes = {process.name: process.pid for process in self.supervisor().processes().values()}
        names = [server["name"] for server in self.stack["upstream"]["servers"]]
        return {
            "programs": processes,
            "instances": {name: self.processes(name) for name in names},
            "holders": {name: InstanceLink(self.paths.run, name).holder() for name in names},
            "static": str((self.paths.static / "current").readlink()),
            "nginx": self.nginx_digest(),
            "nginx workers": self.nginx_workers(),
            "history": self.paths.history.read_text(),
        }

    @contextmanager
    def sabotaged(self, how: str) -> Iterator[None]:
        self.launcher = ("tests.local.saboteur", how)
        try:
            yield
        finally:
            self.launcher = ("cluster",)

    def all_processes(self) -> set[int]:
        """Return every process of the stack: its own, those that name it, and those whose directory is in it."""
        found = {process.pid for process in stack_processes(self.paths)}
        inside = f"{self.paths.state}/"
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or process.name == str(os.getpid()):
                continue
            with suppress(OSError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if command and (inside in command or f"{(process / 'cwd').readlink()}/".startswith(inside)):
                    found.add(int(process.name))
        return found

    def cut_off(self) -> set[int]:
        """Kill whatever is there, and say what: Supervisor may start something between this look and its own death."""
        there = self.all_processes()
        for pid in there:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return there

    def close(self) -> None:
        """End everything at once, and remove it: `down` takes its time, and is for tests that say it."""
        if self.paths.state.exists():
            until(lambda: not self.cut_off(), ENDED)
        leave_environments(self.paths.environments)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        shutil.rmtree(self.root)


def kill_at_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Kill -9 a command as soon as it prints a line that matches; return what it had printed."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if re.search(pattern, line):
            process.kill()
            process.wait()
            return seen
    raise AssertionError(f"no line matched {pattern!r}: {seen}")
