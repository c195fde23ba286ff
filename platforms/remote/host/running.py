"""Programs that are run on a host, and why one could not do what it was to do."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import select
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: The group that has no files (Debian's nogroup).
NO_GROUP = 65534

#: Lines of a program's output that a message repeats.
LAST_LINES = 20


class HostError(Exception):
    """Something can't be done on this host; the text says what, and why."""


def run(*command: str, problem: str = "", **options: Any) -> str:
    """Run a program and return what it printed; HostError with the last lines of it where it fails."""
    done = output(*command, **options)
    if done.returncode != 0:
        last = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        raise HostError(f"{problem or f'`{command[0]}` failed'}\n{last}".rstrip())
    return done.stdout


def output(
    *command: str, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program, whatever its exit status is; `variables` are added to its environment."""
    given: dict[str, Any] = {} if "input" in options else {"stdin": subprocess.DEVNULL}
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **(variables or {})}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=environment, **given, **options
    )


def is_active(unit: str) -> bool:
    """Tell whether a unit of systemd's runs."""
    return output("systemctl", "is-active", unit).stdout.strip() == "active"


def digest_of(path: Path) -> str:
    """Return a digest of a file of root's; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def identity(places: HostPaths) -> dict[str, Any]:
    """Return the instances' user, as subprocess.run is told."""
    user = pwd.getpwnam(places.name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def has_user(places: HostPaths) -> bool:
    """Tell whether the instances' user is there."""
    try:
        pwd.getpwnam(places.name)
    except KeyError:
        return False
    return True


def become(places: HostPaths) -> None:
    """Be the instances' user from now on: for what only looks at, or asks, what that user can change."""
    _be(places.name)


def _be(name: str) -> None:
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def told_by(places: HostPaths, look: Callable[[], Any]) -> Any:
    """Return what `look` returns, as JSON has it, in a process of the instances' user: links lead it no further."""
    return _told(lambda: become(places), look, f"what the instances of {places.name} say can't be read")


def done_by(user: str, what: Callable[[], Any], problem: str) -> Any:
    """Return what `what` returns, as JSON has it, in a process of the user in whose directory it is done.

    HostError with the problem where it fails.
    """
    return _told(lambda: _be(user), what, problem)


def done_by_number(
    who: int | tuple[int, int] | None, what: Callable[[], Any], problem: str, *, seconds: float | None = None
) -> Any:
    """Return what `what` returns, as JSON has it, in a process of a user and a group that are told by number.

    who: None for root; a number alone is a user's, in nobody's group. HostError with the problem where it fails, or is
    not done within `seconds`: a filesystem whose server is away keeps whoever asks.
    """
    user, group = who if isinstance(who, tuple) else (who, NO_GROUP)

    def be() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)

    def told() -> tuple[Any, str]:
        try:
            return what(), ""
        except OSError as error:
            return None, error.strerror or type(error).__name__

    found, why = _told(be, told, problem, seconds)
    if why:
        raise HostError(f"{problem}: {why}")
    return found


def _told(be: Callable[[], None], look: Callable[[], Any], problem: str, seconds: float | None = None) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            be()
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                json.dump(look(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    if seconds is not None and not select.select([reading], [], [], seconds)[0]:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # and it is not waited for: what it asked may keep it
        raise HostError(f"{problem}: no answer within {seconds:g} s")
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    _pid, ended = os.waitpid(child, 0)
    if ended != 0:
        raise HostError(problem)
    return json.loads(text)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the stack's lock on this host: what a killed `up` left running ends first."""
    lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def directory_of(path: Path, uid: int, gid: int, mode: int) -> None:
    """Make a directory, whose parent nobody but root writes; a uid or gid of -1 stays. HostError: it is none."""
    path.mkdir(exist_ok=True)
    descriptor = opened(path)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def opened(path: Path) -> int:
    """Return a descriptor of a directory, and follow no link; HostError where it is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{path} is no directory: {error.strerror}") from error


def certificates_in(path: Path) -> list[str]:
    """Return a digest of each certificate in a file, PEM; none where there is no file."""
    text = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
    end = "-----END CERTIFICATE-----\n"
    return [hashlib.sha256(f"{one}{end}".encode()).hexdigest() for one in text.split(end)[:-1]]


def is_so(path: Path, text: str, mode: int = 0o644) -> bool:
    """Tell whether root's own file is there, and says this."""
    return path.is_file() and path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode


def put(path: Path, text: str, mode: int = 0o644) -> bool:
    """Put root's own file in place by one rename; tell whether it says something else than before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_so(path, text, mode):
        return False
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)
    return True
