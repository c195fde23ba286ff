"""Looks at a project by importing it, with the packages that `up` installs: what its settings say when they run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.interpreters import find_interpreter, needs_of, request
from cluster.machine.confined import MOST_FACTS, clean_environment, confine
from cluster.machine.environments import PACKAGES, SOURCES, Environments
from cluster.machine.owner import find_owner
from cluster.release import (
    RUNTIME,
    RUNTIME_REQUIREMENTS,
    ReleaseError,
    ReleaseSpec,
    environment_digest,
    package_files,
    sources,
)
from cluster.requirements import optional_lines, read_requirements
from cluster.source import TREE, Source, write_tree
from cluster_runtime import unfollowed
from cluster_runtime.choices import SET_LATE
from cluster_runtime.describe import NOT_IMPORTED, REFUSED
from cluster_runtime.paths import directory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cluster.config.models import App

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


#: Of a copy of a project: as it was before it was imported, and what runs in it.
KEPT, RUN = "kept", "run"

#: What a failure says that says nothing.
NOTHING: dict[str, Any] = {"variables": [], "module": "", "where": "", "reads": [], "absent": ""}


@dataclass
class Look:
    """What came of it.

    facts: what describe said; empty where nothing could be imported. missing: variables that the project needs, with
    the place that reads each. extras, groups: of the requirements, that bring what the settings import. unlisted:
    a module that nothing brings. absent: what the project wants to write where a release has no directory for it.
    failure: why it does not import even so, by its own traceback.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, str] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    unlisted: str = ""
    absent: list[str] = field(default_factory=list)
    failure: str = ""


# --- the copy


class Subject:
    """A project that is looked at: a copy of it, with the packages that `up` would install for it.

    app: what the stack file would say. environments: where those of packages are kept; pythons: where uv puts
    interpreters. directory: holds the copy, and only who runs this can reach it yet. `say` is told what is done.
    ReleaseError, in a line, says what `up` would: of a lock that is stale, a Python that is not here.
    """

    def __init__(  # noqa: PLR0913 - what is looked at, and where
        self,
        app: App,
        project: Path,
        *,
        environments: Path,
        pythons: Path,
        directory: Path,
        say: Callable[[str], None],
    ) -> None:
        self.app = app
        self.project = project
        self.directory = directory
        self.source = Source(project=project, root=project.parent.parent, module=app.settings)
        self.owner = find_owner(environments)
        self.environments = Environments(directory=environments, pythons=pythons, owner=self.owner, say=say)
        self.shared: list[str] = []
        self.install((), ())

    @property
    def copy(self) -> Path:
        """The project's directory in the copy."""
        return self.directory / TREE / "above" / self.project.name

    @property
    def originals(self) -> dict[str, str]:
        """What is the user's own, by its copy; what lies in another one first."""
        above = self.copy.parent
        return {
            **{str(self.directory / SOURCES / place): str(path) for path, place in _by_path(self.spec)},
            str(self.copy): str(self.project),
            str(above): str(self.project.parent),
            str(above.parent): str(self.project.parent.parent),
        }

    def install(self, extras: Sequence[str], groups: Sequence[str]) -> None:
        """Make the environment and the copy, as `up` would make them of a stack file with these extras and groups."""
        self.extras, self.groups = list(extras), list(groups)
        chosen = self.app.requirements.model_copy(update={"extras": self.extras, "groups": self.groups})
        app = self.app.model_copy(update={"requirements": chosen})
        self.requirements = read_requirements(app, self.project)
        needs = needs_of(app, self.requirements, self.project)
        options = self.owner.subprocess_options()
        interpreter = find_interpreter(needs, self.environments.pythons, options, self.owner.name)
        digest = environment_digest(self.requirements, self.source, str(interpreter), RUNTIME_REQUIREMENTS)
        self.spec = ReleaseSpec(
            digest="init",
            parts={},
            environment_digest=digest,
            source=self.source,
            project=self.project,
            requirements=self.requirements,
            secrets={},
            python_request=request(needs),
        )
        environment = self.environments.make(self.spec, interpreter, RUNTIME_REQUIREMENTS)
        self.python = str(environment / "bin" / "python")
        self._copy_all(environment)

    def _copy_all(self, environment: Path) -> None:
        """Copy the project and its local packages, and install these from the copy: who builds one writes beside it."""
        for name in (TREE, KEPT, PACKAGES, SOURCES):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in (PACKAGES, SOURCES):
            (self.directory / name).mkdir()
        _copy_project(self.source, self.copy)
        for path, place in _by_path(self.spec):
            write_tree(package_files(path, self.spec), self.directory / SOURCES / place, shutil.copy2)
        # From here on it is the instances' user's, which builds and imports it: until now nobody else could reach it.
        self.owner.own(*(self.directory / name for name in (TREE, PACKAGES, SOURCES)))
        self.owner.let_read(self.directory, 0o750)
        self.environments.install_local(self.spec, self.directory, self.copy, environment)
        (self.directory / TREE).rename(self.directory / KEPT)

    def renew(self) -> None:
        """Put the copy back as it was before it was imported, with `shared` as `up` would make them.

        Some projects write while they are imported.
        """
        tree = self.directory / TREE
        shutil.rmtree(tree, ignore_errors=True)
        self.owner.make(tree)
        self._run_as_user("cp", "--archive", "--", f"{self.directory / KEPT}/.", f"{tree}/")
        if self.shared:
            self._run_as_user("mkdir", "--parents", "--", *(str(self.copy / path) for path in self.shared))

    def _run_as_user(self, *command: str) -> None:
        """Run a command as the instances' user: who wrote there may have put anything in the place of anything."""
        done = subprocess.run(
            command,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self.owner.subprocess_options(),
        )
        if done.returncode != 0:
            raise ReleaseError(f"app.project: it can't be copied: {done.stderr.strip()}")


