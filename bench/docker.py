"""`cluster up` on Docker beside docker-compose: `python -m bench.docker` writes docs/benchmarks/docker.md and .json.

Both sides run the same project on the same base image: four instances with one worker of four threads, PostgreSQL, two
memcached nodes, sessions in cached_db, nginx with weights. Operations are interleaved, round by round. This project's
nginx is made of what `cluster init` names, or of another image: `python -m bench.docker debian:forky-slim`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import keep
from platforms.docker.initial import NGINX_IMAGE
from tests.e2e.hosts import LoadOfEach
from tests.e2e.results import versions
from tests.e2e.stand import PASSPHRASE, DockerStand, docker_port
from tests.e2e.tools import docker, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.load import Counts

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = Path(__file__).parent / "compose"

ROUNDS = 3
PREVIEWS = 7

#: The targets: a release at most so many seconds slower, a preview at most so many times as long.
SLOWER, TIMES = 3.0, 1.3

#: Targets, in seconds: a weight change by each, and how much longer than `pulumi up` one without changes takes.
WEIGHT, NOTHING = {"pulumi up": 4.0, "cluster up": 6.0}, 0.3

OPERATIONS = ("first up", "up without changes", "weight change", "release")


class Compose:
    """The compose file's side."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="compose"))
        shutil.copytree(COMPOSE, self.root, dirs_exist_ok=True)
        shutil.copytree(
            ROOT / "example", self.root / "app" / "project", ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3")
        )
        self.project = self.root.name.lower().replace("_", "-")
        self.port = docker_port()
        self.address = ("127.0.0.1", self.port)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", "-p", self.project, *arguments],
            cwd=self.root,
            env={
                **os.environ,
                "PORT": str(self.port),
                "PROJECT": self.project,
                "DOCKER_BUILDKIT": "0",
                "COMPOSE_DOCKER_CLI_BUILD": "0",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(done.stdout)
        return done.stdout

    def first_up(self) -> None:
        self.run("build", "--quiet")
        self.run("up", "-d", "db", "memcached1", "memcached2")
        self.migrate()
        self.run("up", "-d")
        self.wait()

    def migrate(self) -> None:
        self.run("run", "--rm", "-T", "app1", "sh", "-c", MIGRATE)

    def up(self) -> None:
        self.run("up", "-d")
        self.wait()

    def weight(self, value: int) -> None:
        conf = self.root / "nginx" / "conf" / "site.conf"
        text = conf.read_text()
        first = next(line for line in text.splitlines() if "server app1:8000" in line)
        conf.write_text(text.replace(first, f"    server app1:8000 weight={value};"))
        self.run("exec", "-T", "nginx", "nginx", "-t")
        self.run("exec", "-T", "nginx", "nginx", "-s", "reload")

    def release(self, number: int) -> None:
        """Build, migrate, recreate all, and let nginx look their addresses up again."""
        (self.root / "app" / "project" / "visits" / "apps.py").write_text(
            (ROOT / "example" / "visits" / "apps.py").read_text() + f"# {number}\n"
        )
        self.run("build", "--quiet", "app1")
        self.migrate()
        self.run("up", "-d")
        self.run("exec", "-T", "nginx", "nginx", "-s", "reload")
        self.wait()

    def wait(self) -> None:
        """Return once all instances are healthy and the site answers."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}").split()
            states = docker(
                "inspect", "--format", "{{.Name}} {{if .State.Health}}{{.State.Health.Status}}{{end}}", *found
            )
            healthy = sum(line.endswith(" healthy") for line in states.splitlines())
            if healthy == 4 and answers(self.address):
                return
            time.sleep(0.1)
        raise SystemExit(f"compose does not get healthy: {self.run('ps')}")

    def close(self) -> None:
        self.run("down", "--volumes", "--rmi", "all", "--timeout", "5")
        shutil.rmtree(self.root)


#: PostgreSQL takes a moment to make its database.
MIGRATE = "for try in 1 2 3 4 5 6 7 8 9 10; do python manage.py migrate -v 0 --noinput && exit 0; sleep 1; done; exit 1"


class Changing:
    """A stand that is changed by its stack file and its code."""

    stand: DockerStand

    def up(self) -> None:
        checked(self.stand.up())

    def weight(self, value: int) -> None:
        self.stand.edit_stack(lambda stack: stack["upstream"]["servers"][0].update(weight=value))
        self.up()

    def release(self, number: int) -> None:
        self.stand.edit_code("visits/apps.py", f"# {number}\n")
        self.up()


class Ours(Changing):
    """`cluster up`, or plain `pulumi up`."""

    def __init__(self, nginx: str, *, plain: bool) -> None:
        self.plain = plain
        self.stand = DockerStand(name="plain" if plain else "bench")
        self.stand.stack["app"].pop("memory")
        self.stand.stack["images"] = {"nginx": nginx}
        self.stand.write()
        self.address = self.stand.address

    def first_up(self) -> None:
        checked(self.stand.run("init", self.stand.name))
        self.up()

    def up(self) -> None:
        if not self.plain:
            super().up()
            return
        done = self.stand.pulumi("up", "--yes", "--skip-preview")
        if done.returncode != 0:
            raise SystemExit(done.stdout)

    def close(self) -> None:
        self.stand.close()


def checked(result: Any) -> None:
    if result.status != 0:
        raise SystemExit(result.output)


def answers(address: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*address, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/whoami", headers={"Host": "cluster"})
        return connection.getresponse().status == 200
    return False


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def under_load(action: Callable[[], object], *addresses: tuple[str, int]) -> tuple[float, Counts]:
    with LoadOfEach(*addresses, clients=8, slow=2) as load:
        load.wait_for(200)
        seconds = timed(action)
        load.wait_for(200)
    return seconds, load.counts


class Notes:
    """What was measured: seconds, and requests lost of those counted, by operation and side."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, list[float]]] = {}
        self.lost: dict[str, dict[str, list[tuple[int, int]]]] = {}

    def note(self, side: str, operation: str, seconds: float, counts: Counts | None = None) -> None:
        self.taken.setdefault(operation, {}).setdefault(side, []).append(round(seconds, 2))
        if counts is not None:
            self.lost.setdefault(operation, {}).setdefault(side, []).append((len(counts.failed), counts.total))
        print(f"{operation}, {side}: {seconds:.1f} s {counts or ''}", flush=True)


def measure(nginx: str) -> dict[str, Any]:
    notes = Notes()
    note = notes.note
    with contextlib.ExitStack() as stack:
        sides: dict[str, Any] = {}
        warm: dict[str, Any] = {"docker-compose": Compose(), "cluster up": Ours(nginx, plain=False)}
        for side in warm.values():  # fills the engine's caches of layers and packages
            with contextlib.closing(side):
                side.first_up()
        for name, make in (
            ("docker-compose", Compose),
            ("cluster up", lambda: Ours(nginx, plain=False)),
            ("pulumi up", lambda: Ours(nginx, plain=True)),
        ):
            sides[name] = stack.enter_context(contextlib.closing(make()))
            note(name, "first up", timed(sides[name].first_up))
        for number in range(ROUNDS):
            for name, side in sides.items():
                note(name, "up without changes", timed(side.up))
                note(name, "weight change", *under_load(partial(side.weight, 10 + number), side.address))
                note(name, "release", *under_load(partial(side.release, number), side.address))
        previews = measure_previews(sides["pulumi up"].stand)
    return {"taken": notes.taken, "lost": notes.lost, "previews": previews}


def measure_previews(stand: DockerStand) -> dict[str, list[float]]:
    """Time `pulumi preview` of the program, and of a plain one that registers the same resources as they are."""
    exported = json.loads(stand.pulumi("stack", "export", "--show-secrets").stdout)
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary)
        for name in ("Pulumi.yaml", "state", ".cluster"):
            source = stand.root / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, plain / name)
        (plain / "stacks").mkdir()
        shutil.copy(stand.file, plain / "stacks" / stand.file.name)
        (plain / "resources.json").write_text(json.dumps(exported["deployment"]["resources"]))
        (plain / "__main__.py").write_text(PLAIN)
        environment = {**stand.environment(), "PULUMI_BACKEND_URL": f"file://{plain / 'state'}"}
        assert environment["PULUMI_CONFIG_PASSPHRASE"] == PASSPHRASE
        taken: dict[str, list[float]] = {"ours": [], "plain": []}

        def preview(root: Path, variables: dict[str, str]) -> None:
            command = ["pulumi", "preview", "--json", "--non-interactive", "--stack", stand.name]
            done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(done.stdout + done.stderr)
            summary = json.loads(done.stdout[done.stdout.index("{") :])["changeSummary"]
            assert set(summary) == {"same"}, f"the two programs are not the same: {summary}"

        for _ in range(PREVIEWS):
            taken["ours"].append(round(timed(lambda: preview(stand.root, stand.environment())), 2))
            taken["plain"].append(round(timed(lambda: preview(plain, environment)), 2))
    return taken


