"""Looks at a project by importing it, in an environment made for that: what its settings say once they have run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.local.builder import MOST_FACTS, confine
from cluster.local.owner import base_python, find_owner
from cluster.local.supervisor import clean_environment
from cluster.packages import run_uv
from cluster.release import RUNTIME, ReleaseError, requirements_files
from cluster.source import Source, write_tree
from cluster_runtime import unfollowed
from cluster_runtime.describe import NOT_IMPORTED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: As many variables as a project may lack, extras and groups included, each of which costs one more import.
MOST_TRIES = 80

#: Seconds that an import may take: one that waits for a server which is not there never ends by itself.
PATIENCE = 120

#: What stands for a variable until somebody says it: by words of its name, and then whatever else a setting may take.
DATABASE = "postgres://placeholder:placeholder@localhost/placeholder"
BY_NAME = (
    (r"DATABASE_URL|DB_URL|POSTGRES_URL", DATABASE),
    (r"REDIS|BROKER|CELERY|CACHE", "redis://localhost:6379/0"),
    (r"EMAIL_URL|SMTP_URL", "smtp://localhost:25"),
    (r"SEARCH_URL|ELASTIC", "http://localhost:9200/"),
    (r"URL|URI|DSN|ENDPOINT|ORIGIN", "http://localhost/"),
    (r"HOST|DOMAIN|SERVER", "localhost"),
    (r"PORT|COUNT|NUM|NUMBER|TIMEOUT|AGE|SECONDS|SIZE|LIMIT|LEVEL|TTL|DAYS|HOURS|MINUTES|MAX|MIN", "1"),
    (r"DEBUG|ENABLE|ENABLED|USE|IS|ALLOW|DISABLE|SSL|TLS|SECURE", "False"),
    (r"EMAIL|MAIL|ADMIN|ADMINS", "someone@example.org"),
)
OTHERS = ("False", "1", "http://localhost/", "{}", "[]", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "")

#: Packages that are called otherwise than what they bring.
BROUGHT_BY = {
    "rest_framework": "djangorestframework",
    "environ": "django-environ",
    "debug_toolbar": "django-debug-toolbar",
    "corsheaders": "django-cors-headers",
    "crispy_forms": "django-crispy-forms",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
    "pil": "pillow",
    "yaml": "pyyaml",
    "sentry_sdk": "sentry-sdk",
    "dotenv": "python-dotenv",
    "decouple": "python-decouple",
    "google": "google-cloud-storage",
    "haystack": "django-haystack",
}


#: In an environment: a copy of what its local packages are made of, and where that was copied from.
SOURCE, SOURCE_OF = "source", "source-of.json"

#: What a failure says that says nothing.
NOTHING: dict[str, Any] = {"variables": [], "module": "", "where": "", "reads": [], "absent": ""}


@dataclass
class Look:
    """What came of it.

    facts: what describe said; empty where nothing could be imported. missing: variables that the project needs, with
    the place that reads each. extras, groups: of pyproject.toml, that bring what the settings import. unlisted:
    a module that nothing brings. absent: what the project wants to write below a directory that is not there. failure:
    why it does not import even so, by its own traceback.
    """

    python: str
    facts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, str] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    unlisted: str = ""
    absent: str = ""
    failure: str = ""


# --- the environment


def make_environment(requirements: Path, directory: Path, say: Callable[[str], None]) -> str:
    """Return the Python of an environment with a project's packages, made where there is none of the same yet.

    directory: holds the environments. ReleaseError has uv's own words.
    """
    requirements = Path(os.path.normpath(requirements))  # its directory is copied by its name
    texts = requirements_files(requirements)
    for name in (".python-version", "poetry.lock", "setup.py", "setup.cfg"):
        path = requirements.with_name(name)
        if path.is_file():
            texts[name] = path.read_text(encoding="utf-8", errors="replace")
    digest = hashlib.sha256(json.dumps([sys.version_info[:2], texts], sort_keys=True).encode()).hexdigest()[:12]
    place = directory / digest
    python, complete = str(place / "bin" / "python"), place / "complete"
    if complete.exists():
        _copy_source(requirements.parent, place)
        return python
    say("making an environment of the project's packages, to import it")
    shutil.rmtree(place, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    run_uv("venv", "--quiet", "--python", _wanted_python(requirements), str(place))
    install = ("pip", "install", "--quiet", "--python", python)
    # Whoever builds a package writes beside it: into a copy, and never into the user's own tree.
    copied = _copy_source(requirements.parent, place) / requirements.name
    if copied.name != "pyproject.toml":
        run_uv(*install, "-r", str(copied), cwd=copied.parent)
    else:
        _install_project(copied, install)
    complete.touch()
    return python


def _copy_source(directory: Path, place: Path) -> Path:
    """Copy what an environment's local packages are made of, as it is now; beside it stands where it was."""
    shutil.rmtree(place / SOURCE, ignore_errors=True)
    copy = _copied(directory, "", place / SOURCE)
    (place / SOURCE_OF).write_text(json.dumps({str(copy): str(directory)}), encoding="utf-8")
    return copy


