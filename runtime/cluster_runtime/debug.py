"""Settings that a project makes from DEBUG: imported with DEBUG False where that can be told, named where not.

What DEBUG has made is found by importing the settings twice more, once as if every DEBUG in them were False. Forks do
it that are made before anything of the project is imported: each is what a new interpreter would be, at a fifth of it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import errno
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cluster_runtime.sources import (
    Read,
    Source,
    assignments,
    module_path,
    place_of,
    reads,
    settings_sources,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from types import CodeType, ModuleType

    from cluster_runtime.config import RuntimeConfig

#: What may mean no, in the order in which it is tried.
NOES = ("False", "0", "false", "", "no", "off", "n")

#: Where no other value can be found out: every library that reads booleans takes it for one.
NO = NOES[0]

#: Settings that the overlay owns, or that nothing reads where DEBUG is False.
OWNED = frozenset(
    ("DEBUG", "SECRET_KEY", "SECRET_KEY_FALLBACKS", "ALLOWED_HOSTS", "STATIC_ROOT", "INTERNAL_IPS", "TEMPLATE_DEBUG")
)

#: As many steps from DEBUG to what it is made of: DEBUG = _debug; _debug = os.environ.get("DEBUG").
MOST_STEPS = 4

#: What a fork is told, by a byte.
BEGIN, END = b"1", b"0"


def sources_of(settings: str, project: str) -> list[Source]:
    """Return the files of a project's settings: in its own directory, or where it is installed from."""
    for place in (Path(project), *(Path(entry) for entry in sys.path if entry)):
        if module_path(settings, [place]) is not None:
            # Of a directory that holds other packages too, only the settings' own is the project's.
            return settings_sources(settings, place, settings.partition(".")[0] if place != Path(project) else "")
    return []


# --- DEBUG from the environment


def variables(sources: Sequence[Source]) -> dict[str, str]:
    """Return the variables that make DEBUG False, each with the value that does, as far as the files tell."""
    found: dict[str, str] = {}
    for source in sources:
        for node in assignments(source.tree, "DEBUG"):
            value = value_of(node, "DEBUG")
            if value is not None:
                found |= _of_value(value, sources)
        found |= _of_classes(source.tree)
    return found


def _of_value(value: ast.expr, sources: Sequence[Source]) -> dict[str, str]:
    value = _resolved(value, sources, MOST_STEPS)
    wanted = [read for read in reads(value) if "DEBUG" in read.name.upper()]
    return {read.name: no for read in wanted if (no := _no(value, read)) is not None}


