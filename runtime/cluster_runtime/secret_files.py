"""Writes a release's secrets where its instances read them.

Each release has a directory of its own, since the former one is still read by who serves.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from cluster_runtime.instance_link import NAME

#: The secret that every release has.
HELD = "secret_key"

#: A broker's URL, which the platform makes where it holds a password.
BROKER_SECRET = "broker_url"  # noqa: S105 - a name

#: What systemd calls the secrets that it gives a unit: one of them is `cluster_NAME`.
CREDENTIAL = "cluster"

#: Releases whose secrets are kept beside those of the releases that serve.
KEPT = 3


def write_all(directory: Path, values: dict[str, str], links: dict[str, str]) -> None:
    """Put the secrets in place, all at once: files 0400, in a directory 0500, of this process's user.

    links: secrets that the platform made itself (the URL of its own database), by their paths. What is there already is
    left alone: a release that serves reads it.
    """
    if directory.is_dir() and _read(directory) == {**values, **{name: Path(path) for name, path in links.items()}}:
        os.utime(directory)  # the latest again
        return
    new = directory.with_name(f".{directory.name}.new")
    if new.exists():
        _remove(new)
    new.mkdir(mode=0o700)
    for name, value in values.items():
        descriptor = os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(value)
    for name, target in links.items():
        (new / name).symlink_to(target)
    new.chmod(0o500)
    if directory.exists():
        _remove(directory)
    new.rename(directory)


def _read(directory: Path) -> dict[str, str | Path]:
    """Return the secrets in a directory; of a link, where it leads."""
    return {
        path.name: path.readlink() if path.is_symlink() else path.read_bytes().decode() for path in directory.iterdir()
    }


def forget_old(root: Path, sockets: Path) -> None:
    """Remove the secrets of releases that are neither among the latest nor hold any instance's name."""
    # Not by glob(), which leaves out links to nowhere: the holder may just be starting again.
    serving = {_holder(directory / NAME).partition(".")[0] for directory in sockets.iterdir()}
    directories = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for directory in directories[:-KEPT]:
        if directory.name not in serving and not is_held(directory):
            _remove(directory)


def _holder(link: Path) -> str:
    """Return where a name leads; empty where nothing holds it, or where whoever serves keeps that from being read."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def hold_release(secrets: str, config: Path) -> int:
    """Keep a release as long as this process lives: a command that runs in it may run for weeks.

    One of its secrets stands for it; its configuration where `secrets`, their directory, is empty, since systemd gives
    them. The kernel lets go of it.
    """
    return hold(Path(secrets)) if secrets else hold(config.parent, config.name)


def hold(directory: Path, name: str = HELD) -> int:
    """Keep the release for which a file in a directory stands."""
    descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def is_held(directory: Path, name: str = HELD) -> bool:
    """Tell whether a process keeps the release for which a file in a directory stands."""
    try:
        # A pipe that nobody writes to would be waited for.
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # gone, or something else stands there, which no process of ours holds
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(directory: Path) -> None:
    directory.chmod(0o700)  # which lets its own user remove what is in it
    shutil.rmtree(directory)