def _wanted_python(requirements: Path) -> str:
    """Return what uv is asked for: what the project pins or needs, else the Python that this program runs on."""
    pinned = requirements.with_name(".python-version")
    if pinned.is_file():
        words = pinned.read_text(encoding="utf-8").split()
        if words and re.fullmatch(r"3\.\d+(\.\d+)?", words[0]):
            return words[0]
    project = _pyproject(requirements).get("project", {})
    asked = str(project.get("requires-python", "")).strip()
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    least = re.search(r">=\s*3\.(\d+)", asked)
    if not asked or (least is not None and int(least[1]) <= sys.version_info.minor and "<" not in asked):
        return base_python()
    return asked or ours


def _pyproject(requirements: Path) -> dict[str, Any]:
    path = requirements.with_name("pyproject.toml")
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"app.requirements: {path}: {error}") from error


def _install_project(pyproject: Path, install: tuple[str, ...]) -> None:
    """Install what a pyproject.toml lists, as its uv.lock has it, and the project itself where it is a package."""
    document, here = _pyproject(pyproject), pyproject.parent
    if pyproject.with_name("uv.lock").is_file():
        with tempfile.TemporaryDirectory() as temporary:
            exported = Path(temporary) / "requirements.txt"
            options = ("--quiet", "--frozen", "--no-dev", "--project", str(here))
            run_uv("export", *options, "--output-file", str(exported), cwd=here)
            run_uv(*install, "-r", str(exported), cwd=here)
    elif "build-system" in document or "project" not in document:
        run_uv(*install, "-e", str(here), cwd=here)
    else:
        run_uv(*install, "-r", str(pyproject), cwd=here)


# --- the import


def look(  # noqa: PLR0913 - what is looked at, and by what
    project: Path, settings: str, requirements: Path, python: str, *, interface: str = "wsgi", said: dict[str, str]
) -> Look:
    """Import a project, with something in the place of each variable that it lacks; `said` are those that are known."""
    found = Look(python=python)
    tried: dict[str, list[str]] = {}
    for _try in range(MOST_TRIES):
        facts, failure, words = _describe(project, settings, python, interface, {**found.placeholders, **said})
        found.facts = facts
        if failure is None:
            found.failure = words
            return found
        if failure["absent"]:
            # The directory is made where `up` shares it; what comes after it can't be told before.
            found.absent = str(failure["absent"])
            found.failure = ""
            return found
        found.failure = failure["text"] or words
        if not (_fed(failure, found, tried) or _added(failure, found, requirements, settings)):
            return found
    return found


def own_keys(project: Path, settings: str, found: Look, said: dict[str, str]) -> dict[str, Any]:
    """Return the project's own SECRET_KEY and SECRET_KEY_FALLBACKS; its settings import, as `found` says."""
    environment = {**found.placeholders, **said}
    with _imported(project, settings, found.python, "wsgi", environment, "cluster_runtime.own_keys") as (done, written):
        if done is None or done.returncode != 0:
            raise ReleaseError("--adopt: the project's SECRET_KEY can't be read")
        return written


