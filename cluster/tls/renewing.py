"""What a renewer is to keep of a site whose certificate comes by ACME (cluster.acme)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.acme.wanted import Wanted
from cluster.tls.certificates import CertificateError, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cluster.config.models import ClusterConfig


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account with an authority. key: PEM. trusted: who may sign for its directory, PEM; empty: whom all know.

    eab_key: the key that binds it to somebody whom the authority knows; empty where it asks for none.
    """

    key: str = field(repr=False)
    trusted: str = ""
    eab_key: str = field(default="", repr=False)


def account_of(config: ClusterConfig, root: Path, key: str, eab_key: str) -> Account | None:
    """Return the site's account; None where its certificate comes otherwise.

    root: the repository. CertificateError where a file of the stack file's can't be read.
    """
    acme = config.site.acme
    if acme is None:
        return None
    binding = eab_key.strip() if acme.eab else ""
    if acme.directory_ca is None:
        return Account(key=key, eab_key=binding)
    try:
        return Account(key=key, trusted=(root / acme.directory_ca).read_text(encoding="ascii"), eab_key=binding)
    except OSError as error:
        words = f"{acme.directory_ca}: {error.strerror}"
    except UnicodeDecodeError:
        words = f"{acme.directory_ca}: not PEM, which is text"
    raise CertificateError(f"site.tls.acme.directory_ca: {words}") from None


def wanted(  # noqa: PLR0913 - what a renewer is told
    config: ClusterConfig,
    *,
    account: str,
    trusted: str,
    asked: tuple[str, int],
    eab_key: str = "",
    others: Sequence[tuple[str, int]] = (),
) -> Wanted | None:
    """Return it; None where the site's certificate comes otherwise.

    account: the file of the account's key. trusted: that of site.tls.acme.directory_ca, where the stack has one. asked:
    where nginx answers plain http; others: where other nginx of the stack do. eab_key: the file of the key that binds
    the account, where one does.
    """
    acme = config.site.acme
    if acme is None:
        return None
    return Wanted(
        directory=acme.directory,
        names=tuple(names_of(config)),
        account=account,
        email=acme.email or "",
        trusted=trusted if acme.directory_ca else "",
        asked=asked,
        proxied=config.site.proxy_protocol,
        eab=acme.eab or "",
        eab_key=eab_key if acme.eab else "",
        others=tuple(others),
    )
