"""A release's secrets on a host: root's alone where they lie; systemd gives them to units, each of which reads its own.

A release has a directory of them, and each unit a link to that of its release, by which its template names it: a unit
that has none does not start. Source: systemd.exec(5), LoadCredential.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from cluster_runtime.secret_files import CREDENTIAL, HELD
from platforms.remote.host.running import HostError, is_so, output, put

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

DIRECTORY, FILE = 0o700, 0o600

#: In a release: its configuration.
CONFIG = "config.json"

#: What systemd says in a unit's log where it could not give it its secrets.
FAILED = "step CREDENTIALS"


def loaded(directory: Path | str) -> str:
    """Return the line by which systemd gives a unit the secrets in a directory."""
    return f"LoadCredential={CREDENTIAL}:{directory}"


def check(places: HostPaths) -> None:
    """See that systemd gives units what they alone read: where it can't, it says nothing. HostError where it does not.

    In a container systemd leaves / as it finds it, and what it mounts for a unit is not seen there.
    """
    script = f'test -s "$CREDENTIALS_DIRECTORY/{CREDENTIAL}"'
    given = f"LoadCredential={CREDENTIAL}:{places.owner}"
    words = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property", given)
    if output(*words, "sh", "-c", script).returncode != 0:
        raise HostError(
            "systemd gives units no secrets here (LoadCredential): in a container, let `mount --make-rshared /` run "
            "before the first unit starts"
        )


def write(places: HostPaths, release: str, values: Mapping[str, str]) -> None:
    """Put a release's secrets in place, all at once; those that are there already are left alone."""
    directory, new = places.credentials / release, places.credentials / f".{release}.new"
    _make(places)
    if directory.is_dir() and _says(directory, values):
        return
    for path in (new, new.with_suffix(".old")):
        shutil.rmtree(path, ignore_errors=True)
    new.mkdir(mode=DIRECTORY)
    for name, value in values.items():
        put(new / name, value, FILE)
    if directory.exists():
        directory.rename(new.with_suffix(".old"))
    new.rename(directory)
    shutil.rmtree(new.with_suffix(".old"), ignore_errors=True)


def _says(directory: Path, values: Mapping[str, str]) -> bool:
    names = {path.name for path in directory.iterdir()}
    same = names == {*values} and all(is_so(directory / name, value, FILE) for name, value in values.items())
    return same and _is_root_s(directory)


def reads_files(places: HostPaths, release: str) -> bool:
    """Tell whether a release reads its secrets as files of its own user, as those before systemd gave them."""
    path = places.releases / release / CONFIG
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("secrets"))


def give(places: HostPaths, units: Iterable[str]) -> None:
    """Let systemd give units the secrets of their releases, whenever it starts them.

    A release that reads them as files of its own needs none, and gets an empty directory where it has no other.
    """
    _make(places)
    for unit in units:
        template, _, called = unit.removesuffix(".service").partition("@")
        release = called.rpartition("-")[2] if template == places.name else called.partition(".")[0]
        (places.credentials / release).mkdir(mode=DIRECTORY, exist_ok=True)
        link, target = places.given / called, f"../{places.credentials.name}/{release}"
        if not link.is_symlink():
            link.symlink_to(target)


def _make(places: HostPaths) -> None:
    above = places.credentials.parent
    above.parent.mkdir(mode=0o755, exist_ok=True)
    for path in (above, places.credentials, places.given):
        path.mkdir(mode=DIRECTORY, exist_ok=True)
        path.chmod(DIRECTORY)


def there(places: HostPaths) -> list[str]:
    """Return the releases whose secrets are there, for nobody else to read."""
    found = places.credentials.iterdir() if places.credentials.is_dir() else ()
    return sorted(path.name for path in found if not path.name.startswith(".") and _is_whole(path))


def _is_whole(directory: Path) -> bool:
    return (directory / HELD).is_file() and _is_root_s(directory)


def _is_root_s(directory: Path) -> bool:
    """Tell whether nobody but root reads a directory and what is in it."""
    said = {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    return directory.stat().st_mode & 0o777 == DIRECTORY and said <= {FILE}


def forget(places: HostPaths, release: str, units: Collection[str]) -> None:
    """Remove the secrets that no unit needs: whoever goes back to a former release writes them again."""
    called = {unit.removesuffix(".service").partition("@")[2] for unit in units}
    for path in places.given.iterdir() if places.given.is_dir() else ():
        if path.name not in called:
            path.unlink()
    for path in places.credentials.iterdir() if places.credentials.is_dir() else ():
        if path.name != release:
            shutil.rmtree(path)


def forget_unused(places: HostPaths, units: Collection[str]) -> None:
    """Remove the secrets of releases that none of these units has."""
    called = {unit.removesuffix(".service").partition("@")[2] for unit in units}
    for path in places.given.iterdir() if places.given.is_dir() else ():
        if path.name not in called:
            path.unlink()
    used = {path.readlink().name for path in places.given.iterdir()} if places.given.is_dir() else set()
    for path in places.credentials.iterdir() if places.credentials.is_dir() else ():
        if path.name not in used:
            shutil.rmtree(path)


def remove(places: HostPaths) -> None:
    """Remove all of them; what a broker is given is its own."""
    for path in (places.credentials, places.given):
        shutil.rmtree(path, ignore_errors=True)
    leave_nothing(places)


def leave_nothing(places: HostPaths) -> None:
    """Remove the directories above, where nothing is in them any more."""
    above = places.credentials.parent
    for path in (above, above.parent):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def hints(log: str) -> list[str]:
    """Return in words what systemd says in a unit's log in its own, where that is of secrets."""
    return ["    systemd has no secrets to give it: the next `cluster up` puts them in place"] if FAILED in log else []
