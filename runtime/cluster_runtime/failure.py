"""Why a project does not import: the last frames of its own traceback, and what it lacks where that can be told."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.databases import file_of
from cluster_runtime.paths import directory_of
from cluster_runtime.sources import Read, Source, reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from traceback import FrameSummary

#: Frames of a traceback that are shown: where the project went wrong is at its end.
LAST_FRAMES = 4

#: Whose frames say nothing of the project.
RUNTIME = str(Path(__file__).resolve().parent)

#: How libraries and projects say that a variable is missing.
SAYS_MISSING = re.compile(
    r"environment variable|env(?:ironment)? var|envvar|not found|not set|missing|required", re.IGNORECASE
)

#: What sqlite says of a file whose directory is not there.
NOT_OPENED = "unable to open database file"

WORD = re.compile(r"\b[A-Z][A-Z0-9_]{2,}\b")


def explain(error: BaseException, project: str, sources: Sequence[Source], database: str = "") -> dict[str, Any]:
    """Return {"text", "variables", "reads", "module", "where", "absent"} of an import that failed.

    database: the file that sqlite was asked for last.
    variables: of the environment, which the settings need and do not have. reads: those that are read
    where it failed. module: what could not be imported.
    where: file and line of the project. absent: a path from the project's directory that it could not
    write, its directory not being there, or another user's.
    """
    root = Path(project)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _tells(frame)]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    last = own[-1] if own else None
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    return {
        "text": "\n".join(_lines(error, frames, root)),
        "variables": sorted(_variables(error, last, sources)),
        "reads": sorted({read.name for read in _at(last, sources)}),
        "module": missing or "",
        "absent": _absent(error, root, database),
        "where": f"{_relative(last.filename, root)}:{last.lineno}" if last is not None else "",
    }


def _tells(frame: FrameSummary) -> bool:
    return not frame.filename.startswith(("<frozen", RUNTIME))


def _relative(file: str, root: Path) -> str:
    path = Path(file)
    if path.is_relative_to(root):
        return str(path.relative_to(root))
    parts = path.parts
    return "/".join(parts[parts.index("site-packages") + 1 :]) if "site-packages" in parts else file


def _lines(error: BaseException, frames: Sequence[FrameSummary], root: Path) -> Iterator[str]:
    own = [number for number, frame in enumerate(frames) if Path(frame.filename).is_relative_to(root)]
    shown = frames[own[0] :] if own else frames
    for frame in shown[-LAST_FRAMES:]:
        yield f"{_relative(frame.filename, root)}:{frame.lineno}: {frame.line}"
    yield from "".join(traceback.format_exception_only(error)).strip().splitlines()
    cause = _cause(error)
    if cause is not error:
        yield from "".join(traceback.format_exception_only(cause)).strip().splitlines()


def _cause(error: BaseException) -> BaseException:
    """Return what an error was raised from in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _absent(error: BaseException, root: Path, database: str) -> str:
    cause = _cause(error)
    if isinstance(cause, FileNotFoundError | PermissionError) and isinstance(cause.filename, str):
        named = cause.filename
    elif type(cause).__name__ == "OperationalError" and NOT_OPENED in str(cause):
        named = file_of(database)
    else:
        named = ""
    if not named:
        return ""
    path = Path(os.path.normpath(root / named))
    may_write = path.parent.exists() and (isinstance(cause, FileNotFoundError) or os.access(path.parent, os.W_OK))
    if not path.is_relative_to(root) or (may_write and not isinstance(cause, PermissionError)):
        return ""
    return str(path.relative_to(root))


def _variables(error: BaseException, last: FrameSummary | None, sources: Sequence[Source]) -> set[str]:
    known = {read.name for source in sources for read in reads(source.tree)}
    fields = set(_fields(error, sources))
    if fields:
        return fields
    if isinstance(error, KeyError) and error.args:
        name = str(error.args[0])
        of_environment = bool(_at(last, sources)) or name in known
        return {name} if WORD.fullmatch(name) and of_environment and name not in os.environ else set()
    if "NoneType" in str(error) and isinstance(error, TypeError | AttributeError | ValueError):
        return {read.name for read in _at(last, sources) if read.name not in os.environ}
    if isinstance(error, ImportError | SyntaxError | NameError):
        return set()
    text = str(error)
    words = set(WORD.findall(text)) - os.environ.keys()
    return (words & known) or (_first(words, text) if SAYS_MISSING.search(text) else set())


def _first(words: Iterable[str], text: str) -> set[str]:
    """Return the word that a message is about, where the settings read none of them by that name: one has a prefix."""
    named = [word for word in sorted(words, key=text.index) if "_" in word]
    return set(named[:1])


def _at(frame: FrameSummary | None, sources: Sequence[Source]) -> list[Read]:
    """Return the variables that are read in the line of a frame."""
    if frame is None or frame.lineno is None:
        return []
    first, last = frame.lineno, frame.end_lineno or frame.lineno
    return [
        read
        for source in sources
        if str(source.path) == frame.filename
        for read in reads(source.tree)
        if first <= read.line <= last
    ]


def _fields(error: BaseException, sources: Sequence[Source]) -> Iterator[str]:
    """Yield the variables of the fields that one of pydantic's settings classes lacks."""
    if not type(error).__module__.startswith("pydantic"):
        return
    title = str(getattr(error, "title", ""))
    text = next((found for source in sources if (found := _class_text(source, title))), "")
    prefix = re.search(r"""env_prefix['"]?\s*[=:]\s*['"](\w*)['"]""", text)
    for problem in getattr(error, "errors", list)():
        if problem.get("type") == "missing":
            yield f"{prefix[1] if prefix else ''}{problem['loc'][0]}".upper()


def _class_text(source: Source, name: str) -> str:
    import ast  # noqa: PLC0415 - only for a class of settings

    classes = (node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return next((ast.unparse(node) for node in classes), "")


def remedy(failure: dict[str, Any]) -> str:
    """Return the line that says what to do; empty where only the traceback tells."""
    if failure["variables"]:
        names = ", ".join(failure["variables"])
        where = f" ({failure['where']})" if failure["where"] else ""
        return (
            f"app.environment: the project needs {names}{where}, which the environment does not have; set it in "
            "app.environment, or in the secret secret_environment"
        )
    if failure["absent"]:
        path = failure["absent"]
        return (
            f"app.shared: the project wants to write {path}, which a release can't keep: add {directory_of(path)} to "
            "app.shared"
        )
    return ""
