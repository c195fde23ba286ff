"""A stack of the example project on a host with systemd that is reached by SSH: a container that stands for one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.stand import SERVERS, DockerStand
from tests.e2e.tools import BASE, docker
from tests.local.stand import ROOT

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Sequence

#: What its hosts are made of: HOST_BASE names another Debian, or Ubuntu, than the tests of containers have.
HOST_BASE = os.environ.get("HOST_BASE", BASE)

#: Seconds for what takes a few: the machine may be busy with something else.
PATIENCE = 300.0


def dockerfile_of(base: str) -> str:
    """Return what a bare server of a Debian is made by: systemd, its SSH server, sudo and Python, as an installer does.

    nginx is `up`'s to install; here it is there already, since not every machine that tests has a mirror at hand. In a
    container / is not shared by itself, which units' credentials need, and no seat or network is the container's to
    look after.
    """
    valkey = "redis-server" if "bookworm" in base else "valkey-server"  # as Debian 12 calls it, and those after it
    return f"""
FROM {base}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus \\
    openssh-server sudo python3 nginx procps memcached {valkey} && rm -rf /var/lib/apt/lists/*
RUN printf '[Unit]\\nDefaultDependencies=no\\nBefore=sysinit.target\\n[Service]\\nType=oneshot\\n\\
ExecStart=/bin/mount --make-rshared /\\n[Install]\\nWantedBy=sysinit.target\\n' >/etc/systemd/system/shared.service \\
    && systemctl enable shared.service ssh.service && systemctl disable memcached.service {valkey}.service \\
    && systemctl mask systemd-logind.service getty.target console-getty.service systemd-udevd.service \\
    && useradd --create-home --shell /bin/bash deploy && echo 'deploy ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/deploy
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
"""


def image_of(base: str) -> str:
    """Return the name of such a server's image."""
    return "django-cluster-test-host" + ("" if base == BASE else f"-{base.replace(':', '-')}")


IMAGE, HOST = image_of(HOST_BASE), dockerfile_of(HOST_BASE)

OPTIONS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "DAC_READ_SEARCH"),
    *("--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
)


class Network:
    """A network of hosts, which keep their addresses when they boot again."""

    made = 0

    def __init__(self) -> None:
        number, Network.made = Network.made, Network.made + 1
        self.name = f"cluster-hosts-{os.getpid()}{f'-{number}' if number else ''}"
        self.begin = f"10.{210 + number % 40}.{os.getpid() % 256}"
        self.given = 10
        docker("network", "create", "--subnet", f"{self.begin}.0/24", self.name)

    def place(self) -> list[str]:
        """Return docker's words for another address."""
        self.given += 1
        return ["--network", self.name, "--ip", f"{self.begin}.{self.given}"]

    def close(self) -> None:
        docker("network", "rm", self.name)


class Host:
    """A container with systemd; `key` logs in as deploy. roles: what it does in a stack; none: it is not of one."""

    image, text = IMAGE, HOST

    #: Whether it has a network with other hosts.
    is_inside = False

    def __init__(
        self,
        directory: Path,
        name: str = "web1",
        roles: tuple[str, ...] = ("app", "nginx"),
        network: Sequence[str] = (),
        *,
        alone: bool = False,
    ) -> None:
        """Start it. network: docker's words for where it is. alone: no other host of its stack is there."""
        self.name, self.roles, self.is_inside = name, roles, bool(network) and not alone
        for image, text in {IMAGE: HOST, self.image: self.text}.items():  # others are made of it
            subprocess.run(["docker", "build", "--quiet", "--tag", image, "-"], input=text, check=True, text=True)
        self.key = directory / f"key-{name}-{len(list(directory.iterdir()))}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.container = docker("run", "--detach", *OPTIONS, *network, self.image)
        self.put("/home/deploy/.ssh/authorized_keys", self.key.with_suffix(".pub").read_text())
        self.until(lambda: self.run("systemctl", "is-active", "ssh.service", check=False) == "active")
        self.host_key = " ".join(self.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])

    @property
    def address(self) -> str:
        return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container)

    def in_stack(self) -> dict[str, Any]:
        """Return what the stack file says of it."""
        return {
            "name": self.name,
            "address": self.address,
            "user": "deploy",
            "host_key": self.host_key,
            "identity_file": str(self.key),
            "roles": [*self.roles],
            **({"internal": self.address} if self.is_inside else {}),
        }

    def run(self, *command: str, check: bool = True) -> str:
        return docker("exec", self.container, *command, check=check)

    def put(self, path: str, text: str) -> None:
        """Write a file of deploy's own."""
        self.write(path, text)
        self.run("chown", "-R", "deploy:", str(Path(path).parent))

    def write(self, path: str, text: str) -> None:
        """Write a file of root's own."""
        script = f"mkdir -p {Path(path).parent} && cat >{path}"
        subprocess.run(["docker", "exec", "-i", self.container, "sh", "-c", script], input=text, check=True, text=True)

    def restart(self) -> None:
        """Boot again; return when somebody can log in."""
        docker("stop", "--time", "60", self.container)
        self.start()

    def start(self) -> None:
        """Boot; return when somebody can log in."""
        docker("start", self.container)
        self.until(lambda: self.run("systemctl", "is-active", "ssh.service", check=False) == "active")

    @staticmethod
    def until(condition: Any, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def close(self) -> None:
        docker("rm", "--force", "--volumes", self.container)


class RemoteStand(DockerStand):
    """The same as the stand on Docker, on a host."""

    def __init__(self, host: Host, *others: Host, case: str | None = None, **more: Any) -> None:
        self.host_there = host
        self.all_hosts = [host, *others]
        super().__init__(
            {
                "platform": "remote",
                "hosts": [one.in_stack() for one in self.all_hosts],
                "app": {
                    "project": "./example",
                    "settings": "example.settings",
                    "requirements": "requirements.txt",
                    "memory": "256m",
                    "health": {"start_timeout": "25s"},
                },
                "upstream": {"servers": [dict(server) for server in SERVERS]},
                "sessions": {"engine": "db"},
                "database": {"engine": "sqlite"},
                "site": {"server_names": ["cluster", "localhost"], "listen": 8080},
                **more,
            },
            case=case,
        )
        self.address = (host.address, self.port)

    def main(self, sabotage: str = "") -> None:
        before = f"from tests.e2e import remote_saboteur\nremote_saboteur.{sabotage}()\n" if sabotage else ""
        run = f"import runpy\nrunpy.run_path({str(ROOT / '__main__.py')!r}, run_name='__main__')\n"
        (self.root / "__main__.py").write_text(before + run)

    def make_superuser(self) -> None:
        made = "from django.contrib.auth.models import User; User.objects.create_superuser"
        create = f"{made}('admin', 'a@example.com', 'a long enough one')"
        result = self.run("manage", self.name, "--", "shell", "-c", create)
        assert result.status == 0, result.output

    # --- what runs there

    def host_of(self, instance: str) -> Host:
        """Return the host on which an instance runs; the first where none does."""
        return next((host for host in self.all_hosts if self._units(host, instance)), self.host_there)

    def units(self, instance: str, states: str = "active") -> list[str]:
        return self._units(self.host_of(instance), instance, states)

    def _units(self, host: Host, instance: str, states: str = "active") -> list[str]:
        lines = host.run(
            *("systemctl", "list-units", f"cluster-{self.name}@{instance}-*", "--no-legend", "--plain"),
            f"--state={states}",
        )
        return [line.split()[0] for line in lines.splitlines()]

    def processes(self, instance: str) -> dict[str, int]:
        """Return the ids, as the host knows them, of an instance process, its gunicorn and their workers."""
        found: dict[str, int] = {}
        parents = {}
        host = self.host_of(instance)
        for line in host.run("ps", "-eo", "pid=,ppid=").splitlines():
            pid, parent = map(int, line.split())
            parents[pid] = parent
        for unit in self._units(host, instance):
            root = int(host.run("systemctl", "show", unit, "--property=MainPID", "--value"))
            gunicorn = sorted(pid for pid, parent in parents.items() if parent == root)
            workers = sorted(pid for pid, parent in parents.items() if parent in gunicorn)
            found[f"{unit} instance"] = root
            found |= {f"{unit} gunicorn {number}": pid for number, pid in enumerate(gunicorn)}
            found |= {f"{unit} worker {number}": pid for number, pid in enumerate(workers)}
        return found

    def kill(self, instance: str, sent: signal.Signals) -> None:
        pids = [str(pid) for pid in self.processes(instance).values()]
        self.host_of(instance).run("kill", f"-{sent.value}", *pids, check=False)

    def stop_worker(self, instance: str) -> int:
        pid = next(pid for name, pid in self.processes(instance).items() if name.endswith("worker 0"))
        self.host_of(instance).run("kill", "-STOP", str(pid))
        return pid

    def restart(self, instance: str) -> None:
        host = self.host_of(instance)
        host.run("systemctl", "restart", *self._units(host, instance))

    def nginx_workers(self) -> set[int]:
        return {int(pid) for pid in self.host_there.run("pgrep", "nginx").split()}

    def close(self) -> None:
        result = self.run("down", self.name, "--delete-data", "--yes")
        shutil.rmtree(self.root)
        assert result.status == 0, result.output


@contextmanager
def remote_stand(directory: Path, **more: Any) -> Iterator[RemoteStand]:
    """Make a host and a stand on it; `more` are keys of the stack."""
    with host_alone(directory) as host, contextlib.closing(RemoteStand(host, **more)) as stand:
        yield stand


@contextmanager
def host_alone(directory: Path) -> Iterator[Host]:
    """Make a host that keeps its address when it boots again, whoever else makes containers meanwhile."""
    with (
        contextlib.closing(Network()) as network,
        contextlib.closing(Host(directory, network=network.place(), alone=True)) as host,
    ):
        yield host
