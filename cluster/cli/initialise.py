"""`cluster init`: looks at a Django project, by importing it, and writes its stack file."""

from __future__ import annotations

import ast
import json
import os
import re
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.adopting import AdoptError, adopt, in_words, project_database, rows_in
from cluster.config import SessionEngine, StackFileError, load_stack, stack_path
from cluster.config.load import STACKS
from cluster.config.models import PYTHON_VERSION, App, Requirements
from cluster.console import Terminal, say, tell, warn
from cluster.errors import CommandError
from cluster.lint.app import OWNED_VARIABLE
from cluster.looking import Look, Subject, look, own_keys
from cluster.release import ReleaseError
from cluster.requirements import REQUIREMENTS
from cluster.stack.judge import findings
from cluster.stack.opened import Stack, find_root
from cluster.stack.secrets import read_secrets
from cluster_runtime.choices import DJANGO_ENGINES, NO_SERVER
from cluster_runtime.paths import directory_of
from cluster_runtime.sources import DATABASE_URL, Source, assignments, module_path, reads, settings_sources, value_of
from platforms.local.nginx import is_free
from platforms.local.places import Places
from platforms.registry import platform as platform_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where new stacks begin to look for a port.
FIRST_PORT = 8080

#: Where secret variables of the project go, by platform.
SECRET_PLACES = {
    "local": "into .cluster/{stack}/secrets/secret_environment (a JSON object, mode 0600)",
    "docker": "by pulumi config set --secret cluster:secret_environment -s {stack} (a JSON object)",
}

#: Platforms that a stack file can be written for.
PLATFORMS = ("local", "docker")

#: nginx's own image (https://hub.docker.com/_/nginx), of its stable branch.
NGINX_IMAGE = "nginx:1.30"

STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

#: Where the environments are that projects are imported in, below the repository.
ENVIRONMENTS = Path(".cluster") / ".init"

#: Files that list packages where a project keeps several, for production first.
REQUIREMENTS_OF_PRODUCTION = tuple(
    f"requirements/{name}.txt" for name in ("production", "prod", "deploy", "base", "common", "requirements")
)

#: A directory that holds the packages of a project, as many keep them out of the way of tests and tools.
SOURCES = "src"

#: What a settings module of production is called, and one for developing.
PRODUCTION = ("production", "prod", "deploy", "live")
DEVELOPMENT = ("dev", "develop", "development", "local", "debug", "test", "tests", "testing", "ci")

#: nginx's location of static files or uploads.
PREFIX = re.compile(r"/?([\w.~-]+/)+")

#: Caches that a process has for itself alone, so that instances would not share sessions in them.
OWN_CACHES = ("locmem", "dummy", "")


@dataclass
class Wanted:
    """What the command line asks for; None and False: what the project itself says."""

    platform: str = "local"
    settings: str | None = None
    requirements: str | None = None
    python: str | None = None
    sessions: str | None = None
    importing: bool = True
    adopt: bool = False
    force: bool = False


@dataclass
class Written:
    """What a stack file is written of; `lines` say what was found, `decide` what somebody must do."""

    interface: str = "wsgi"
    engine: str = "db"
    replace: bool = False
    database: str | None = "sqlite"
    static: str | None = "/static/"
    media: tuple[str, str] | None = None
    shared: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    decide: list[str] = field(default_factory=list)