#: A program without models, lints, digests, rendering and a look at what runs: the same resources, as they are.
PLAIN = """
import json
import pulumi
import pulumi_docker
from pulumi_command import local

made = {}
SECRET = "4dabf18193072939515e22adb298388d"


def revived(value):
    if isinstance(value, dict):
        if SECRET in value:
            return pulumi.Output.secret(json.loads(value["plaintext"]))
        return {key: revived(inner) for key, inner in value.items()}
    return [revived(inner) for inner in value] if isinstance(value, list) else value


for resource in json.load(open("resources.json")):
    kind, name = resource["type"], resource["urn"].rpartition("::")[2]
    if kind.startswith("pulumi:"):
        continue
    opts = pulumi.ResourceOptions(
        parent=made.get(resource.get("parent")),
        depends_on=[made[urn] for urn in resource.get("dependencies", []) if urn in made],
        protect=resource.get("protect", False),
        version={"docker": "5.2.0", "command": "1.2.1"}.get(kind.partition(":")[0]),
    )
    if resource["custom"]:
        inputs = {key: revived(value) for key, value in resource["inputs"].items() if not key.startswith("__")}
        made[resource["urn"]] = pulumi.CustomResource(kind, name, inputs, opts)
    else:
        made[resource["urn"]] = pulumi.ComponentResource(kind, name, None, opts)
"""


