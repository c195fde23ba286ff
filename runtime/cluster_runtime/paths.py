"""The paths in a project's settings, compared with the release: what it writes there, and what it looks for in vain.

A release is replaced, and all in its tree with it. So what the project writes must lie in `app.shared`, and what it
reads must have been taken into the release.
"""

from __future__ import annotations

import json
import os
import posixpath
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_runtime.config import RuntimeConfig

#: Beside the tree: paths from the project's directory that were left out of the release.
LEFT_OUT = "left-out.json"

#: Settings that Django, or a project, reads directories from.
READ = ("STATICFILES_DIRS", "TEMPLATES", "LOCALE_PATHS", "FIXTURE_DIRS", "sys.path")

#: Settings whose paths are written, with the end of the one that is, where only some are; DATA is somebody's data.
DATA = {
    "MEDIA_ROOT": "",
    "STORAGES": "['location']",
    "DATABASES": "['NAME']",
    "EMAIL_FILE_PATH": "",
    "SESSION_FILE_PATH": "",
    # An index of Whoosh or Xapian, and a queue that is an sqlite file: of packages that so many projects have.
    "HAYSTACK_CONNECTIONS": "['PATH']",
    "HUEY": "['filename']",
}
SCRATCH = {"LOGGING": "['filename']", "CACHES": "['LOCATION']", "FILE_UPLOAD_TEMP_DIR": ""}

#: Collected anew for each release.
IGNORED = ("STATIC_ROOT", "BASE_DIR")

#: Words in the name of any other setting that say that its path is written.
WRITTEN_WORDS = ("UPLOAD", "MEDIA", "CACHE", "LOG", "INDEX", "TMP", "TEMP", "EXPORT", "BACKUP", "SENDFILE", "PRIVATE")

#: Opened paths that are remembered; a project that looks for more is told of the first ones.
MOST_OPENED = 200


class Opened:
    """Remembers what is looked for in the release's tree and is not there, from `begin` on.

    database: the file that sqlite was asked for last, whose own error does not name it.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self.tree = config.tree
        self.paths: dict[str, None] = {}
        self.database = ""

    def begin(self) -> None:
        """Listen: an audit hook can't be taken away again, and costs a project nothing once it has started."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect":
            name = arguments[0] if arguments else ""
            self.database = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
            return
        if not self.tree or event != "open" or not arguments or len(self.paths) >= MOST_OPENED:
            return
        path, flags = arguments[0], arguments[2]
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            return  # it makes it, and does not miss it
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and (not path.startswith("/") or path.startswith(self.tree)):
            self.paths.setdefault(path)


def look(config: RuntimeConfig, opened: Opened, settings: Any | None) -> dict[str, Any]:
    """Return what the project writes into the release and what it misses there, as paths from its directory.

    written: [{"setting", "path", "data"}]; missing: [{"setting", "path"}], of what was left out of the release alone.
    """
    if not config.tree:
        return {"written": [], "missing": []}
    release = _Release(config)
    written, missing = [], []
    for setting, text in _paths_of(settings):
        path = release.path_of(text)
        if path is None or setting.startswith(IGNORED):
            continue
        data = _is_among(DATA, setting)
        if data or _is_among(SCRATCH, setting) or _sounds_written(setting):
            if not release.is_shared(path) and not _is_replaced(setting, config):
                written.append({"setting": setting, "path": path, "data": data})
        elif release.is_left_out(path):
            missing.append({"setting": setting, "path": path})
    named = {one["path"] for one in missing}
    for text in opened.paths:
        path = release.path_of(text)
        if path is not None and path not in named and release.is_left_out(path) and not release.is_shared(path):
            missing.append({"setting": "", "path": path})
    return {"written": written, "missing": missing}


def why_written(one: dict[str, Any]) -> str:
    """Return a sentence: what is wrong with a path that `look` found to be written."""
    return f"{one['setting']} is {one['path']} in the project, and each release replaces that: what is written is lost."