@dataclass
class Project:
    """What can be read from a project's files.

    values: the settings that are written as plain constants. said: variables that wsgi.py (or asgi.py) sets.
    """

    directory: Path
    settings: str
    requirements: str
    python: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    environment: set[str] = field(default_factory=set)
    said: dict[str, str] = field(default_factory=dict)
    decide: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def run_init(stack: str, directory: Path, wanted: Wanted) -> None:
    """Write stacks/Pulumi.<stack>.yaml for the project in `directory`; CommandError says what can't be found."""
    root = find_root()
    path = _new_file(root, stack, wanted)
    places = Places(root, stack)
    project = inspect(directory.resolve(), wanted.settings, wanted.requirements, static=not wanted.importing)
    project.python = wanted.python
    found: Look | None = None
    with tempfile.TemporaryDirectory() as temporary:
        if wanted.importing:
            subject = _subject(project, places, Path(temporary))
            found = _imported(subject, {**project.said, **_known_variables(places, path)})
        used = found is not None and found.facts
        written = from_import(project, found, wanted) if found is not None and used else from_files(project, wanted)
        port = _free_port(root, stack)
        where = os.path.relpath(project.directory, root)
        text = render_stack_file(project, written, where, port, stack, wanted.platform)
        if found is not None:
            _take_over(places, subject, found, written, project.said, adopting=wanted.adopt)
    path.write_text(text + _kept_secrets(path), encoding="utf-8")
    opened = Stack(root, stack, load_stack(root, stack))  # what was written is read back: a mistake here is ours
    tell(f"wrote {STACKS}/{path.name}: {project.directory.name} with {project.settings}, {project.requirements}")
    for line in (*project.lines, *written.lines):
        tell(f"  {line}")
    needed = dict(found.missing) if found is not None else dict.fromkeys(sorted(project.environment), "")
    _tell_variables(needed, stack, wanted.platform)
    for line in (*project.decide, *written.decide):
        tell(f"to decide: {line}")
    if found is not None and found.failure:
        tell(_why_not(found, project, stack, wanted.platform))
    _tell_lints(opened, found)
    tell(f"next: cluster up {stack}")


def _new_file(root: Path, stack: str, wanted: Wanted) -> Path:
    if not STACK_NAME.fullmatch(stack):
        raise CommandError(f"{stack}: a stack's name has letters, digits, - _ and . only")
    if wanted.platform not in PLATFORMS:
        raise CommandError(f"--platform: must be one of {', '.join(PLATFORMS)}, got {wanted.platform}")
    if wanted.sessions is not None and wanted.sessions not in tuple(SessionEngine):
        raise CommandError(f"--sessions: must be one of {', '.join(SessionEngine)}, got {wanted.sessions}")
    if wanted.python is not None and not re.match(PYTHON_VERSION, wanted.python):
        raise CommandError(f'--python: must be a version such as "3.13", got {wanted.python}')
    if wanted.adopt and (wanted.platform != "local" or not wanted.importing):
        raise CommandError("--adopt: works on platform local, and imports the project")
    path = stack_path(root, stack)
    if path.exists() and not wanted.force:
        raise CommandError(f"{STACKS}/{path.name} is there already; --force overwrites it")
    return path


def _kept_secrets(path: Path) -> str:
    """Return a stack file's lines with Pulumi's secrets, and with what they are read by: nothing replaces them."""
    if not path.exists():
        return ""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return ""  # no command has read it either
    if not isinstance(found, dict):
        return ""
    config = found.pop("config", None)
    values = config if isinstance(config, dict) else {}
    inside = {
        key: value
        for key, value in values.items()
        if (isinstance(value, dict) and "secure" in value) or not str(key).startswith("cluster:")
    }
    lines = textwrap.indent(yaml.safe_dump(inside, sort_keys=False), "  ") if inside else ""
    return lines + (yaml.safe_dump(found, sort_keys=False) if found else "")


def _known_variables(places: Places, path: Path) -> dict[str, str]:
    """Return the secret variables that the stack has already: whoever was told of a missing one says this again."""
    known = read_secrets(places.secrets).get("secret_environment")
    if known is None and path.exists() and "cluster:secret_environment:" in path.read_text(encoding="utf-8"):
        from platforms.pulumi.engine import Pulumi  # noqa: PLC0415 - only where Pulumi keeps it

        known = Pulumi(places.root, places.stack, say).secret("secret_environment")
    return {name: str(value) for name, value in json.loads(known or "{}").items()}


def _subject(project: Project, places: Places, directory: Path) -> Subject:
    """Return a copy of a project with the packages that `up` would install; CommandError says why there is none."""
    app = App.model_construct(
        project=str(project.directory),
        settings=project.settings,
        requirements=Requirements(file=project.requirements),
        python=project.python,
    )
    try:
        return Subject(
            app,
            project.directory,
            environments=places.root / ENVIRONMENTS,
            pythons=places.pythons,
            directory=directory,
            say=tell,
        )
    except ReleaseError as error:
        said = str(error)
        # There is no stack file yet.
        how = "; init takes it as --python, and with --no-import it needs none"
        raise CommandError(f"{said}{how}" if said.startswith("app.python: ") else said) from error


