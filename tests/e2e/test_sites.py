"""Two sites of one program outside the repository, on one engine: by the real engine."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conformance import servers
from tests.e2e.stand import PASSPHRASE, docker_port
from tests.e2e.tools import PULUMI_HOME, docker
from tests.local.stand import ROOT
from tests.unit.test_sites import ONE_LINE_EACH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SITES = ("shop", "blog")

#: Of the one that keeps its sessions in memcached beside it, and of the one that has nothing but its instances.
PARTS: dict[str, dict[str, Any]] = {
    "shop": {"sessions": {"engine": "cached_db", "memcached": {"nodes": 2, "memory": "32m"}}},
    "blog": {"sessions": {"engine": "db"}},
}


class Program:
    """A directory with a program of two sites, and the sites beside it."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "program"
        self.sites = root / "sites"
        (self.sites / "stacks").mkdir(parents=True)
        shutil.copytree(ROOT / "example", self.sites / "example", ignore=shutil.ignore_patterns("__pycache__"))
        self.stacks: dict[str, dict[str, Any]] = {
            name: {
                "platform": "docker",
                "app": {"project": "./example", "settings": "example.settings", "memory": "256m"},
                "upstream": {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]},
                "database": {"engine": "sqlite"},
                "site": {"server_names": ["localhost"], "listen": docker_port()},
                **PARTS[name],
            }
            for name in SITES
        }
        for name in SITES:
            self.edit(name, lambda _stack: None)
        self.directory.mkdir()
        (self.directory / "__main__.py").write_text(ONE_LINE_EACH)
        runtime = {"name": "python", "options": {"virtualenv": sys.prefix}}
        (self.directory / "Pulumi.yaml").write_text(yaml.safe_dump({"name": f"two{os.getpid()}", "runtime": runtime}))
        (root / "state").mkdir()
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:{PULUMI_HOME / 'bin'}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}",
            "PULUMI_BACKEND_URL": f"file://{root / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        self.pulumi("stack", "init", "both")
        for name in SITES:
            self.pulumi("config", "set", "--secret", f"{name}:secret_key", f"{name}-{'0123456789' * 6}")

    def edit(self, site: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change what a site's stack file says."""
        change(self.stacks[site])
        config = {f"cluster:{key}": value for key, value in self.stacks[site].items()}
        (self.sites / "stacks" / f"Pulumi.{site}.yaml").write_text(yaml.safe_dump({"config": config}))

    def pulumi(self, *words: str) -> str:
        """Run Pulumi; return what it printed."""
        done = subprocess.run(
            ["pulumi", "--non-interactive", *words],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def up(self) -> None:
        self.pulumi("up", "--yes", "--skip-preview", "--stack", "both")

    def changes(self) -> dict[str, int]:
        """Return what a preview would change, by operation."""
        said = self.pulumi("preview", "--json", "--stack", "both")
        summary: dict[str, int] = json.loads(said[said.index("{") :])["changeSummary"]
        return {name: count for name, count in summary.items() if name != "same"}

    def containers(self, site: str) -> set[str]:
        label = f"two{os.getpid()}/both/{site}"
        return set(docker("ps", "--quiet", "--filter", f"label=django-cluster.stack={label}").split())

    def get(self, site: str, path: str) -> int:
        """Return the status by which a site answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.stacks[site]["site"]["listen"], timeout=30)
        connection.request("GET", path, headers={"Host": "localhost"})
        return connection.getresponse().status

    def close(self) -> None:
        """Remove both sites with their data."""
        self.pulumi("state", "unprotect", "--all", "--yes", "--stack", "both")
        self.pulumi("destroy", "--yes", "--skip-preview", "--stack", "both")
        for image in docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"*/two{os.getpid()}*/*").split():
            docker("rmi", image, check=False)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with TemporaryDirectory(prefix="two") as root:
        found = Program(Path(root))
        try:
            found.up()
            yield found
        finally:
            found.close()


def test_both_answer_and_nothing_is_to_be_changed(program: Program) -> None:
    assert {site: program.get(site, "/whoami") for site in SITES} == dict.fromkeys(SITES, 200)
    assert program.changes() == {}


def test_a_weight_in_one_of_them_touches_one_resource_and_no_container(program: Program) -> None:
    before = {site: program.containers(site) for site in SITES}
    assert [len(before[site]) for site in SITES] == [5, 3]
    program.edit("shop", lambda stack: servers(stack)["app1"].update(weight=5))
    assert program.changes() == {"update": 1}
    program.up()
    assert {site: program.containers(site) for site in SITES} == before
    assert program.changes() == {}


def test_one_that_is_no_more_in_the_program_goes_and_the_other_stays(program: Program) -> None:
    blog = program.containers("blog")
    shop = next(line for line in ONE_LINE_EACH.splitlines() if line.startswith("shop = "))
    program.pulumi("state", "unprotect", "--all", "--yes", "--stack", "both")
    (program.directory / "__main__.py").write_text(ONE_LINE_EACH.replace(shop, ""))
    program.up()
    assert program.containers("shop") == set()
    assert program.containers("blog") == blog
    assert program.get("blog", "/whoami") == 200
