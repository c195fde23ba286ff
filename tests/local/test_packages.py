"""What runs is what was released: local packages, locks and interpreters, on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING

import httpx
import pytest
import uv

from cluster.packages import INSTALL_LOCAL, INSTALL_PACKAGES
from tests.clients import NO_TLS
from tests.conftest import SHARED
from tests.jobs import LOOK
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEW = "src/core/views.py"


@pytest.fixture(autouse=True)
def own_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each stand make its own: how they are made is what these tests are about."""
    monkeypatch.delenv(SHARED, raising=False)


def page(stand: Stand, path: str = "/") -> str:
    headers = {"Host": "localhost"}
    response = httpx.get(f"http://127.0.0.1:{stand.port}{path}", headers=headers, trust_env=False, verify=NO_TLS)
    assert response.status_code == 200, response.text
    return response.text


def pages(stand: Stand, number: int = 20) -> set[str]:
    return {page(stand) for _ in range(number)}


def listing(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def editable() -> Iterator[Stand]:
    with contextlib.closing(Stand(case="editable-install")) as stand:
        yield stand


def release_with(stand: Stand, file: str, old: str, new: str) -> str:
    path = stand.project / file
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))
    result = stand.up()
    print(result.output)
    assert result.status == 0, result.output
    return result.output


def wait_for(instances: int, stand: Stand) -> None:
    deadline = time.monotonic() + 120
    while sum(len(row["processes"]) == 1 and row["ok"] for row in stand.status()["instances"]) < instances:
        assert time.monotonic() < deadline, stand.status()
        time.sleep(LOOK)


def test_an_editable_package_runs_from_the_release_s_copy_also_after_a_rollback_and_a_kill(editable: Stand) -> None:
    """The case's README, step by step: v1, v2, rollback, and a v3 that is never released."""
    stand = editable
    before = listing(stand.project)
    release_with(stand, VIEW, "code v1", "code v1")
    (first,) = pages(stand)
    assert re.search(
        rf"code v1, package 1.4.0, from {stand.paths.releases}/\w+/tree/above/project/src/core/views.py", first
    )
    release_with(stand, VIEW, "code v1", "code v2")
    assert {text.partition(",")[0] for text in pages(stand)} == {"code v2"}
    result = stand.rollback()
    assert result.status == 0, result.output
    assert pages(stand) == {first}
    view = stand.project / VIEW
    view.write_text(view.read_text().replace("code v2", "code v3"))
    for name in ("app1", "app2"):
        stand.kill(name, signal.SIGKILL)
    wait_for(2, stand)
    served = pages(stand, 40)
    assert served == {first}, "code that was never released runs"
    assert listing(stand.project) == before, "something was written into the working tree"


def test_init_imports_a_src_layout_and_writes_nothing_into_it() -> None:
    with contextlib.closing(Stand(case="editable-install")) as stand:
        before = {path: path.read_bytes() for path in sorted(stand.project.rglob("*")) if path.is_file()}
        result = stand.run("init", "looked", "--project", "project")
        assert result.status == 0, result.output
        assert "static files: /static/" in result.output, "it was not imported"
        assert "settings: mysite.settings" in (stand.root / "stacks" / "Pulumi.looked.yaml").read_text()
        after = {path: path.read_bytes() for path in sorted(stand.project.rglob("*")) if path.is_file()}
        assert after == before


# --- what init looks at is what up installs


def initialise(stand: Stand, *options: str, status: int = 0) -> str:
    """Write the stack file by init; return what it said."""
    result = stand.run("init", stand.name, "--project", "project", "--force", *options)
    assert result.status == status, result.output
    if status == 0:
        stand.take_initialised()
    return result.output


def environments(directory: Path) -> dict[str, set[str]]:
    """Return the packages of each environment that a directory holds."""
    return {
        environment.name: {path.name for path in environment.glob("lib/python*/site-packages/*.dist-info")}
        for environment in directory.iterdir()
    }


