"""Checks of a certificate that somebody else renews.

Sources: RFC 5280 (certificates), RFC 6125 (which names one covers).
"""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import TYPE_CHECKING

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID

from cluster.tls.certificates import CertificateError, address, names_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from pathlib import Path

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

#: OpenSSL's X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, …_LOCALLY and X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE.
UNKNOWN_SIGNER = (2, 20, 21)


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


def unended(certificate: Path, key: Path) -> str | None:
    """Return how a chain of certificates ends that lacks who signed its last one; None where it lacks nobody.

    That one says where its signer's is to be had (RFC 5280, 4.2.2.1), as public authorities' do, and neither browsers
    nor this machine know him. Clients may all the same, where he is a company's own. ValueError, OSError: they can't be
    used.
    """
    last = x509.load_pem_x509_certificates(certificate.read_bytes())[-1]
    if last.issuer == last.subject or not _tells_of_signer(last) or _is_known(certificate, key):
        return None
    return f"{_subject(last)}, signed by {last.issuer.rfc4514_string()}"


def _tells_of_signer(certificate: x509.Certificate) -> bool:
    try:
        said = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in said)


def _is_known(certificate: Path, key: Path) -> bool:
    """Tell whether a client that knows what browsers and this machine do finds its way up: it shakes hands here."""
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.load_verify_locations(certifi.where())
    client.check_hostname = False
    server.load_cert_chain(certificate, key)
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks, answers = client.wrap_bio(received, sent), server.wrap_bio(sent, received, server_side=True)
    for side in (asks, answers, asks, answers):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_code not in UNKNOWN_SIGNER
    return True


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
