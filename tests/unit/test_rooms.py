"""The rules of which room imports which (pyproject.toml, kept by `lint-imports`) speak of every room."""

from __future__ import annotations

import ast
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cluster
import platforms
import policy
from cluster.platforms import TRAITS, Platform
from platforms import registry
from platforms.docker import initial as docker_initial
from platforms.docker import platform as docker_platform
from platforms.docker import program as docker_program
from platforms.local import adopting as local_adopting
from platforms.local import initial as local_initial
from platforms.local import platform as local_platform
from platforms.remote import initial as remote_initial
from platforms.remote import platform as remote_platform
from platforms.remote import program as remote_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from platforms.base import Adopting, Grounds, Initial, Platforms

ROOT = Path(__file__).resolve().parents[2]

#: Of `cluster`, what knows a command: it is one.
NOT_PURE = {"__main__"}

#: The platforms' modules as what is asked of them: the checker of types sees here that they have all of it.
OF_NEW_STACKS: dict[str, Initial] = {
    "local": local_initial,
    "docker": docker_initial,
    "remote": remote_initial,
}
TAKING_OVER: dict[str, Adopting] = {"local": local_adopting}
COMMANDS: dict[str, Platforms] = {"local": local_platform, "docker": docker_platform, "remote": remote_platform}
PROGRAMS: dict[str, Grounds] = {"docker": docker_program, "remote": remote_program}

#: Of `platforms`, what is none.
NO_PLATFORM = {"base", "pulumi", "registry"}


