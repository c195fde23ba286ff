"""The certificate of one nginx, its key, and what the renewer says of itself, in a directory.

live/            leads to the certificate in use: fullchain.pem, privkey.pem, of.json
certificates/    that one, and the one before
acme.map         what nginx reads beside it, and tells: which account, which certificate
renewal.json     what the renewer last said
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_runtime import unfollowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LIVE, CERTIFICATES, SAID, MAP, LOCK = "live", "certificates", "renewal.json", "acme.map", "lock"
CHAIN, KEY, OF = "fullchain.pem", "privkey.pem", "of.json"

#: In acme.map: what its lines are looked up by.
THUMBPRINT, CERTIFICATE = "thumbprint", "certificate"

#: Of a key, and of what nginx's workers have to read.
PRIVATE, SHOWN = 0o600, 0o640

#: Of a certificate that nobody believes, and that lets nginx start.
PLACEHOLDER_DAYS = 365

#: The part of a certificate's lifetime that is left when it is to be renewed, and when somebody should look why not.
RENEWAL_PART, LATE_PART = 1 / 3, 1 / 4

#: How long an issued certificate counts: Let's Encrypt gives five a week for the same names.
WEEK = dt.timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate that is there. directory: whose it is, a URL; empty for a placeholder, which nobody believes."""

    names: tuple[str, ...]
    directory: str
    begins: dt.datetime
    ends: dt.datetime

    def renewal(self, suggested: str) -> dt.datetime:
        """Return when it is to be renewed; `suggested`: when its authority wants that, empty where it does not say."""
        own = self.ends - (self.ends - self.begins) * RENEWAL_PART
        return min(own, moment(suggested)) if suggested else own

    @property
    def late(self) -> dt.datetime:
        """From when on it should have been renewed."""
        return self.ends - (self.ends - self.begins) * LATE_PART


@dataclass(kw_only=True)
class Said:
    """What a renewer says of itself.

    at: when. wanted: what it was about, a digest. failures: how many in a row. message: by what the last one failed, or
    what it waits for; empty where all is well. again: when it tries again. renewal: when it renews. asked: when it asks
    the authority about that again. issued: when it got certificates within a week, and for which names.
    issuer, begins, ends: of the certificate that is there; no issuer where it is a placeholder. loaded: what nginx
    tells once it has read it.
    """

    at: str = ""
    wanted: str = ""
    failures: int = 0
    message: str = ""
    again: str = ""
    renewal: str = ""
    asked: str = ""
    issued: list[tuple[str, str]] = field(default_factory=list)
    issuer: str = ""
    begins: str = ""
    ends: str = ""
    loaded: str = ""

    @classmethod
    def of(cls, found: object) -> Said:
        """Return what somebody read; nothing said where it is something else."""
        if not isinstance(found, dict):
            return cls()
        kinds: dict[str, type] = {"failures": int, "issued": list}
        values: dict[str, Any] = {
            name: value
            for name, value in found.items()
            if isinstance(value, kinds.get(name, str)) and name in cls.known()
        }
        pairs = [one for one in values.get("issued", []) if isinstance(one, list) and len(one) == 2]  # noqa: PLR2004
        return cls(**{**values, "issued": [(str(when), str(names)) for when, names in pairs]})

    @property
    def certificate(self) -> Issued:
        """The certificate that is there, of which it does not tell the names."""
        return Issued(names=(), directory=self.issuer, begins=moment(self.begins), ends=moment(self.ends))

    @staticmethod
    def known() -> tuple[str, ...]:
        """Return what it may say."""
        return tuple(Said.__dataclass_fields__)


def stamp(when: dt.datetime) -> str:
    """Return a moment as it is kept."""
    return when.astimezone(dt.UTC).isoformat(timespec="seconds")


