"""A change of a key in three steps, each an `up` that loses nothing; interrupted anywhere it goes on.

Of SECRET_KEY:

1. `accept`: the new key is a fallback everywhere, so that whoever still signs with the old one verifies the new one.
2. `sign`: the new key signs, the old one is a fallback.
3. `drop`: the old key goes, once everything that it signed is over. What it made that has no end can't be known from
   here (UNKNOWN), so it is kept aside, where nothing reads it, until somebody deletes it; or it stays a fallback.

Between any two steps instances of both releases run side by side, and each verifies what the other one signs. No order
of writes loses a key: what is not yet proven to be everywhere stays a fallback.

Of what hosts make their certificates the same: all believe both, then all show what is of the new one, then they
believe that alone. Nothing that lasts is made of it, so nothing is waited for.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from pydantic import TypeAdapter

from cluster.config.models import HOSTS_KEY, HOSTS_KEY_FALLBACKS
from cluster.kept import HurtFile, read_kept, write_kept
from cluster.stack.secrets import ALPHABET, KEY_LENGTH
from cluster.tls.hosts_keys import new_hosts_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ACCEPT: Final = "accept"
SIGN: Final = "sign"
DROP: Final = "drop"


#: Said before the old key goes: what may need it for longer than anything here can know.
UNKNOWN = (
    "nothing here can know what else the old key has made. Before it goes, look for",
    "  - fields and files that are encrypted with SECRET_KEY: encrypt them anew while both keys are there",
    "  - signed links and tokens without an age, or of another library (unsubscribe, invitations, API tokens)",
    "  - whatever else outlives SESSION_COOKIE_AGE and PASSWORD_RESET_TIMEOUT",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is rotated. key, fallbacks: by which names messages know them. new: makes a key. steps: what each does.

    unknown: said before the old key goes.
    """

    key: str
    fallbacks: str
    new: Callable[[], str]
    steps: tuple[str, str, str]
    unknown: tuple[str, ...] = ()


SECRET_KEY = Kind(
    key="secret_key",
    fallbacks="secret_key_fallbacks",
    new=lambda: "".join(secrets.choice(ALPHABET) for _ in range(KEY_LENGTH)),
    steps=(
        "every instance accepts the new key",
        "the new key signs, the old one is still accepted",
        "the old key goes",
    ),
    unknown=UNKNOWN,
)


HOSTS = Kind(
    key=HOSTS_KEY,
    fallbacks=HOSTS_KEY_FALLBACKS,
    new=new_hosts_key,
    steps=(
        "every host believes certificates of the new key, and the database knows its password",
        "hosts show certificates of the new key, and instances use its password",
        "certificates and the password of the old key are believed no more",
    ),
)


class AlreadyDropped(Exception):  # noqa: N818 - what happened
    """The old key can't stay a fallback, since it is none any more."""


class LostKey(Exception):  # noqa: N818 - what happened
    """The keys are not those of the rotation that was begun."""


class Keys(Protocol):
    """Where a platform keeps a stack's key of a kind, and its fallbacks."""

    def read(self) -> tuple[str, list[str]]:
        """Return the key and its fallbacks."""
        ...

    def write_key(self, key: str) -> None:
        """Replace the key."""
        ...

    def write_fallbacks(self, keys: list[str]) -> None:
        """Replace its fallbacks."""
        ...

    def keep_aside(self, keys: list[str]) -> str:
        """Keep keys where nothing but their owner reads them, beside those that are there; return where and how.

        Empty where none is to be kept.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """How far a rotation is. new: what stands for the new key, never the key. since: when it began to sign."""

    step: Literal["accept", "sign", "drop"]
    new: str
    since: float | None = None


KEPT: TypeAdapter[Rotation] = TypeAdapter(Rotation)


class Progress(Protocol):
    """Where it is kept how far a rotation is."""

    @property
    def forget(self) -> str:
        """What to do where it is to be begun anew."""
        ...

    def load(self) -> Rotation | None:
        """Return the rotation that was begun, None where none was; LostKey where nobody can say how far it is."""
        ...

    def save(self, rotation: Rotation | None) -> None:
        """Keep it; None: it has ended."""
        ...


class StackKeys(Keys, Protocol):
    """A stack's keys of a kind, and how far their rotation is."""

    def progress(self, state: Path) -> Progress:
        """Return where it is kept how far their rotation is, beside them. state: what this machine keeps of a stack."""
        ...


@dataclass(frozen=True)
class ProgressFile:
    """How far a rotation is, in a file."""

    path: Path

    @property
    def forget(self) -> str:
        """What to do where it is to be begun anew."""
        return f"remove {self.path}"

    def load(self) -> Rotation | None:
        """Return the rotation that was begun, None where none was; LostKey where nobody can say how far it is."""
        try:
            return read_kept(self.path, KEPT)
        except HurtFile as error:
            raise unsaid(str(error)) from error

    def save(self, rotation: Rotation | None) -> None:
        """Keep it; None: it has ended."""
        if rotation is None:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_kept(self.path, asdict(rotation))


