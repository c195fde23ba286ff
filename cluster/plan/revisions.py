"""Two states of a git repository as plain files: a revision, and the working tree. Nothing of either is run.

Who proposes a change may be hostile. So git only lists and gives what it has stored: nothing is checked out, and no
hook, filter, textconv or attribute of the repository's counts. What is copied holds no link that leads out of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from cluster.errors import CommandError
from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: What --against begins with.
SCHEME = "git:"

#: Of one revision: files, and bytes. What is more is no repository of a project's.
MOST_FILES = 100_000
MOST_BYTES = 2 * 1024**3

#: Files in memory, where Linux has them.
MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it

#: Over whatever the repository's configuration says: no program is run, and what is not here is not fetched.
SAFE = (
    *("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "protocol.allow=never", "--no-replace-objects", "--no-pager"),
)

#: git's modes of what is no file.
LINK, SUBMODULE = "120000", "160000"
EXECUTABLE = 0o100

#: What stands in a repository for a file that Git LFS keeps elsewhere.
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize \d+\n"
)
LONGEST_POINTER = 1024


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A state of the repository, as plain files.

    name: what it is called. top: the copy of the whole repository. root: in it, the directory that holds `stacks`.
    submodules: the commit of each, by its path from the top. unfit: what is not in the copy, in words.
    """

    name: str
    top: Path
    root: Path
    submodules: Mapping[str, str] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()

    def plain(self, text: str) -> str:
        """Return words without the place of the copy, which is gone when they are read."""
        return printable(text.replace(f"{self.top}/", "").replace(str(self.top), "."))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What git has of a path: mode (octal), and the name of its content. skipped: it is not in the working tree."""

    path: str
    mode: str
    name: str
    skipped: bool = False


class Repository:
    """The git repository around a directory; CommandError where there is none, or no git.

    top: its working tree. inside: where `root` is in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        found = self._asked(self.root, "rev-parse", "--show-toplevel")
        if found.returncode != 0:
            said = found.stderr.decode("utf-8", "replace").strip().splitlines() or ["git says nothing"]
            raise CommandError(f"--against: {self.root} is in the working tree of no git repository ({said[0]})")
        self.top = Path(os.fsdecode(found.stdout.removesuffix(b"\n"))).resolve()
        self.inside = self.root.relative_to(self.top)

    def commit(self, revision: str) -> str:
        """Return the full name of a revision; CommandError where git knows none of that name."""
        if not revision or revision.startswith("-") or not revision.isprintable():
            raise CommandError(f"--against: {revision!r} is no revision: say git:main, git:HEAD~3, or a commit")
        found = self._asked(self.top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        name = found.stdout.decode("ascii", "replace").strip()
        if found.returncode != 0 or not re.fullmatch(r"[0-9a-f]{40,64}", name):
            raise CommandError(self._unknown(revision))
        return name

    def _unknown(self, revision: str) -> str:
        """Return what to do about a revision that is not there."""
        branch = revision.removeprefix("origin/")
        shallow = self._asked(self.top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
        if shallow:
            return (
                f"--against: git knows no revision {revision} here, and this clone is shallow: say `git fetch "
                f"--depth=1 origin {branch}`, and then --against git:FETCH_HEAD (or clone it whole: fetch-depth: 0)"
            )
        there = self._asked(self.top, "rev-parse", "--verify", "--quiet", f"origin/{branch}^{{commit}}").returncode == 0
        if there and branch == revision:
            return f"--against: git knows no revision {revision} here; say --against git:origin/{branch}"
        return (
            f"--against: git knows no revision {revision} here: `git fetch origin {branch}` brings one of the server's"
        )

    def bytes_of(self, commit: str) -> int:
        """Return how large all files of a revision are together; where some are not here, more than is copied."""
        found = self._asked(self.top, "ls-tree", "-r", "-l", "-z", "--full-tree", commit)
        if found.returncode != 0:
            return MOST_BYTES
        sizes = [line.partition(b"\t")[0].split()[-1] for line in found.stdout.split(b"\0")[:-1]]
        return sum(int(size) for size in sizes if size.isdigit())

    def at(self, commit: str, name: str, directory: Path) -> Tree:
        """Return a revision, copied into a directory; CommandError where it can't be had. name: what it is called."""
        return self._copied(self._entries(commit), name, directory)

    def working_tree(self, directory: Path, before: Tree) -> Tree:
        """Return the working tree, copied into a directory: what git tracks of it, and what is new and not ignored.

        before: what is the same there is not written again.
        """
        tracked = self._tracked()
        there = [entry for entry in tracked if not entry.skipped]
        # Of a sparse checkout: it is as it is committed.
        absent = [entry for entry in tracked if entry.skipped]
        tree = self._copied([*absent, *(one for one in there if one.mode == SUBMODULE)], "the working tree", directory)
        links, unfit = dict[str, str](), list(tree.unfit)
        real: dict[str, bool] = {}
        paths = [*(one.path for one in there if one.mode != SUBMODULE), *self._new()]
        if len(paths) > MOST_FILES:
            raise CommandError(_too_large("the working tree"))
        for path in dict.fromkeys(paths):
            if not _is_plain(path):
                continue
            above = path.rpartition("/")[0]
            if above not in real:  # a directory that became a link: what is behind it is not the repository's
                real[above] = os.path.realpath(self.top / above) == str(self.top / above)
            if real[above]:
                unfit += _take(self.top / path, directory / path, before.top / path, path, links)
        unfit += _linked(directory, links)
        return Tree(
            name=tree.name,
            top=directory,
            root=directory / self.inside,
            submodules=tree.submodules,
            unfit=tuple(dict.fromkeys(unfit)),
        )

    # --- what git lists

    def _entries(self, commit: str) -> list[_Entry]:
        found = self._told("ls-tree", "-r", "-z", "--full-tree", commit)
        entries = []
        for line in found.split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            mode, _kind, name = about.decode("ascii").split()
            entries.append(_Entry(path=os.fsdecode(path), mode=mode, name=name))
        return entries

    def _tracked(self) -> list[_Entry]:
        found = self._told("ls-files", "-z", "--stage", "-t")
        entries = {}
        for line in found.split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            tag, mode, name, _stage = about.decode("ascii").split()
            entry = _Entry(path=os.fsdecode(path), mode=mode, name=name, skipped=tag == "S")
            entries[entry.path] = entry
        return list(entries.values())

    def _new(self) -> list[str]:
        found = self._told("ls-files", "-z", "--others", "--exclude-standard")
        # What ends in a slash is another repository's.
        return [os.fsdecode(path) for path in found.split(b"\0")[:-1] if not path.endswith(b"/")]

    # --- copying

    def _copied(self, entries: list[_Entry], name: str, directory: Path) -> Tree:
        """Write what git has stored of entries, byte for byte."""
        plain = [entry for entry in entries if _is_plain(entry.path)]
        unfit = [f"{printable(one.path)}: its path leads elsewhere" for one in entries if not _is_plain(one.path)]
        if len(plain) > MOST_FILES:
            raise CommandError(_too_large(name))
        submodules = {entry.path: entry.name for entry in plain if entry.mode == SUBMODULE}
        stored = [entry for entry in plain if entry.mode != SUBMODULE]
        links: dict[str, str] = {}
        for path in (directory, *(directory / place for place in submodules)):
            path.mkdir(parents=True, exist_ok=True)
        for entry, content in self._contents(stored, name):
            if entry.mode == LINK:
                links[entry.path] = os.fsdecode(content)
                continue
            try:
                _write(directory / entry.path, content, executable=entry.mode == "100755")
            except OSError as error:
                unfit.append(f"{printable(entry.path)}: {error.strerror}")
        unfit += _linked(directory, links)
        root = directory / self.inside
        return Tree(name=name, top=directory, root=root, submodules=submodules, unfit=tuple(unfit))

    def _contents(self, entries: list[_Entry], called: str) -> Iterator[tuple[_Entry, bytes]]:
        """Yield entries with what is stored of them: `cat-file --batch` turns nothing into anything else."""
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{entry.name}\n" for entry in entries).encode())
            asked.seek(0)
            with subprocess.Popen(
                self._command(self.top, "cat-file", "--batch"),
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            ) as process:
                assert process.stdout is not None  # noqa: S101 - for the type checker
                try:
                    yield from self._read(process.stdout, entries, called)
                finally:
                    process.kill()

    def _read(self, output: IO[bytes], entries: list[_Entry], called: str) -> Iterator[tuple[_Entry, bytes]]:
        total = 0
        for entry in entries:
            header = output.readline().decode("ascii", "replace").split()
            if len(header) != 3 or header[1] != "blob":  # noqa: PLR2004 - name, kind, size
                raise CommandError(
                    f"--against: {called} is not whole here ({printable(entry.path)} is missing: a partial clone?); "
                    "say `git fetch --refetch origin`"
                )
            size = int(header[2])
            total += size
            if total > MOST_BYTES:  # before it is in memory
                raise CommandError(_too_large(called))
            content = output.read(size)
            output.read(1)
            yield entry, content

    # --- git

    def _told(self, *words: str) -> bytes:
        """Return what git says; CommandError where it fails."""
        done = self._asked(self.top, *words)
        if done.returncode != 0:
            said = printable(done.stderr.decode("utf-8", "replace").strip())
            raise CommandError(f"--against: git {words[0]} failed: {said}")
        return done.stdout

    def _asked(self, directory: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                self._command(directory, *words),
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        except FileNotFoundError as error:
            raise CommandError(
                "--against: git is not installed: apt-get install --no-install-recommends git"
            ) from error

    @staticmethod
    def _command(directory: Path, *words: str) -> list[str]:
        return ["git", *SAFE, "-C", str(directory), *words]


def scratch(size: int) -> Path | None:
    """Return where files of so many bytes are best copied for a moment: into memory, where there is enough of it.

    None: where temporary files are. To make thousands of files on a disk may take it seconds.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return None
    there = os.statvfs(MEMORY)
    # Both states, where nothing is alike; and others need memory too.
    free = min(there.f_bavail * there.f_frsize, psutil.virtual_memory().available)
    return MEMORY if 8 * size < free else None


def _environment() -> dict[str, str]:
    """Return the environment for git, without what a hook that runs this has of its own repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _too_large(name: str) -> str:
    return f"--against: {name} has more than {MOST_FILES:,} files, or {MOST_BYTES // 1024**3} GiB: too much to compare"


def _is_plain(path: str) -> bool:
    """Tell whether a path leads down from where it begins, and into no repository of git's."""
    return all(part not in {"", ".", ".."} and part.lower() != ".git" for part in path.split("/"))


def _write(path: Path, content: bytes, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o755 if executable else 0o644)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        file.write(content)


def _take(source: Path, target: Path, before: Path, path: str, links: dict[str, str]) -> list[str]:
    """Copy a file of the working tree, note a link in `links`; return what is neither, in words."""
    try:
        there = source.lstat()
        if stat.S_ISLNK(there.st_mode):
            links[path] = os.readlink(source)  # noqa: PTH115 - the text as it stands
        elif stat.S_ISREG(there.st_mode):
            # Opened without following, and without waiting where it became something else just now.
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - as above
                content = file.readall()
            executable = bool(there.st_mode & EXECUTABLE)
            if _holds(before, content, executable=executable):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(before)
            else:
                _write(target, content, executable=executable)
    except (FileNotFoundError, NotADirectoryError):
        return []  # deleted: that is what is proposed
    except OSError as error:
        return [f"{printable(path)}: {error.strerror}"]
    return []


def _holds(path: Path, content: bytes, *, executable: bool) -> bool:
    """Tell whether a copy of the revision's is the same file."""
    try:
        there = path.lstat()
        alike = stat.S_ISREG(there.st_mode) and there.st_size == len(content)
        return alike and bool(there.st_mode & EXECUTABLE) == executable and path.read_bytes() == content
    except OSError:
        return False


def _linked(directory: Path, links: Mapping[str, str]) -> list[str]:
    """Make links, but those that lead out of the directory; return these, in words. Nothing is written after it."""
    made, unfit = dict[Path, str](), list[str]()
    for path, said in links.items():
        place = directory / path
        if not said or said.startswith("/") or "\0" in said:
            unfit.append(path)
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(said)
        except OSError:
            unfit.append(path)
        else:
            made[place] = path
    top = os.path.realpath(directory)
    # Without one of them another may lead elsewhere than it did.
    while out := [place for place in made if not _stays(place, top)]:
        for place in out:
            place.unlink()
            unfit.append(made.pop(place))
    return [f"{printable(path)}: a link that leads out of the repository, which nobody follows" for path in unfit]


def _stays(place: Path, top: str) -> bool:
    real = os.path.realpath(place)
    return real == top or real.startswith(f"{top}/")


def resolve_pointers(before: Tree, after: Tree) -> int:
    """Put a file that Git LFS keeps where a revision has its pointer, and the working tree the file; return how many.

    Only where it is that very file: no filter is run, and nothing fetched.
    """
    found = 0
    for path in _files(before.top):
        if path.stat().st_size > LONGEST_POINTER:
            continue
        pointer = POINTER.match(path.read_bytes())
        other = after.top / path.relative_to(before.top)
        if pointer is None or other.is_symlink() or not other.is_file():
            continue
        with other.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == pointer[1].decode()
        if same:
            shutil.copyfile(other, path)
            found += 1
    return found


def _files(top: Path) -> Iterable[Path]:
    for above, _directories, names in os.walk(top):
        yield from (path for name in names if not (path := Path(above, name)).is_symlink())
