"""What an authority gave is looked at before it takes the place of a certificate that works."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cluster.acme.kept import RESERVED

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

#: By what reading fails where a certificate is not one, or is of a kind that is not known.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion)

MOMENT = "%Y-%m-%d %H:%M UTC"


class UnusableError(Exception):
    """A certificate that must not be used; the text says why."""


def checked(chain: str, key: str, names: Sequence[str], now: dt.datetime) -> str:
    """Return a certificate and those of the authorities above it, PEM, and nothing else of what was given.

    key: its private key, PEM. UnusableError where clients, or nginx, would not take it for these names now.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise UnusableError("it holds no certificate in PEM") from None
    try:
        problem = next(_problems(certificates, key, names, now), None)
    except (*UNREADABLE, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise UnusableError(f"it can't be read: {str(error) or type(error).__name__}") from None
    text = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    if len(text) > RESERVED:
        problem = f"its chain has more than {RESERVED} bytes"
    if problem is not None:
        raise UnusableError(problem)
    return text


def _problems(
    certificates: Sequence[x509.Certificate], key: str, names: Sequence[str], now: dt.datetime
) -> Iterator[str]:
    own = certificates[0]
    public = serialization.load_pem_private_key(key.encode(), None).public_key()
    if _spki(public) != _spki(own.public_key()):
        yield "it is to another key"
    try:
        said = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        covered = {name.lower() for name in said.get_values_for_type(x509.DNSName)}
    except x509.ExtensionNotFound:
        covered = set()
    missing = [name for name in names if name not in covered]
    if missing:
        yield f"it does not cover {', '.join(missing)}"
    clock = f"and by this machine's clock it is {now:{MOMENT}}"
    if own.not_valid_before_utc > now:
        yield f"it begins at {own.not_valid_before_utc:{MOMENT}}, {clock}"
    if own.not_valid_after_utc <= now:
        yield f"it has ended at {own.not_valid_after_utc:{MOMENT}}, {clock}"
    for lower, upper in pairwise(certificates):
        try:
            lower.verify_directly_issued_by(upper)
        except UNREADABLE:
            yield "the certificates that come with it have not signed it, or not each other"


def _spki(key: object) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return found
