"""What of a project's source belongs to a release, and where it lies in it. The same on every platform.

A release holds a tree: the project at `project_place`, and what `app.include` takes from above it where the project
looks for it. Left out is what no release needs: version control, caches, virtual environments, files that git ignores
and nothing names, databases, and what the project writes (`app.shared`), which lies outside of all releases.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import subprocess
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.settings_source import Settings, read_settings
from cluster_runtime.databases import file_of, is_of_files
from cluster_runtime.gather import is_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cluster.config.models import ClusterConfig

#: Nobody needs these, wherever they are.
NEVER = frozenset({".git", "__pycache__", ".cluster"})
BYTECODE = (".pyc", ".pyo")

#: Marks a virtual environment, whatever it is called.
VENV_MARK = "pyvenv.cfg"

#: Directories that are no part of a project's code, unless something names them.
IGNORED_DIRECTORIES = frozenset(
    (
        *(".hg", ".svn", ".venv", "venv", "node_modules", ".tox", ".nox"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".idea", ".vscode"),
    )
)
DATABASE_SUFFIXES = (".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".sqlite3-journal")

#: What lies beside an sqlite database while it is used.
SQLITE_ENDINGS = ("", "-wal", "-shm", "-journal")

#: Git ignores these where a tool makes them, and a project may still need them to run.
KEPT_SUFFIXES = (".py", ".so", ".pyd", ".mo")
KEPT_DIRECTORIES = frozenset({"static", "templates", "locale"})
KEPT_NAMES = ".env"

#: Settings whose paths are written, or are databases: to name one there is no reason to take it.
WRITTEN = frozenset(
    (
        *("MEDIA_ROOT", "STATIC_ROOT", "DATABASES", "LOGGING", "CACHES", "EMAIL_FILE_PATH", "FILE_UPLOAD_TEMP_DIR"),
        *("SESSION_FILE_PATH", "STORAGES"),
    )
)

#: Levels above the project that a release always has, so that BASE_DIR.parent is a directory of its own.
LEAST_LEVELS = 2

#: What lies further above the project than this is the machine's, and not the repository's.
MOST_LEVELS = 4

#: Directories within each other that nobody has, but by links that lead in a circle.
DEEPEST = 60

#: Where the parts of a release's tree lie.
TREE = "tree"

#: Paths of what was left out that a release is told, so that it can say that the project looks for one of them.
MOST_LEFT_OUT = 2000


class ReleaseError(ClusterError):
    """A release can't be made of this project; the text has the key's path, and says what to do."""


def project_place(config: ClusterConfig) -> str:
    """Return where the project lies in a release: as in the repository, and deep enough for what lies above it."""
    parts = [part for part in posixpath.normpath(config.app.project).split("/") if part not in {"", ".", ".."}]
    parts = ["project"] if not parts else parts[-1:] if config.app.project.startswith("/") else parts
    ups = max((path.count("../") for path in (*config.app.include, *shared_paths(config))), default=0)
    return "/".join([TREE, *(["above"] * (max(LEAST_LEVELS, ups) - len(parts))), *parts])


def shared_paths(config: ClusterConfig) -> list[str]:
    """Return what the project writes, as paths from its directory: app.shared and its media, none within another."""
    app = config.app
    media = [media.root for media in (app.media, app.protected_media) if media is not None and media.root]
    found = sorted({*app.shared, *media})
    return [path for path in found if not any(path.startswith(f"{other}/") for other in found)]


def location_of(config: ClusterConfig, path: str) -> str:
    """Return where a path of the project's lies below the directory of all that is shared: in one that holds it."""
    holder = next(shared for shared in shared_paths(config) if path == shared or path.startswith(f"{shared}/"))
    return shared_place(holder) + path.removeprefix(holder)


def is_file_name(path: str) -> bool:
    """Tell whether a shared path is a file's: its name has an ending (`var/audit.sqlite3`), a directory's has none."""
    return bool(PurePosixPath(path).suffix)


def shared_place(path: str) -> str:
    """Return where a shared path lies below the directory of all of them: each in a directory of its own."""
    name = path.replace("%", "%25").replace("../", "..%2F").replace("/", "%2F")
    return f"{name}/{posixpath.basename(path)}" if is_file_name(path) else name


