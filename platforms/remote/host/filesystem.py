"""The part of a filesystem that the stack's hosts share, where the team mounts one: what the project writes is there.

Root may be nobody there (NFS's root_squash): what is in the stack's own directory is read and written as the user whose
it is, by number, which is the same on all hosts. A directory with nothing mounted on it is a hole: what is written into
it is on this host alone.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import shutil
import stat
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime import unfollowed
from platforms.remote.host.paths import NGINX_USER, UNSEEDED
from platforms.remote.host.running import HostError, directory_of, done_by_number, opened, output, put
from platforms.remote.host.walking import holds_files, unless_kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from platforms.remote.host.paths import HostPaths

#: Files in the stack's directory: what it is known by, whose it is, and what a host writes for the others to read.
TOKEN, OWNER, PROOF = ".token", ".owner", ".proof-"

#: Seconds that a filesystem may take to answer, that another host's file may take to be seen, and that one is kept.
ANSWERS, SEEN_WITHIN, PROOFS_KEPT = 5.0, 5.0, 3600.0

#: The stack's directory: its user writes, and nginx reads what is made there, by the directory's group.
MODE = 0o2750

#: Where a host keeps what it had written before, and has copied.
MOVED = ".moved"

#: What the look says of a filesystem where nothing of the stack is.
NOTHING: Mapping[str, Any] = {"problem": "", "owner": None, "group": None, "token": "", "claimed": "", "holds": False}

#: A user of the system's has a number up to this one.
LAST_SYSTEM = 999


def found(places: HostPaths, path: str) -> dict[str, Any]:
    """Return what there is: `problem` in words, or an empty text, and of the stack's own directory what is known.

    `owner` and `group` are numbers; None where it is not there. `token` tells one filesystem from another, `claimed` is
    whose the directory is, and `holds` whether the project has written anything.
    """
    try:
        said: dict[str, Any] = done_by_number(None, partial(_found, places, Path(path)), path, seconds=ANSWERS)
    except HostError as error:
        return {**NOTHING, "problem": str(error)}
    return said


def numbers(places: HostPaths) -> dict[str, Any]:
    """Return the numbers of users: the stack's `own` (None: there is none yet), nginx's group, and those `taken`."""
    return {
        "own": next((one.pw_uid for one in pwd.getpwall() if one.pw_name == places.name), None),
        "nginx": grp.getgrnam(NGINX_USER).gr_gid,
        "taken": sorted({one.pw_uid for one in pwd.getpwall() if one.pw_uid <= LAST_SYSTEM}),
    }


def problem_of(places: HostPaths, path: Path) -> str:
    """Return why a directory is none that hosts can share; empty where it is."""
    try:
        there = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISDIR(there.st_mode):
        return f"{path} is no directory"
    if there.st_dev == places.root.stat().st_dev:
        return f"nothing is mounted at {path}: what is written there would stay on this host"
    return ""


def _found(places: HostPaths, path: Path) -> dict[str, Any]:
    problem = problem_of(places, path)
    if problem:
        return {**NOTHING, "problem": problem}
    own = path / places.name
    try:
        there = own.lstat()
    except FileNotFoundError:
        return dict(NOTHING)
    if not stat.S_ISDIR(there.st_mode):
        return {**NOTHING, "problem": f"{own} is no directory"}
    if there.st_uid:  # else root reads what root has made
        os.setgroups([])
        os.setgid(there.st_gid)
        os.setuid(there.st_uid)
    return {
        "problem": "",
        "owner": there.st_uid,
        "group": there.st_gid,
        "token": _text(own / TOKEN),
        "claimed": _text(own / OWNER),
        "holds": holds_files(own),
    }


def _text(path: Path) -> str:
    try:
        return unfollowed.printable(unfollowed.read(path).decode("utf-8", "replace")).strip()
    except OSError:
        return ""


# --- what is made there


def record(places: HostPaths, wanted: Mapping[str, Any] | None, owner: str) -> None:
    """Make what a stack needs of a filesystem that hosts share, and write down which it is.

    wanted: its `path`, the `number` of the stack's user, and `shared`, the directories there of what the project
    writes; None: this host has it itself. owner: as `setting_up.claim` has it. HostError where it can't be.
    """
    if wanted is None:
        forget(places)
        return
    make(places, wanted["path"], wanted["number"])
    own = Path(wanted["path"]) / places.name
    problem = f"{own} can't be written"
    claimed, token = done_by_number(wanted["number"], partial(_claimed, own, owner), problem, seconds=ANSWERS)
    if claimed not in {owner, owner.partition(" ")[0]}:
        raise HostError(
            f"{own} is {claimed}'s: call this stack otherwise, or remove {own / OWNER} where it is this one"
        )
    put(places.token, f"{token}\n")
    put(places.filesystem, f"{wanted['path']}\n")
    # What each release has of its own in a directory that the instances' user does not write.
    directory_of(places.shared, 0, -1, 0o755)
    for path in (places.databases, places.schedules):
        directory_of(path, wanted["number"], -1, 0o750)
    who = (wanted["number"], grp.getgrnam(NGINX_USER).gr_gid)
    for name in wanted["shared"]:
        # What is mounted must be there before a unit says so, which may start again before a release makes it.
        done_by_number(who, partial(_begin, own, name), f"{own / name} can't be made", seconds=ANSWERS)
        _mount_point(places.shared / name)


def forget(places: HostPaths) -> None:
    """Have nothing to do with a filesystem of several hosts any more."""
    for path in (places.filesystem, places.token):
        path.unlink(missing_ok=True)


def _begin(own: Path, name: str) -> None:
    """Make a directory of what the project writes, and note that it lacks what the project holds there itself."""
    if os.path.lexists(own / name):
        return
    (own / f"{UNSEEDED}{name}").touch(mode=0o600)
    with contextlib.suppress(FileExistsError):  # another host is at it
        (own / name).mkdir(mode=0o750)


def _mount_point(path: Path) -> None:
    """Let a directory be there. One that is stays as it is: instances that run have something mounted on it."""
    path.mkdir(exist_ok=True)
    os.close(opened(path))


def make(places: HostPaths, path: str, number: int) -> None:
    """Make the stack's own directory where it is not there yet; HostError where it can't be, or is somebody else's."""
    problem = problem_of(places, Path(path))
    if problem:
        raise HostError(problem)
    own, group = Path(path) / places.name, grp.getgrnam(NGINX_USER).gr_gid
    by_hand = f"make it where the filesystem is: install -d -o {number} -g {group} -m {MODE:o} {places.name}"
    if not os.path.lexists(own):
        _create(own, number, group, by_hand)
    there = own.lstat()
    if (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) != (number, group, MODE):
        found_there = f"user {there.st_uid}'s and group {there.st_gid}'s, with mode {stat.S_IMODE(there.st_mode):o}"
        raise HostError(
            f"{own} is {found_there}, and must be {number}'s and {group}'s, with {MODE:o}: chown and chmod it so, "
            "where the filesystem is"
        )