def _imported(subject: Subject, said: dict[str, str]) -> Look:
    found = look(subject, said=said)
    if found.failure or not _wants_asgi(found.facts):
        return found
    # An application of the other interface is another module: it must import as well.
    again = look(subject, interface="asgi", said={**found.placeholders, **said})
    again.absent = [*found.absent, *again.absent]
    again.missing, again.placeholders = found.missing | again.missing, found.placeholders | again.placeholders
    return again


def _wants_asgi(facts: dict[str, Any]) -> bool:
    """Tell whether a project is one for ASGI: it answers websockets, or has no application for WSGI at all."""
    applications = facts["applications"]
    return bool(applications["asgi"]) and (bool(facts["asgi_apps"]) or not applications["wsgi"])


def _why_not(found: Look, project: Project, stack: str, platform: str) -> str:
    lines = [
        f"to decide: app.settings: {project.settings} does not import yet:",
        *(f"    {line}" for line in found.failure.splitlines()),
    ]
    if found.unlisted:
        lines.append(f"app.requirements: nothing in {project.requirements} brings {found.unlisted}; add it there")
    return "\n".join(
        [
            *lines,
            "  the stack file has what the files alone tell; `cluster up` would fail in the same way.",
            f"  A variable that it wants goes {SECRET_PLACES[platform].format(stack=stack)};",
            "  then say init again, with --force",
        ]
    )


def _tell_variables(needed: dict[str, str], stack: str, platform: str) -> None:
    if not needed:
        return
    tell("to decide: app.environment: the project needs these variables, which nothing sets yet:")
    for name, where in needed.items():
        tell(f"    {name}{f' ({where})' if where else ''}")
    tell("  plain values go to app.environment in the stack file;")
    tell(f"  secret ones {SECRET_PLACES[platform].format(stack=stack)}")


def _tell_lints(stack: Stack, found: Look | None) -> None:
    """Print what the lints say of the project; paths that it writes are in the file already."""
    facts = {} if found is None else {name: value for name, value in found.facts.items() if name != "paths"}
    for finding in findings(stack.config, platform_of(stack, Terminal()).facts(), facts):
        if finding.severity != "note":
            warn(f"{finding.severity}: {finding}")


def _take_over(  # noqa: PLR0913 - what is taken over, and from where
    places: Places, subject: Subject, found: Look, written: Written, said: dict[str, str], *, adopting: bool
) -> None:
    """Take over the project's sqlite database and key where that is asked for; say that it is there where not."""
    database = project_database(found.facts)
    try:
        rows = {} if database is None else rows_in(database)
        if adopting:
            if database is None or not rows:
                raise CommandError("--adopt: the project has no sqlite database that holds anything")
            adopt(places, database, own_keys(subject, found, said))
            written.lines.append(f"adopted: {database} ({in_words(rows)}), and the project's own SECRET_KEY")
            if written.engine == SessionEngine.FILE:
                written.decide.append(
                    "sessions: the project has them in files, which are not taken over; sessions.path can name their "
                    "directory (its SESSION_FILE_PATH, else the machine's temporary one) if the instances may write it"
                )
        elif rows:
            written.decide.append(
                f"database: {database} is in use ({in_words(rows)}), and the stack begins with an empty one; "
                "say `cluster init` with --adopt --force to take it over, with the project's SECRET_KEY"
            )
    except AdoptError as error:
        raise CommandError(str(error)) from error


def inspect(directory: Path, settings: str | None, requirements: str | None, *, static: bool = True) -> Project:
    """Return what the project's files say; `static`: nothing else is asked, so its settings must be here."""
    if not (directory / "manage.py").is_file():
        below = sorted(str(found.parent.relative_to(directory)) for found in directory.glob("*/manage.py"))
        hint = f"; there is one in {', '.join(below)}" if below else ""
        raise CommandError(f"{directory} has no manage.py{hint}: --project names the directory that holds it")
    module, why = (settings, "--settings says so") if settings else find_settings(directory)
    named = None if requirements is None else _named_requirements(directory, requirements)
    project = Project(directory, module, named or find_requirements(directory, module))
    others = other_settings(directory, module)
    project.lines.append(f"settings: {module}, since {why}")
    if others and not settings:
        project.decide.append(f"settings: there are also {', '.join(others)}; --settings chooses one of them")
    for source in star_sources(directory, module, needed=static):
        _read_settings(source, project)
    project.said = set_for_servers(directory, module)
    project.lines += [f"environment: {name}, which the project sets for its server" for name in project.said]
    return project