def _by_path(spec: ReleaseSpec) -> list[tuple[Path, Path]]:
    """Return the local packages beside the project, with where each lies below `sources`; the innermost first."""
    found = [(path, place) for place, path in sources(spec).items()]
    return sorted(found, key=lambda one: -len(one[1].parts))


# --- the import


def look(subject: Subject, *, interface: str = "wsgi", said: dict[str, str]) -> Look:
    """Import a project, with something in the place of each variable that it lacks; `said` are those that are known."""
    found = Look(extras=list(subject.extras), groups=list(subject.groups))
    tried: dict[str, list[str]] = {}
    for _try in range(MOST_TRIES):
        facts, failure, words = _describe(subject, interface, {**found.placeholders, **said})
        found.facts = facts
        if failure is None:
            found.failure = words
            found.missing |= dict.fromkeys(facts.get("set_late", ()), "the application's module sets it too late")
            return found
        found.failure = failure["text"] or words
        shared = _shared(failure, found, subject)
        if not (shared or _fed(failure, found, tried) or _added(failure, found, subject)):
            return found
    return found


def look_as_served(subject: Subject, said: dict[str, str]) -> Look:
    """Import a project as its instances would: by its application for ASGI where it wants that."""
    found = look(subject, said=said)
    if found.failure or not wants_asgi(found.facts):
        return found
    # An application of the other interface is another module: it must import as well.
    again = look(subject, interface="asgi", said={**found.placeholders, **said})
    again.absent = [*found.absent, *again.absent]
    again.missing, again.placeholders = found.missing | again.missing, found.placeholders | again.placeholders
    return again


def wants_asgi(facts: dict[str, Any]) -> bool:
    """Tell whether a project is one for ASGI: it answers websockets, or has no application for WSGI at all."""
    applications = facts["applications"]
    return bool(applications["asgi"]) and (bool(facts["asgi_apps"]) or not applications["wsgi"])


def _shared(failure: dict[str, Any], found: Look, subject: Subject) -> bool:
    """Note a path that the project writes on import, and make what `up` makes for it; tell whether that was new."""
    path = str(failure["absent"])
    directory = directory_of(path)
    if "/" not in path or directory in subject.shared or {"", ".."} & set(directory.split("/")):
        return False
    found.absent.append(path)
    subject.shared.append(directory)
    return True


