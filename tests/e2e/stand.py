"""A stack of the example project on Docker, in a repository of its own, brought up by the real engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from platforms.docker.container_paths import SHARED
from tests.e2e.tools import PULUMI_HOME, docker
from tests.local.stand import ROOT, Stand, stack_of_case

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS = [{"name": f"app{number}", "weight": weight} for number, weight in ((1, 3), (2, 1), (3, 1), (4, 1))]

#: Where the stands of a run keep Pulumi's state, each its own.
PASSPHRASE = "not a secret: the state lives as long as the test"


def docker_port() -> int:
    """Return a port that is free on every address."""
    with socket.socket() as trial:
        trial.bind(("0.0.0.0", 0))
        port: int = trial.getsockname()[1]
        return port


def docker_stack() -> dict[str, Any]:
    """Return a stack of the example with four instances, PostgreSQL and two memcached nodes."""
    return {
        "platform": "docker",
        "app": {
            "project": "./example",
            "settings": "example.settings",
            "requirements": "requirements.txt",
            "memory": "256m",
            "health": {"start_timeout": "25s"},
        },
        "upstream": {"servers": [dict(server) for server in SERVERS]},
        "sessions": {"engine": "cached_db", "memcached": {"nodes": 2, "memory": "32m"}},
        "database": {"engine": "postgres"},
        "site": {"server_names": ["cluster", "localhost", "127.0.0.1"], "listen": docker_port()},
    }


class DockerStand(Stand):
    """The same as the stand on this machine, in containers."""

    forks = False  # a command waits for Pulumi longer than for all its imports
    keeper = "container"

    def __init__(
        self,
        stack: dict[str, Any] | None = None,
        name: str = "t",
        host: str = "",
        path: str = "",
        case: str | None = None,
    ) -> None:
        """Make the repository. host: docker:host. path: where its commands are looked for before all others.

        case: as on this machine.
        """
        if case and stack is None:
            stack = {**stack_of_case(case), "platform": "docker"}
        self.name = f"{name}{os.getpid()}"
        self.host = host
        self.path = f"{path}:" if path else ""
        super().__init__(
            stack or docker_stack(),
            case=case,
        )
        self.port = self.stack["site"]["listen"]
        self.address = ("127.0.0.1", self.port)
        program = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
        program["runtime"]["options"]["virtualenv"] = sys.prefix
        (self.root / "Pulumi.yaml").write_text(yaml.safe_dump(program))
        self.main()
        (self.root / "state").mkdir()

    def build_on_the_base_alone(self) -> None:
        """Name no other image in the stack file that `cluster init` wrote: it would come from a registry."""
        document = yaml.safe_load(self.file.read_text())
        document["config"].pop("cluster:images")
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def main(self, sabotage: str = "") -> None:
        """Write the program: the repository's own, perhaps with a part of the protocol switched off."""
        before = f"from tests.e2e import saboteur\nsaboteur.{sabotage}()\n" if sabotage else ""
        run = f"import runpy\nrunpy.run_path({str(ROOT / '__main__.py')!r}, run_name='__main__')\n"
        (self.root / "__main__.py").write_text(before + run)

    def write(self) -> None:
        """Write the stack file; what `cluster init` and Pulumi wrote into it stays."""
        kept: dict[str, Any] = {}
        if self.file.exists():
            former = yaml.safe_load(self.file.read_text())
            kept = {key: value for key, value in former.items() if key != "config"}
            kept["config"] = {key: value for key, value in former["config"].items() if isinstance(value, dict)}
            kept["config"] = {key: value for key, value in kept["config"].items() if set(value) == {"secure"}}
        config = {f"cluster:{key}": value for key, value in self.stack.items()}
        config |= {"docker:host": self.host} if self.host else {}
        document = {**kept, "config": {**config, **kept.get("config", {})}}
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret of the stack's, in its file."""
        done = self.pulumi("config", "set", "--secret", f"cluster:{name}", value)
        assert done.returncode == 0, done.stderr

    def kept_secret(self, name: str) -> str:
        """Return a secret of the stack's, in plain."""
        done = self.pulumi("config", "get", f"cluster:{name}")
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def end_waiting_of_rotation(self) -> None:
        rotation = json.loads(self.kept_secret("secret_key_rotation"))
        self.keep_secret("secret_key_rotation", json.dumps({**rotation, "since": 0.0}))

    def kept_secrets(self) -> dict[str, str]:
        """Return what the stack file has, encrypted."""
        return {self.file.name: self.file.read_text()}

    def put_back_secrets(self, kept: dict[str, str]) -> None:
        """Let the stack file have this, and nothing else."""
        self.file.write_text(kept[self.file.name])

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "PATH": f"{self.path}{os.environ['PATH']}:{PULUMI_HOME / 'bin'}",
            "PULUMI_BACKEND_URL": f"file://{self.root / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def pulumi(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pulumi", "--non-interactive", *arguments, "--stack", self.name],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start_pulumi(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["pulumi", "--non-interactive", *arguments, "--stack", self.name],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    # --- containers

    @property
    def label(self) -> str:
        return f"django-cluster/{self.name}"

    def containers(self, role: str = "", *, stopped: bool = False) -> list[str]:
        """Return the ids of the stack's containers, the newest first."""
        filters = ["--filter", f"label=django-cluster.stack={self.label}"]
        if role:
            filters += ["--filter", f"label=django-cluster.role={role}"]
        return docker("ps", "--no-trunc", "--quiet", *(["--all"] if stopped else []), *filters).split()

    def container(self, instance: str) -> str:
        """Return the container that serves an instance, or else the newest."""
        filters = ["--filter", f"label=django-cluster.stack={self.label}"]
        filters += ["--filter", f"label=django-cluster.instance={instance}"]
        found = docker("ps", "--no-trunc", "--quiet", *filters).split()
        holder = self.holders().get(instance)
        return next((one for one in found if holder == one[:12]), found[0] if found else "")

    def holders(self) -> dict[str, str]:
        """Return the container that holds each instance's name."""
        nginx = self.containers("nginx")
        lines = docker("exec", nginx[0], "/usr/local/lib/cluster/live").splitlines() if nginx else []
        words = [line.split() for line in lines if line.startswith("instance ")]
        return {name: holder.rpartition(".")[2] for _word, name, holder, *_rest in words}

    def processes(self, instance: str) -> dict[str, int]:
        filters = ["--filter", f"label=django-cluster.stack={self.label}"]
        filters += ["--filter", f"label=django-cluster.instance={instance}"]
        found: dict[str, int] = {}
        for container in docker("ps", "--no-trunc", "--quiet", *filters).split():
            found |= {f"{container[:12]} {kind}": pid for kind, pid in self._tree(container).items()}
        return found

    @staticmethod
    def _tree(container: str) -> dict[str, int]:
        """Return the ids (of this machine) of an instance process, its gunicorn and their workers."""
        root = int(docker("inspect", "--format", "{{.State.Pid}}", container))
        parents = {}
        for line in docker("top", container, "-eo", "pid,ppid", check=False).splitlines()[1:]:
            pid, parent = map(int, line.split())
            parents[pid] = parent
        gunicorn = [pid for pid, parent in parents.items() if parent == root]
        workers = sorted(pid for pid, parent in parents.items() if parent in gunicorn)
        return {
            "instance": root,
            **{f"gunicorn {number}": pid for number, pid in enumerate(sorted(gunicorn))},
            **{f"worker {number}": pid for number, pid in enumerate(workers)},
        }

    def stop_worker(self, instance: str) -> int:
        pid = next(pid for name, pid in self.processes(instance).items() if name.endswith("worker 0"))
        os.kill(pid, signal.SIGSTOP)
        return pid

    def restart(self, instance: str) -> None:
        docker("restart", "--time", "60", self.container(instance))

    def kill_memcached(self, *names: str) -> None:
        """Kill nodes' processes; return when the engine has started them again, with nothing in them."""
        before = {name: self.process_of(name) for name in names}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(self.process_of(name) in (0, pid) for name, pid in before.items()):
            assert time.monotonic() < deadline, before
            time.sleep(0.1)

    def process_of(self, service: str) -> int:
        """Return the first process in a service's container, by its id here; 0 while it does not run."""
        (container, *_former) = self.containers(service, stopped=True)
        return int(docker("inspect", "--format", "{{.State.Pid}}", container))

    @property
    def shared(self) -> Path:
        """Where the volume of app.shared is."""
        mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", self.containers("instance")[0]))
        (shared,) = (mount["Source"] for mount in mounts if mount["Destination"] == SHARED)
        return Path(shared)

    def restart_database(self) -> None:
        """Restart PostgreSQL; return when it is healthy again."""
        (container,) = self.containers("postgres")
        docker("restart", "--time", "60", container)
        self._wait_for_database(container)

    def kill_database(self) -> None:
        """Kill PostgreSQL with all of its processes; return when the engine has started it again, and it is healthy."""
        (container,) = self.containers("postgres")
        before = self.process_of("postgres")
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while self.process_of("postgres") in (0, before):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self._wait_for_database(container)

    @staticmethod
    def _wait_for_database(container: str) -> None:
        deadline = time.monotonic() + 60
        while docker("inspect", "--format", "{{.State.Health.Status}}", container) != "healthy":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def nginx_workers(self) -> set[int]:
        (nginx,) = self.containers("nginx")
        lines = docker("top", nginx, "-eo", "pid,args").splitlines()[1:]
        return {int(line.split()[0]) for line in lines if "nginx:" in line}

    def nginx_digest(self) -> str | None:
        (nginx,) = self.containers("nginx")
        return docker("exec", nginx, "/usr/local/lib/cluster/ask", "/-/config", check=False) or None

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + 300  # the machine may be busy with something else
        while not (status := self.status())["ok"]:
            assert time.monotonic() < deadline, status
            time.sleep(0.3)

    @contextmanager
    def sabotaged(self, how: str) -> Iterator[None]:
        self.main(how)
        try:
            yield
        finally:
            self.main()

    def close(self) -> None:
        """Remove the stack and all that it left on the engine."""
        result = self.run("down", self.name, "--delete-data", "--yes")
        for container in self.containers(stopped=True):
            docker("rm", "--force", "--volumes", container, check=False)
        images = docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"django-cluster/{self.name}/*")
        images += "\n" + docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"*/django-cluster-{self.name}/*")
        for image in images.split():
            docker("rmi", image, check=False)
        shutil.rmtree(self.root)
        assert result.status == 0, result.output