def _named_requirements(directory: Path, name: str) -> str:
    """Return what --requirements says, from the project's directory, as a stack file does."""
    path = Path(os.path.normpath(directory / name))
    if not path.is_file():
        raise CommandError(f"--requirements: {path}: no such file (its path begins at the project's directory)")
    return os.path.relpath(path, directory)


def find_settings(directory: Path) -> tuple[str, str]:
    """Return the settings module that a wsgi.py (or asgi.py) sets as the default, else manage.py's; and which says so.

    What a server runs is what wsgi.py says; manage.py is often for developing.
    """
    pattern = re.compile(r"""DJANGO_SETTINGS_MODULE['"]\s*(?:,|\]\s*=)\s*['"]([\w.]+)['"]""")
    servers = _server_modules(directory)
    for path in (*servers, directory / "manage.py"):
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
        if found and (path not in servers or _module_path(directory, found[1]) is not None):
            return found[1], f"{path.relative_to(directory)} names it"
    raise CommandError(f"{directory / 'manage.py'} names no settings module: say it with --settings")


def _server_modules(directory: Path) -> list[Path]:
    """Return what a server imports: wsgi.py and asgi.py."""
    places = ("*", f"{SOURCES}/*")
    return [
        path
        for name in ("wsgi.py", "asgi.py")
        for place in places
        for path in sorted(directory.glob(f"{place}/{name}"))
    ]


def set_for_servers(directory: Path, settings: str) -> dict[str, str]:
    """Return the variables that the module which names the settings sets for a server, as plain texts."""
    for path in _server_modules(directory):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        found = dict(_set_variables(tree))
        if found.get("DJANGO_SETTINGS_MODULE") == settings:
            return {name: text for name, text in found.items() if not re.fullmatch(OWNED_VARIABLE, name)}
    return {}


