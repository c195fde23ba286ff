"""What nginx does for certificates by ACME: it answers the authority itself, and tells which certificate it has read.

The answer is the token of the question and the thumbprint of the stack's account, so that any nginx of a stack can
answer for any other. Thumbprint and certificate are in a file that the renewer writes beside the certificate
(cluster.acme.kept): the configuration is the same whichever they are, and so is its digest.

Source: RFC 8555, section 8.3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.acme import CHALLENGES
from cluster.acme.kept import CERTIFICATE, MAP, THUMBPRINT
from cluster.render.directives import Directive, block, d

if TYPE_CHECKING:
    from cluster.config.site import Site
    from cluster.render.paths import NginxPaths

#: Where the internal socket tells which account and which certificate nginx has read.
LOCATION = "/-/certificate"


def maps(site: Site, paths: NginxPaths) -> list[Directive]:
    """Return what nginx looks up; nothing where the site's certificate comes otherwise."""
    if site.acme is None:
        return []
    # By a pattern, which may match nothing.
    include = d("include", f"{paths.acme}/{MAP.replace('.', '[.]')}")
    token = rf"~^{re.escape(CHALLENGES)}(?<cluster_token>[A-Za-z0-9_-]+)$"
    return [
        block("map", THUMBPRINT, "$cluster_acme_thumbprint", of=[d("default", ""), include]),
        block("map", CERTIFICATE, "$cluster_acme_certificate", of=[d("default", ""), include]),
        block("map", "$uri", "$cluster_acme_answer", of=[d("default", ""), d(token, _ANSWER)]),
    ]


_ANSWER = "$cluster_token.$cluster_acme_thumbprint"


def answers(site: Site) -> list[Directive]:
    """Return what answers the authority, for the beginning of a server: whatever else that does, it comes first."""
    if site.acme is None:
        return []
    return [block("if", "$cluster_acme_answer", of=[d("return", 200, "$cluster_acme_answer")])]


def told(site: Site) -> list[Directive]:
    """Return what tells on the internal socket what nginx has read."""
    if site.acme is None:
        return []
    text = "$cluster_acme_thumbprint $cluster_acme_certificate"
    return [block("location", "=", LOCATION, of=[d("default_type", "text/plain"), d("return", 200, text)])]
