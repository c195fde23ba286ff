"""The paths in a project's settings, compared with the release: what it writes there, and what it looks for in vain.

A release is replaced, and all in its tree with it. So what the project writes must lie in `app.shared`, and what it
reads must have been taken into the release.
"""

from __future__ import annotations

import json
import operator
import os
import posixpath
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from cluster_runtime.config import RuntimeConfig

#: Beside the tree: paths from the project's directory that were left out of the release.
LEFT_OUT = "left-out.json"

#: Settings that Django, or a project, reads directories from.
READ = ("STATICFILES_DIRS", "TEMPLATES", "LOCALE_PATHS", "FIXTURE_DIRS", "sys.path")

#: How an option of a storage ends in any setting: packages have storages of their own (FILER_STORAGES, DBBACKUP_…).
STORED_AT = "['location']"

#: Settings whose paths are written, with the end of the one that is, where only some are; DATA is somebody's data.
DATA = {
    "MEDIA_ROOT": "",
    "STORAGES": STORED_AT,
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

#: Settings whose paths may be relative to the project's directory, in which an instance runs. (A cache's need not be a
#: path at all, and a database's or a storage's is told by itself.)
RELATIVE = {name: end for name, end in {**DATA, **SCRATCH}.items() if name not in {"DATABASES", "STORAGES", "CACHES"}}

#: Words in the backend of a cache that keeps files at its LOCATION.
CACHES_OF_FILES = ("filebased", "diskcache")

#: Opened paths that are remembered; a project that looks for more is told of the first ones.
MOST_OPENED = 200


@dataclass(frozen=True)
class Stored:
    """A storage of files: what names it, its directory, and below which one there; of_field: of a model's field."""

    name: str
    location: str
    below: str = ""
    of_field: bool = False


class Opened:
    """Remembers which files in the release's tree are read, and which are written, from `begin` on.

    database: the file that sqlite was asked for last, whose own error does not name it.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self.tree = config.tree
        self.paths: dict[str, None] = {}
        self.written: dict[str, None] = {}
        self.database = ""

    def begin(self) -> None:
        """Listen: an audit hook can't be taken away again, and costs a project nothing once it has started."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect":
            name = arguments[0] if arguments else ""
            self.database = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
            return
        if not self.tree or event != "open" or not arguments:
            return
        path, flags = arguments[0], arguments[2]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or (path.startswith("/") and not path.startswith(self.tree)):
            return
        # What it makes it does not miss.
        heard = self.written if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) else self.paths
        if len(heard) < MOST_OPENED:
            heard.setdefault(path)


