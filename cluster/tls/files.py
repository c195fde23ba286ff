"""Checks of a certificate that somebody else renews.

Sources: RFC 5280 (certificates), RFC 6125 (which names one covers).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cluster.tls.certificates import CertificateError, address, names_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from cluster.config.models import ClusterConfig
    from cluster.config.site import CertificateFiles

#: What a site's key may be; nginx takes no other.
KEYS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)

#: Bits that OpenSSL wants of an RSA key at its usual level, and the curves that browsers take.
RSA_BITS = 2048
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

#: By what it fails where a certificate is not one, or is of a kind that is not known.
UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion, x509.DuplicateExtension),
    x509.UnsupportedGeneralNameType,
)


def uncovered(certificate: x509.Certificate, names: Iterable[str]) -> list[str]:
    """Return the names that a certificate does not cover."""
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return list(names)
    hosts = {host.lower() for host in said.get_values_for_type(x509.DNSName)}
    addresses = {str(address) for address in said.get_values_for_type(x509.IPAddress)}

    def covered(name: str) -> bool:
        found = address(name)
        if found is not None:
            return str(found) in addresses
        return name in hosts or f"*.{name.partition('.')[2]}" in hosts

    return [name for name in names if not covered(name)]


def check(chain: str, key: str, config: ClusterConfig, now: dt.datetime) -> None:
    """Raise CertificateError where nginx, or a browser, would refuse the files of a site; it says why."""
    files = config.site.tls.files if config.site.tls else None
    assert files is not None  # noqa: S101 - whoever asks has some
    try:
        _check(chain, key, files, config, now)
    except UNREADABLE as error:
        words = f"can't be read: {str(error) or type(error).__name__}"
        raise CertificateError(f"site.tls.files.certificate: {files.certificate}: {words}") from None


def _check(chain: str, key: str, files: CertificateFiles, config: ClusterConfig, now: dt.datetime) -> None:
    at = f"site.tls.files.certificate: {files.certificate}"
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise CertificateError(f"{at}: holds no certificate in PEM") from None
    _check_key(certificates, key, files)
    for lower, upper in pairwise(certificates):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError(
                f"{at}: {_subject(lower)} is not signed by {_subject(upper)}, which comes after it; the site's own "
                "certificate comes first, then each authority's after what it has signed"
            ) from None
    for one in certificates:
        if one.not_valid_after_utc <= now:
            raise CertificateError(f"{at}: {_subject(one)} has ended on {one.not_valid_after_utc:%Y-%m-%d}")
        if one.not_valid_before_utc > now:
            raise CertificateError(f"{at}: {_subject(one)} begins on {one.not_valid_before_utc:%Y-%m-%d} only")
    missing = uncovered(certificates[0], [name for name in names_of(config) if "_" not in config.site.server_names])
    if missing:
        raise CertificateError(f"{at}: does not cover {', '.join(missing)}, which are names of the site")


def _check_key(certificates: Sequence[x509.Certificate], text: str, files: CertificateFiles) -> None:
    at = f"site.tls.files.key: {files.key}"
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except TypeError:
        raise CertificateError(f"{at}: has a passphrase, which nginx can't ask for; remove it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{at}: holds no private key in PEM") from None
    if not isinstance(key, KEYS):
        raise CertificateError(f"{at}: must be an RSA key or one of an elliptic curve")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_BITS:
        raise CertificateError(f"{at}: has {key.key_size} bits; an RSA key must have {RSA_BITS} at least")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, CURVES):
        raise CertificateError(f"{at}: is of {key.curve.name}, which no browser takes; P-256 is what all do")
    if _spki(key.public_key()) != _spki(certificates[0].public_key()):
        first = "the first certificate in " if len(certificates) > 1 else ""
        raise CertificateError(f"{at}: is not the key of {first}{files.certificate}")


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