def _set_variables(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what stands in os.environ.setdefault("NAME", "text") and os.environ["NAME"] = "text"."""
    for node in tree.body:
        match node:
            case ast.Expr(ast.Call(func, [ast.Constant(str(name)), ast.Constant(str(text))])):
                if ast.unparse(func) in ("os.environ.setdefault", "environ.setdefault"):
                    yield name, text
            case ast.Assign([ast.Subscript(place, ast.Constant(str(name)))], ast.Constant(str(text))):
                if ast.unparse(place) in ("os.environ", "environ"):
                    yield name, text
            case _:
                pass


def other_settings(directory: Path, module: str) -> list[str]:
    """Return the modules beside a settings module that are settings too, by their names."""
    path = _module_path(directory, module)
    if path is None:
        return []
    if path.name == "__init__.py":
        package, beside = module, path.parent
    else:
        package, beside = module.rpartition(".")[0], path.parent
    of_settings = package.rpartition(".")[2] == "settings"
    words = (*PRODUCTION, *DEVELOPMENT, "staging")
    found = []
    for other in sorted(beside.glob("*.py")):
        name = other.stem
        parts = re.split(r"[_-]", name)
        if name == "__init__" or other == path:
            continue
        if name in words or "settings" in parts or (of_settings and any(word in parts for word in words)):
            found.append(f"{package}.{name}" if package else name)
    return found


def find_requirements(directory: Path, settings: str = "") -> str:
    """Return the requirements file, from the project's directory: in it, or up to two levels above."""
    last = settings.rpartition(".")[2]
    of_settings = (f"requirements/{last}.txt",) if last else ()
    for up in (Path(), Path(".."), Path("../..")):
        for name in (*of_settings, *REQUIREMENTS, *REQUIREMENTS_OF_PRODUCTION):
            if (directory / up / name).is_file():
                return str(up / name)
    names = " nor ".join(REQUIREMENTS)
    raise CommandError(f"{directory} has neither {names}, nor has a directory above: say --requirements")


def star_sources(directory: Path, module: str, *, needed: bool = True) -> Iterator[Path]:
    """Yield the files of the settings, those first that it imports with `from … import *`.

    needed: nothing else tells what they say. Else one that this Python can't read, since it is older than the
    project's, is left to the import.
    """
    path = _module_path(directory, module)
    if path is None:
        if not needed:
            return
        raise CommandError(f"the settings module {module} is not below {directory}: say it with --settings")
    try:
        tree = ast.parse(path.read_bytes())  # in whatever encoding it says, with a mark of its byte order or without
    except (SyntaxError, ValueError) as error:
        if not needed:
            return
        line = f":{error.lineno or 1}" if isinstance(error, SyntaxError) else ""
        raise CommandError(f"{path}{line}: {getattr(error, 'msg', error)}") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name != module and _module_path(directory, name) is not None:
                yield from star_sources(directory, name, needed=needed)
    yield path


def _module_path(directory: Path, module: str) -> Path | None:
    return module_path(module, _roots(directory))


def _roots(directory: Path) -> tuple[Path, Path]:
    """Return where a project's modules may begin: beside manage.py, or below src, where it is installed from."""
    return directory, directory / SOURCES


def _sources(project: Project) -> list[Source]:
    root = next(
        (root for root in _roots(project.directory) if module_path(project.settings, [root])), project.directory
    )
    return settings_sources(project.settings, root)


def _read_settings(path: Path, project: Project) -> None:
    tree = ast.parse(path.read_bytes())
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                project.values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                project.values[node.targets[0].id] = ast.unparse(node.value)
    for inner in ast.walk(tree):
        name = _environment_variable(inner)
        if name:
            project.environment.add(name)


def _environment_variable(node: ast.AST) -> str | None:
    """Return the name in os.environ["NAME"], which must be set; what is read with a default need not be."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ"):
        return node.slice.value if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) else None
    return None


def _free_port(root: Path, stack: str) -> int:
    taken = set()
    for path in (root / STACKS).glob("Pulumi.*.yaml"):
        name = path.name[7:-5]
        if name == stack:
            continue
        try:
            taken.add(load_stack(root, name).site.listen)
        except StackFileError:
            continue  # its own commands say so
    return next(port for port in range(FIRST_PORT, 65536) if port not in taken and is_free("0.0.0.0", port))  # noqa: S104


# --- what is written


def from_files(project: Project, wanted: Wanted) -> Written:
    """Return what can be told by files alone; what is computed is named."""
    written = Written()
    url, apps = project.values.get("STATIC_URL", "static/"), project.values.get("INSTALLED_APPS")
    served = isinstance(url, str) and PREFIX.fullmatch(url)
    written.static = _prefix(str(url)) if served else None
    if not served:
        written.decide.append(
            "site.static_url: STATIC_URL is computed, or another host's; write what it is, or leave null"
        )
    databases = project.values.get("DATABASES")
    written.database = _made_database(wanted.platform) if databases is None or "sqlite" in str(databases) else None
    named = "django.contrib.sessions" in str(apps) if apps is not None else True
    own = str(project.values.get("SESSION_ENGINE", ""))
    _choose_sessions(written, wanted, own, named, str(project.values.get("CACHES", "")))
    return written


def from_import(project: Project, found: Look, wanted: Wanted) -> Written:
    """Return what the import of the project has shown."""
    facts = found.facts
    written = Written(extras=sorted(found.extras), groups=sorted(found.groups))
    for kind, names in (("extra", written.extras), ("group", written.groups)):
        written.lines += [f"requirements: the {kind} {name}, which the settings import from" for name in names]
    if _wants_asgi(facts):
        written.interface = "asgi"
        why = " and ".join(facts["asgi_apps"]) or "no WSGI_APPLICATION"
        written.lines.append(f"interface: asgi ({why}; {facts['applications']['asgi']})")
    _choose_static(written, facts, project)
    _choose_media(written, facts, project.directory)
    _choose_shared(written, facts, found.absent)
    if facts.get("offline_compression"):
        written.commands.append("compress")
        written.lines.append("release commands: compress, without which no page can be made: COMPRESS_OFFLINE is set")
    _choose_database(written, facts, project, wanted.platform)
    caches = str(facts.get("own_session_cache", ""))
    named = any("django.contrib.sessions" in app for app in facts["installed"])
    _choose_sessions(written, wanted, str(facts["own_session_engine"]), named, caches)
    return written


def _choose_static(written: Written, facts: dict[str, Any], project: Project) -> None:
    url = str(facts["static_url_of_project"])
    variables = sorted(variables_of(_sources(project), "STATIC_URL"))
    if variables:
        written.decide.append(
            f"site.static_url: STATIC_URL is made from {', '.join(variables)}, and is {url} while nothing is set; "
            "write what it is where they are to be set"
        )
    if PREFIX.fullmatch(url):
        written.static = _prefix(url)
        written.lines.append(f"static files: {written.static}")
    else:
        written.static = None
        written.lines.append(f"static files: not nginx's: STATIC_URL is {url or 'empty'}")


def _prefix(url: str) -> str:
    return "/" + url.strip("/") + "/"


def _choose_media(written: Written, facts: dict[str, Any], directory: Path) -> None:
    root, url = facts["media"]
    if not root:
        return
    path = Path(os.path.normpath(directory / root))
    if not path.is_relative_to(directory) or path == directory:
        written.decide.append(
            f"app.media: MEDIA_ROOT is {path}, outside the project; the instances must be able to write there"
        )
    elif not PREFIX.fullmatch(url):
        written.lines.append(
            f"media: {path.relative_to(directory)}, which nginx does not serve: MEDIA_URL is {url or 'empty'}"
        )
    else:
        written.media = (str(path.relative_to(directory)), _prefix(url))
        written.lines.append(f"media: {written.media[0]} at {written.media[1]}")


def _choose_shared(written: Written, facts: dict[str, Any], absent: list[str]) -> None:
    """Keep what the settings say is written outside the releases; uploads and databases have keys of their own."""
    paths = [{"setting": "the project, which fails without it,", "share": directory_of(path)} for path in absent]
    for one in (*paths, *facts.get("paths", {}).get("written", ())):
        path = str(one["share"])
        # What the import alone writes may be for each release, or must stay: only who made the project knows.
        if not path or not one["setting"] or one["setting"].startswith(("MEDIA_ROOT", "DATABASES")):
            continue
        if path not in written.shared:
            written.shared.append(path)
            written.lines.append(f"shared: {path}, which {one['setting']} writes")


def _made_database(platform: str) -> str:
    return "postgres" if platform == "docker" else "sqlite"


def _choose_database(written: Written, facts: dict[str, Any], project: Project, platform: str) -> None:
    """Let the cluster make a database in the place of an sqlite only: a server is the project's."""
    engine, host = facts["own_database_engine"], facts["own_database_host"]
    variables = sorted(variables_of(_sources(project), "DATABASES"))
    by = f"; DATABASES is made from {', '.join(variables)}" if variables else ""
    if engine not in NO_SERVER:
        written.database = None
        where = f" at {host}" if host and not variables else ""
        written.lines.append(f"database: the project's own, {engine.rpartition('.')[2]}{where}{by}")
    elif "sqlite" in engine:
        written.database = _made_database(platform)
        written.lines.append(f"database: {written.database}, made by the cluster, for the project's sqlite")
        if variables:
            written.decide.append(
                f"database: sqlite is what the settings choose when nothing is set{by}: remove `cluster:database` from "
                "the stack file where they are to choose another one"
            )
    elif not engine:
        written.database = _made_database(platform)
        written.lines.append(
            f"database: {written.database}, made by the cluster, since the project's settings name none"
        )
    else:
        written.database = None
        written.lines.append("database: none, as the project's settings say")
    for alias, (other, place) in facts["own_databases"].items():
        if alias != "default":
            written.lines.append(f"database {alias}: the project's own, {other.rpartition('.')[2]} {place}".rstrip())


def variables_of(sources: list[Source], setting: str) -> set[str]:
    """Return the variables that a setting is made from, or that choose it."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(source.tree):
            inside = node.body if isinstance(node, ast.If) else []
            if isinstance(node, ast.If) and any(
                True for inner in inside for _ in assignments(inner_module(inner), setting)
            ):
                found |= {read.name for read in reads(node.test)}
        for statement in assignments(source.tree, setting):
            value = value_of(statement, setting)
            if value is not None:
                found |= {read.name for read in reads(value)}
                if re.search(r"\.(?:db|db_url|dj_db_url)\(|dj_database_url\.config\(", ast.unparse(value)):
                    found.add(DATABASE_URL)
    return found


def inner_module(statement: ast.stmt) -> ast.Module:
    """Return a statement as a module of its own, to be looked through like one."""
    return ast.Module(body=[statement], type_ignores=[])


def _choose_sessions(written: Written, wanted: Wanted, own: str, installed: bool, cache: str) -> None:
    """Keep the engine that the project has, unless another one is asked for."""
    named = own.removeprefix(DJANGO_ENGINES)
    if wanted.sessions is not None:
        written.engine = wanted.sessions
        written.replace = bool(own) and named == own and wanted.sessions != SessionEngine.PROJECT
        written.lines.append(f"sessions: {written.engine}, as --sessions says")
    elif own and named == own:
        written.engine = "project"
        written.lines.append(f"sessions: the project's own engine, {own}")
    elif named == "cache" and not any(word and word in cache for word in OWN_CACHES) and cache:
        written.engine = "project"
        written.lines.append(f"sessions: in the project's own cache ({cache}), as its SESSION_ENGINE says")
    elif named == "cache":
        written.engine = "cached_db"
        written.lines.append("sessions: cached_db; the project's own cache is one that instances would not share")
    elif not own and not installed:
        written.engine = "signed_cookies"
        written.lines.append("sessions: signed_cookies, since django.contrib.sessions is not in INSTALLED_APPS")
    else:
        written.engine = named or "db"
        why = (
            "as the project's SESSION_ENGINE says" if named else "Django's default; cached_db reads them from memcached"
        )
        written.lines.append(f"sessions: {written.engine} ({why})")


def render_stack_file(  # noqa: PLR0913, PLR0917 - what it is written of
    project: Project, written: Written, directory: str, port: int, stack: str, platform: str = "local"
) -> str:
    """Return the text of a commented stack file."""

    def quoted(value: object) -> str:
        return yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]

    made = "made by the cluster; external: the URL in the secret database_url"
    database = (
        f"  cluster:database: {{engine: {written.database}}}     # {made}\n"
        if written.database
        else "  # cluster:database: {engine: sqlite}   # left out: the project's own DATABASES\n"
    )
    secret_place = ".cluster/" + stack + "/secrets/secret_environment" if platform == "local" else "secret_environment"
    where = directory if directory.startswith((".", "/")) else f"./{directory}"
    chosen = {"extras": written.extras, "groups": written.groups}
    more = {name: names for name, names in chosen.items() if names}
    requirements = {"file": project.requirements, **more} if more else project.requirements
    python = f'    python: "{project.python}"\n' if project.python else ""
    interface = "    interface: asgi\n" if written.interface == "asgi" else ""
    media = f"    media: {quoted(dict(zip(('root', 'url'), written.media, strict=True)))}\n" if written.media else ""
    media += f"    shared: {quoted(written.shared)}\n" if written.shared else ""
    media += f"    release_commands: {quoted(written.commands)}\n" if written.commands else ""
    environment = f"    environment: {quoted(project.said)}".ljust(34)
    # From nginx 1.27.4 on a reload need not close clients' idle connections: no change waits for them.
    images = f"\n  cluster:images:\n    nginx: {NGINX_IMAGE}              # base images; default: debian:trixie-slim\n"
    replace = "\n    replace: true                # the project has an engine of its own" if written.replace else ""
    return f"""\
# Stack {stack}: all keys, with defaults and ranges, are in docs/stack-file.md. `cluster up {stack}` applies this file.
config:
  cluster:platform: {platform}

  cluster:app:
    project: {quoted(where)}
    settings: {quoted(project.settings)}
    requirements: {quoted(requirements)}
{python}{interface}{media}{environment} # plain values; secret ones: {secret_place}

  cluster:upstream:
    servers: 4                     # or a list: - {{name: app1, weight: 3, max_fails: 2, backup: true, down: true}}

  cluster:sessions:
    engine: {written.engine}{replace}

{database}
  cluster:site:
    server_names: [localhost, 127.0.0.1]
    listen: {port}
    static_url: {written.static or "null"}
{images if platform == "docker" else ""}"""


__all__ = ["Wanted", "inspect", "render_stack_file", "run_init"]