def _create(own: Path, number: int, group: int, by_hand: str) -> None:
    """Make a directory with all that it needs, at once: another host may be at it, too."""
    new = own.with_name(f".{own.name}.{secrets.token_hex(4)}")
    try:
        new.mkdir(mode=0o700)
    except OSError as error:
        raise HostError(f"{own} can't be made by root: {error.strerror}; {by_hand}") from error
    try:
        os.chown(new, number, group)
        new.chmod(MODE)
        new.rename(own)
    except OSError as error:
        new.rmdir()
        if not os.path.lexists(own):
            raise HostError(f"{own} can't be made by root: {error.strerror}; {by_hand}") from error


def _claimed(own: Path, owner: str) -> tuple[str, str]:
    """Return whose the directory is, and its token; made where they are not there yet, as its user."""
    return _once(own / OWNER, owner), _once(own / TOKEN, secrets.token_hex(16))


def _once(path: Path, text: str) -> str:
    """Return what a file says, which nobody writes but the first who asks; on whichever host."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    if not os.path.lexists(path):
        _write(new, text)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
    return unfollowed.read(path).decode("utf-8", "replace").strip()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


# --- that all hosts see the same


def write_proof(places: HostPaths, asked: Mapping[str, Any]) -> None:
    """Write what the other hosts are to read; HostError where this host can't write there as its instances would.

    asked: `path`, `number`, and the `name` of what is written, and the `mark` in it.
    """
    make(places, asked["path"], asked["number"])
    own = Path(asked["path"]) / places.name
    done_by_number(
        asked["number"], partial(_prove, own, asked["name"], asked["mark"]), f"{own} can't be written", seconds=ANSWERS
    )


def _prove(own: Path, name: str, mark: str) -> None:
    for path in own.glob(f"{PROOF}*"):
        with contextlib.suppress(FileNotFoundError):  # another host is at it
            if path.lstat().st_mtime < time.time() - PROOFS_KEPT:
                path.unlink()
    _write(own / f"{PROOF}{name}", mark)


def unread(places: HostPaths, asked: Mapping[str, Any]) -> list[str]:
    """Return which of what other hosts have written is not seen here, as instances see it, and as nginx does.

    asked: `path`, `number` (None where no instances run), `visited` (whether nginx reads there), `marks` by `names`.
    """
    own = Path(asked["path"]) / places.name
    problem = problem_of(places, Path(asked["path"]))
    if problem:
        raise HostError(problem)
    user = pwd.getpwnam(NGINX_USER)
    as_nginx = [(user.pw_uid, user.pw_gid)] if asked["visited"] else []
    who: list[Any] = [*([asked["number"]] if asked["number"] is not None else []), *as_nginx]
    missing: set[str] = set()
    for one in who:
        look = partial(_missing, own, asked["marks"])
        missing |= set(done_by_number(one, look, f"{own} can't be read", seconds=ANSWERS + SEEN_WITHIN))
    return sorted(missing)


def _missing(own: Path, marks: Mapping[str, str]) -> list[str]:
    deadline = time.monotonic() + SEEN_WITHIN
    while True:
        left = [name for name, mark in marks.items() if _text(own / f"{PROOF}{name}") != mark]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def blind(places: HostPaths, shared: Sequence[str]) -> list[str]:
    """Return the units of instances that run and have another filesystem, or none, where the project writes."""
    device = places.written().stat().st_dev
    wanted = {(f"{os.major(device)}:{os.minor(device)}", str(places.shared / name)) for name in shared}
    words = ("systemctl", "list-units", *places.patterns, "--state=active", "--no-legend", "--plain")
    units = [line.split()[0] for line in output(*words).stdout.splitlines() if line.split()]
    return [unit for unit in units if not wanted <= _mounts(unit, wanted)]


def _mounts(unit: str, otherwise: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the device and the path of each mount that a unit's process sees; `otherwise` where it has ended."""
    pid = output("systemctl", "show", unit, "--property=MainPID", "--value").stdout.strip()
    lines = unless_kept(lambda: Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines())
    return otherwise if lines is None else {(line.split()[2], line.split()[4]) for line in lines}


