"""`cluster up` on hosts beside Kamal 2: `python -m bench.kamal [HOSTS]` writes docs/benchmarks/kamal.md and .json.

Both sides run the same project on containers with systemd that are reached by SSH: one instance a host, and on each
host the proxy before it, since Kamal has one container of a role a host, and no balancer before its hosts: clients ask
the hosts in turn. PostgreSQL is on another that is neither's. Kamal knows no weights: that change is not measured.

What must be there: `kamal` (KAMAL names another command), with Docker and buildx where it runs; it shares this
machine's directory of temporary files, its network and its engine. A host is given the proxy's image (`kamal docs
proxy`) by this machine's engine where that has one, and pulls it otherwise.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import string
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker import Notes, rows, timed, under_load
from bench.hosts import ALONE, COMPARED, ROOT, ROUNDS, Hosts, Ours
from bench.results import keep
from tests.e2e.remote import IMAGE, Host
from tests.e2e.results import versions
from tests.e2e.tools import docker, missing

if TYPE_CHECKING:
    from collections.abc import Sequence

APP = Path(__file__).parent / "kamal_app"
KAMAL = os.environ.get("KAMAL", "kamal")
PROXY = "basecamp/kamal-proxy"

#: Where Kamal's own registry listens, which its hosts reach through their connections by SSH.
PORT = 5555
IMAGES = f"localhost:{PORT}/shop"

OPERATIONS = ("first up", "up without changes", "release")


class DockerHost(Host):
    """A host with a Docker engine of its own, which keeps its layers on a volume."""

    image = f"{IMAGE}-docker"
    text = f"""