#: Kills a process as soon as the engine has started a container: ID of the process, when to begin, its filters.
KILL_AT_START = """
pid=$1 since=$2
shift 2
docker events --since "$since" --filter type=container --filter event=start --format '{{.ID}}' "$@" | {
    read -r id
    kill -9 "$pid"
    echo "$id"
}
"""


def kill_while_creating(stand: DockerStand, role: str) -> None:
    """Kill -9 Pulumi as soon as a container of `role` runs, and before Pulumi knows.

    Until then its provider needs it alive: else it might not start what it has made.
    """
    since = f"{time.time():.3f}"
    process = stand.start_pulumi("up", "--yes", "--skip-preview")
    filters = [f"label=django-cluster.stack={stand.label}", f"label=django-cluster.role={role}"]
    words = [word for one in filters for word in ("--filter", one)]
    killed = ["sh", "-c", KILL_AT_START, "sh", str(process.pid), since, *words]
    with subprocess.Popen(killed, stdout=subprocess.PIPE, text=True, start_new_session=True) as watching:
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            os.killpg(watching.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, f"no {role} was created: {said}"
    assert f"-{role} creating" in said, said
    pending = json.loads(stand.pulumi("stack", "export").stdout)["deployment"].get("pending_operations", [])
    creating = {one["resource"]["urn"].rpartition("::")[2]: one for one in pending if one["type"] == "creating"}
    assert any(name.endswith(f"-{role}") for name in creating), f"Pulumi knew of {role} already: {said}"
    for one in creating.values():  # a network of which no state knows is nobody's, and there can't be many
        if one["resource"]["type"] == "docker:index/network:Network":
            docker("network", "rm", one["resource"]["inputs"]["name"], check=False)


@contextmanager
def made_image(name: str, dockerfile: str) -> Iterator[None]:
    """Build an image without any context; its name is gone afterwards."""
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", name, "-"], input=dockerfile, check=True, capture_output=True, text=True
    )
    try:
        yield
    finally:
        docker("rmi", name)
