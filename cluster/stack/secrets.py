"""The secrets of a stack on this machine: files that only their owner reads."""

from __future__ import annotations

import json
import secrets
import stat
from typing import TYPE_CHECKING

from cluster.config.models import DROPPED_KEYS, GIVEN_KEYS, OWN_KEYS, SECRET_KEYS
from cluster.errors import ClusterError
from cluster.kept import HURT, make_way, write_durably

if TYPE_CHECKING:
    from pathlib import Path

#: Characters of a SECRET_KEY: as many as Django's own, from an alphabet that needs no quoting anywhere.
KEY_LENGTH = 50
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-_=+"

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600


class SecretError(ClusterError):
    """A secret's file can't be used; the text names it, and never its content."""


def ensure_secrets(directory: Path) -> dict[str, str]:
    """Return the secrets in `directory` by their names; a missing secret_key is made."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    key = directory / "secret_key"
    if not key.exists():
        write_secret(key, "".join(secrets.choice(ALPHABET) for _ in range(KEY_LENGTH)))
    return read_secrets(directory)


def lost_secrets(directory: Path, former: dict[str, str]) -> list[str]:
    """Return the secrets of a former release that are to be put back: none, unless the key is gone, which is a mishap.

    Whoever removes another secret alone wants it removed.
    """

    def is_there(name: str) -> bool:
        return (directory / name).is_file() and bool((directory / name).stat().st_size)

    if not former.get("secret_key") or is_there("secret_key"):
        return []
    return [name for name in SECRET_KEYS if former.get(name) and not is_there(name)]


def restore_secrets(directory: Path, former: dict[str, str]) -> list[str]:
    """Put back what `lost_secrets` returns; return it."""
    lost = lost_secrets(directory, former)
    if lost:
        make_way(directory, stat.S_IFDIR)
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for name in lost:
        write_secret(directory / name, former[name])
    return lost


def read_secrets(directory: Path) -> dict[str, str]:
    """Return the secrets that are there; SecretError where one can be read by others or is malformed."""
    found = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name.endswith(".new") or HURT in path.name:
            continue  # left by an `up` that was killed, or moved aside by one
        if path.name not in (*SECRET_KEYS, *OWN_KEYS):
            raise SecretError(f"{path}: not a secret's name; known are {', '.join(GIVEN_KEYS)}")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise SecretError(f"{path}: mode {mode:04o} lets others read it; chmod 600 it")
        if path.name in OWN_KEYS:
            continue  # no release's
        try:
            found[path.name] = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"{path}: can't be read: {error}") from error
        _check(path, found[path.name])
    return found


def keep_dropped(directory: Path, keys: list[str], when: str) -> Path:
    """Add keys that go to those that went before; return the file, which nothing reads but its owner."""
    path = directory / DROPPED_KEYS
    try:
        text = with_dropped(path.read_text(encoding="utf-8") if path.exists() else "", keys, when)
    except (OSError, ValueError) as error:
        raise SecretError(f"{path}: can't be read: {error}; move it away") from error
    write_secret(path, text)
    return path


def with_dropped(former: str, keys: list[str], when: str) -> str:
    """Return the text in which dropped keys are kept, with more of them; ValueError where the former one is none."""
    kept = json.loads(former or "[]")
    if not isinstance(kept, list) or not all(isinstance(one, dict) for one in kept):
        raise ValueError("not a list of keys")
    known = [one.get("key") for one in kept]
    return json.dumps([*kept, *({"dropped": when, "key": key} for key in keys if key not in known)], indent=1)


def write_secret(path: Path, value: str) -> None:
    """Write a secret atomically, 0600 from the beginning, and on the disk when this returns."""
    write_durably(path, value, FILE_MODE)


def _check(path: Path, value: str) -> None:
    if path.name == "secret_key" and not value:
        raise SecretError(f"{path}: empty; remove it, and a new one is made")
    kinds = {"secret_environment": (dict, "a JSON object"), "secret_key_fallbacks": (list, "a JSON list")}
    if path.name in kinds:
        kind, words = kinds[path.name]
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if not isinstance(parsed, kind):
            raise SecretError(f"{path}: must be {words}")
