"""What a renewer is to keep of a site whose certificate comes by ACME (cluster.acme)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.acme.wanted import Wanted
from cluster.tls.certificates import names_of

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig


def wanted(config: ClusterConfig, *, account: str, trusted: str, asked: tuple[str, int]) -> Wanted | None:
    """Return it; None where the site's certificate comes otherwise.

    account: the file of the account's key. trusted: that of site.tls.acme.directory_ca, where the stack has one. asked:
    where nginx answers plain http.
    """
    acme = config.site.tls.acme if config.site.tls is not None else None
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
    )
