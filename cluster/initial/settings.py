"""Which settings a project has, and what can be read of them without running them."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from cluster.errors import CommandError
from cluster.lint.app import OWNED_VARIABLE
from cluster_runtime.sources import DATABASE_URL, assignments, module_path, reads, settings_sources, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A directory that holds the packages of a project, as many keep them out of the way of tests and tools.
SOURCES = "src"

#: What a settings module of production is called, and one for developing.
PRODUCTION = ("production", "prod", "deploy", "live")
DEVELOPMENT = ("dev", "develop", "development", "local", "debug", "test", "tests", "testing", "ci")


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


def read_settings(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return the settings that a file writes as plain constants (others: as text), and the variables that it needs."""
    values: dict[str, Any] = {}
    tree = ast.parse(path.read_bytes())
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                values[node.targets[0].id] = ast.unparse(node.value)
    needed = {name for inner in ast.walk(tree) if (name := _environment_variable(inner))}
    return values, needed


def _environment_variable(node: ast.AST) -> str | None:
    """Return the name in os.environ["NAME"], which must be set; what is read with a default need not be."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ"):
        return node.slice.value if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) else None
    return None


def made_from(directory: Path, module: str, setting: str) -> list[str]:
    """Return the variables that a setting of a settings module is made from, or that choose it, by their names."""
    root = next((root for root in _roots(directory) if module_path(module, [root])), directory)
    found: set[str] = set()
    for source in settings_sources(module, root):
        for node in ast.walk(source.tree):
            inside = node.body if isinstance(node, ast.If) else []
            if isinstance(node, ast.If) and any(
                True for inner in inside for _ in assignments(_module_of(inner), setting)
            ):
                found |= {read.name for read in reads(node.test)}
        for statement in assignments(source.tree, setting):
            value = value_of(statement, setting)
            if value is not None:
                found |= {read.name for read in reads(value)}
                if re.search(r"\.(?:db|db_url|dj_db_url)\(|dj_database_url\.config\(", ast.unparse(value)):
                    found.add(DATABASE_URL)
    return sorted(found)


def _module_of(statement: ast.stmt) -> ast.Module:
    """Return a statement as a module of its own, to be looked through like one."""
    return ast.Module(body=[statement], type_ignores=[])
