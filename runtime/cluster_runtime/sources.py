"""What the files of a project's settings say, read and never run: where a setting is written, what DEBUG is made of."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

#: Files that settings are spread over; what they import of the project beyond that is no matter of settings.
MOST_FILES = 60

#: What a variable of the environment is called.
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: What gives a variable's text as it is.
RAW_READS = ("os.environ.get", "environ.get", "os.getenv", "getenv", "os.environ", "environ")

#: What environs, django-environ and dj-database-url read where the settings name no variable for a database.
DATABASE_URL = "DATABASE_URL"

Place = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr


@dataclass(frozen=True)
class Source:
    """One file of the settings."""

    module: str
    path: Path
    tree: ast.Module


@dataclass(frozen=True)
class Read:
    """One place where a variable of the environment is read; raw: its text, else what something has made of it.

    required: nothing is said for when it is not set.
    """

    name: str
    node: ast.expr
    line: int
    raw: bool
    required: bool


def module_path(module: str, roots: Iterable[Path]) -> Path | None:
    """Return the file of a module below one of `roots`; nothing is imported, as Python itself would a package."""
    for root in roots:
        base = root.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def settings_sources(module: str, root: Path, package: str = "") -> list[Source]:
    """Return the files of a settings module, those first that it imports from `root` (and from `package` there).

    A file that is no Python is left out: whoever imports it is told.
    """
    found: dict[str, Source | None] = {}
    _follow(module, root, package, found)
    return [source for source in found.values() if source is not None]


def _follow(module: str, root: Path, top: str, found: dict[str, Source | None]) -> None:
    path = module_path(module, [root])
    if path is None or module in found or len(found) >= MOST_FILES or (top and module.partition(".")[0] != top):
        return
    found[module] = None  # a circle ends here
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for name in _imported(tree, package):
        _follow(name, root, top, found)
    for included in _included(tree, path):
        key = str(included)
        if key not in found and len(found) < MOST_FILES:
            try:
                found[key] = Source(module, included, ast.parse(included.read_bytes()))
            except (SyntaxError, ValueError):
                continue
    del found[module]
    found[module] = Source(module, path, tree)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name:
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names if alias.name != "*")


def are_imported(package: str, sources: Iterable[Source]) -> bool:
    """Tell whether files of the settings import something of a package."""
    return any(
        name.partition(".")[0] == package for source in sources for name in _imported(source.tree, source.module)
    )


def _included(tree: ast.Module, path: Path) -> Iterator[Path]:
    """Yield the files that django-split-settings' include() names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("include", "optional"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).endswith(".py"):
                    yield from sorted(path.parent.glob(str(argument.value)))


# --- the environment


def reads(tree: ast.AST) -> Iterator[Read]:
    """Yield the places where variables of the environment are read, by whatever library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            name = _text(node.slice)
            if name and ast.unparse(node.value) in RAW_READS:
                yield Read(name, node, node.lineno, raw=True, required=True)
        elif isinstance(node, ast.Call) and node.args:
            name, function = _text(node.args[0]), ast.unparse(node.func)
            if not name:
                continue
            if function in RAW_READS:
                yield Read(name, node, node.lineno, raw=True, required=False)
            elif re.search(r"(?:^|_|\.)(?:env|environ|config|getenv|secret)(?:$|_|\.)", function.lower()):
                said = len(node.args) > 1 or any(word.arg in ("default", "fallback") for word in node.keywords)
                yield Read(name, node, node.lineno, raw=False, required=not said)


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
        return node.value if node.value.upper() == node.value else None
    return None


# --- settings


def assignments(tree: ast.AST, name: str) -> Iterator[ast.Assign | ast.AnnAssign]:
    """Yield the statements that give a setting its value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets = [item for target in node.targets for item in _targets(target)]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = list(_targets(node.target))
        else:
            continue
        if name in targets:
            yield node


def _targets(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _targets(element)


def value_of(node: ast.Assign | ast.AnnAssign, name: str) -> ast.expr | None:
    """Return what a statement gives a setting: also in `DEBUG, ALLOWED_HOSTS = True, []`."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name) and target.id == name:
            return node.value
        if isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Tuple | ast.List):
            for element, value in zip(target.elts, node.value.elts, strict=False):
                if isinstance(element, ast.Name) and element.id == name:
                    return value
    return None


def place_of(sources: Sequence[Source], name: str, because: str = "", root: Path | None = None) -> str:
    """Return `file:line` of the statement that makes a setting what it is; of those that name `because`, if any."""
    found: list[tuple[bool, str]] = []
    for source in sources:
        for node, condition in _statements(source.tree):
            if name in _changed(node):
                told = bool(because) and re.search(rf"\b{because}\b", f"{ast.unparse(node)} {condition}") is not None
                found.append((told, f"{_shown(source.path, root)}:{node.lineno}"))
    if not found:
        return ""
    return next((where for told, where in reversed(found) if told), found[-1][1])


def _shown(path: Path, root: Path | None) -> str:
    try:
        return str(path.relative_to(root)) if root is not None else path.name
    except ValueError:
        return str(path)


def _statements(tree: ast.AST, condition: str = "") -> Iterator[tuple[Place, str]]:
    """Yield the statements that may change a setting, with the conditions that they stand under."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Place):
            yield node, condition
        elif isinstance(node, ast.If):
            yield from _statements(node, f"{condition} {ast.unparse(node.test)}")
        elif isinstance(node, ast.Try | ast.With | ast.For | ast.ExceptHandler):
            yield from _statements(node, condition)


def _changed(node: Place) -> set[str]:
    """Return the names that a statement gives a value, or changes in place (`X += …`, `X["a"] = …`, `X.append(…)`)."""
    if isinstance(node, ast.Expr):
        function = node.value.func if isinstance(node.value, ast.Call) else None
        return {_root(function.value)} if isinstance(function, ast.Attribute) else set()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {name for target in targets for name in (*_targets(target), _root(target))}


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