def _describe(
    project: Path, settings: str, python: str, interface: str, environment: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Return what describe says, why it failed (None where it did not), and its words."""
    with _imported(project, settings, python, interface, environment, "cluster_runtime.describe") as (done, facts):
        if done is None:
            words = f"the import did not end within {PATIENCE} s"
            return facts, {"text": words, **NOTHING}, words
        lines = done.stderr.strip().splitlines()
        if done.returncode in (0, REFUSED):
            # Which paths are shared is written only after this.
            told = [line for line in lines if not line.startswith("app.shared: ")]
            return facts, None, "\n".join(told) if done.returncode == REFUSED else ""
        words = "\n".join(lines[-8:])
        if done.returncode == NOT_IMPORTED and "failure" in facts:
            return facts, facts.pop("failure"), words
        return facts, {"text": words, **NOTHING}, words


def _of_originals(text: str, originals: dict[str, str]) -> str:
    for copy, original in originals.items():
        text = text.replace(copy, original)
    return text


def _written(output: Path, originals: dict[str, str]) -> dict[str, Any]:
    """Return what the project's process wrote: it may be anything, and lead anywhere."""
    try:
        text = _of_originals(unfollowed.read(output, MOST_FACTS).decode("utf-8", "replace"), originals)
        found = json.loads(text or "{}")
    except (OSError, unfollowed.NotAFileError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _imported(  # noqa: PLR0913, PLR0917 - what is imported, how, and what looks at it
    project: Path, settings: str, python: str, interface: str, environment: dict[str, str], module: str
) -> Iterator[tuple[subprocess.CompletedProcess[str] | None, dict[str, Any]]]:
    """Run a module of the runtime over a copy of a project; yield how it ended (None: not), and what it wrote."""
    with tempfile.TemporaryDirectory() as temporary:
        top, here, place = Path(temporary), Path(temporary) / "run", Path(python).parents[1]
        copy = _copied(project, settings, top / "tree")
        (here / "secrets").mkdir(mode=0o700, parents=True)
        (here / "secrets" / "secret_key").write_text(secrets.token_urlsafe(40), encoding="utf-8")
        config = {
            "release": "init",
            "project": str(copy),
            "tree": str(copy),  # what is written in it is what app.shared is for
            "settings": settings,
            "secrets": str(here / "secrets"),
            "interface": interface,
            "environment": environment,
            "sessions": {"engine": "project"},
        }
        (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
        output = here / "output.json"
        # The project's code runs as its instances will, and never as root; until here only this user reached this.
        owner = find_owner(Path(python).parents[2])
        owner.own(top)
        done = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [python, "-P", "-m", module, str(output)],
                cwd=here,
                env={
                    **clean_environment(),
                    "PYTHONPATH": str(RUNTIME.parent),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "CLUSTER_CONFIG": str(here / "config.json"),
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=PATIENCE,
                preexec_fn=partial(confine, copy),
                **owner.subprocess_options(),
            )
        # What they say of copies they say of the user's own.
        originals = {str(copy): str(project), **json.loads((place / SOURCE_OF).read_text(encoding="utf-8"))}
        if done is not None:
            done.stderr = _of_originals(done.stderr, originals)
        yield done, _written(output, originals)


def _copied(project: Path, settings: str, here: Path) -> Path:
    """Return a copy of a project that may be written to, as some do while they are imported; all above is linked."""
    above = here / "above"
    above.mkdir(parents=True)
    for level, directory in ((above, project), (here, project.parent)):
        for sibling in directory.parent.iterdir():
            if sibling != directory and not os.path.lexists(level / sibling.name):
                (level / sibling.name).symlink_to(sibling)
    copy = above / project.name
    write_tree(Source(project=project, root=project.parent.parent, module=settings).tree(""), copy, shutil.copy2)
    return copy


def _fed(failure: dict[str, Any], found: Look, tried: dict[str, list[str]]) -> bool:
    """Put something in the place of a variable that is missing, or something else where that was of the wrong kind."""
    new = [name for name in failure["variables"] if name not in found.placeholders]
    for name in new:
        found.missing[name] = failure["where"]
        found.placeholders[name] = placeholder(name)
        tried[name] = [found.placeholders[name]]
    if new:
        return True
    doubtful = [name for name in found.placeholders if name in failure["reads"] or name in failure["variables"]]
    doubtful += [name for name, value in found.placeholders.items() if value and value in failure["text"]]
    doubtful += list(found.placeholders)[-1:] if not failure["module"] else []
    for name in dict.fromkeys(doubtful):
        others = [value for value in OTHERS if value not in tried[name]]
        if others:
            found.placeholders[name] = others[0]
            tried[name].append(others[0])
            return True
    return False


def placeholder(name: str) -> str:
    """Return what may stand for a variable, by its name."""
    words = name.upper()
    for pattern, value in BY_NAME:
        if re.search(rf"(?:^|_)(?:{pattern})(?:_|$)", words):
            return value
    return "placeholder-" + "x" * 40 if re.search(r"KEY|SECRET|TOKEN|PASSWORD", words) else "placeholder"


def _added(failure: dict[str, Any], found: Look, requirements: Path, settings: str) -> bool:
    """Install the extra or the group of pyproject.toml that brings what could not be imported."""
    module = failure["module"].partition(".")[0]
    if not module or module == found.unlisted:
        return False
    found.unlisted = module
    document, here = _pyproject(requirements), requirements.parent
    install = ("pip", "install", "--quiet", "--python", found.python)
    if module == settings.partition(".")[0] and "build-system" in document:
        run_uv(*install, "--no-deps", "-e", str(here), cwd=here)
        return True
    for kind, name, lines in _optional(document):
        chosen = found.extras if kind == "extra" else found.groups
        if name not in chosen and any(_brings(line, module) for line in lines):
            run_uv(*install, *lines, cwd=here)
            chosen.append(name)
            found.unlisted = ""
            return True
    return False


def _optional(document: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the extras and groups with what they bring; those for developing last."""
    extras = document.get("project", {}).get("optional-dependencies", {})
    groups = document.get("dependency-groups", {})
    every = [
        *(("extra", name, [line for line in lines if isinstance(line, str)]) for name, lines in extras.items()),
        *(("group", name, [line for line in lines if isinstance(line, str)]) for name, lines in groups.items()),
    ]
    yield from sorted(every, key=lambda one: bool(re.search(r"dev|test|lint|doc|type", one[1].lower())))


def _brings(line: str, module: str) -> bool:
    """Tell whether a requirement is of the package that brings a module, by its name."""
    name = re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")
    plain = module.lower().replace("_", "-")
    known = {
        plain,
        f"django-{plain}",
        f"python-{plain}",
        f"py{plain}",
        f"{plain}-binary",
        plain.removeprefix("django-"),
    }
    return name in {*known, BROUGHT_BY.get(module.lower(), plain)}
