"""What hosts of a stack send each other: releases that one lacks, and the static files that one has collected."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from typing import IO, TYPE_CHECKING

from platforms.remote.host.receiving import BROKEN, ENVIRONMENT, unpack_all
from platforms.remote.host.running import HostError, become, told_by

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: The last file of static files that are sent on.
WHOLE = ".whole"


def environment_of(places: HostPaths, release: str) -> str:
    """Return the name of a release's environment of packages; HostError where it is not here."""
    try:
        return (places.releases / release / ENVIRONMENT).readlink().name
    except OSError:
        raise HostError(f"release {release} is not here") from None


def send(places: HostPaths, kind: str, name: str, there: IO[bytes]) -> None:
    """Write a release or an environment as the archive by which it came; HostError where it is not here."""
    directory = {"release": places.releases, "environment": places.environments}[kind] / name
    environment = environment_of(places, name).encode() if kind == "release" else b""
    if not directory.is_dir():
        raise HostError(f"{kind} {name} is not here")
    with (
        gzip.GzipFile(fileobj=there, mode="wb", compresslevel=1) as sent,
        tarfile.open(fileobj=sent, mode="w|") as archive,
    ):
        for path in sorted(directory.iterdir()):
            if kind != "release" or path.name != ENVIRONMENT:
                archive.add(path, arcname=path.name)
        if environment:
            told = tarfile.TarInfo(ENVIRONMENT)
            told.size = len(environment)
            archive.addfile(told, io.BytesIO(environment))


def send_static(places: HostPaths, release: str, there: IO[bytes]) -> None:
    """Write a release's static files as an archive, as the user who collected them."""
    become(places)
    # Of a stream tarfile takes no level before Python 3.12.
    with (
        gzip.GzipFile(fileobj=there, mode="wb", compresslevel=1) as sent,
        tarfile.open(fileobj=sent, mode="w|") as archive,
    ):
        top = places.static / release
        for path in sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else ():
            if path.is_dir() or path.is_file() or path.is_symlink():
                archive.add(path, arcname=str(path.relative_to(top)), recursive=False)
        # Of one that an error has ended, tarfile makes a whole archive too.
        archive.addfile(tarfile.TarInfo(WHOLE))


def receive_static(places: HostPaths, release: str, sent: IO[bytes]) -> None:
    """Unpack a release's static files as the user whose they are; HostError, and none are there, if one is missing."""
    problem = told_by(places, lambda: _receive_static(places.static, release, sent))
    if problem:
        raise HostError(f"the static files of release {release} did not come whole: {problem}")


def _receive_static(static: Path, release: str, sent: IO[bytes]) -> str:
    directory, new = static / release, static / f".{release}.new"
    for path in (new, directory):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    new.mkdir()
    try:
        unpack_all(sent, new)
        (new / WHOLE).unlink()
    except (*BROKEN, OSError, HostError) as error:
        shutil.rmtree(new)
        return str(error) or type(error).__name__
    new.rename(directory)
    return ""