# --- what a host had itself before


def gather(places: HostPaths) -> None:
    """Copy what this host's instances have written to itself to where all hosts have it; what is there stays.

    HostError names what can't be copied.
    """
    from cluster_runtime import gather as gathering  # noqa: PLC0415 - a look needs none of it

    to, entries = places.written(), _entries(places)
    if to == places.shared or not entries:
        return
    # Of nginx's group: who is not in it makes no directory that gives it to what is made there.
    who = (pwd.getpwnam(places.name).pw_uid, grp.getgrnam(NGINX_USER).gr_gid)
    for name in entries:
        copy = partial(gathering.gather, places.shared / name, to / name)
        left = done_by_number(who, copy, f"{places.shared / name} can't be copied to {to}")
        if any((places.shared / name).iterdir()):  # what the project holds was put there once, and may be gone since
            done_by_number(who, partial(_has_all, to / f"{UNSEEDED}{name}"), f"{to} can't be written")
        if left:
            why = "on a filesystem of several hosts it loses what is written"
            raise HostError(f"{left[0]} is an sqlite database, and {why}: use a database server, and move it away")


def _has_all(note: Path) -> None:
    note.unlink(missing_ok=True)


def put_aside(places: HostPaths) -> None:
    """Copy what was written meanwhile, and then put all of it aside: nothing of this host's is in the way any more."""
    gather(places)
    if places.shared_filesystem():
        for name in _entries(places):
            _put_aside(places.shared / name, places.shared / MOVED / name / str(time.time_ns()))


def _put_aside(top: Path, moved: Path) -> None:
    """Move what is in a directory: itself it stays, since instances that run have something mounted on it."""
    inside = opened(top)
    try:
        names = os.listdir(inside)  # noqa: PTH208 - a descriptor
        if names:
            moved.mkdir(mode=0o700, parents=True)
        for name in names:
            os.rename(name, moved / name, src_dir_fd=inside)
    finally:
        os.close(inside)


def _entries(places: HostPaths) -> list[str]:
    """Return the directories here of what the project writes, but those that are not shared."""
    return sorted(
        one.name
        for one in places.shared.iterdir()
        if not one.name.startswith(".") and one.is_dir() and not one.is_symlink()
    )


def delete(places: HostPaths) -> None:
    """Delete what the project has written for all hosts; HostError, and nothing is deleted, where it is not seen."""
    path = places.shared_filesystem()
    if not path:
        return
    problem = problem_of(places, Path(path))
    if problem:
        raise HostError(f"{problem}. What is on the filesystem is not deleted: mount it, and say it again")
    own = Path(path) / places.name
    if not own.is_dir() or own.is_symlink():
        return  # another host has done it
    number = own.stat().st_uid
    token = done_by_number(number or None, partial(_text, own / TOKEN), f"{own} can't be read", seconds=ANSWERS)
    if token and token != places.token.read_text(encoding="utf-8").strip():
        raise HostError(f"{own} is not what this host had at {path}, and is not deleted: remove it by hand")
    done_by_number(number or None, partial(_empty, own), f"{own} can't be emptied")
    with contextlib.suppress(OSError):  # where root is nobody, or a file is still open on another host, it stays
        own.rmdir()


def _empty(own: Path) -> None:
    for path in own.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
