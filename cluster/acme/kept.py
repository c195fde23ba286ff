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

#: Bytes on the disk that are there for a certificate before it is asked for: one that is given is not lost.
RESERVED = 1 << 16

#: In certificates/: what is not whole yet, of a certificate and of a placeholder.
NEW, NEW_PLACEHOLDER = ".new", ".placeholder"

#: How long an issued certificate counts: Let's Encrypt gives five a week for the same names.
WEEK = dt.timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate that is there, by the names that it was asked for.

    directory: whose it is, a URL; empty for a placeholder, which nobody believes.
    """

    names: tuple[str, ...]
    directory: str
    begins: dt.datetime
    ends: dt.datetime

    def renewal(self, suggested: str) -> dt.datetime:
        """Return when it is to be renewed; `suggested`: when its authority wants that, empty where it does not say."""
        own = self.ends - (self.ends - self.begins) * RENEWAL_PART
        return min(own, moment(suggested)) if suggested else own

    @property
    def least(self) -> dt.timedelta:
        """For how long it is kept at least, whatever its authority wants then."""
        return min((self.ends - self.begins) * RENEWAL_PART, dt.timedelta(days=1))

    @property
    def late(self) -> dt.datetime:
        """From when on it should have been renewed."""
        return self.ends - (self.ends - self.begins) * LATE_PART


@dataclass(kw_only=True)
class Said:
    """What a renewer says of itself.

    at: when. wanted: what it was about, a digest. failures: how many in a row. tries: how often it was asked for since
    it was given, those among them that were cut off. message: by what the last one failed, or
    what it waits for; empty where all is well. again: when it tries again. renewal: when it renews. asked: when it asks
    the authority about that again. issued: when it got certificates within a week, and for which names.
    issuer, names, begins, ends: of the certificate that is there; no issuer where it is a placeholder. loaded: what
    nginx tells once it has read it.
    """

    at: str = ""
    wanted: str = ""
    failures: int = 0
    tries: int = 0
    message: str = ""
    again: str = ""
    renewal: str = ""
    asked: str = ""
    issued: list[tuple[str, str]] = field(default_factory=list)
    issuer: str = ""
    names: str = ""
    begins: str = ""
    ends: str = ""
    loaded: str = ""

    @classmethod
    def of(cls, found: object) -> Said:
        """Return what somebody read; nothing said where it is something else."""
        if not isinstance(found, dict):
            return cls()
        kinds: dict[str, type] = {"failures": int, "tries": int, "issued": list}
        values: dict[str, Any] = {
            name: value
            for name, value in found.items()
            if isinstance(value, kinds.get(name, str)) and name in cls.known()
        }
        pairs = [one for one in values.get("issued", []) if isinstance(one, list) and len(one) == 2]  # noqa: PLR2004
        return cls(**{**values, "issued": [(str(when), str(names)) for when, names in pairs]})

    @property
    def certificate(self) -> Issued:
        """The certificate that is there."""
        names, begins, ends = tuple(self.names.split()), moment(self.begins), moment(self.ends)
        return Issued(names=names, directory=self.issuer, begins=begins, ends=ends)

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
            former = [one for one in (self.directory / CERTIFICATES).glob("[!.]*") if _fits(one)]
            if former:
                unfollowed.link(self.live, f"{CERTIFICATES}/{max(former, key=_worth).name}")
            else:
                chain, key = _placeholder(names)
                self._begin(NEW_PLACEHOLDER, key, "", names)
                self._put(NEW_PLACEHOLDER, chain)
        self._write_map(thumbprint)

    def begin(self, key: str, directory: str, names: Sequence[str]) -> None:
        """Keep a key before a certificate for it is asked for, and room for that."""
        self._begin(NEW, key, directory, names)

    def put(self, chain: str, thumbprint: str) -> None:
        """Put a certificate to the key that was begun with in the place of the one in use, which stays beside it."""
        self._put(NEW, chain)
        self._write_map(thumbprint)

    def _begin(self, name: str, key: str, directory: str, names: Sequence[str]) -> None:
        new = self.directory / CERTIFICATES / name
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        of = json.dumps({"directory": directory, "names": list(names)})
        for file, text in ((KEY, key), (OF, of), (CHAIN, " " * RESERVED)):
            unfollowed.replace(new / file, text.encode(), PRIVATE, durable=True)

    def _put(self, name: str, chain: str) -> None:
        above = self.directory / CERTIFICATES
        place = above / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}"
        unfollowed.overwrite(above / name / CHAIN, chain.encode(), durable=True)
        (above / name).rename(place)
        unfollowed.sync_directory(above)
        kept = {place.name, self.live.resolve().name, NEW_PLACEHOLDER}
        unfollowed.link(self.live, f"{CERTIFICATES}/{place.name}")
        unfollowed.sync_directory(self.directory)
        # Not by their names, which are times: this machine's clock may have been set back.
        for other in above.iterdir():
            if other.name not in kept:
                shutil.rmtree(other)

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
        directory, names = self._of()
        return read_issued(self.chain(), directory, names)

    def chain(self) -> str:
        """Return the certificate with those of the authorities above it, PEM; empty where none is there."""
        try:
            return (self.live / CHAIN).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def _of(self) -> tuple[str, tuple[str, ...]]:
        return _read_of(self.live)

    def said(self) -> Said:
        """Return what the renewer last said."""
        try:
            return Said.of(json.loads(unfollowed.read(self.directory / SAID)))
        except (OSError, ValueError, RecursionError):
            return Said()

    def say(self, said: Said) -> None:
        """Keep what the renewer says."""
        unfollowed.replace(self.directory / SAID, json.dumps(asdict(said)).encode(), SHOWN, durable=True)


def read_issued(chain: str, directory: str, names: tuple[str, ...]) -> Issued | None:
    """Return what a certificate says, PEM, and the names that it was asked for; None where it is none."""
    from cryptography import x509  # noqa: PLC0415 - takes its time

    try:
        found = x509.load_pem_x509_certificate(chain.encode())
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    except ValueError:
        return None
    return Issued(names=names, directory=directory, begins=begins, ends=ends)


def _read_of(place: Path) -> tuple[str, tuple[str, ...]]:
    """Return whose the certificate in a directory is, and for which names it was asked; nothing where that is gone."""
    try:
        found = json.loads((place / OF).read_text(encoding="utf-8"))
        return str(found["directory"]), tuple(map(str, found["names"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "", ()


def _worth(place: Path) -> tuple[bool, float]:
    """Return by what the best of several certificates is found: an authority's, and then the one that ends last."""
    directory, names = _read_of(place)
    found = read_issued((place / CHAIN).read_text(encoding="ascii"), directory, names)
    return bool(directory), found.ends.timestamp() if found else 0.0


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