@pytest.mark.parametrize(
    ("case", "lock"), [("poetry", "poetry.lock"), pytest.param("pdm", "pdm.lock", marks=pytest.mark.wide)]
)
def test_init_looks_with_the_versions_of_a_lock_which_are_those_that_up_runs(case: str, lock: str) -> None:
    with contextlib.closing(Stand(case=case)) as stand:
        before = listing(stand.project)
        said = initialise(stand)
        assert "static files: /static/" in said, "it was not imported"
        looked = environments(stand.root / ".cluster" / ".init")
        (packages,) = looked.values()
        assert "django-5.2.1.dist-info" in packages, packages
        result = stand.up()
        assert result.status == 0, result.output
        assert page(stand) == "Django 5.2.1\n"
        assert environments(stand.paths.environments) == looked
        assert listing(stand.project) == before
        # A lock that is stale is the same line for both.
        pyproject = stand.project / "pyproject.toml"
        text = pyproject.read_text()
        pyproject.write_text(text.replace('"^5.2"', '"^5.2.1"').replace("django>=5.2", "django>=5.2.1"))
        assert pyproject.read_text() != text
        line = f"app.requirements: {lock} is not what pyproject.toml asks for: run `{case} lock`"
        assert stand.up().output.splitlines()[-1].startswith(line)
        stand.file.unlink()
        assert initialise(stand, status=1).splitlines()[-1].startswith(line)
        assert not stand.file.exists()


PYPROJECT = """
[project]
name = "mysite"
version = "1"
dependencies = ["django>=5.2"]
[project.optional-dependencies]
test = ["django-environ", "coverage"]
prod = ["django-environ"]
[dependency-groups]
dev = ["sqlparse", "python-decouple"]
web = ["python-decouple"]
"""


def test_extras_and_groups_that_the_settings_import_from_are_installed_and_written() -> None:
    with contextlib.closing(Stand(case="poetry")) as stand:
        (stand.project / "poetry.lock").unlink()
        (stand.project / "pyproject.toml").write_text(PYPROJECT)
        settings = stand.project / "mysite" / "settings.py"
        settings.write_text(f"import environ\nimport decouple\n{settings.read_text()}")
        said = initialise(stand)
        assert "the extra prod, which the settings import from" in said
        assert "the group web, which the settings import from" in said
        assert stand.stack["app"]["requirements"] == {"file": "pyproject.toml", "extras": ["prod"], "groups": ["web"]}
        result = stand.up()
        assert result.status == 0, result.output
        assert page(stand).startswith("Django ")