FROM {IMAGE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends docker.io docker-cli iptables \\
    && mkdir -p /etc/systemd/system/docker.service.d && printf '[Service]\\n\\
Environment=DOCKER_ALLOW_IPV6_ON_IPV4_INTERFACE=1\\n' >/etc/systemd/system/docker.service.d/bench.conf \\
    && usermod -aG docker deploy && systemctl enable docker.service && systemctl disable nginx.service
VOLUME /var/lib/docker
"""

    def __init__(self, directory: Path, name: str, roles: tuple[str, ...], network: Sequence[str]) -> None:
        super().__init__(directory, name, roles, [*network, "--cap-add", "SYS_PTRACE"])  # for `docker exec`
        self.until(lambda: bool(self.run("docker", "info", "--format", "{{.ID}}", check=False)))
        found = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", PROXY).split()
        if found:
            with subprocess.Popen(["docker", "save", *found], stdout=subprocess.PIPE) as saved:
                command = ["docker", "exec", "-i", self.container, "docker", "load", "--quiet"]
                subprocess.run(command, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=True)


class Kamal:
    """The project as a repository that Kamal deploys."""

    def __init__(self, count: int) -> None:
        self.hosts = Hosts(count, DockerHost, edge=False)
        self.root = Path(tempfile.mkdtemp(prefix="kamal"))
        self.addresses = [(host.address, 80) for host in self.hosts.all]
        with contextlib.ExitStack() as there:
            there.callback(self.close)
            ignored = shutil.ignore_patterns("__pycache__", "*.sqlite3", "deploy.yml")
            for source in (ROOT / "example", APP):
                shutil.copytree(source, self.root, dirs_exist_ok=True, ignore=ignored)
            self._configure()
            self.git("init", "--quiet")
            self.commit("first")
            self.run("build", "push", "--output=docker")  # fills the engine's cache of layers, and pushes nothing
            self.about = {
                "size": docker("image", "ls", "--format", "{{.Size}}", f"{IMAGES}:latest"),
                "kamal": self.run("version").strip(),
                "docker": self.hosts.all[0].run("docker", "version", "--format", "{{.Server.Version}}"),
            }
            there.pop_all()

    def _configure(self) -> None:
        """Write Kamal's configuration, the password, and how SSH reaches the hosts."""
        known, ssh = self.root / ".kamal" / "known_hosts", self.root / ".kamal" / "ssh_config"
        values = {
            "servers": ", ".join(address for address, _ in self.addresses),
            "port": PORT,
            "arch": docker("version", "--format", "{{.Server.Arch}}"),
            "ssh": ssh,
            "database": self.hosts.store.address,
        }
        (self.root / "config").mkdir()
        text = string.Template((APP / "deploy.yml").read_text()).substitute(values)
        (self.root / "config" / "deploy.yml").write_text(text)
        known.parent.mkdir()
        known.write_text("".join(f"{host.address} {host.host_key}\n" for host in self.hosts.all))
        keys = "".join(f"Host {host.address}\n  IdentityFile {host.key}\n" for host in self.hosts.all)
        ssh.write_text(f"{keys}Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n")
        (known.parent / "secrets").write_text(f"DATABASE_PASSWORD={self.hosts.store.password}\n")
        (self.root / ".gitignore").write_text(".kamal/\n")

    def run(self, *words: str) -> str:
        done = subprocess.run([KAMAL, *words], cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        subprocess.run(["git", *who, *words], cwd=self.root, check=True)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def first_up(self) -> None:
        self.run("setup")

    def up(self) -> None:
        self.run("deploy")

    def release(self, number: int) -> None:
        apps = ROOT / "example" / "visits" / "apps.py"
        (self.root / "visits" / "apps.py").write_text(f"{apps.read_text()}# {number}\n")
        self.commit(str(number))
        self.up()

    def close(self) -> None:
        with contextlib.suppress(SystemExit):  # there may be none yet
            self.run("registry", "remove")
        docker("image", "rm", "--force", *set(docker("image", "ls", "--quiet", IMAGES).split()), check=False)
        self.hosts.close()
        shutil.rmtree(self.root)


def measure(count: int) -> dict[str, Any]:
    notes = Notes()
    about: dict[str, str] = {}
    for name, make in (("Kamal", partial(Kamal, count)), ("cluster up", partial(Ours, count, ALONE, edge=False))):
        with contextlib.closing(make()) as side:
            about |= side.about if isinstance(side, Kamal) else {}
            notes.note(name, "first up", timed(side.first_up))
            for number in range(ROUNDS):
                notes.note(name, "up without changes", *under_load(side.up, *side.addresses))
                notes.note(name, "release", *under_load(partial(side.release, number), *side.addresses))
    return {"taken": notes.taken, "lost": notes.lost, "count": count, **about}


def report(found: dict[str, Any]) -> str:
    sides = ("Kamal", "cluster up")
    lines = [
        "# Hosts: `cluster up` beside Kamal",
        "",
        f"{found['count']} hosts with one instance each and a proxy before it (kamal-proxy; nginx), PostgreSQL on",
        "another one; containers with systemd on one machine. Kamal runs one container of a role a host, has no",
        "balancer before its hosts and knows no weights: clients ask the hosts in turn, and a weight change has no",
        "counterpart. `cluster up` balances from each host among all instances, and verifies the result by real",
        "requests too.",
        "",
        "Kamal (`bench/kamal_app`) builds with this machine's engine (driver docker), which had all layers but those",
        "of the code, and pushes to its own registry here, which hosts reach through SSH; the image has",
        f"{found['size']}, all of which a host pulls at first. Before their first up Kamal's hosts had Docker and",
        "kamal-proxy's image, those of `cluster up` Python and nginx. A container migrates before it serves. Without",
        "changes `kamal deploy` replaces all containers by others of the same image.",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores; "
        + "; ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f"; Kamal {found['kamal']}; the hosts' Docker {found['docker']}.",
        "",
        f"Command: `{' '.join(['.venv/bin/python -m bench.kamal', *sys.argv[1:]])}`. Median seconds (least to most);",
        "requests lost of those counted,",
        "under eight clients that keep their connections and sessions, POSTs and one-second requests among them.",
        "",
        "| what | " + " | ".join(sides) + " |",
        "|---|" + "---:|" * len(sides),
    ]
    return "\n".join([*lines, *rows(found["taken"], found["lost"], sides, OPERATIONS), ""])


def main() -> int:
    why = missing()
    if why or shutil.which(KAMAL) is None:
        print(f"not measured: {why or f'{KAMAL} is not installed (gem install kamal; KAMAL names another command)'}")
        return 1
    found = measure(int(sys.argv[1]) if sys.argv[1:] else COMPARED)
    found = {**found, "versions": versions()}
    keep("kamal", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
