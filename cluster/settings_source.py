"""What a project's settings say, read without running them: constants, and paths that begin at their own `__file__`.

It is what a plan can know before there is a release. What is computed in another way is not known; the release itself
is imported later, and compared with what was read here.
"""

from __future__ import annotations

import ast
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Reads an expression within another.
Below = Callable[[ast.expr], Any]

#: Stands for a value that only running the settings tells.
UNKNOWN = object()

#: Deeper expressions than people write are not looked into.
DEEPEST = 40

#: Files of settings that import each other are followed this far.
MOST_FILES = 20

#: Modules whose functions are read here: os.path by either name.
JOINED = frozenset({"os.path.join", "path.join", "join", "posixpath.join"})
PARENT = frozenset({"os.path.dirname", "path.dirname", "dirname"})
SAME = frozenset(
    (
        *("os.path.abspath", "os.path.realpath", "os.path.normpath", "os.path.expanduser", "path.abspath"),
        *(
            "path.realpath",
            "abspath",
            "realpath",
            "normpath",
            "str",
            "os.fspath",
            "Path",
            "pathlib.Path",
            "environ.Path",
        ),
    )
)
METHODS_SAME = frozenset({"resolve", "absolute", "as_posix", "expanduser"})


@dataclass
class Settings:
    """What could be read: settings by their names (UNKNOWN where only running tells), and all texts in their files."""

    values: dict[str, Any] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)

    def known(self, name: str) -> Any:
        """Return a setting's value; None where it is not set, or not known."""
        value = self.values.get(name)
        return None if value is UNKNOWN else value

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Yield every absolute path that a setting holds, with the setting's name."""
        for name, value in self.values.items():
            if name.isupper():
                for text in _texts_in(value):
                    if text.startswith("/") and len(text) > 1:
                        yield name, Path(text)


def read_settings(project: Path, module: str) -> Settings:
    """Read a settings module below `project`, and those that it imports with `from … import *`."""
    found = Settings()
    path = find_module(project, module)
    if path is not None:
        _Reader(project, found).read(path, module)
    return found


def find_module(project: Path, module: str) -> Path | None:
    """Return the file of a module of the project, in its directory or in `src` below it."""
    for root in (project, project / "src"):
        base = root.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > DEEPEST:
        return
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts_in(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner, depth + 1)


class _Reader:
    """Reads one project's settings; later files see the names of those before them."""

    def __init__(self, project: Path, found: Settings) -> None:
        self.project = project
        self.found = found
        self.here = project

    def read(self, path: Path, module: str) -> None:
        if path in self.found.files or len(self.found.files) >= MOST_FILES:
            return
        self.found.files.append(path)
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            return  # the import says so, in Python's own words
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.found.texts |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        self._run(tree.body, path, package)

    def _run(self, body: list[ast.stmt], path: Path, package: str) -> None:
        for node in body:
            self.here = path
            match node:
                case ast.ImportFrom(names=[ast.alias(name="*")]):
                    self._import(node, package)
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._assign(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, value)
                case ast.AugAssign(target=ast.Name(id=name)):
                    self.found.values[name] = self._sum(self.found.values.get(name, UNKNOWN), self._value(node.value))
                case ast.If() | ast.Try() | ast.With():
                    # Which way it goes, only running tells: what is set in there is not known, unless it is the same.
                    self._branches(node, path, package)
                case _:
                    pass

    def _branches(self, node: ast.If | ast.Try | ast.With, path: Path, package: str) -> None:
        before = dict(self.found.values)
        bodies = [node.body, getattr(node, "orelse", []), *(h.body for h in getattr(node, "handlers", []))]
        outcomes = []
        for body in bodies:
            self.found.values = dict(before)
            self._run(body, path, package)
            outcomes.append(self.found.values)
        if isinstance(node, ast.With):
            return
        self.found.values = dict(before)
        for name in {name for values in outcomes for name in values}:
            seen = [values.get(name, UNKNOWN) for values in outcomes]
            self.found.values[name] = seen[0] if all(value == seen[0] for value in seen) else UNKNOWN

    def _import(self, node: ast.ImportFrom, package: str) -> None:
        parts = package.split(".")
        base = parts[: len(parts) - node.level + 1] if node.level else []
        name = ".".join([*base, *([node.module] if node.module else [])])
        path = find_module(self.project, name) if name else None
        if path is not None:
            self.read(path, name)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.found.values[target.id] = self._value(value)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            # DATABASES["audit"] = {…}
            held, key = self.found.values.get(target.value.id), self._value(target.slice)
            if isinstance(held, dict) and isinstance(key, str):
                self.found.values[target.value.id] = {**held, key: self._value(value)}
            else:
                self.found.values[target.value.id] = UNKNOWN

    def _value(self, node: ast.expr, depth: int = 0) -> Any:
        read = _READERS.get(type(node))
        if read is None or depth > DEEPEST:
            return UNKNOWN
        return read(self, node, lambda inner: self._value(inner, depth + 1))

    def name(self, node: ast.Name, _below: Below) -> Any:
        if node.id == "__file__":
            return Path(os.path.abspath(self.here))  # noqa: PTH100 - a link stays as it is
        return self.found.values.get(node.id, UNKNOWN)

    def operation(self, node: ast.BinOp, below: Below) -> Any:
        left, right = below(node.left), below(node.right)
        if isinstance(node.op, ast.Div):
            return _joined([left, right])
        return self._sum(left, right) if isinstance(node.op, ast.Add) else UNKNOWN

    def call(self, node: ast.Call, below: Below) -> Any:
        name = ast.unparse(node.func)
        arguments = [below(argument) for argument in node.args]
        if name in JOINED or (isinstance(node.func, ast.Attribute) and node.func.attr == "joinpath"):
            first = [below(node.func.value)] if isinstance(node.func, ast.Attribute) and name not in JOINED else []
            return _joined([*first, *arguments])
        if name in PARENT:
            return _up(arguments[0], 1) if arguments else UNKNOWN
        if name in SAME and len(arguments) == 1:
            return arguments[0]
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS_SAME:
            return below(node.func.value)
        return UNKNOWN

    @staticmethod
    def _sum(left: Any, right: Any) -> Any:
        if isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(left, str | Path) and isinstance(right, str):
            return str(left) + right
        # What is added to a list that is known in part is known too; nobody asks whether the rest is missing.
        if isinstance(left, list) or isinstance(right, list):
            return [
                *(left if isinstance(left, list) else [UNKNOWN]),
                *(right if isinstance(right, list) else [UNKNOWN]),
            ]
        return UNKNOWN


