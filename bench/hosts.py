"""`cluster up` on hosts beside an Ansible playbook: `python -m bench.hosts` writes docs/benchmarks/hosts.md and .json.

Both sides run the same project on containers with systemd that are reached by SSH: four instances a host, one more host
with nginx, PostgreSQL on another that is neither's; one side after the other, since both at once would be too much for
one machine. The playbook is what is written by hand: packages and code as archives, a unit's template, nginx's site,
and a restart of one instance after the other. How seconds and connections grow with hosts is measured for `cluster up`
alone: `python -m bench.hosts HOSTS GROWN`, GROWN as 1,2,5.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench.docker import OPERATIONS, Changing, Notes, rows, timed, under_load
from bench.results import keep
from tests.e2e.hosts import HostsStand, Store
from tests.e2e.remote import Host, Network
from tests.e2e.results import versions
from tests.e2e.tools import missing

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = Path(__file__).parent / "ansible"

#: Hosts with instances: of the comparison, and of those by which it is seen how all grows.
COMPARED, GROWN = 5, (1, 2, 5, 10, 20)

#: Instances a host: of the comparison; and where it grows, since all hosts are one machine's.
INSTANCES, ALONE = 4, 1
ROUNDS = 3

#: At most as slow at first, and so many times as fast on a weight change.
TIMES = 3.0


class Hosts:
    """Containers that stand for hosts. edge: nginx is on one of its own, and not on each."""

    def __init__(self, count: int, kind: type[Host] = Host, *, edge: bool = True) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hosts"))
        with contextlib.ExitStack() as there:
            self.network = there.enter_context(contextlib.closing(Network()))
            self.store = there.enter_context(contextlib.closing(Store(self.directory, self.network.place())))
            roles = ("app",) if edge else ("app", "nginx")
            names = [(f"web{number}", roles) for number in range(1, count + 1)] + [("edge1", ("nginx",))] * edge
            self.all = [
                there.enter_context(contextlib.closing(kind(self.directory, *one, self.network.place())))
                for one in names
            ]
            self.there = there.pop_all()

    def connections(self) -> int:
        """Return how many times somebody has logged in, on all of them."""
        ask = "journalctl --unit ssh --output cat --no-pager | grep -c 'Accepted publickey'"
        return sum(int(host.run("sh", "-c", ask, check=False) or 0) for host in self.all)

    def close(self) -> None:
        self.there.close()
        shutil.rmtree(self.directory)


class Ours(Changing):
    """`cluster up`."""

    stand: HostsStand

    def __init__(self, count: int, instances: int = INSTANCES, *, edge: bool = True) -> None:
        self.hosts = Hosts(count, edge=edge)
        servers = [{"name": f"app{number}"} for number in range(1, instances * count + 1)]
        more = {"database": {"engine": "external"}, "upstream": {"servers": servers}}
        self.stand = HostsStand(self.hosts.network, *self.hosts.all, **more)
        self.addresses = [(host.address, self.stand.port) for host in self.stand.visited]

    def first_up(self) -> None:
        self.stand.use(self.hosts.store)
        self.up()

    def close(self) -> None:
        self.stand.close()
        self.hosts.close()


class Ansible:
    """The playbook."""

    def __init__(self, count: int) -> None:
        self.hosts = Hosts(count)
        self.root = Path(tempfile.mkdtemp(prefix="ansible"))
        shutil.copytree(PLAYBOOK, self.root, dirs_exist_ok=True)
        self.project = self.root / "project"
        shutil.copytree(ROOT / "example", self.project, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
        self.addresses = [(self.hosts.all[-1].address, 8080)]
        self.number = 1
        for host in self.hosts.all:  # which the playbook's users have installed
            host.run(
                "sh", "-c", "apt-get update -qq && apt-get install -y -qq python3-venv python3-packaging >/dev/null"
            )
        lines = ["[app]", *(self._line(host) for host in self.hosts.all[:-1])]
        lines += ["[nginx]", self._line(self.hosts.all[-1]), ""]
        (self.root / "inventory").write_text("\n".join(lines))
        (self.root / "ansible.cfg").write_text(
            "[defaults]\nhost_key_checking = False\ninterpreter_python = /usr/bin/python3\nforks = 10\n"
            "[ssh_connection]\npipelining = True\n"
        )

    @staticmethod
    def _line(host: Host) -> str:
        return f"{host.name} ansible_host={host.address} ansible_user=deploy ansible_ssh_private_key_file={host.key}"

    def first_up(self) -> None:
        wheels = self.root / "wheels"
        wheels.mkdir()
        needed = f"{(self.project / 'requirements.txt').read_text()}psycopg[binary]>=3.1.18\ngunicorn>=20.1\n"
        (wheels / "requirements.txt").write_text(needed)
        words = ["download", "--quiet", "--only-binary=:all:", "--python-version=3.13", "--dest", str(wheels)]
        command = [sys.executable, "-m", "pip", *words, "-r", str(wheels / "requirements.txt")]
        subprocess.run(command, check=True)
        self._pack("wheels")
        self.up()

    def _pack(self, name: str) -> None:
        with tarfile.open(self.root / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(self.root / name, arcname=name)

    def up(self) -> None:
        self._pack("project")
        store = self.hosts.store
        variables = {"weight": self.number, "database_host": store.address, "database_password": store.password}
        command = ["ansible-playbook", "-i", "inventory", "site.yml", "--extra-vars", json.dumps(variables)]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)

    def weight(self, value: int) -> None:
        self.number = value
        self.up()

    def release(self, number: int) -> None:
        apps = ROOT / "example" / "visits" / "apps.py"
        (self.project / "visits" / "apps.py").write_text(f"{apps.read_text()}# {number}\n")
        self.up()

    def close(self) -> None:
        self.hosts.close()
        shutil.rmtree(self.root)


def measure(compared: int, grown: tuple[int, ...]) -> dict[str, Any]:
    notes = Notes()
    note = notes.note
    for name, make in (("Ansible", Ansible), ("cluster up", Ours)):
        with contextlib.closing(make(compared)) as side:
            note(name, "first up", timed(side.first_up))
            for number in range(ROUNDS):
                note(name, "up without changes", timed(side.up))
                note(name, "weight change", *under_load(partial(side.weight, 10 + number), *side.addresses))
                note(name, "release", *under_load(partial(side.release, number), *side.addresses))
    growth = {count: grow(count) for count in grown}
    return {"taken": notes.taken, "lost": notes.lost, "growth": growth, "compared": compared}


def grow(count: int) -> dict[str, tuple[float, int]]:
    """Return what each operation takes on so many hosts: seconds, and times that somebody logged in."""
    found: dict[str, tuple[float, int]] = {}
    with contextlib.closing(Ours(count, ALONE)) as side:
        for operation, action in (
            ("first up", side.first_up),
            ("up without changes", side.up),
            ("weight change", partial(side.weight, 7)),
            ("release", partial(side.release, 1)),
        ):
            before = side.hosts.connections()
            seconds = round(timed(action), 2)
            found[operation] = (seconds, side.hosts.connections() - before)
            print(f"{count} hosts: {operation}: {found[operation]}", flush=True)
    return found


def report(found: dict[str, Any]) -> str:
    taken, lost, growth = found["taken"], found["lost"], found["growth"]
    sides = ("Ansible", "cluster up")
    lines = [
        "# Hosts: `cluster up` beside an Ansible playbook",
        "",
        f"{found['compared']} hosts with four instances each, one with nginx, PostgreSQL on another one; containers",
        "with systemd on one machine. The playbook (`bench/ansible`) sends packages and code as archives, and restarts",
        "one instance after the other. `cluster up` verifies the result by real requests too.",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores; "
        + "; ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f"; {found['ansible']}.",
        "",
        f"Command: `{' '.join(['.venv/bin/python -m bench.hosts', *sys.argv[1:]])}`. Median seconds (least to most);",
        "requests lost of those counted,",
        "under eight clients that keep their connections and sessions, POSTs and one-second requests among them.",
        "",
        "| what | " + " | ".join(sides) + " |",
        "|---|" + "---:|" * len(sides),
    ]
    lines += rows(taken, lost, sides)
    first = taken["first up"]["cluster up"][0] <= taken["first up"]["Ansible"][0]
    medians = {side: statistics.median(taken["weight change"][side]) for side in sides}
    times = medians["Ansible"] / medians["cluster up"]
    targets = (
        f"Targets: no slower on the first `up`: {'met' if first else 'not met'}; a weight change {TIMES:g} times "
        f"as fast: found {times:.1f} times, {'met' if times >= TIMES else 'not met'}."
    )
    lines += [
        *("", targets, ""),
        "How `cluster up` grows, seconds and logins by SSH, without load, with one instance a host:",
        "",
        "| hosts with instances | " + " | ".join(OPERATIONS) + " |",
        "|---|" + "---:|" * len(OPERATIONS),
    ]
    for count, each in growth.items():
        cells = [f"{seconds:.1f} s, {logins}" for seconds, logins in (each[operation] for operation in OPERATIONS)]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    why = missing()
    if why or shutil.which("ansible-playbook") is None:
        print(f"not measured: {why or 'ansible-playbook is not installed (pip install ansible-core)'}")
        return 1
    compared = int(sys.argv[1]) if sys.argv[1:] else COMPARED
    found = measure(compared, GROWN if not sys.argv[2:] else tuple(map(int, sys.argv[2].split(","))))
    said = subprocess.run(["ansible-playbook", "--version"], capture_output=True, text=True, check=True)
    found = {**found, "versions": versions(), "ansible": said.stdout.splitlines()[0]}
    keep("hosts", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