def rows(
    taken: dict[str, Any], lost: dict[str, Any], sides: Sequence[str], operations: Sequence[str] = OPERATIONS
) -> list[str]:
    """Return a table's row for each operation: median seconds, least and most, and requests lost of those counted."""
    lines = []
    for operation in operations:
        cells = []
        for side in sides:
            seconds = taken[operation][side]
            cell = f"{statistics.median(seconds):.1f}"
            if len(seconds) > 1:
                cell += f" ({min(seconds):.1f} to {max(seconds):.1f})"
            counted = lost.get(operation, {}).get(side)
            if counted:
                cell += f"; lost {sum(failed for failed, _ in counted):,} of {sum(total for _, total in counted):,}"
            cells.append(cell)
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    return lines


def report(found: dict[str, Any]) -> str:
    taken, lost, previews = found["taken"], found["lost"], found["previews"]
    sides = ("docker-compose", "cluster up", "pulumi up")
    lines = [
        "# Docker: `cluster up` beside docker-compose",
        "",
        "Both run the same project on the same base image: four instances (one worker, four threads), PostgreSQL, two",
        "memcached nodes, cached_db, nginx with weights. docker-compose's release is what its users write: `build`, ",
        "`run --rm app1 migrate`, `up -d`, `nginx -s reload`. `cluster up` verifies the result by real requests too; ",
        "`pulumi up` is the same program without that. Layers and packages were cached for all.",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores; "
        + "; ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f"; docker-compose {found['compose']}; this project's nginx made of {found['nginx']}.",
        "",
        f"Command: `.venv/bin/python -m bench.docker {found['nginx']}`.",
        "Median seconds (least to most); requests lost of those counted,",
        "under eight clients that keep their connections and sessions, POSTs and one-second requests among them.",
        "",
        "| what | " + " | ".join(sides) + " |",
        "|---|" + "---:|" * len(sides),
    ]
    lines += rows(taken, lost, sides)
    slower = statistics.median(taken["release"]["pulumi up"]) - statistics.median(taken["release"]["docker-compose"])
    whole = statistics.median(taken["release"]["cluster up"]) - statistics.median(taken["release"]["docker-compose"])
    times = statistics.median(previews["ours"]) / statistics.median(previews["plain"])
    failed = sum(count for side in ("cluster up", "pulumi up") for count, _ in lost["release"][side])
    met = "met" if max(slower, whole) <= SLOWER and not failed else "not met"
    release = (
        f"Target: a release at most {SLOWER:g} s slower than docker-compose's, with none lost. Found: `pulumi up` "
        f"{slower:+.1f} s, `cluster up` {whole:+.1f} s, {failed} lost: {met}."
    )
    met = "met" if times <= TIMES else "not met"
    medians = {side: statistics.median(taken["weight change"][side]) for side in WEIGHT}
    more = statistics.median(taken["up without changes"]["cluster up"]) - statistics.median(
        taken["up without changes"]["pulumi up"]
    )
    targets = [
        f"a weight change in {seconds:g} s by `{side}`, found {medians[side]:.1f} s "
        f"({'met' if medians[side] <= seconds else 'not met'})"
        for side, seconds in WEIGHT.items()
    ]
    targets.append(
        f"an `up` without changes at most {NOTHING:g} s longer by `cluster up` than by `pulumi up`, found "
        f"{more:+.1f} s ({'met' if more <= NOTHING else 'not met'})"
    )
    preview = (
        f"`pulumi preview` without changes: {spread(previews['ours'])} s; of a plain program that registers the same "
        f"resources as literals {spread(previews['plain'])} s: {times:.2f} times, in {PREVIEWS} interleaved runs. "
        f"Target {TIMES:g}: {met}."
    )
    return "\n".join([*lines, "", release, "", f"Further targets: {'; '.join(targets)}.", "", preview, ""])


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> int:
    why = missing()
    if why or shutil.which("docker-compose") is None:
        print(f"not measured: {why or 'docker-compose is not installed'}")
        return 1
    nginx = sys.argv[1] if sys.argv[1:] else NGINX_IMAGE
    found = {**measure(nginx), "nginx": nginx}
    compose = subprocess.run(["docker-compose", "version", "--short"], capture_output=True, text=True, check=True)
    found = {**found, "versions": versions(), "compose": compose.stdout.strip()}
    keep("docker", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