def _list(node: ast.List | ast.Tuple, below: Below) -> Any:
    return [below(element) for element in node.elts]


def _dictionary(node: ast.Dict, below: Below) -> Any:
    return _mapping([below(key) if key else UNKNOWN for key in node.keys], [below(value) for value in node.values])


def _formatted(node: ast.JoinedStr, below: Below) -> Any:
    return _text([below(v.value) if isinstance(v, ast.FormattedValue) else below(v) for v in node.values])


def _attribute(node: ast.Attribute, below: Below) -> Any:
    return _up(below(node.value), 1) if node.attr == "parent" else UNKNOWN


def _parents(node: ast.Subscript, below: Below) -> Any:
    match node:
        case ast.Subscript(value=ast.Attribute(value=value, attr="parents"), slice=ast.Constant(value=int(steps))):
            return _up(below(value), steps + 1)
        case _:
            return UNKNOWN


#: How each kind of expression is read.
_READERS: dict[type[ast.expr], Callable[[_Reader, Any, Below], Any]] = {
    ast.Constant: lambda _reader, node, _below: node.value,
    ast.Name: _Reader.name,
    ast.List: lambda _reader, node, below: _list(node, below),
    ast.Tuple: lambda _reader, node, below: _list(node, below),
    ast.Dict: lambda _reader, node, below: _dictionary(node, below),
    ast.JoinedStr: lambda _reader, node, below: _formatted(node, below),
    ast.BinOp: _Reader.operation,
    ast.Attribute: lambda _reader, node, below: _attribute(node, below),
    ast.Subscript: lambda _reader, node, below: _parents(node, below),
    ast.Call: _Reader.call,
}


def _mapping(keys: list[Any], values: list[Any]) -> Any:
    return {key: value for key, value in zip(keys, values, strict=True) if isinstance(key, str)}


def _text(parts: list[Any]) -> Any:
    return "".join(map(str, parts)) if all(isinstance(part, str | int | Path) for part in parts) else UNKNOWN


def _joined(parts: list[Any]) -> Any:
    if not parts or not all(isinstance(part, str | Path) for part in parts):
        return UNKNOWN
    return Path(posixpath.normpath(posixpath.join(*map(str, parts))))


def _up(value: Any, steps: int) -> Any:
    if not isinstance(value, str | Path):
        return UNKNOWN
    path = Path(value)
    return path.parents[steps - 1] if steps <= len(path.parents) else UNKNOWN


__all__ = ["UNKNOWN", "Settings", "find_module", "read_settings"]