def wheel(directory: Path, name: str, *metadata: str) -> None:
    """Write a package that holds nothing."""
    directory.mkdir(exist_ok=True)
    said = "\n".join(("Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *metadata, ""))
    with zipfile.ZipFile(directory / f"{name}-1-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}-1.dist-info/METADATA", said)
        archive.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.dist-info/RECORD", "")


def test_a_python_that_is_too_old_for_a_package_is_one_line_of_init_and_of_up() -> None:
    with contextlib.closing(Stand(case="adopt")) as stand:
        wheel(stand.project / "wheels", "of_tomorrow", "Requires-Python: >=3.99")
        requirements = stand.project / "requirements.txt"
        requirements.write_text(f"--find-links wheels\nof-tomorrow\n{requirements.read_text()}")
        former = stand.file.read_text()
        line = "app.python: of-tomorrow==1 needs Python >=3.99, and the environment's is another: set app.python to "
        (*_, first) = stand.up().output.splitlines()
        assert first.startswith(line)
        (*said, second) = initialise(stand, status=1).splitlines()
        assert second == f"{first}; init takes it as --python, and with --no-import it needs none"
        assert len(said) < 3, said
        assert stand.file.read_text() == former
        assert "app.python: Python ==3.99.* (app.python) is needed; " in initialise(stand, "--python", "3.99", status=1)


def test_a_requirements_file_that_is_not_there_is_one_line_before_anything_is_done() -> None:
    with contextlib.closing(Stand(case="adopt")) as stand:
        said = initialise(stand, "--requirements", "deploy/prod.txt", status=1)
        path = stand.project / "deploy" / "prod.txt"
        assert said == f"--requirements: {path}: no such file (its path begins at the project's directory)\n"
        assert not (stand.root / ".cluster").exists()
        initialise(stand, "--requirements", str(stand.project / "requirements.txt"), "--no-import")
        assert stand.stack["app"]["requirements"] == "requirements.txt"


def installing(directory: Path, requirement: str, *, how: str = "resolve", runtime: str) -> list[str]:
    """Write what `install-packages` installs from; return the command that makes `directory`/environment of it."""
    texts = {
        "tree/requirements.txt": f"{requirement}\n",
        "tree/cluster-uv.toml": "",
        "how": f"{how}\n",
        "main": "requirements.txt\n",
        "options": "",
        "runtime": f"{runtime}\n",
    }
    (directory / "from" / "tree").mkdir(parents=True)
    for name, text in texts.items():
        (directory / "from" / name).write_text(text)
    return [str(INSTALL_PACKAGES), str(directory / "from"), str(directory / "environment"), sys.executable]


def test_what_installs_ends_with_whoever_said_so(tmp_path: Path) -> None:
    """Else it would go on writing where the next `up` removes what a killed one left."""
    command = installing(tmp_path, "django>=5.2,<5.3", runtime="gunicorn>=25")
    environment = tmp_path / "environment"
    with subprocess.Popen(command, env={**os.environ, "UV": uv.find_uv_bin()}) as script:
        deadline = time.monotonic() + 60
        while not list(environment.glob("lib/python*/site-packages/django")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        script.kill()
    deadline = time.monotonic() + 60
    listing = ["ps", "-ww", "-eo", "args"]
    while str(environment) in subprocess.run(listing, capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < deadline, "it still installs"
        time.sleep(0.05)
    sources, compiled = (len(list(environment.rglob(pattern))) for pattern in ("*.py", "*.pyc"))
    assert compiled < sources / 2, "it went on to its end"


@pytest.mark.parametrize("how", ["resolve", "exact"])
def test_an_old_gunicorn_gets_the_setuptools_that_it_imports(how: str, tmp_path: Path) -> None:
    """gunicorn 20 imports pkg_resources: Poetry's old locks leave setuptools out, and the newest one has it no more."""
    command = installing(tmp_path, "gunicorn==20.1.0", how=how, runtime="gunicorn>=20.1")
    subprocess.run(command, env={**os.environ, "UV": uv.find_uv_bin()}, check=True)
    python = str(tmp_path / "environment" / "bin" / "python")
    version = subprocess.run([python, "-m", "gunicorn", "--version"], capture_output=True, text=True, check=True)
    assert "20.1.0" in version.stdout


@pytest.mark.parametrize(
    ("requires", "backend", "table"),
    [
        ("setuptools-scm>=8", "setuptools.build_meta", "[tool.setuptools_scm]"),
        pytest.param(
            *("hatch-vcs>=0.5", "hatchling.build", '[tool.hatch.version]\nsource = "vcs"'), marks=pytest.mark.wide
        ),
        pytest.param(
            *("pdm-backend>=2.4", "pdm.backend", '[tool.pdm.version]\nsource = "scm"'), marks=pytest.mark.wide
        ),
    ],
)
def test_a_package_that_git_numbers_is_installed_from_a_release_which_has_no_git(
    requires: str, backend: str, table: str, tmp_path: Path
) -> None:
    texts = {
        "sources/numbered/pyproject.toml": f"""
            [build-system]
            requires = ["setuptools>=68", "hatchling", "{requires}"]
            build-backend = "{backend}"
            [project]
            name = "numbered"
            dynamic = ["version"]
            """.replace("            ", "")
        + f"{table}\n",
        "sources/numbered/numbered/__init__.py": "HERE = 1\n",
        "list": f"{tmp_path}/sources/numbered\n",
        "uv.toml": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    packages = tmp_path / "packages"
    words = (str(tmp_path / "list"), str(packages), sys.executable, str(tmp_path / "uv.toml"))
    subprocess.run(
        [str(INSTALL_LOCAL), *words, str(tmp_path / "sources")],
        env={**os.environ, "UV": uv.find_uv_bin()},
        check=True,
    )
    assert (packages / "numbered" / "__init__.py").read_text() == "HERE = 1\n"
    assert {path.name for path in packages.glob(".*")} == set()