def check_shared(path: str, held: Path) -> None:
    """Refuse a shared path whose name does not tell what it is: where it is made anew, only its name is known."""
    if held.is_dir() and is_file_name(path):
        raise ReleaseError(
            f"app.shared: {path} is a directory, and its name is a file's: give it one without an ending"
        )
    if held.is_file() and not is_file_name(path):
        raise ReleaseError(
            f"app.shared: {path} is a file, and its name has no ending: name the directory that holds it"
        )
    code = next((name for name in ("__init__.py", "manage.py") if (held / name).is_file()), None)
    if code is not None or held.suffix in KEPT_SUFFIXES:
        why = f" (it holds {code})" if code else ""
        raise ReleaseError(
            f"app.shared: {path} is code{why}, and what is shared is the same for all releases: no change of it would "
            "ever run; name what the project writes there"
        )


@dataclass(frozen=True)
class Entry:
    """One thing of a release's tree.

    target: its path from the project's directory in the release, with leading `..` where it was included from above.
    source: where it is read; None for a directory that is made empty. link: what a link says; None for anything else.
    fixed: whether another content makes another release.
    """

    target: str
    source: Path | None
    link: str | None = None
    fixed: bool = True


class Rule(Enum):
    """By which rule the contents of a directory are looked at."""

    NORMAL = "take what a release needs"
    WHOLE = "take all of it: something names it"
    ONLY_NAMED = "take what something names below it, and nothing else"