def how_to_keep(one: dict[str, Any]) -> str:
    """Return a sentence: what to write into the stack file."""
    path, shared = one["path"], directory_of(one["path"])
    return f"Add {path} to app.shared." if shared == path else f"Add its directory, {shared}, to app.shared."


def directory_of(path: str) -> str:
    """Return what app.shared takes for a path of the project's: of a file its directory, but the project's own."""
    return (posixpath.dirname(path) if posixpath.splitext(path)[1] else "") or path


def refusals(found: dict[str, Any]) -> list[str]:
    """Return, for what `look` found, a line for each thing with which a release must not serve."""
    lines = [
        f"app.include: {one['setting'] or 'the project'} looks for {one['path']}, which is not in the release: "
        f"add {one['path']} to app.include"
        for one in found["missing"]
    ]
    return [*lines, *(f"app.shared: {why_written(one)} {how_to_keep(one)}" for one in found["written"] if one["data"])]


def _is_among(written: dict[str, str], setting: str) -> bool:
    name = setting.split("[", maxsplit=1)[0]
    return name in written and setting.endswith(written[name]) and "['TEST']" not in setting


def _is_replaced(setting: str, config: RuntimeConfig) -> bool:
    """Tell whether the stack file said what becomes of a setting's path."""
    return setting == "MEDIA_ROOT" and config.media == ""


def _sounds_written(setting: str) -> bool:
    name = setting.split("[", maxsplit=1)[0]
    known = name in {*DATA, *SCRATCH} or name.startswith(READ)
    words = {
        word.removesuffix("S") for word in name.split("_")
    }  # BLOG_DIR is no log, and TEMPLATE_DIR nothing temporary
    return not known and not words.isdisjoint(WRITTEN_WORDS)


class _Release:
    """Tells where a path lies: in the release, in what is shared, or in what was left out."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.tree, self.project = Path(config.tree), config.project
        self.shared = tuple(config.shared)
        try:
            left_out = json.loads((self.tree.parent / LEFT_OUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            left_out = []
        self.left_out = {str(path) for path in left_out}

    def path_of(self, text: str) -> str | None:
        """Return a path from the project's directory; None where it is not in the release, or is the project itself."""
        absolute = os.path.normpath(os.path.join(self.project, text))  # noqa: PTH118 - text, whatever is there
        if not absolute.startswith(f"{self.tree}{os.sep}"):
            return None
        path = os.path.relpath(absolute, self.project)
        return None if set(Path(path).parts) <= {".", ".."} else path

    def is_shared(self, path: str) -> bool:
        return any(path == shared or path.startswith(f"{shared}/") for shared in self.shared)

    def is_left_out(self, path: str) -> bool:
        """Tell whether a path is not here, though it is where the release was made of."""
        here = Path(self.project) / path
        if os.path.lexists(here) and not (path in self.left_out and here.is_dir() and not any(here.iterdir())):
            return False
        parts = path.split("/")
        return any("/".join(parts[:count]) in self.left_out for count in range(1, len(parts) + 1))


def _paths_of(settings: Any | None) -> Iterator[tuple[str, str]]:
    """Yield (setting, path) of everything in the settings that is a path, and of what Python imports from."""
    for entry in sys.path:
        yield "sys.path", entry
    if settings is None:
        return
    for name in dir(settings):
        if name.isupper():
            yield from _paths_in(name, getattr(settings, name), 0)


def _paths_in(where: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/") and len(value) > 1):
        yield where, str(value)
    elif isinstance(value, str) and value and where in {"MEDIA_ROOT", "EMAIL_FILE_PATH", "FILE_UPLOAD_TEMP_DIR"}:
        yield where, value  # relative to the project's directory, in which an instance runs
    elif isinstance(value, dict) and depth < 8:  # noqa: PLR2004 - deeper than any setting
        for key, inner in value.items():
            yield from _paths_in(f"{where}[{key!r}]", inner, depth + 1)
    elif isinstance(value, list | tuple | set) and depth < 8:  # noqa: PLR2004
        for inner in value:
            yield from _paths_in(where, inner, depth + 1)


__all__ = ["LEFT_OUT", "Opened", "how_to_keep", "look", "refusals", "why_written"]
