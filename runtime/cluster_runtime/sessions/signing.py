"""How a session is written in memcached: as JSON that SECRET_KEY signs, for one key and no other."""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string

from cluster_runtime.sessions.placeholders import PLACEHOLDERS, VALUE, Lease, Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterator

SALT = b"cluster_runtime.sessions."

#: Bytes of an HMAC by SHA-256.
SIGNATURE = 32

#: Bytes of a value that memcached surely takes (its items have at most 1 MiB, key and header included). It is not asked
#: to refuse more: what it had under that key would be gone.
LARGEST_VALUE = 1_000_000


class TooLarge(ValueError):  # noqa: N818 - what it is
    """A session is larger than what its store takes; nothing was stored, and the former one is still there."""


def _keys() -> Iterator[bytes]:
    """Yield what signs, and then what else is accepted: SECRET_KEY and its fallbacks, each derived for this alone."""
    yield _derived(settings.SECRET_KEY)
    for key in settings.SECRET_KEY_FALLBACKS:
        yield _derived(key)


@lru_cache(maxsize=16)
def _derived(key: str | bytes) -> bytes:
    return hashlib.sha256(SALT + force_bytes(key)).digest()


def _signature(derived: bytes, key: bytes | str, text: bytes) -> bytes:
    place = key.encode() if isinstance(key, str) else key
    return hmac.digest(derived, place + b"\0" + text, "sha256")


def _is_signed(key: bytes | str, signature: bytes, text: bytes) -> bool:
    """Tell whether `text` was signed for this key."""
    return any(hmac.compare_digest(signature, _signature(derived, key, text)) for derived in _keys())


def _sign(key: bytes | str, value: object) -> bytes:
    text: bytes = _serializer().dumps(value)
    return _signature(next(_keys()), key, text) + text


def _serializer() -> Any:
    return import_string(settings.SESSION_SERIALIZER)()


class Signed:
    """A value that is signed already, for the key under which it is stored."""

    def __init__(self, key: str, value: object) -> None:
        self.text = _sign(key, value)


class SignedJSON:
    """pymemcache's serde: JSON after an HMAC (SHA-256) of it and the key, by SECRET_KEY or one of its fallbacks.

    A value is signed together with the time at which it ends (seconds since 1970, or None) and the one at which it was
    written (nanoseconds). The project's SESSION_SERIALIZER stands in JSON's place, as in Django's other session stores.
    django.core.signing does the same and more (encoding, a time stamp), for three times the time.

    Whoever reaches memcached can neither run code by it, as pickle would allow, nor forge a session, nor put one
    session's value in another's place. A value that does not verify is a miss.
    """

    def serialize(self, key: bytes | str, value: object) -> tuple[bytes, int]:
        """Return the signed text of `value` and pymemcache's flags; TooLarge where memcached would not take it."""
        if isinstance(value, Lease | Tombstone):
            return value.text, value.flags
        text = value.text if isinstance(value, Signed) else _sign(key, value)
        if len(text) > LARGEST_VALUE:
            raise TooLarge(
                f"a session of {len(text):,} bytes is too large for memcached, which takes {LARGEST_VALUE:,}"
            )
        return text, VALUE

    def deserialize(self, key: bytes | str, value: bytes, flags: int) -> object:
        """Return the value, or None where it was not signed for this key."""
        if flags in PLACEHOLDERS:
            return PLACEHOLDERS[flags](value)
        signature, text = value[:SIGNATURE], value[SIGNATURE:]
        if not _is_signed(key, signature, text):
            return None
        try:
            _value, end, _written = found = _serializer().loads(text)
        except Exception:  # noqa: BLE001 - signed by us, but by a serializer that the project has changed since
            return None
        return None if end is not None and end <= time.time() else found


class Unread(SignedJSON):
    """The serde of a reader that only asks whether there is a value: nothing is verified."""

    def deserialize(self, key: bytes | str, value: bytes, flags: int) -> object:
        """Return THERE in the place of any value."""
        return super().deserialize(key, value, flags) if flags in PLACEHOLDERS else THERE


#: Stands for a value that nobody has looked at.
THERE = object()

SIGNED, UNREAD = SignedJSON(), Unread()