@dataclass
class Listing:
    """What a release takes, and the paths that it leaves out, from the project's directory."""

    entries: list[Entry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The source of one stack's releases.

    project: app.project, absolute. root: the repository, beyond which no link leads. module: app.settings. collects:
    whether STATIC_ROOT is made anew for each release. texts: what the stack file says to the project. owned_databases:
    aliases of DATABASES that the stack file puts elsewhere. withheld: files that no release gets, whatever names them:
    the key with which nginx is the site.
    """

    project: Path
    root: Path
    module: str = ""
    include: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    collects: bool = True
    texts: tuple[str, ...] = ()
    withheld: frozenset[Path] = frozenset()
    owned_databases: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> Settings:
        """What the project's settings say without being run."""
        return read_settings(self.project, self.module) if self.module else Settings()

    @cached_property
    def databases(self) -> tuple[Path, ...]:
        """The sqlite files that DATABASES names: their content is data, and never code."""
        found: Any = self.settings.known("DATABASES") or {}
        entries = [
            file_of(str(entry.get("NAME") or ""))
            for alias, entry in (found.items() if isinstance(found, dict) else ())
            if isinstance(entry, dict) and alias not in self.owned_databases and is_of_files(str(entry.get("ENGINE")))
        ]
        return tuple(self.project / name for name in entries if name)

    @cached_property
    def listing(self) -> Listing:
        """What is taken and what is left out, in a fixed order; ReleaseError where something can't be taken."""
        found = Listing()
        self._walk(found, self.project, "", Rule.NORMAL)
        for path in self.include:
            source = self.project / path
            if not os.path.lexists(source):
                raise ReleaseError(f"app.include: {path}: there is no {source}")
            self._take(found, source, path, Rule.WHOLE)
            if is_sqlite(source):
                # What was not yet written back from its journal belongs to it.
                journals = [(source.with_name(source.name + ending), path + ending) for ending in ("-wal", "-journal")]
                found.entries += [Entry(target, journal) for journal, target in journals if journal.is_file()]
        for file in self._database_files():
            found.entries.append(Entry(os.path.relpath(file, self.project), file, fixed=False))
        found.entries = list({entry.target: entry for entry in found.entries}.values())
        above, ups = self.project, ""
        while above != self.root and self.root in above.parents:
            below, above, ups = above.name, above.parent, f"../{ups}"
            names = sorted(child.name for child in above.iterdir())
            found.left_out += [f"{ups}{name}" for name in names if name not in {below, *NEVER}]
        found.left_out = found.left_out[:MOST_LEFT_OUT]
        return found

    def tree(self, shared: str) -> list[Entry]:
        """Return all that lies in a release's tree: what is taken, and links to what is shared, below `shared`."""
        links = [Entry(place, None, link=f"{shared}/{shared_place(path)}") for place, path in self._links.items()]
        return [*self.listing.entries, *links]

    @cached_property
    def _links(self) -> dict[str, str]:
        """What is shared, by where its link lies: through links of the project, as they are in a release too."""
        project = self.project.resolve()
        found = {}
        for path in self.shared:
            above = Path(os.path.realpath(self.project / posixpath.dirname(path)))
            inside = above == project or project in above.parents
            found[os.path.relpath(above / posixpath.basename(path), project) if inside else path] = path
        return found

    def digest(self) -> str:
        """Return a digest of the names, contents and executable bits of what a release takes."""
        return _digest(self._fingerprints)

    @cached_property
    def _fingerprints(self) -> list[str]:
        """What each entry was when it was looked at."""
        return fingerprints(self.listing.entries)

    def changed(self) -> list[str]:
        """Return what is not any more as it was when the digest was made."""
        now = fingerprints(self.listing.entries)
        fixed = [entry.target for entry in self.listing.entries if entry.fixed]
        return [path for path, then, new in zip(fixed, self._fingerprints, now, strict=True) if then != new]

    # --- looking

    def _walk(self, found: Listing, directory: Path, target: str, rule: Rule) -> None:
        if target.count("/") > DEEPEST:
            raise ReleaseError(f"app.project: {target} goes on for ever: links lead to each other")
        try:
            names = sorted(child.name for child in directory.iterdir())
        except OSError as error:
            raise ReleaseError(f"app.project: {directory} can't be read: {error.strerror}") from error
        taken, left_out = len(found.entries), len(found.left_out)
        for name in names:
            path, inner = directory / name, posixpath.join(target, name)
            below = self._rule_for(path, inner, rule)
            if below is not None:
                self._take(found, path, inner, below)
            if below in {None, Rule.ONLY_NAMED} and rule is Rule.NORMAL and name not in NEVER:
                found.left_out.append(inner)
        if target and len(found.entries) == taken:
            # Somebody may write into it. Where all in it was left out, one path tells so.
            found.entries.append(Entry(target, None, fixed=False))
            if len(found.left_out) > left_out:
                found.left_out[left_out:] = [target]

    def _rule_for(self, path: Path, target: str, rule: Rule) -> Rule | None:
        """Return by which rule an entry of a directory is taken; None where it is left out."""
        directory = path.is_dir() and not path.is_symlink()
        useless = path.name in NEVER or path.name.endswith(BYTECODE) or (directory and (path / VENV_MARK).is_file())
        if useless or target in self._links or self._is_database(path):
            return None
        if rule is Rule.WHOLE or any(path == named or named in path.parents for named in self._named):
            return Rule.WHOLE
        if rule is Rule.NORMAL and not self._is_useless(path, target, directory=directory):
            return Rule.NORMAL
        return Rule.ONLY_NAMED if any(path in named.parents for named in self._named) else None

    def _is_useless(self, path: Path, target: str, *, directory: bool) -> bool:
        """Tell whether a release needs nothing of it, unless something names it."""
        if path.name in IGNORED_DIRECTORIES if directory else path.name.endswith(DATABASE_SUFFIXES):
            return True
        return target in self._ignored and not self._is_kept(path, target)

    def _is_kept(self, path: Path, target: str) -> bool:
        """Tell whether what git ignores is taken all the same: code, translations, and what a setting's text names."""
        parts = set(PurePosixPath(target).parts)
        code = path.suffix in KEPT_SUFFIXES or path.name.startswith(KEPT_NAMES)
        return code or bool(parts & KEPT_DIRECTORIES) or bool(parts & self._words)

    def _take(self, found: Listing, path: Path, target: str, rule: Rule) -> None:
        if self.withheld and path.resolve() in self.withheld:
            return
        if path.is_symlink():
            self._take_link(found, path, target)
        elif path.is_dir():
            self._walk(found, path, target, rule)
        elif path.is_file():
            found.entries.append(Entry(target, path))

    def _take_link(self, found: Listing, path: Path, target: str) -> None:
        """Take a link: one that stays in the project as it is, one that leads elsewhere in the repository resolved."""
        said, real = os.readlink(path), Path(os.path.realpath(path))  # noqa: PTH115 - the text as it stands
        stays = not said.startswith("/") and self.project.resolve() in real.parents
        if stays or not real.exists():  # one that leads nowhere here leads nowhere there
            found.entries.append(Entry(target, path, link=said))
        elif self.root.resolve() not in real.parents:
            raise ReleaseError(
                f"app.project: the link {target} leads to {real}, outside of the repository: put what it leads to into "
                "the project; where the project writes there, name the link in app.shared"
            )
        elif real in path.parents:
            raise ReleaseError(f"app.project: the link {target} leads to a directory that holds it")
        elif real.is_dir():
            self._walk(found, real, target, Rule.WHOLE)
        else:
            found.entries.append(Entry(target, real))

    # --- what names something

    @cached_property
    def _named(self) -> tuple[Path, ...]:
        """Paths in the project that a setting, or the stack file, names for reading."""
        written = WRITTEN if self.collects else WRITTEN - {"STATIC_ROOT"}
        paths = [path for name, path in self.settings.paths() if name not in written and self.project in path.parents]
        return (*paths, *(self.project / path for path in self.include))

    @cached_property
    def _words(self) -> frozenset[str]:
        """The names in all texts of the settings and the stack file."""
        texts = (*self.settings.texts, *self.texts)
        return frozenset(piece for text in texts for piece in text.split("/") if piece)

    @cached_property
    def _ignored(self) -> frozenset[str]:
        """What git ignores, from the project's directory; nothing where that is in no git repository."""
        command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(self.project), "ls-files"]
        options = ["--others", "--ignored", "--exclude-standard", "-z"]
        try:
            done = subprocess.run([*command, *options], capture_output=True, check=False, timeout=60)
        except FileNotFoundError:  # git is not installed
            return frozenset()
        names = done.stdout.split(b"\0") if done.returncode == 0 else []
        return frozenset(os.fsdecode(name) for name in names if name)

    def _is_database(self, path: Path) -> bool:
        names = [database.with_name(database.name + ending) for database in self.databases for ending in SQLITE_ENDINGS]
        return path in names

    def _database_files(self) -> Iterator[Path]:
        """Yield the databases' files: a release's first instance makes the cluster's from them, where there is none."""
        for database in self.databases:
            if self.project in database.parents:
                files = [database.with_name(database.name + ending) for ending in SQLITE_ENDINGS if ending != "-shm"]
                yield from (file for file in files if file.is_file())