def moment(text: str) -> dt.datetime:
    """Return when that is; long ago where it is no moment."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


class Store:
    """The directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def live(self) -> Path:
        """The certificate in use."""
        return self.directory / LIVE

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep another renewer from the directory: it waits until this is left, or its holder dies."""
        descriptor = unfollowed.open_lock(self.directory / LOCK, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def prepare(self, names: Sequence[str], thumbprint: str) -> None:
        """See that nginx can start, and answer the authority: by a placeholder where no certificate is there."""
        (self.directory / CERTIFICATES).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _fits(self.live):
            former = [one for one in sorted((self.directory / CERTIFICATES).iterdir(), reverse=True) if _fits(one)]
            if former:
                unfollowed.link(self.live, f"{CERTIFICATES}/{former[0].name}")
            else:
                self._put(*_placeholder(names), "")
        self._write_map(thumbprint)

    def put(self, chain: str, key: str, directory: str, thumbprint: str) -> None:
        """Put a certificate and its key in the place of those that are there, which stay beside them."""
        self._put(chain, key, directory)
        self._write_map(thumbprint)
        for former in sorted((self.directory / CERTIFICATES).iterdir(), reverse=True)[2:]:
            shutil.rmtree(former)

    def _put(self, chain: str, key: str, directory: str) -> None:
        above = self.directory / CERTIFICATES
        place = above / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}"
        new = above / ".new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name, text in ((KEY, key), (CHAIN, chain), (OF, json.dumps({"directory": directory}))):
            unfollowed.replace(new / name, text.encode(), PRIVATE, durable=True)
        new.rename(place)
        unfollowed.sync_directory(above)
        unfollowed.link(self.live, f"{CERTIFICATES}/{place.name}")
        unfollowed.sync_directory(self.directory)

    def _write_map(self, thumbprint: str) -> None:
        text = f"{THUMBPRINT} {thumbprint};\n{CERTIFICATE} {self._digest()};\n".encode()
        path = self.directory / MAP
        with contextlib.suppress(OSError):
            if unfollowed.read(path) == text:
                return
        unfollowed.replace(path, text, SHOWN, durable=True)

    def _digest(self) -> str:
        return hashlib.sha256((self.live / CHAIN).read_bytes()).hexdigest()[:16]

    def told(self) -> str:
        """Return what nginx tells once it has read what is there; empty where nothing is."""
        try:
            lines = unfollowed.read(self.directory / MAP).decode().splitlines()
            return " ".join(line.rpartition(" ")[2].rstrip(";") for line in lines)
        except (OSError, UnicodeDecodeError):
            return ""

    def issued(self) -> Issued | None:
        """Return the certificate that is there; None where none is that can be read."""
        return read_issued(self.chain(), self._of())

    def chain(self) -> str:
        """Return the certificate with those of the authorities above it, PEM; empty where none is there."""
        try:
            return (self.live / CHAIN).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def _of(self) -> str:
        try:
            return str(json.loads((self.live / OF).read_text(encoding="utf-8"))["directory"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def said(self) -> Said:
        """Return what the renewer last said."""
        try:
            return Said.of(json.loads(unfollowed.read(self.directory / SAID)))
        except (OSError, ValueError, RecursionError):
            return Said()

    def say(self, said: Said) -> None:
        """Keep what the renewer says."""
        unfollowed.replace(self.directory / SAID, json.dumps(asdict(said)).encode(), SHOWN, durable=True)


def read_issued(chain: str, directory: str) -> Issued | None:
    """Return what a certificate says, PEM; None where it is none."""
    from cryptography import x509  # noqa: PLC0415 - takes its time

    try:
        found = x509.load_pem_x509_certificate(chain.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return Issued(
        names=tuple(names.get_values_for_type(x509.DNSName)),
        directory=directory,
        begins=found.not_valid_before_utc,
        ends=found.not_valid_after_utc,
    )


def _fits(place: Path) -> bool:
    """Tell whether a directory holds a certificate and the key to it."""
    from cryptography import x509  # noqa: PLC0415 - takes its time
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    try:
        certificate = x509.load_pem_x509_certificate((place / CHAIN).read_bytes())
        key = serialization.load_pem_private_key((place / KEY).read_bytes(), None)
        shown = certificate.public_key()
    except (OSError, ValueError, TypeError):
        return False
    public = [
        one.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for one in (shown, key.public_key())
    ]
    return public[0] == public[1]


def new_key() -> str:
    """Return a new private key of the curve P-256, PEM: a certificate's, or an account's."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - takes its time
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above

    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _placeholder(names: Sequence[str]) -> tuple[str, str]:
    """Return a certificate that nobody believes, and its key, PEM."""
    from cryptography import x509  # noqa: PLC0415 - takes its time
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above

    text = new_key()
    key = serialization.load_pem_private_key(text.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - for mypy
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Placeholder until ACME gives a certificate")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=PLACEHOLDER_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), text
