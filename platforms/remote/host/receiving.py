"""What is sent to a host: a release, its environment of packages, what keeps a certificate; unpacked as root's own."""

from __future__ import annotations

import errno
import grp
import gzip
import os
import shutil
import sys
import tarfile
import zlib
from functools import partial
from secrets import token_hex
from typing import IO, TYPE_CHECKING

from platforms.remote.host.paths import UNSEEDED
from platforms.remote.host.running import HostError, done_by, identity, output, run

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: Bytes that are read at a time.
CHUNK = 1 << 20

#: In a release beside its configuration: its environment of packages, and what the project holds of what it writes.
ENVIRONMENT, RUNTIME, SEED = "environment", "runtime", "seed"

#: In a release: all that is Python. Its local packages, and the source of those to which these lead, are in it too.
CODE = ("tree", RUNTIME, "packages", "sources")

#: What reading an archive raises that is none, or not whole.
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


def receive(places: HostPaths, kind: str, digest: str, sent: IO[bytes]) -> None:
    """Unpack a release, an environment or a renewer, whole or not at all; a tar archive of root's own files, gzipped.

    It is read as it comes: a host may have less memory than its packages have bytes.
    """
    above = {"release": places.releases, "environment": places.environments, "renewer": places.renewers}
    directory = above[kind] / digest
    if directory.is_dir():
        return
    directory.parent.mkdir(mode=0o755, exist_ok=True)  # that of renewers
    new = directory.with_name(f".{digest}.new")
    if new.exists():
        shutil.rmtree(new)
    try:
        _make(places, kind, new, directory, sent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # on a full disk it is in the way of whoever makes room
        raise


def _make(places: HostPaths, kind: str, new: Path, directory: Path, sent: IO[bytes]) -> None:
    """Make in `new` what `directory` is to be, and let it be that."""
    is_renewer = kind == "renewer"  # which has a user of its own, and holds no code of the project's
    group = 0 if is_renewer else grp.getgrnam(places.name).gr_gid
    new.mkdir(mode=0o700)
    try:
        unpack_all(sent, new)
    except BROKEN as error:
        raise HostError(f"the {kind} {directory.name} did not come whole: {error or type(error).__name__}") from error
    for path in (new, *new.rglob("*")):
        os.chown(path, 0, group, follow_symlinks=False)
    new.chmod(0o755 if is_renewer else 0o750)
    if kind != "release":
        _finish_environment(new, directory)
    else:
        _compile(*(path for name in CODE if (path := new / name).is_dir()))
        environment = (new / ENVIRONMENT).read_text(encoding="ascii").strip()
        (new / ENVIRONMENT).unlink()
        (new / ENVIRONMENT).symlink_to(places.environments / environment)
        _seed(places, new / SEED)
    new.rename(directory)


def unpack_all(sent: IO[bytes], new: Path) -> None:
    """Unpack an archive as it comes, to its last byte; BROKEN where it ends too soon."""
    with gzip.open(sent) as whole, tarfile.open(fileobj=whole, mode="r|") as archive:
        for member in archive:
            unpack(archive, member, new)
        while whole.read(CHUNK):  # its checksum is at the end
            pass


def unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, new: Path) -> None:
    """Unpack a member below `new`, as root's own; HostError where it is nothing that a release holds.

    Python 3.11 of Debian 12 is older than tarfile's filters.
    """
    path = new / member.name
    is_within = not member.name.startswith("/") and ".." not in member.name.split("/")
    if not is_within or not (member.isfile() or member.isdir() or member.issym()) or _leads_out(path.parent, new):
        raise HostError(f"{member.name}: not what a release holds")
    if member.isdir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return
    mode = 0o755 if member.mode & 0o100 else 0o644
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - it is a file
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:  # noqa: PTH123
        shutil.copyfileobj(content, file)


def _leads_out(directory: Path, new: Path) -> bool:
    """Tell whether a directory is one only by a link."""
    return any(path.is_symlink() for path in (directory, *directory.parents) if path.is_relative_to(new))


def _finish_environment(new: Path, directory: Path) -> None:
    """Make an environment of the packages: this host's Python, and bytecode, which nobody else may write there."""
    _compile(python_of(new, directory))


def python_of(new: Path, directory: Path) -> Path:
    """Give packages this host's Python: what is in `new`, and is to be `directory`. Return where the packages are."""
    version = ".".join(map(str, sys.version_info[:2]))
    packages = new / "lib" / f"python{version}" / "site-packages"
    if not packages.is_dir():
        raise HostError(f"the packages were made for another Python than this host's, {version}")
    (new / "bin").mkdir(exist_ok=True)
    for name in ("python", "python3", f"python{version}"):
        (new / "bin" / name).unlink(missing_ok=True)
        (new / "bin" / name).symlink_to(f"/usr/bin/python{version}")
    for script in (new / "bin").iterdir():
        if not script.is_symlink():
            _of_this_environment(script, directory)
    (new / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
    return packages


def _of_this_environment(script: Path, directory: Path) -> None:
    """Let a package's command run on the environment's Python: where it was made there was another one."""
    text = script.read_bytes()
    first, end, rest = text.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        script.write_bytes(f"#!{directory}/bin/python".encode() + end + rest)


def _compile(*directories: Path) -> None:
    """Compile what is there. Some files of packages are no Python that this one knows: who imports one is told."""
    words = ("-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    output(sys.executable, *words, *map(str, directories))


def _seed(places: HostPaths, seed: Path) -> None:
    """Make what the project writes, where it is not there yet, of what it holds there; nothing there is touched.

    As the instances' user: what it may write, root must not.
    """
    top = places.written()
    for held in sorted(seed.iterdir()) if seed.is_dir() else ():
        # On a filesystem that hosts share, another one is at it at the same time.
        own = f".{token_hex(4)}" if top != places.shared else ""
        there, new = top / held.name, top / f".{held.name}{own}.new"
        found = done_by(places.name, partial(_there, there), f"{there} can't be looked at")
        if found == UNSEEDED and held.is_dir():
            # Instances that run may have it already: what the project holds is put into it, beside what is there.
            copied = ("cp", "--recursive", "--no-clobber", "--no-dereference", "--no-preserve=all", "--")
            run(
                *copied,
                f"{held}/.",
                str(there),
                cwd="/",
                umask=0o027,
                **identity(places),
                problem=f"{there} can't be filled",
            )
        if found:
            continue
        for words in (
            ("rm", "--recursive", "--force", "--", str(new)),
            ("cp", "--recursive", "--no-dereference", "--no-preserve=all", "--", str(held), str(new)),
        ):
            run(*words, cwd="/", umask=0o027, **identity(places), problem=f"{there} can't be made")
        done_by(places.name, partial(_take_place, new, there), f"{there} can't be made")
    if top != places.shared:
        done_by(places.name, partial(_is_seeded, top), f"{top} can't be written")
    if seed.is_dir():
        shutil.rmtree(seed)


def _there(path: Path) -> str:
    """Return whether something is at a path: UNSEEDED where a set-up has made it for what the project holds there."""
    note = path.with_name(f"{UNSEEDED}{path.name}")
    return UNSEEDED if os.path.lexists(note) else "there" if os.path.lexists(path) else ""


def _is_seeded(top: Path) -> None:
    for note in top.glob(f"{UNSEEDED}*"):
        note.unlink(missing_ok=True)


def _take_place(new: Path, there: Path) -> None:
    try:
        new.rename(there)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(new)  # another host was quicker
