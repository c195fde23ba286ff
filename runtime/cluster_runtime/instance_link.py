"""The directory of sockets of an instance, and the name in it.

`<sockets>/app1/<release>.sock` is where one process listens, `<sockets>/app1/http.sock` is a symbolic link to it: the
instance's name, the only thing that nginx knows. Who holds the name changes by one rename(2), which is atomic.

Where an instance can have several processes of one release for a while (containers, of which one was orphaned), each
has a socket of its own, `<release>.<host name>.sock`; `process_of` gives what stands for the release then.

Whoever releases may be root, and the directory is the instance's own, which runs the project's code: no link in it is
followed but the name itself, and what is read in it is looked at before it is believed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime import unfollowed
from cluster_runtime.status import believable
from cluster_runtime.unfollowed import printable
from cluster_runtime.untrusted_json import object_in

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The longest path that a unix socket may have, in bytes (struct sockaddr_un, less the closing zero).
LONGEST_SOCKET_PATH = 107

NAME = "http.sock"

#: The directory of what services say, in that of all sockets; instances pass over what begins with a dot.
SERVICES = ".services"

#: Holds the generation of who holds the name: how often it was given by `serve`. Whoever releases reads it to tell its
#: own work from another's. The file's name is older than the word.
GENERATION = "turn"

#: Holds the process to which the name was last given by `serve`. No other one takes it by itself, even while nobody
#: holds it: a release that was never let serve, or one that was replaced, must not serve because another has stopped.
GIVEN = "given"

#: Endings of the files of one process, its lock last.
ENDINGS = (".sock", ".json", ".json.new", ".beat", ".stage", ".stage.new", ".lock")


def process_of(release: str, *, container: bool) -> str:
    """Return what a process of `release` calls its files: in a container the host's name tells it from others."""
    return f"{release}.{socket.gethostname()}" if container else release


class InstanceLink:
    """The name of one instance, `root/instance/http.sock`, and the files of its releases beside it."""

    def __init__(self, root: str | Path, instance: str) -> None:
        self.directory = Path(root) / instance
        self.link = self.directory / NAME

    def socket(self, release: str) -> Path:
        """Where the process of `release` listens."""
        return self.directory / f"{release}.sock"

    def status_file(self, release: str) -> Path:
        """Where the process of `release` says what it is doing."""
        return self.directory / f"{release}.json"

    def beat_socket(self, release: str) -> Path:
        """Where the workers of `release` tell the instance process that they live."""
        return self.directory / f"{release}.beat"

    def stage_file(self, release: str) -> Path:
        """Where the workers of `release` read how far a change of the session engine is."""
        return self.directory / f"{release}.stage"

    def holder(self) -> str | None:
        """Return the release that holds the name, alive or not; None where nothing does."""
        try:
            return printable(self.link.readlink().name.removesuffix(".sock"))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # EINVAL: no link
                return None
            raise

    def alive(self, release: str) -> bool:
        """Tell whether something accepts connections on the socket of `release`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket(release)))
            except (TimeoutError, BlockingIOError):
                return True  # its backlog is full: busy, not gone
            except OSError:
                return False
            return True

    def admit(self, release: str) -> None:
        """Let whoever may enter the directory reach the socket of `release`, where the directory gives its group on.

        gunicorn makes its socket its own group's, and nginx is in the directory's.
        """
        directory, path = self.directory.stat(), self.socket(release)
        if directory.st_mode & stat.S_ISGID and directory.st_gid != path.stat().st_gid:
            path.chmod(0o777)

    def take(self, release: str) -> str | None:
        """Let `release` hold the name, whoever holds it now, and nobody else take it; return the former holder."""
        with self._locked():
            former = self.holder()
            self._write(GIVEN, release)
            self._point_at(release)
            return former

    def take_if_free(self, release: str, *, ungiven: bool = True) -> bool:
        """Let `release` hold the name unless another, living process does or was given it; tell whether it holds it.

        ungiven: also where the name was never given to anybody.
        """
        with self._locked():
            holder = self.holder()
            if holder == release:
                return True
            if self.given() not in ((None, release) if ungiven else (release,)):
                return False
            if holder is not None and self.alive(holder):
                return False
            self._point_at(release)
            return True

    def give_up(self, release: str) -> bool:
        """Remove the name if `release` holds it; tell whether it did."""
        with self._locked():
            if self.holder() != release:
                return False
            self.link.unlink()
            return True

    def status(self, release: str) -> dict[str, Any] | None:
        """Return what the process of `release` last said of itself; None where it never said anything."""
        try:
            text = unfollowed.read(self.status_file(release))
        except (FileNotFoundError, NotADirectoryError, unfollowed.NotAFileError):
            return None
        return believable(object_in(text))

    def write_status(self, release: str, status: dict[str, Any]) -> None:
        """Put `status` in place atomically, so that a reader never sees half of it."""
        put(self.status_file(release), json.dumps(status))

    def write_generation(self, generation: int) -> None:
        """Say that the name was given for the `generation`th time."""
        self._write(GENERATION, str(generation))

    def generation(self) -> int:
        """Return for how many times the name was given; 0 where nobody has said."""
        text = self._read(GENERATION)
        return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0

    def given(self) -> str | None:
        """Return the process to which the name was last given; None where it never was."""
        return self._read(GIVEN) or None  # empty after a power cut

    def _read(self, name: str) -> str:
        """Return what a small file says; nothing where it is not there, or none."""
        try:
            return unfollowed.read(self.directory / name).decode("ascii", "replace")
        except (FileNotFoundError, NotADirectoryError, unfollowed.NotAFileError):
            return ""

    def _write(self, name: str, text: str) -> None:
        unfollowed.replace(self.directory / name, text.encode("ascii"))

    def living(self) -> list[str]:
        """Return what the processes call themselves that live, whatever they are doing."""
        with self._locked():
            return [process for process, lives in self._processes() if lives]

    def sweep(self) -> None:
        """Remove the files of processes that have ended without doing so; whoever lives holds its lock."""
        with self._locked():
            for process, lives in self._processes():
                for ending in () if lives else ENDINGS:
                    (self.directory / (process + ending)).unlink(missing_ok=True)

    def open_lock(self, release: str) -> int | None:
        """Return the lock that a process of `release` holds while it lives; None where another holds it."""
        with self._locked():
            path = self.directory / f"{release}.lock"
            descriptor = unfollowed.open_lock(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            return descriptor

    def _processes(self) -> list[tuple[str, bool]]:
        """Return the processes that have files here, and whether each lives; to be asked with the name locked."""
        locks = [path for path in self.directory.glob("*.lock") if path.name != "name.lock"]
        return [(path.name.removesuffix(".lock"), _is_held(path)) for path in locks]

    def _point_at(self, release: str) -> None:
        unfollowed.link(self.link, self.socket(release).name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = unfollowed.open_lock(self.directory / "name.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def put(path: Path, text: str, *, durable: bool = False) -> None:
    """Put a small file in place atomically; `durable`: so that it is there after a power cut too.

    On a full disk it is written over what is there, into the block that this has already: what is no longer true must
    not stay.
    """
    try:
        unfollowed.replace(path, text.encode(), durable=durable)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        unfollowed.overwrite(path, text.encode())


def _is_held(path: Path) -> bool:
    descriptor = unfollowed.open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
