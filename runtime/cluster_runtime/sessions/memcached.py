"""The cache that holds sessions: memcached, with values that are signed JSON instead of pickle."""

from __future__ import annotations

from typing import Any

from django.core import signing
from django.core.cache.backends.memcached import PyMemcacheCache

SALT = "cluster_runtime.sessions."


class SignedJSON:
    """pymemcache's serde: JSON with an HMAC bound to the key (django.core.signing, fallback keys honoured).

    Whoever reaches memcached can neither run code by it, as pickle would allow, nor forge a session, nor put one
    session's value in another's place. A value that does not verify is a miss.
    """

    def serialize(self, key: bytes | str, value: object) -> tuple[bytes, int]:
        """Return the signed text of `value` and pymemcache's flags."""
        return signing.dumps(value, salt=_salt(key)).encode("ascii"), 1

    def deserialize(self, key: bytes | str, value: bytes, _flags: int) -> object:
        """Return the value, or None where it was not signed for this key."""
        try:
            return signing.loads(value.decode("ascii"), salt=_salt(key))
        except (signing.BadSignature, ValueError):
            return None


def _salt(key: bytes | str) -> str:
    return SALT + (key.decode("utf-8") if isinstance(key, bytes) else key)


class SessionCache(PyMemcacheCache):
    """Django's memcached cache for sessions."""

    def __init__(self, server: list[str], params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._options = {**self._options, "serde": SignedJSON(), "no_delay": False}

    def get(self, key: str, default: object = None, version: int | None = None) -> object:
        """Return the value of `key`; one that does not verify is a miss."""
        value = super().get(key, default, version)
        return default if value is None else value

    def close(self, **_kwargs: object) -> None:
        """Keep the connection after a request: there is one for each thread."""
