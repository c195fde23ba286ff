"""Lets nginx check a site's file that is not in place: in a directory of its own, which is gone afterwards.

There is this host's nginx.conf with what it includes, but for the sites: of these there is the proposed one alone. What
nginx opens for a check (logs, its pid file, the site's sockets) is in that directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.remote.host.running import HostError, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from platforms.remote.host.paths import HostPaths

#: How a check's directory is called, which nobody but root can have made.
DIRECTORY = re.compile(r"/run/cluster-check-[0-9a-f]{8}")

#: What of nginx's directory a check has of its own.
OWN = ("nginx.conf", "sites-enabled", "sites-available")


def check(places: HostPaths, asked: dict[str, Any]) -> str | None:
    """Return what nginx says of a site's file that it refuses; None where it takes it.

    asked: the `directory` whose paths the files say, `files` and `links` by their paths from there or absolute ones in
    it, and `directories`, absolute. HostError where nginx can't be asked.
    """
    if shutil.which("nginx") is None:
        raise HostError("nginx is not installed yet")
    with _directory(places, asked["directory"]) as directory:
        for path in asked["directories"]:
            _within(directory, places, path).mkdir(parents=True, exist_ok=True)
        for path, text in asked["files"].items():
            _made(directory, places, path).write_text(text, encoding="utf-8")
        for path, target in asked["links"].items():
            _made(directory, places, path).symlink_to(target)
        (directory / "nginx.conf").write_bytes(_main(places, directory))
        _link_others(places, directory)
        words = ("-t", "-q", "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf"))
        done = output("nginx", *words, cwd=str(directory))
    return None if done.returncode == 0 else done.stderr


@contextlib.contextmanager
def _directory(places: HostPaths, said: str) -> Iterator[Path]:
    """Give a directory that is root's alone."""
    if DIRECTORY.fullmatch(said) is None:
        raise HostError(f"{said}: not the directory of a check")
    directory = places.root / said.lstrip("/")
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _within(directory: Path, places: HostPaths, path: str) -> Path:
    """Return where a path is in a check's directory; HostError where it leads out of it."""
    there = places.root / path.lstrip("/") if path.startswith("/") else directory / path
    if not Path(os.path.normpath(there)).is_relative_to(directory):
        raise HostError(f"{path}: not in the directory of a check")
    return there


def _made(directory: Path, places: HostPaths, path: str) -> Path:
    there = _within(directory, places, path)
    there.parent.mkdir(parents=True, exist_ok=True)
    return there


def _main(places: HostPaths, directory: Path) -> bytes:
    """Return this host's nginx.conf, which includes the check's sites and writes where the check is."""
    text = (places.nginx / "nginx.conf").read_text(encoding="utf-8", errors="surrogateescape")
    sites = re.compile(rf"(?m)^(\s*include\s+)(?:{re.escape(str(places.nginx))}/)?sites-enabled/")
    if not sites.search(text):
        raise HostError(f"{places.nginx}/nginx.conf includes no sites-enabled")
    text = sites.sub(rf"\1{directory}/sites-enabled/", text)
    text = re.sub(r"(?m)^(\s*pid\s+)[^\s;]+", rf"\1{directory}/pid", text)
    text = re.sub(r"(?m)^(\s*(?:error|access)_log\s+)/[^\s;]+", rf"\1{directory}/log", text)
    return text.encode("utf-8", "surrogateescape")


def _link_others(places: HostPaths, directory: Path) -> None:
    """Let what nginx.conf names by relative paths be found; of the stack's own, what the check has not itself."""
    for path in places.nginx.iterdir():
        if path.name not in OWN and not os.path.lexists(directory / path.name):
            (directory / path.name).symlink_to(path)
