"""Certificates for tests, by an authority that is made for them."""

from __future__ import annotations

import atexit
import datetime as dt
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID

from cluster.tls.authority import make_authority, root_of, signed
from cluster.tls.certificates import half_year
from tests.conftest import SHARED

#: The names of the stacks of unit tests.
NAMES = ("cluster", "localhost")

#: When the authorities of the tests were made.
MADE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@cache
def authority(name: str = "test") -> str:
    """Return an authority of the tests' own: its key and its certificate, PEM; the same in all processes of a run.

    To find its primes takes a tenth of a second and more, and each process of a run collects all tests.
    """
    if SHARED not in os.environ:
        return make_authority(name, MADE)
    path = Path(os.environ[SHARED]) / f"{name}.authority"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.with_suffix(".new").write_text(make_authority(name, MADE))
            path.with_suffix(".new").rename(path)  # whoever is killed leaves no half of it
    return path.read_text()


def made_certificates(now: dt.datetime, names: tuple[str, ...] = NAMES) -> Path:
    """Make a directory with ours.pem and ours.key, other.pem and other.key (another authority's, another key), open.key
    (as ours.key, for everybody to read), and authority.pem, which signs ours. And certificates to ours.key as
    public authorities give them: alone.pem, and whole.pem with the one above it; direct.pem, which root.pem signs.
    """
    directory = Path(tempfile.mkdtemp(prefix="certificates"))
    atexit.register(shutil.rmtree, directory)
    for name in ("ours", "other"):
        chain, key = signed(authority(name), names, half_year(now))
        (directory / f"{name}.pem").write_text(chain)
        (directory / f"{name}.key").touch(mode=0o600)
        (directory / f"{name}.key").write_text(key)
        if name == "ours":
            (directory / "authority.pem").write_text(root_of(authority(name)))
            (directory / "open.key").write_text(key)
            (directory / "open.key").chmod(0o644)
            for file, text in _as_public(key, names, now).items():
                (directory / f"{file}.pem").write_text(text)
    return directory


def _as_public(key: str, names: tuple[str, ...], now: dt.datetime) -> dict[str, str]:
    """Return certificates to a key as public authorities give them, by the names of their files; PEM.

    The site's own says where that of its signer is to be had, which is signed by a root.
    """
    own: Any = serialization.load_pem_private_key(key.encode(), None)
    root, between = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    alone = _signed((own, "site"), (between, "between"), names, now)
    above = _signed((between, "between"), (root, "root"), (), now)
    direct = _signed((own, "site"), (root, "root"), names, now)
    return {
        "alone": alone,
        "whole": alone + above,
        "direct": direct,
        "root": _signed((root, "root"), (root, "root"), (), now),
    }


def _signed(subject: tuple[Any, str], issuer: tuple[Any, str], names: tuple[str, ...], now: dt.datetime) -> str:
    key, signer = subject[0], issuer[0]
    of, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one[1])]) for one in (subject, issuer))
    made = (
        x509.CertificateBuilder()
        .subject_name(of)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        there = x509.UniformResourceIdentifier(f"http://authority.test/{issuer[1]}")
        where = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, there)
        made = made.add_extension(x509.AuthorityInformationAccess([where]), critical=False)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
