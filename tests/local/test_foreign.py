"""Three public Django projects, as they are published: from `cluster init` to `cluster verify`, unmodified."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.clients import NO_TLS
from tests.local.stand import Stand

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Project:
    """A source distribution that holds a runnable project.

    directory: the one that holds manage.py, in the distribution.
    secrets: what its settings insist on reading from the environment.
    pages: paths and the status each is answered with.
    writes: into its own directory, which it can't where that is read-only.
    """

    requirement: str
    sha256: str
    directory: str
    options: tuple[str, ...] = ()
    secrets: dict[str, str] = field(default_factory=dict)
    pages: dict[str, int]
    writes: bool = False


PROJECTS = {
    # A certificate authority: requirements in a pyproject.toml above the project, a key that its settings insist on.
    "django-ca": Project(
        requirement="django-ca==3.2.0",
        sha256="d631b2c91d27b0fd362db1197a4712703caa1bdce52b935c8e1b61e6c3984c07",
        directory="ca",
        secrets={"DJANGO_CA_SECRET_KEY": "a key that the overlay replaces"},
        pages={"/admin/login/": 200, "/django_ca/acme/directory/": 401, "/static/admin/css/base.css": 200},
    ),
    # A "find my device" server: split settings without DATABASES, a manage.py that is not Django's, prints on import.
    "django-fmd": Project(
        requirement="django-fmd==0.9.2",
        sha256="3c1372fc6e9ddfe242e9440172c90fe0a35172e61b677085255819bd9f183e40",
        directory=".",
        options=("--settings", "findmydevice_project.settings.prod"),
        writes=True,
        pages={"/": 302, "/admin/login/": 200, "/api/v1/version": 200, "/static/fmd_externals/favicon.ico": 200},
    ),
    # Logins with social accounts and a second factor: a user model of its own, tuples where others write lists.
    "django-allauth": Project(
        requirement="django-allauth==65.21.1",
        sha256="128344e260a22b62796747be0a2249ad9488a509c1aa34ab35e3fcf22862dd9e",
        directory="examples/regular-django",
        pages={"/": 200, "/accounts/login/": 200, "/static/account/js/onload.js": 200},
    ),
}


#: What these show, tests/local/test_packages.py and test_choices.py, and the third of them show too.
WIDE = ("django-ca", "django-allauth")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.wide if name in WIDE else ()) for name in sorted(PROJECTS)]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_public_project_comes_up_unmodified(name: str, tmp_path: Path) -> None:
    project = PROJECTS[name]
    with contextlib.closing(Stand()) as stand:
        stand.file.unlink()
        stand.name = name
        source = unpack(download(project, tmp_path), stand.root / "source")
        began = time.monotonic()
        directory = str((source / project.directory).relative_to(stand.root))
        result = stand.run("init", name, "--project", directory, *project.options)
        assert result.status == 0, result.output
        if project.secrets:
            # It says that one is missing; with it, it sees what else there is.
            write_secrets(stand, project)
            result = stand.run("init", name, "--project", directory, "--force", *project.options)
            assert result.status == 0, result.output
        stand.take_initialised()
        result = stand.up()
        assert result.status == 0, result.output
        result = stand.verify()
        assert result.status == 0, result.output
        print(f"{project.requirement}: from init to verified in {time.monotonic() - began:.1f} s")
        with httpx.Client(trust_env=False, verify=NO_TLS, headers={"Host": "localhost"}) as client:
            found = {path: client.get(f"http://127.0.0.1:{stand.port}{path}").status_code for path in project.pages}
        assert found == project.pages
        assert "no changes" in stand.up().output


def download(project: Project, directory: Path) -> Path:
    """Return the source distribution, from whatever index pip is set up for; its content is checked by its hash."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{project.requirement} --hash=sha256:{project.sha256}\n")
    # Only the project itself as source: what pip needs to read its metadata comes as wheels.
    name = project.requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
    done = subprocess.run(
        [*command, "--require-hashes", "-r", str(requirements), "-d", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{project.requirement} can't be had here: {done.stderr.strip().splitlines()[-1]}")
    return next(directory.glob("*.tar.gz"))


def unpack(archive: Path, target: Path) -> Path:
    shutil.unpack_archive(archive, target)
    (source,) = target.iterdir()
    return source


def write_secrets(stand: Stand, project: Project) -> None:
    if not project.secrets:
        return
    stand.paths.secrets.mkdir(parents=True, mode=0o700)
    path = stand.paths.secrets / "secret_environment"
    path.write_text(json.dumps(project.secrets))
    path.chmod(0o600)
