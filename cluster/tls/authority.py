"""A stack's own authority, which signs its certificate: for development.

Source: Mozilla's tables (https://ssl-config.mozilla.org): a certificate lasts no longer than a year.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.kept import write_durably
from cluster.tls.certificates import CertificateError, address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Of the authority of a stack, and of what it signs: half a year before its end there is another one.
AUTHORITY_DAYS, DAYS = 3650, 365

#: Of a certificate, which is no secret.
SHOWN_MODE = 0o644

#: Bits of the authority's key. RSA, whose signature of a text is always the same (PKCS #1 v1.5).
AUTHORITY_BITS = 3072

#: How many points P-256 has: a key is a number below it.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

#: What an authority's key is for: to sign certificates.
SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def make_authority(stack: str, now: dt.datetime) -> str:
    """Return a new authority: its key and its certificate, PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=AUTHORITY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Development CA of stack {stack}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(SIGNS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    return text.decode()


def root_of(authority: str) -> str:
    """Return an authority's certificate alone, PEM: what a browser is told to trust. CertificateError: it is none."""
    return _authority(authority)[1].public_bytes(Encoding.PEM).decode()


def show_authority(path: Path, authority: str) -> None:
    """Put an authority's certificate where a person finds it. CertificateError: it is none."""
    text = root_of(authority)
    if not path.is_file() or path.read_text(encoding="ascii", errors="replace") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text, SHOWN_MODE)


def _authority(text: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    try:
        # Made here, and kept where nobody else writes: to prove its primes takes a tenth of a second.
        key = serialization.load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
        certificate = x509.load_pem_x509_certificate(text.encode())
    except (ValueError, TypeError):
        raise CertificateError(
            "tls_authority: holds no key with its certificate, PEM. Remove it (on this machine the file of that name "
            "among the stack's secrets, on Docker `pulumi config rm cluster:tls_authority`), and `cluster up` makes a "
            "new one, which browsers have to be told of again"
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError("tls_authority: must be an RSA key: its signatures of one text are all the same")
    return key, certificate


def signed(authority: str, names: Sequence[str], begin: dt.datetime) -> tuple[str, str]:
    """Return a certificate for these names and its key, PEM: the same each time that one is asked for.

    Nothing of it has to be kept, and every nginx of a stack has the same. Its key is derived from the authority's.
    """
    return _signed(authority, tuple(names), begin)


@cache  # a status asks for it more than once, and each time it is the same
def _signed(authority: str, names: tuple[str, ...], begin: dt.datetime) -> tuple[str, str]:
    key, above = _authority(authority)
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    told = "\0".join([begin.isoformat(), *names]).encode()
    derived = int.from_bytes(HKDF(hashes.SHA256(), 48, None, b"key\0" + told).derive(secret), "big")
    own = ec.derive_private_key(derived % (ORDER - 1) + 1, ec.SECP256R1())
    serial = (
        int.from_bytes(
            hashlib.sha256(
                own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) + told
            ).digest()[:19],
            "big",
        )
        or 1
    )
    first = next((name for name in names if len(name) <= 64), "cluster")  # noqa: PLR2004 - of a common name
    alternatives: list[x509.GeneralName] = []
    for name in names:
        found = address(name)
        alternatives.append(x509.DNSName(name) if found is None else x509.IPAddress(found))
    begin -= dt.timedelta(days=1)  # clocks differ
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first)]))
        .issuer_name(above.subject)
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256(), rsa_padding=padding.PKCS1v15())
    )
    return (
        certificate.public_bytes(Encoding.PEM).decode(),
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