def contracts() -> list[dict[str, Any]]:
    """Return the rules."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"])


def contract(words: str) -> dict[str, Any]:
    """Return the contract whose name begins with these words."""
    (found,) = [contract for contract in contracts() if contract["name"].startswith(words)]
    return found


def rooms_of(package: ModuleType) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_whatever_is_not_a_platforms_or_a_commands_is_kept_pure() -> None:
    pure = contract("What is pure")
    assert set(pure["source_modules"]) == {f"cluster.{room}" for room in rooms_of(cluster) - NOT_PURE}


def test_every_rule_of_the_policy_is_kept_from_the_engine() -> None:
    """Only what Pulumi starts is not: it is the pack."""
    there = {f"policy.{room}" for room in rooms_of(policy) - NOT_PURE - {"pack"}}
    assert set(contract("The policy's rules")["source_modules"]) == there


def test_the_walls_are_before_every_platform_that_there_is() -> None:
    assert rooms_of(platforms) - NO_PLATFORM == set(registry.names())
    assert contract("No platform knows another")["modules"] == ["platforms.*"]
    for who in ("Components know", "The commands know"):
        assert "platforms.*.*" in contract(who)["forbidden_modules"]
    kinds = (registry.COMMANDS, registry.EARLY, registry.INITIAL, registry.PROGRAM)
    assert set(contract("A platform's modules")["protected_modules"]) == {f"platforms.*.{kind}" for kind in kinds}


#: Imports across a wall by the rule that each is against, and in which module: the saboteurs.
ACROSS = {
    "What is pure": {
        "a lint that looks at a platform": ("cluster/lint/site.py", "import platforms.docker.engine"),
        "a project that is looked at by a platform": ("cluster/looking.py", "import platforms.local.paths"),
    },
    "The commands know": {
        "a command that looks where a platform has it": ("cli/initialise.py", "import platforms.local.paths"),
    },
    "The commands import": {
        "a command that its own part knows": ("cli/options.py", "import cli.app"),
    },
    "Components know": {
        "a component that knows a platform": ("components/app_hosts.py", "import platforms.docker.engine"),
        "a component that knows its resources": ("components/program.py", "import platforms.docker.resources"),
        "a component that makes a container itself": ("components/nginx_site.py", "import pulumi_docker"),
        "a component that drives Pulumi": ("components/program.py", "import platforms.pulumi.engine"),
    },
    "No platform knows the components": {
        "a platform that knows a component": ("platforms/docker/resources.py", "import components.database"),
    },
    "No platform knows the commands": {
        "a platform that knows a command": ("platforms/docker/program.py", "import cli.app"),
    },
    "A platform prints nothing": {
        "a platform that prints": ("platforms/docker/repair.py", "from cluster.console import tell"),
    },
    "No platform knows another": {
        "a platform that knows another": ("platforms/docker/program.py", "import platforms.local.paths"),
        "what is asked of a platform, that knows one": ("platforms/base.py", "import platforms.docker.engine"),
        "what drives Pulumi, that knows a platform": ("platforms/pulumi/engine.py", "import platforms.remote.paths"),
        "what drives Pulumi, that knows the list": ("platforms/pulumi/engine.py", "import platforms.registry"),
        "a platform that knows the list": ("platforms/local/plan.py", "import platforms.registry"),
    },
    "What is asked of a platform": {
        "what is asked of a platform, that drives Pulumi": ("platforms/base.py", "import platforms.pulumi.engine"),
    },
    "A platform's modules": {
        "a command that knows a platform's program": ("cli/app.py", "import platforms.docker.program"),
    },
    "The runtime stands alone": {
        "a runtime that reads the models": ("cluster_runtime/status.py", "import cluster.config.models"),
    },
    "The policy knows": {
        "a rule that knows a platform": ("policy/containers.py", "import platforms.docker.engine"),
        "a rule that waits for the models": ("policy/rules.py", "import cluster.config.models"),
    },
    "The policy's rules know no engine": {
        "a rule that knows the engine": ("policy/rules.py", "import pulumi"),
    },
    "Pulumi alone runs the policy": {
        "a platform that asks a rule itself": ("platforms/pulumi/policing.py", "import policy.rules"),
    },
    "What keeps a certificate": {
        "what keeps a certificate, that renders": ("cluster/acme/kept.py", "import cluster.render.paths"),
    },
}


def test_each_platform_of_the_schema_is_there_and_no_other() -> None:
    assert set(registry.names()) == {platform.value for platform in Platform} == set(TRAITS)
    assert registry.names(registry.INITIAL) == registry.names()
    assert set(registry.names(registry.COMMANDS)) == set(COMMANDS)
    assert set(registry.names(registry.PROGRAM)) == set(PROGRAMS)
    assert set(registry.names(registry.ADOPTING)) == {registry.DEFAULT}
    assert set(registry.names(registry.EARLY)) == set(PROGRAMS), "what runs a program takes its time to import"


def test_a_new_stack_finds_each_platform_that_there_is() -> None:
    assert {name: registry.initial(name) for name in registry.names()} == OF_NEW_STACKS
    assert {name: registry.adopting(name) for name in registry.names(registry.ADOPTING)} == TAKING_OVER
    assert {name: of.offer("x").platform for name, of in OF_NEW_STACKS.items()} == {
        name: name for name in OF_NEW_STACKS
    }


def linted(house: Path) -> str:
    """Return what the linter says of the rooms in a directory."""
    lints = Path(sys.executable).with_name("lint-imports")
    environment = {"PYTHONPATH": str(house)}
    done = subprocess.run(
        [str(lints), "--no-cache", "--no-logo"], cwd=house, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if " 0 broken." in done.stdout else 1), done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Across:
    """What the linter says with all of `ACROSS` at once, by the beginnings of the rules' names; and the lines of each.

    Each import that is against a rule is one line. More lines tell the way by which it leads to what is not allowed.
    """

    said: Mapping[str, str]
    lines: Mapping[str, str]


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Across:
    house = tmp_path_factory.mktemp("house")
    for package in ("cli", "cluster", "platforms", "components", "policy", "runtime/cluster_runtime"):
        # Others compile the same modules meanwhile.
        shutil.copytree(ROOT / package, house / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    (house / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    assert " 0 broken." in linted(house)
    lines = {}
    for what, (module, statement) in (one for rule in ACROSS.values() for one in rule.items()):
        text = f"{(house / module).read_text()}\n{statement}\n"
        (house / module).write_text(text)
        importer, imported = module.removesuffix(".py").replace("/", "."), statement.split()[1]
        edge = rf"{importer} -> {imported} \(l\.{len(text.splitlines())}\)"
        in_circle = rf"\.{importer.rpartition('.')[2]} -> \.{imported.rpartition('.')[2]} \(1 import\)"
        lines[what] = rf"(?m)^- +({edge}|{in_circle})$(?!\n    )"
    # Each rule's name is underlined.
    _, *found = re.split(r"(?m)^(.+)\n-{9,}$", linted(house))
    names = dict(zip(found[::2], found[1::2], strict=True))
    return Across({rule: text for name, text in names.items() for rule in ACROSS if name.startswith(rule)}, lines)


def test_each_rule_has_an_import_that_is_against_it() -> None:
    assert sorted(contract(rule)["name"] for rule in ACROSS) == sorted(one["name"] for one in contracts())


@pytest.mark.parametrize(("rule", "what"), [(rule, what) for rule, those in ACROSS.items() for what in those])
def test_an_import_across_a_wall_is_found(rule: str, what: str, across: Across) -> None:
    assert re.search(across.lines[what], across.said[rule]), across.said[rule]


def imported_by(modules: str) -> set[str]:
    """Return all that is imported with some modules."""
    code = f"import sys, {modules}; print(*sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_commands_on_docker_wait_for_no_sdk_of_pulumi_s() -> None:
    """It takes longer to import than all that `cluster status` does."""
    found = imported_by("platforms.docker.platform")
    assert "platforms.docker.platform" in found
    assert not {"pulumi", "pulumi_docker", "platforms.docker.resources"} & found


@pytest.mark.parametrize("platform", sorted(PROGRAMS))
def test_a_program_imports_nothing_that_drives_the_engine_or_tells_a_plan(platform: str) -> None:
    """Each `pulumi up` imports all of it anew."""
    found = imported_by(f"components.program, platforms.{platform}.program")
    assert f"platforms.{platform}.program" in found
    assert not {"platforms.pulumi.engine", "cluster.plan", "cluster.verify", "httpx"} & found


def test_a_command_line_that_is_only_explained_reads_no_models() -> None:
    """They are most of what the command imports."""
    found = imported_by("cli")
    assert not {"cluster.config.models", "cluster.lint", "httpx", "pulumi"} & found


#: Of the product: what nobody reads in one go would have more lines.
LONGEST_FUNCTION, LONGEST_FILE = 50, 550

PRODUCT = ("cli", "cluster", "components", "platforms", "policy", "runtime")


def too_long(root: Path) -> list[str]:
    """Return the files and functions below `root` with more lines than they may have; a decorator counts for none."""
    found = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        lines = len(text.splitlines())
        found += [f"{path}: {lines} lines"] if lines > LONGEST_FILE else []
        for one in ast.walk(ast.parse(text)):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (one.end_lineno or one.lineno) - one.lineno + 1
                found += [f"{path}:{one.lineno}: {one.name}: {lines} lines"] if lines > LONGEST_FUNCTION else []
    return found


@pytest.mark.parametrize("room", PRODUCT)
def test_a_function_fits_a_screen_and_a_file_is_small(room: str) -> None:
    assert [*(ROOT / room).rglob("*.py")]
    assert too_long(ROOT / room) == []


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_function_with_a_line_too_many_is_found(word: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    begin = f"class Shop:\n    @property\n    {word} sold(self):\n"
    module.write_text(begin + "        x = 1\n" * (LONGEST_FUNCTION - 1))
    assert too_long(tmp_path) == []
    module.write_text(begin + "        x = 1\n" * LONGEST_FUNCTION)
    assert too_long(tmp_path) == [f"{module}:3: sold: {LONGEST_FUNCTION + 1} lines"]


def test_a_file_with_a_line_too_many_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("x = 1\n" * LONGEST_FILE)
    assert too_long(tmp_path) == []
    module.write_text("x = 1\n" * (LONGEST_FILE + 1))
    assert too_long(tmp_path) == [f"{module}: {LONGEST_FILE + 1} lines"]