def look(
    config: RuntimeConfig,
    opened: Opened,
    settings: Any | None,
    storages: Iterable[Stored] = (),
    databases: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return what the project writes into the release and what it misses there, as paths from its directory.

    storages: the project's own, by `storages_of_project`. databases: sqlite files that the cluster's own are still to
    begin with, by their aliases.

    written: [{"setting", "path", "share", "data"}], without a setting where it is written by the import itself, and
    with what to add to app.shared (empty: there is no such path);
    missing: [{"setting", "path"}], of what was left out of the release alone.
    """
    if not config.tree:
        return {"written": [], "missing": []}
    release = _Release(config)
    written, missing = [], []
    for setting, text in _paths_of(settings):
        path = release.path_of(text)
        if path is None or setting.startswith(IGNORED):
            continue
        data = _is_among(DATA, setting) or setting.endswith(STORED_AT)
        if data or _is_among(SCRATCH, setting) or _sounds_written(setting):
            if not release.is_shared(path) and not _is_replaced(setting, config):
                written.append(release.written(setting, path, data=data))
        elif release.is_left_out(path):
            missing.append({"setting": setting, "path": path})
    for found in (_uploads(config, settings, release, storages), _written_by_import(opened, release)):
        named = [str(one["path"]) for one in written]
        written += [one for one in found if not is_within(str(one["path"]), named)]
    missing += _left_out(opened, release, databases or {}, {str(one["path"]) for one in missing})
    return {"written": written, "missing": missing}


def _left_out(
    opened: Opened, release: _Release, databases: Mapping[str, Path], named: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield what was left out of the release: databases to begin with, and what the import opened."""
    for alias, file in databases.items():
        path = release.path_of(str(file))
        if path is not None and release.is_left_out(path):
            yield {"setting": f"DATABASES[{alias!r}]", "path": path}
    for text in opened.paths:
        path = release.path_of(text)
        if path is not None and path not in named and release.is_left_out(path) and not release.is_shared(path):
            yield {"setting": "", "path": path}


def why_written(one: dict[str, Any]) -> str:
    """Return a sentence: what is wrong with a path that `look` found to be written."""
    what = f"{one['setting']} is {one['path']} in the project" if one["setting"] else f"The import writes {one['path']}"
    return f"{what}, and each release replaces that: what is written is lost."


def how_to_keep(one: dict[str, Any]) -> str:
    """Return a sentence: what to write into the stack file."""
    share = one.get("share", one["path"])  # a release of a former runtime says nothing of it
    if not share:
        return "Let the project write into a directory of its own, and add that to app.shared."
    return f"Add {share} to app.shared." if share == one["path"] else f"Add its directory, {share}, to app.shared."


def directory_of(path: str) -> str:
    """Return what app.shared takes for a path where nothing is yet: of a file its directory, but the project's own."""
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


def _uploads(
    config: RuntimeConfig, settings: Any | None, release: _Release, storages: Iterable[Stored]
) -> list[dict[str, Any]]:
    """Return where uploads go into the release, by whatever storage."""
    found: dict[str, dict[str, Any]] = {}
    media = os.path.abspath(str(getattr(settings, "MEDIA_ROOT", "")))  # noqa: PTH100 - text, as Django makes it
    for one in storages:
        if config.media == "" and one.location == media:  # the stack file said what becomes of it
            continue
        location = one.location
        if location == config.project:  # there is no MEDIA_ROOT: each field has its own directory, if any
            location = os.path.join(location, one.below)  # noqa: PTH118 - text, whatever is there
        path = release.path_of(location)
        if path is not None and not release.is_shared(path):
            found.setdefault(path, {"setting": one.name, "path": path, "share": path, "data": True})
        elif location.rstrip("/") == config.project and one.of_field:
            found.setdefault(".", {"setting": one.name, "path": ".", "share": "", "data": False})
    return list(found.values())


def storages_of_project() -> list[Stored]:
    """Return the storages that keep files on this machine: those of STORAGES, and those of the models' fields."""
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.core.files import storage  # noqa: PLC0415
    from django.db.models import FileField  # noqa: PLC0415

    handler: Any = getattr(storage, "storages", None)  # Django 4.2 and newer
    aliases = [alias for alias in getattr(handler, "backends", ()) if alias != "staticfiles"]
    found = [_stored(f"STORAGES[{alias!r}]", partial(operator.getitem, handler, alias)) for alias in aliases]
    for model in apps.get_models(include_auto_created=True):
        label = model._meta.label  # noqa: SLF001 - so Django calls it
        for field in model._meta.local_fields:  # noqa: SLF001
            if isinstance(field, FileField):
                begin, dated, _ = field.upload_to.partition("%") if isinstance(field.upload_to, str) else ("", "", "")
                below = (posixpath.dirname(begin) if dated else begin).strip("/")
                found.append(_stored(f"{label}.{field.name}", partial(getattr, field, "storage"), below))
    return [one for one in found if one is not None]


def _stored(name: str, storage: Callable[[], Any], below: str | None = None) -> Stored | None:
    """Return where a storage keeps its files; None where it has none here."""
    from django.core.files.storage import FileSystemStorage  # noqa: PLC0415 - after the settings

    try:
        made = storage()
        location = str(made.location) if isinstance(made, FileSystemStorage) else ""
    except Exception:  # noqa: BLE001 - the project's own class may raise anything; who uses it is told
        return None
    return Stored(name, location, below or "", of_field=below is not None) if location else None


def _written_by_import(opened: Opened, release: _Release) -> list[dict[str, Any]]:
    """Return the files that were written while the project was imported."""
    paths = dict.fromkeys(release.path_of(text) for text in opened.written if not text.endswith(".pyc"))
    return [
        release.written("", path, data=False)
        for path in paths
        if path is not None and not release.is_shared(path) and release.is_file(path)
    ]


def is_within(path: str, others: Iterable[str]) -> bool:
    """Tell whether a path is one of others, or below one."""
    return any(path == other or path.startswith(f"{other}/") for other in others)


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

    def written(self, setting: str, path: str, *, data: bool) -> dict[str, Any]:
        """Return what is told of a path that is written here."""
        return {"setting": setting, "path": path, "share": self.to_share(path), "data": data}

    def to_share(self, path: str) -> str:
        """Return what to add to app.shared for a path; empty where there is nothing that could be added.

        Of a file its directory, in which others may lie beside it, but not one that holds code. A name in app.shared
        that has no ending is a directory's.
        """
        ending, directory = bool(posixpath.splitext(path)[1]), posixpath.dirname(path)
        if not ending and not self.is_file(path):
            return path
        if directory.strip("./") and not _holds_code(Path(self.project, directory)):
            return directory
        return path if ending else ""

    def is_file(self, path: str) -> bool:
        return Path(self.project, path).is_file()

    def is_shared(self, path: str) -> bool:
        return is_within(path, self.shared)

    def is_left_out(self, path: str) -> bool:
        """Tell whether a path is not here, though it is where the release was made of."""
        here = Path(self.project) / path
        if os.path.lexists(here) and not (path in self.left_out and here.is_dir() and not any(here.iterdir())):
            return False
        parts = path.split("/")
        return any("/".join(parts[:count]) in self.left_out for count in range(1, len(parts) + 1))


def _holds_code(directory: Path) -> bool:
    return any(name.endswith(".py") for _directory, _directories, names in os.walk(directory) for name in names)


def _paths_of(settings: Any | None) -> Iterator[tuple[str, str]]:
    """Yield (setting, path) of everything in the settings that is a path, and of what Python imports from."""
    for entry in sys.path:
        yield "sys.path", entry
    if settings is None:
        return
    for name in dir(settings):
        if name.isupper():
            yield from _paths_in(name, getattr(settings, name), 0)
    for alias, entry in getattr(settings, "CACHES", {}).items():
        location = str(entry.get("LOCATION") or "")
        of_files = any(word in str(entry.get("BACKEND", "")).lower() for word in CACHES_OF_FILES)
        if of_files and location and not location.startswith("/"):
            yield f"CACHES[{alias!r}]['LOCATION']", location


def _paths_in(where: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/") and len(value) > 1):
        yield where, str(value)
    elif isinstance(value, str) and value and _is_among(RELATIVE, where):
        yield where, value
    elif isinstance(value, dict) and depth < 8:  # noqa: PLR2004 - deeper than any setting
        for key, inner in value.items():
            yield from _paths_in(f"{where}[{key!r}]", inner, depth + 1)
    elif isinstance(value, list | tuple | set) and depth < 8:  # noqa: PLR2004
        for inner in value:
            yield from _paths_in(where, inner, depth + 1)


__all__ = [
    "LEFT_OUT",
    "Opened",
    "Stored",
    "how_to_keep",
    "is_within",
    "look",
    "refusals",
    "storages_of_project",
    "why_written",
]
