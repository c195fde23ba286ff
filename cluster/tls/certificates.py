"""The certificate of a site: which it is, and where it comes from."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.errors import ClusterError

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.config.site import CertificateFiles


#: By this name every host's nginx is known to the others. Here, since whoever renders it needs no cryptography.
RELAY = "relay"

#: Days before its end from which on a certificate should have been renewed.
FEW_DAYS = 14


class CertificateError(ClusterError):
    """A certificate or its key can't be used; the text names the key of the stack file and the file, never a key."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate with those of the authorities above it, and its private key; both PEM.

    label: what tells it from others without its key. Both texts are empty where more than that is not known.
    renewed: it is beside nginx, where a renewer keeps it (site.tls.acme), and no part of the configuration.
    """

    label: str
    renewed: bool = False
    chain: str = ""
    key: str = field(default="", repr=False)


def named(config: ClusterConfig, root: Path, now: dt.datetime) -> Certificate | None:
    """Return what can be said of the site's certificate without any secret; None where it has no TLS.

    root: the repository. CertificateError where a file of it can't be read.
    """
    tls = config.site.tls
    if tls is None:
        return None
    if tls.files is not None:
        return Certificate(label=_digest(_read(root, "certificate", tls.files.certificate)))
    names = names_of(config)
    if tls.acme is not None:
        return Certificate(label=f"by ACME, {tls.acme.directory}", renewed=True)
    return Certificate(
        label=f"self-signed from {half_year(now):%Y-%m} for {len(names)} names, {_digest(' '.join(names))}"
    )


def certificate_of(config: ClusterConfig, root: Path, authority: str, now: dt.datetime) -> Certificate | None:
    """Return the site's certificate and its key; None where it has no TLS.

    root: the repository. authority: as `make_authority` made it, for a site that signs its own.
    CertificateError says what is wrong with the files, or with the authority.
    """
    found, tls = named(config, root, now), config.site.tls
    if found is None or tls is None or found.renewed:
        return found
    if tls.files is None:
        from cluster.tls.authority import signed  # noqa: PLC0415 - cryptography takes its time

        chain, key = signed(authority, names_of(config), half_year(now))
    else:
        from cluster.tls.files import check  # noqa: PLC0415 - as above

        chain, key = _read(root, "certificate", tls.files.certificate), _read(root, "key", tls.files.key)
        check(chain, key, config, now)
    return Certificate(label=found.label, chain=chain, key=key)


def half_year(now: dt.datetime) -> dt.datetime:
    """Return when the half of a year began: from then on a site that signs its own certificate has another one."""
    return now.replace(month=1 if now.month <= 6 else 7, day=1, hour=0, minute=0, second=0, microsecond=0)  # noqa: PLR2004


def ending(root: Path, files: CertificateFiles) -> dt.datetime:
    """Return when the first certificate of a site's files ends. CertificateError where it holds none."""
    from cryptography import x509  # noqa: PLC0415 - takes its time

    try:
        found = x509.load_pem_x509_certificates(_read(root, "certificate", files.certificate).encode())
    except (ValueError, x509.InvalidVersion):
        raise CertificateError(f"site.tls.files.certificate: {files.certificate}: holds no certificate") from None
    return min(one.not_valid_after_utc for one in found)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def names_of(config: ClusterConfig) -> list[str]:
    """Return the names that a certificate of the site covers; `_`, which is any, is localhost."""
    found: list[str] = []
    by_redirect = [name for name in config.site.redirects if not name.startswith("/")]
    for name in (*config.site.server_names, *by_redirect):
        lowered = name.lower()
        if name == "_":
            found.append("localhost")
        elif name.startswith("."):
            found += [lowered[1:], f"*{lowered}"]
        else:
            found.append(lowered)
    return list(dict.fromkeys(found))


def is_address(name: str) -> bool:
    """Tell whether a name is an IP address."""
    return address(name) is not None


def address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a name is; None where it is none."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _read(root: Path, key: str, path: str) -> str:
    where = f"site.tls.files.{key}: {path}"
    try:
        text = (root / path).read_text(encoding="ascii")
        return text if text.endswith("\n") else f"{text}\n"
    except OSError as error:
        raise CertificateError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CertificateError(f"{where}: not PEM, which is text") from None
