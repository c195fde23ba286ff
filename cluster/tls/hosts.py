"""Certificates by which the hosts of a stack know each other: nothing of them is kept but one secret.

Every certificate and every key is derived from that secret, and is the same each time that it is asked for, wherever:
signatures of a text are always the same (RFC 6979). They last as long as the secret (RFC 5280, 4.1.2.5). Of keys on
P-256 both nginx and PostgreSQL make what they need.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.tls.authority import ORDER, SIGNS
from cluster.tls.certificates import RELAY
from cluster.tls.hosts_keys import SECRET_BYTES, secret_bytes

#: Certificates without an end have this one.
BEGIN, END = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass(frozen=True, kw_only=True)
class HostCertificate:
    """What a host shows the others, and by what it knows them; PEM."""

    authority: str
    certificate: str
    key: str = field(repr=False)


@cache
def authority_of(secret: str, stack: str) -> str:
    """Return the certificate of a stack's authority, PEM. ValueError: the secret is none."""
    return _authority(stack, _key(secret, "authority")).public_bytes(Encoding.PEM).decode()


@cache
def certificate_of_host(secret: str, stack: str, host: str) -> HostCertificate:
    """Return what a host's nginx shows, as client and as server. ValueError: the secret is none."""
    return _certificate(secret, stack, host, RELAY, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@cache
def certificate_of_database(secret: str, stack: str, host: str) -> HostCertificate:
    """Return what the database on a host shows, which asks no other host for anything; else as above."""
    return _certificate(secret, stack, host, "database", ExtendedKeyUsageOID.SERVER_AUTH)


@cache
def certificate_of_broker(secret: str, stack: str, host: str, *addresses: str) -> HostCertificate:
    """Return what the broker on a host shows, which is known by the addresses at which it is asked; else as above."""
    named = tuple(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses)
    return _certificate(secret, stack, host, "broker", ExtendedKeyUsageOID.SERVER_AUTH, names=named)


def _certificate(
    secret: str,
    stack: str,
    host: str,
    what: str,
    *usage: x509.ObjectIdentifier,
    names: tuple[x509.GeneralName, ...] = (),
) -> HostCertificate:
    above = _key(secret, "authority")
    authority = _authority(stack, above)
    key = _key(secret, f"{what} {host}")
    certificate = (
        _begun(authority.subject, _name(host), key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(what), x509.DNSName(host), *names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        .sign(above, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return HostCertificate(
        authority=authority.public_bytes(Encoding.PEM).decode(),
        certificate=certificate.public_bytes(Encoding.PEM).decode(),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def _authority(stack: str, above: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = _name(f"hosts of {stack}")
    return (
        _begun(subject, subject, above)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(SIGNS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(above.public_key()), critical=False)
        .sign(above, hashes.SHA256(), ecdsa_deterministic=True)
    )


def _key(secret: str, what: str) -> ec.EllipticCurvePrivateKey:
    # Of more bits than the key has, so that each key is as likely as another (FIPS 186-5, A.2.1).
    derived = HKDF(hashes.SHA256(), SECRET_BYTES + 16, None, f"key {what}".encode()).derive(secret_bytes(secret))
    return ec.derive_private_key(int.from_bytes(derived, "big") % (ORDER - 1) + 1, ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _begun(above: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    public = key.public_key()
    told = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (
        x509.CertificateBuilder()
        .issuer_name(above)
        .subject_name(subject)
        .public_key(public)
        .serial_number(int.from_bytes(hashlib.sha256(told).digest()[:16], "big") or 1)
        .not_valid_before(BEGIN)
        .not_valid_after(END)
    )
