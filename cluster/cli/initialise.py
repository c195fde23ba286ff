"""`cluster init`: looks at a Django project, without running it, and writes its stack file."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.cli.context import CommandError, find_root, tell
from cluster.config import StackFileError, load_stack, stack_path
from cluster.config.load import STACKS
from cluster.local.nginx import is_free
from cluster.release import REQUIREMENTS

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

STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass
class Project:
    """What can be read from a project's files: `values` are the settings that are written as plain constants."""

    directory: Path
    settings: str
    requirements: str
    values: dict[str, Any] = field(default_factory=dict)
    environment: set[str] = field(default_factory=set)


def run_init(  # noqa: PLR0913 - the command's options
    stack: str, directory: Path, *, platform: str, settings: str | None, requirements: str | None, force: bool
) -> None:
    """Write stacks/Pulumi.<stack>.yaml for the project in `directory`; CommandError says what can't be found."""
    if not STACK_NAME.fullmatch(stack):
        raise CommandError(f"{stack}: a stack's name has letters, digits, - _ and . only")
    if platform not in PLATFORMS:
        raise CommandError(f"--platform: must be one of {', '.join(PLATFORMS)}, got {platform}")
    root = find_root()
    path = stack_path(root, stack)
    if path.exists() and not force:
        raise CommandError(f"{STACKS}/{path.name} is there already; --force overwrites it")
    project = inspect(directory.resolve(), settings, requirements)
    text = render_stack_file(
        project, os.path.relpath(project.directory, root), _free_port(root, stack), stack, platform
    )
    path.write_text(text, encoding="utf-8")
    load_stack(root, stack)  # what was written is read back: a mistake here is ours
    tell(f"wrote {STACKS}/{path.name}: {project.directory.name} with {project.settings}, {project.requirements}")
    if project.environment:
        names = ", ".join(sorted(project.environment))
        tell(f"The settings read these environment variables: {names}")
        tell("  plain values go to app.environment in the stack file;")
        tell(f"  secret ones {SECRET_PLACES[platform].format(stack=stack)}")
    tell(f"next: cluster up {stack}")


def inspect(directory: Path, settings: str | None, requirements: str | None) -> Project:
    """Return what the project's files say."""
    if not (directory / "manage.py").is_file():
        below = sorted(str(found.parent.relative_to(directory)) for found in directory.glob("*/manage.py"))
        hint = f"; there is one in {', '.join(below)}" if below else ""
        raise CommandError(f"{directory} has no manage.py{hint}: --project names the directory that holds it")
    module = settings or find_settings(directory)
    project = Project(directory, module, requirements or find_requirements(directory))
    for source in settings_sources(directory, module):
        _read_settings(source, project)
    return project


def find_settings(directory: Path) -> str:
    """Return the settings module that manage.py, or else a wsgi.py, sets as the default."""
    pattern = re.compile(r"""DJANGO_SETTINGS_MODULE['"]\s*(?:,|\]\s*=)\s*['"]([\w.]+)['"]""")
    candidates = [directory / "manage.py", *sorted(directory.glob("*/wsgi.py")), *sorted(directory.glob("*/asgi.py"))]
    for path in candidates:
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
        if found:
            return found[1]
    raise CommandError(f"{directory / 'manage.py'} names no settings module: say it with --settings")


def find_requirements(directory: Path) -> str:
    """Return the requirements file, from the project's directory: in it, or up to two levels above."""
    for up in (Path(), Path(".."), Path("../..")):
        for name in REQUIREMENTS:
            if (directory / up / name).is_file():
                return str(up / name)
    names = " nor ".join(REQUIREMENTS)
    raise CommandError(f"{directory} has neither {names}, nor has a directory above: say --requirements")


def settings_sources(directory: Path, module: str) -> Iterator[Path]:
    """Yield the files of the settings, those first that it imports with `from … import *`."""
    path = _module_path(directory, module)
    if path is None:
        raise CommandError(f"the settings module {module} is not below {directory}: say it with --settings")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise CommandError(f"{path}:{error.lineno}: {error.msg}") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name != module and _module_path(directory, name) is not None:
                yield from settings_sources(directory, name)
    yield path


def _module_path(directory: Path, module: str) -> Path | None:
    base = directory.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _read_settings(path: Path, project: Project) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
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


def render_stack_file(project: Project, directory: str, port: int, stack: str, platform: str = "local") -> str:
    """Return the text of a commented stack file."""

    def quoted(value: str) -> str:
        return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]

    static_url = project.values.get("STATIC_URL", "static/")
    served = isinstance(static_url, str) and re.fullmatch(r"/?([\w.~-]+/)+", static_url)
    static = "/" + static_url.strip("/") + "/" if served else None
    database = (
        "  cluster:database: {engine: sqlite}     # made by the cluster; external: the URL in the secret database_url\n"
        if _uses_sqlite(project.values.get("DATABASES"))
        else "  # cluster:database: {engine: sqlite}   # left out: the project's own DATABASES\n"
    )
    secret_place = ".cluster/" + stack + "/secrets/secret_environment" if platform == "local" else "secret_environment"
    if platform == "docker" and _uses_sqlite(project.values.get("DATABASES")):
        database = "  cluster:database: {engine: postgres}   # made here; or sqlite, or external (database_url)\n"
    where = directory if directory.startswith((".", "/")) else f"./{directory}"
    return f"""\
# Stack {stack}: all keys, with defaults and ranges, are in docs/stack-file.md. `cluster up {stack}` applies this file.
config:
  cluster:platform: {platform}

  cluster:app:
    project: {quoted(where)}
    settings: {quoted(project.settings)}
    requirements: {quoted(project.requirements)}
    environment: {{}}                # plain values; secret ones: {secret_place}

  cluster:upstream:
    servers: 4                     # or a list: - {{name: app1, weight: 3, max_fails: 2, backup: true, down: true}}

  cluster:sessions:
    engine: {_session_engine(project)}

{database}
  cluster:site:
    server_names: [localhost, 127.0.0.1]
    listen: {port}
    static_url: {static or "null"}
"""


def _uses_sqlite(databases: object) -> bool:
    """Tell whether the project's database is sqlite, or not said: then the cluster makes one that instances share."""
    return databases is None or "sqlite" in str(databases)


def _session_engine(project: Project) -> str:
    apps = project.values.get("INSTALLED_APPS")
    named = "django.contrib.sessions" in str(apps) if apps is not None else True
    return "cached_db" if named else "signed_cookies"


__all__ = ["inspect", "render_stack_file", "run_init"]