def _resolved(value: ast.expr, sources: Sequence[Source], steps: int) -> ast.expr:
    """Return an expression with what its names stand for put in their place."""

    class Names(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            if steps == 0:
                return node
            for source in sources:
                for statement in assignments(source.tree, node.id):
                    meant = value_of(statement, node.id)
                    if meant is not None and any(True for _read in reads(meant)):
                        return _resolved(meant, sources, steps - 1)
            return node

    copied = ast.parse(ast.unparse(value), mode="eval").body
    found: ast.expr = ast.fix_missing_locations(Names().visit(copied))
    return found


def _no(value: ast.expr, read: Read) -> str | None:
    """Return the text of the variable for which the expression is false; None where it never would be."""
    if not read.raw:
        return "0" if re.search(r"\bint\b", ast.unparse(read.node)) else NO
    for no in NOES:
        try:
            if not _evaluated(value, read.node, no):
                return no
        except NameError:
            return NO  # something of the project's makes a boolean of it
        except Exception:  # noqa: BLE001, S112 - the project's own expression may raise anything: not for this text
            continue
    return None


def _evaluated(value: ast.expr, node: ast.expr, text: str) -> object:
    """Return what a project's expression is where a variable has this text; it sees nothing but plain functions."""
    place = ast.unparse(node)

    class Text(ast.NodeTransformer):
        def visit(self, inner: ast.AST) -> Any:
            return ast.Constant(text) if ast.unparse(inner) == place else super().visit(inner)

    body = Text().visit(ast.parse(ast.unparse(value), mode="eval").body)
    code = compile(ast.fix_missing_locations(ast.Expression(body)), "DEBUG", "eval")
    plain = {
        name: getattr(builtins, name) for name in ("bool", "int", "str", "float", "len", "any", "all", "ValueError")
    }
    names = {"json": json, "ast": ast, "strtobool": _strtobool, "__builtins__": plain}
    return eval(code, names)  # noqa: S307 - an expression of the settings, which this process is about to import


def _strtobool(text: str) -> bool:
    words = {"y": True, "yes": True, "t": True, "true": True, "on": True, "1": True}
    words |= dict.fromkeys(("n", "no", "f", "false", "off", "0"), False)
    return words[text.lower()]


def _of_classes(tree: ast.AST) -> dict[str, str]:
    """Return the variables of pydantic's settings classes that have a field `debug`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("BaseSettings" in ast.unparse(base) for base in node.bases):
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            prefix = re.search(r"""env_prefix['"]?\s*[=:]\s*['"](\w*)['"]""", ast.unparse(node))
            found |= {
                f"{prefix[1] if prefix else ''}{field}".upper(): NO
                for field in fields
                if field.lower().endswith("debug")
            }
    return found


# --- what stays made from DEBUG


class Imports:
    """Imports of a project's settings alone, to be made before its process has imported anything of it.

    prepare() has run. None are made where no DEBUG may be True.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        self.sources = sources_of(config.settings, config.project)
        self.forks: list[_Fork] = []
        self.failure: OSError | None = None
        # The third is wanted only where the first two differ.
        for forced in (False, True, False) if _may_be_true(self.sources, config) else ():
            try:
                self.forks.append(_Fork(config, self.sources, forced=forced))
            except OSError as error:
                self.failure = error

    def derived(self) -> dict[str, Any]:
        """Return {"debug_derived": [{"name", "where"}], "debug_where": …, "debug_unknown": …}: what DEBUG has made.

        unknown: why that can't be told; the settings are imported a second and a third time to compare them. That is
        done only now: a file that they write when it is missing is there by now.
        """
        nothing: dict[str, Any] = {"debug_derived": [], "debug_where": "", "debug_unknown": ""}
        try:
            if self.failure is not None:
                raise self.failure
            return {**nothing, **(self._compared() if self.forks else {})}
        except (OSError, ValueError) as error:  # the project has closed what it did not open, or there is no room
            return {**nothing, "debug_unknown": f"{type(error).__name__}: {error}"}
        finally:
            self.end()

    def end(self) -> None:
        """Let those go that nobody has asked for anything."""
        while self.forks:
            self.forks.pop().end()

    def _compared(self) -> dict[str, Any]:
        for fork in self.forks[:2]:
            fork.begin()
        (plain, _words), (forced, words) = (fork.digests() for fork in self.forks[:2])
        if plain is None or forced is None:
            return {"debug_unknown": words if plain is not None else ""}
        different = sorted(name for name in {*plain, *forced} - OWNED if plain.get(name) != forced.get(name))
        if different:
            self.forks[2].begin()
            again, _words = self.forks[2].digests()
            # What is another at each import (a time, a random number) is not made from DEBUG.
            different = [name for name in different if plain.get(name) == (again or {}).get(name)]
        root = Path(self.config.project)
        where = [{"name": name, "where": place_of(self.sources, name, "DEBUG", root)} for name in different]
        return {"debug_derived": where, "debug_where": place_of(self.sources, "DEBUG", "True", root)}


class _Held:
    """A descriptor that a project may have closed, and another file been opened by its number since."""

    def __init__(self, number: int) -> None:
        self._number, self._file = number, self._which(number)

    @property
    def number(self) -> int:
        """The descriptor; OSError where it is no more what it was."""
        if self._which(self._number) != self._file:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._number

    @staticmethod
    def _which(number: int) -> tuple[int, int]:
        found = os.fstat(number)
        return found.st_dev, found.st_ino

    def read(self) -> bytes:
        """Return all of a file."""
        size = os.fstat(self.number).st_size
        return os.pread(self.number, size, 0)

    def write(self, word: bytes) -> None:
        """Write into a pipe."""
        os.write(self.number, word)


class _Fork:
    """A fork that waits until it may import the settings, or is told to end.

    It is no child of the process that made it, whose project may wait for all children that it finds. forced: as if
    every DEBUG in the settings were False.
    """

    def __init__(self, config: RuntimeConfig, sources: Sequence[Source], *, forced: bool) -> None:
        self.begun = False
        found, said = os.memfd_create("found"), os.memfd_create("said")
        waiting, go = os.pipe()
        done, ended = os.pipe()
        child = os.fork()
        if child:
            os.close(waiting)
            os.close(ended)
            with contextlib.suppress(ChildProcessError):  # the kernel waits for children itself: it is gone by then too
                os.waitpid(child, 0)
            self._go, self._done = _Held(go), _Held(done)
            self._found, self._said = _Held(found), _Held(said)
            return
        try:
            if os.fork():
                os._exit(0)
            self._speak_aside(said)
            os.close(go)
            if os.read(waiting, 1) == BEGIN:
                with open(found, "wb", closefd=False) as file:
                    _write_digests(config, sources, file, forced=forced)
        except BaseException:  # noqa: BLE001 - whatever it is: the project's own code may raise anything
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):  # the project may have put something of its own there
                sys.stderr.flush()
            with contextlib.suppress(OSError):
                os.write(ended, END)  # what the project has left behind may hold it open
            os._exit(0)

    @staticmethod
    def _speak_aside(said: int) -> None:
        """Leave standard input, output and error to who made this, whose reader waits until all have closed them."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor, target in ((nothing, 0), (nothing, 1), (said, 2)):
            os.dup2(descriptor, target)

    def begin(self) -> None:
        """Let it import the settings."""
        self._go.write(BEGIN)
        self.begun = True

    def end(self) -> None:
        """Let it end, where it has not begun."""
        if not self.begun:
            with contextlib.suppress(OSError):  # the project has closed the way to it, by which it ends too
                self._go.write(END)

    def digests(self) -> tuple[dict[str, str] | None, str]:
        """Return the digests of all settings; None and the last words of the import where it fails."""
        os.read(self._done.number, 1)
        found, said = self._found.read(), self._said.read()
        if not found:
            words = said.decode("utf-8", "replace").strip().splitlines()
            return None, (words or ["it ended without a word"])[-1]
        digests: dict[str, str] = json.loads(found)
        return digests, ""


def _write_digests(config: RuntimeConfig, sources: Sequence[Source], found: IO[bytes], *, forced: bool) -> None:
    """Import the settings, and write a digest of each."""
    from cluster_runtime.django_setup import import_settings  # noqa: PLC0415 - it imports this module

    if forced:
        sys.meta_path.insert(0, _Forced(sources))
    found.write(json.dumps(digests(import_settings(config))).encode())


def _may_be_true(sources: Sequence[Source], config: RuntimeConfig) -> bool:
    """Tell whether some DEBUG in the settings may be True while they are imported."""
    set_here = variables(sources).keys() - _said(config).keys()
    for source in sources:
        for node in assignments(source.tree, "DEBUG"):
            value = value_of(node, "DEBUG")
            if isinstance(value, ast.Constant) and not value.value:
                continue
            if value is None or not any(read.name in set_here for read in reads(_resolved(value, sources, MOST_STEPS))):
                return True
    return False


def _said(config: RuntimeConfig) -> Mapping[str, object]:
    return {**config.environment, **config.secret_environment()}


def apply(config: RuntimeConfig, environment: MutableMapping[str, str]) -> None:
    """Set the variables that make DEBUG False, where the stack says nothing of them.

    The environment is stronger than an `.env` for django-environ, environs, decouple, dotenv and pydantic.
    """
    said = _said(config)
    for name, no in variables(sources_of(config.settings, config.project)).items():
        if name not in said:
            environment[name] = no


class _Forced(importlib.abc.MetaPathFinder):
    """Imports the files of the settings as if every DEBUG in them were False."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.paths = {str(source.path.resolve()) for source in sources}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or str(Path(spec.origin).resolve()) not in self.paths:
            return None
        loader = _ForcedLoader(fullname, spec.origin)
        inside = [str(Path(spec.origin).parent)] if spec.submodule_search_locations is not None else None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=inside
        )


class _ForcedLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - importlib's signature
        tree = ast.parse(self.get_data(self.path))
        for node in assignments(tree, "DEBUG"):
            _set_false(node)
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


def _set_false(node: ast.Assign | ast.AnnAssign) -> None:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name) and target.id == "DEBUG":
            node.value = ast.Constant(value=False)
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Tuple | ast.List):
            for number, element in enumerate(target.elts):
                if isinstance(element, ast.Name) and element.id == "DEBUG":
                    node.value.elts[number] = ast.Constant(value=False)


def digests(module: ModuleType) -> dict[str, str]:
    """Return a digest of each setting; where objects lie in memory is no part of them."""
    texts = {name: repr(getattr(module, name)) for name in dir(module) if name.isupper()}
    plain = {name: re.sub(r" at 0x[0-9a-f]+", "", text) for name, text in texts.items()}
    return {name: hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16] for name, text in plain.items()}