def write_tree(entries: Iterable[Entry], project: Path, copy: Callable[[Path, Path], object]) -> None:
    """Write entries where they belong; `project` is the project's directory in the release, `copy` copies a file."""
    project.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        target = Path(os.path.normpath(project / entry.target))
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            target.symlink_to(entry.link)
        elif entry.source is None:
            target.mkdir(exist_ok=True)
        else:
            try:
                copy(entry.source, target)
            except FileNotFoundError as error:
                raise ReleaseError(f"app.project: {entry.source} is gone: the project was changed meanwhile") from error


def source_of(config: ClusterConfig, root: Path) -> Source:
    """Return the source of a stack's releases; `root` is the repository."""
    project = (root / config.app.project).resolve()
    top = root.resolve()
    return Source(
        project=project,
        root=top if top == project or top in project.parents else project,
        module=config.app.settings,
        include=tuple(config.app.include),
        shared=tuple(shared_paths(config)),
        collects=config.app.collectstatic,
        texts=tuple(config.app.environment.values()),
        owned_databases=("default",) if config.database is not None else (),
        withheld=_withheld(config, root),
    )


def _withheld(config: ClusterConfig, root: Path) -> frozenset[Path]:
    files = config.site.tls.files if config.site.tls is not None else None
    return (
        frozenset()
        if files is None
        else frozenset({(root / files.key).resolve(), (root / files.certificate).resolve()})
    )


def digest_of(entries: Iterable[Entry]) -> str:
    """Return a digest of the names, contents and executable bits of entries."""
    return _digest(fingerprints(entries))


def fingerprints(entries: Iterable[Entry]) -> list[str]:
    """Return, of each entry that makes another release when it changes, its name, content and executable bit."""
    return [_fingerprint(entry) for entry in entries if entry.fixed]


def _digest(found: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for one in found:
        digest.update(f"{one}\0\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _fingerprint(entry: Entry) -> str:
    if entry.link is not None:
        return f"link\0{entry.target}\0{entry.link}"
    assert entry.source is not None, "what is made empty is not fixed"  # noqa: S101 - for the type checker
    try:
        kind = "program" if entry.source.stat().st_mode & 0o100 else "file"
        with entry.source.open("rb") as file:
            return f"{kind}\0{entry.target}\0{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise ReleaseError(f"app.project: {entry.source} can't be read: {error.strerror}") from error


def find_media(config: ClusterConfig, root: Path) -> tuple[str, str | None] | None:
    """Return where the project keeps uploads, from its directory, and their URL, where its settings say it plainly.

    The URL is None where it is not the site's own (a CDN) or not known; all is None where nothing is known.
    """
    project = (root / config.app.project).resolve()
    settings = read_settings(project, config.app.settings)
    place, url = settings.known("MEDIA_ROOT"), settings.known("MEDIA_URL")
    if not isinstance(place, str | Path) or not str(place):
        return None
    path = os.path.relpath(project / place, project)
    if posixpath.basename(path) in {".", ".."} or path.count("../") > MOST_LEVELS:
        return None
    if not isinstance(url, str) or not url.strip("/") or "://" in url or url.startswith("//"):
        return path, None
    return path, f"/{url.strip('/')}/"


__all__ = [
    "Entry",
    "ReleaseError",
    "Source",
    "digest_of",
    "find_media",
    "project_place",
    "shared_paths",
    "shared_place",
    "source_of",
    "write_tree",
]