def unsaid(found: str) -> LostKey:
    """Return what to raise where nobody can say how far a rotation is. found: what is there instead, and where."""
    return LostKey(f"{found}: how far the rotation is can't be said. No key is lost by beginning anew")


def _save(progress: Progress, rotation: Rotation) -> Rotation:
    progress.save(rotation)
    return rotation


def mark(key: str) -> str:
    """Return what stands for a key where anybody may read it."""
    return hashlib.sha256(f"cluster rotate-key {key}".encode()).hexdigest()[:16]


def rotate(  # noqa: PLR0913 - what it needs
    progress: Progress,
    keys: Keys,
    *,
    release: Callable[[], None],
    say: Callable[[str], None],
    now: Callable[[], float],
    age: float,
    keep_fallback: bool = False,
    kind: Kind = SECRET_KEY,
) -> Rotation | None:
    """Go on with a rotation as far as it may; return what is left of it, None where it is done.

    keep_fallback: end it without the last step. AlreadyDropped where that was begun.

    progress: where it is kept how far it is. release: makes the cluster what its keys say. age: seconds for which
    something that was signed is valid. now: the time, seconds.
    """
    rotation = progress.load()
    if rotation is None:
        rotation = _save(progress, Rotation(step=ACCEPT, new=""))
    if rotation.step == ACCEPT:
        say(f"step 1 of 3: {kind.steps[0]}")
        rotation = _accept(progress, rotation, keys, kind)
        release()
        rotation = _save(progress, Rotation(step=SIGN, new=rotation.new))
    if rotation.step == SIGN:
        say(f"step 2 of 3: {kind.steps[1]}")
        _sign(rotation, keys, kind)
        release()
        rotation = _save(progress, Rotation(step=DROP, new=rotation.new, since=now()))
    key, fallbacks = keys.read()
    if keep_fallback:
        if not fallbacks:
            raise AlreadyDropped
        progress.save(None)
        return None
    if rotation.since is None or now() < rotation.since + age:
        return rotation
    if fallbacks and mark(key) != rotation.new:
        raise LostKey(f"{kind.key} is not the new key any more: it was changed since the rotation began")
    _drop(keys, fallbacks, kind, say)
    release()
    progress.save(None)
    return None


def _accept(progress: Progress, rotation: Rotation, keys: Keys, kind: Kind) -> Rotation:
    key, fallbacks = keys.read()
    if rotation.new in map(mark, [key, *fallbacks]):
        return rotation
    new = kind.new()
    rotation = _save(progress, Rotation(step=ACCEPT, new=mark(new)))
    keys.write_fallbacks([new, *fallbacks])
    return rotation


def _sign(rotation: Rotation, keys: Keys, kind: Kind) -> None:
    key, fallbacks = keys.read()
    if mark(key) != rotation.new:
        new = next((one for one in fallbacks if mark(one) == rotation.new), None)
        if new is None:
            raise LostKey(
                f"the new key is not among {kind.fallbacks} any more: they were changed since the rotation began"
            )
        if key not in fallbacks:
            fallbacks = [*fallbacks, key]
            keys.write_fallbacks(fallbacks)
        keys.write_key(new)
    rest = [one for one in fallbacks if mark(one) != rotation.new]
    if rest != fallbacks:
        keys.write_fallbacks(rest)


def _drop(keys: Keys, fallbacks: list[str], kind: Kind, say: Callable[[str], None]) -> None:
    for line in kind.unknown if fallbacks else ():
        say(line)
    say(f"step 3 of 3: {kind.steps[2]}")
    kept = keys.keep_aside(fallbacks) if fallbacks else ""
    if kept:
        say(f"the old key is kept aside: {kept}")
    keys.write_fallbacks([])


def unverified_by(secrets: Mapping[str, str], key: str, release: str) -> str | None:
    """Return why a former release, with secrets of its own, must not serve again: it does not know today's key."""
    if key in (secrets.get("secret_key"), *json.loads(secrets.get("secret_key_fallbacks") or "[]")):
        return None
    return (
        f"release {release} is from before secret_key was changed, and does not accept what the new one has signed: "
        "everybody would be logged out. Put the former code back and say `cluster up` instead"
    )


__all__ = [
    "KEPT",
    "UNKNOWN",
    "AlreadyDropped",
    "Keys",
    "LostKey",
    "Progress",
    "ProgressFile",
    "Rotation",
    "StackKeys",
    "rotate",
    "unsaid",
    "unverified_by",
]
