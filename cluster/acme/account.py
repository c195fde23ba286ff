"""The account's key: one a stack, so that any of its nginx can answer the authority for any other.

Sources: RFC 7638 (thumbprints), RFC 8555, section 8.1 (what answers a challenge).
"""

from __future__ import annotations

import re

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64decode, b64encode
from josepy.jwk import JWKEC


def account_of(text: str) -> JWKEC:
    """Return an account's key, as the protocol names it. ValueError where the text holds none."""
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except TypeError:
        raise ValueError("has a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("is no key of the curve P-256")  # noqa: TRY004 - it is the text's fault
    return JWKEC(key=key)


def thumbprint_of(text: str) -> str:
    """Return what nginx answers the authority with, after the token that it is asked by. ValueError: no such key."""
    return b64encode(account_of(text).thumbprint()).decode()


def check_binding(text: str) -> None:
    """Raise ValueError where a text is no key that an authority gives for its id (RFC 8555, section 7.3.4)."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+={0,2}", text) or len(text.rstrip("=")) % 4 == 1 or not b64decode(text):
        raise ValueError("is no key in base64url, as authorities give it")
