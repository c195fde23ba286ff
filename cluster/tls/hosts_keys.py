"""The secrets of which a stack's hosts make what they show each other, and what is known without a certificate."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field

#: Bytes of a secret, and of each key that is made of it.
SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class HostsKeys:
    """Of what a stack's hosts make what they show each other, and what they believe beside while that is changed.

    key: hexadecimal; empty where hosts ask each other for nothing. fallbacks: others, of what is believed as well.
    """

    key: str = field(default="", repr=False)
    fallbacks: tuple[str, ...] = field(default=(), repr=False)

    @property
    def all(self) -> tuple[str, ...]:
        """That of what is shown, and then the others; each once."""
        return tuple(dict.fromkeys((self.key, *self.fallbacks)))

    def authorities(self, stack: str) -> str:
        """Return by what hosts know each other, PEM. ValueError: one of them is no secret."""
        from cluster.tls.hosts import authority_of  # noqa: PLC0415 - cryptography takes its time

        return "".join(authority_of(key, stack) for key in self.all)


def new_hosts_key() -> str:
    """Return a new secret of a stack, hexadecimal."""
    return secrets.token_hex(SECRET_BYTES)


def read_fallbacks(text: str | None) -> tuple[str, ...]:
    """Return the secrets that hosts believe beside, as a stack file has them. ValueError: they are none."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("must be a JSON list of keys")
    for one in found:
        secret_bytes(one)
    return tuple(found)


def password_of(secret: str, what: str) -> str:
    """Return a password of a stack's for what its hosts ask each other for. ValueError: the secret is none."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - takes its time
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 - as above

    return HKDF(hashes.SHA256(), SECRET_BYTES, None, f"password {what}".encode()).derive(secret_bytes(secret)).hex()


def secret_bytes(secret: str) -> bytes:
    """Return what a secret is. ValueError: it is none."""
    try:
        found = bytes.fromhex(secret)
    except ValueError:
        found = b""
    if len(found) != SECRET_BYTES:
        raise ValueError(f"must be {2 * SECRET_BYTES} hexadecimal digits")
    return found