def own_keys(subject: Subject, found: Look, said: dict[str, str]) -> dict[str, Any]:
    """Return the project's own SECRET_KEY and SECRET_KEY_FALLBACKS; its settings import, as `found` says."""
    environment = {**found.placeholders, **said}
    with _imported(subject, "wsgi", environment, "cluster_runtime.own_keys") as (done, written):
        if done is None or done.returncode != 0:
            raise ReleaseError("--adopt: the project's SECRET_KEY can't be read")
        return written


def _describe(
    subject: Subject, interface: str, environment: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Return what describe says, why it failed (None where it did not), and its words."""
    with _imported(subject, interface, environment, "cluster_runtime.describe") as (done, facts):
        if done is None:
            words = f"the import did not end within {PATIENCE} s"
            return facts, {"text": words, **NOTHING}, words
        lines = done.stderr.strip().splitlines()
        if done.returncode in (0, REFUSED):
            return facts, None, "\n".join(_refusals(facts))
        words = "\n".join(lines[-8:])
        if done.returncode == NOT_IMPORTED and "failure" in facts:
            return facts, facts.pop("failure"), words
        return facts, {"text": words, **NOTHING}, words


def _refusals(facts: dict[str, Any]) -> list[str]:
    """Take why `up` would refuse the project out of its facts.

    Which paths are shared is written after this, and which variables are to be set is told.
    """
    refused = facts.pop("refused", [])
    lines = [str(line) for line in refused] if isinstance(refused, list) else []
    return [line for line in lines if not line.startswith(("app.shared: ", f"{SET_LATE}: "))]


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
def _imported(
    subject: Subject, interface: str, environment: dict[str, str], module: str
) -> Iterator[tuple[subprocess.CompletedProcess[str] | None, dict[str, Any]]]:
    """Run a module of the runtime over a copy of a project; yield how it ended (None: not), and what it wrote."""
    subject.renew()
    here = subject.directory / RUN
    shutil.rmtree(here, ignore_errors=True)
    (here / "secrets").mkdir(mode=0o700, parents=True)
    (here / "secrets" / "secret_key").write_text(secrets.token_urlsafe(40), encoding="utf-8")
    config = {
        "release": "init",
        "project": str(subject.copy),
        "tree": str(subject.copy),  # what is written in it is what app.shared is for
        "settings": subject.app.settings,
        "secrets": str(here / "secrets"),
        "packages": str(subject.directory / PACKAGES),
        "interface": interface,
        "environment": environment,
        "sessions": {"engine": "project"},
    }
    (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
    output = here / "output.json"
    # The project's code runs as its instances will, and never as root.
    subject.owner.own(here)
    done = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [subject.python, "-P", "-m", module, str(output)],
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
            preexec_fn=partial(confine, subject.copy),
            **subject.owner.subprocess_options(),
        )
    # What they say of copies they say of the user's own.
    if done is not None:
        done.stderr = _of_originals(done.stderr, subject.originals)
    yield done, _written(output, subject.originals)


def _copy_project(source: Source, copy: Path) -> None:
    """Copy a project to where it may be written to, as some do while they are imported; all above is linked."""
    above = copy.parent
    above.mkdir(parents=True)
    project = source.project
    for level, directory in ((above, project), (above.parent, project.parent)):
        for sibling in directory.parent.iterdir():
            if sibling != directory and not os.path.lexists(level / sibling.name):
                (level / sibling.name).symlink_to(sibling)
    write_tree(source.tree(""), copy, shutil.copy2)


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


def _added(failure: dict[str, Any], found: Look, subject: Subject) -> bool:
    """Install the extra or the group that brings what could not be imported."""
    module = failure["module"].partition(".")[0]
    if not module or module == found.unlisted:
        return False
    found.unlisted = module
    # Those for developing last.
    every = sorted(
        optional_lines(subject.requirements), key=lambda one: bool(re.search(r"dev|test|lint|doc|type", one[1].lower()))
    )
    for kind, name, lines in every:
        chosen = found.extras if kind == "extra" else found.groups
        if name not in chosen and any(_brings(line, module) for line in lines):
            chosen.append(name)
            subject.install(found.extras, found.groups)
            found.unlisted = ""
            return True
    return False


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
