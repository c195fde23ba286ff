"""Lints of certificates by ACME."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.acme.kept import WEEK, moment
from cluster.config.hosts import Role
from cluster.config.models import EAB_KEY
from cluster.endpoints import HTTP
from cluster.lint.rule import ERROR, WARNING, Remark, Rule, has_secret
from cluster.tls.certificates import names_of

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Certificates for the same names within a week that Let's Encrypt gives, and all of them but one.
ALL_CERTIFICATES = 5
MANY_CERTIFICATES = ALL_CERTIFICATES - 1


def _acme_port(config: ClusterConfig, _facts: Facts) -> Remarks:
    # RFC 8555, section 8.3: HTTP-01 is asked by port 80, whatever the site's own is.
    if config.site.acme is not None and HTTP not in (config.site.listen, *config.site.forwarded_ports):
        why = f"An authority asks the site's names by port {HTTP}, and nothing says that this leads to site.listen."
        remedy = f"Choose {HTTP}, or name it in site.forwarded_ports where something leads it to {config.site.listen}."
        yield Remark("site.listen", why, remedy)


def _many_certificates(config: ClusterConfig, facts: Facts) -> Remarks:
    # https://letsencrypt.org/docs/rate-limits/: five certificates for the same names in a week.
    if config.site.acme is None or facts.now is None:
        return
    names, since = " ".join(sorted(names_of(config))), facts.now - WEEK
    found = [when for when, of in facts.issued if of == names and moment(when) > since]
    hosts = [host for host in config.hosts if Role.NGINX in host.roles]
    if len(hosts) > ALL_CERTIFICATES:
        why = (
            f"{len(hosts)} hosts ask for a certificate each, and Let's Encrypt gives {ALL_CERTIFICATES} a week for the "
            "same names: the others get theirs a week later."
        )
        yield Remark("site.tls.acme", why, f"Give {ALL_CERTIFICATES} hosts the role nginx first, and the others later.")
    elif len(found) >= MANY_CERTIFICATES and len(found) > len(hosts):  # one for each is as it should be
        why = (
            f"The site got {len(found)} certificates for the same names within a week, and Let's Encrypt gives "
            f"{ALL_CERTIFICATES}: with the next one there are none for days."
        )
        yield Remark("site.tls.acme", why, "Find out what takes them away: `cluster logs` of acme says when it asked.")


def _binding_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    # RFC 8555, section 7.3.4: the authority makes no account without.
    acme = config.site.acme
    if acme is None or acme.eab is None or has_secret(config, facts, EAB_KEY) is not False:
        return
    remedy = f"Set what the authority gave with it: pulumi config set --secret cluster:{EAB_KEY}."
    if config.platform.traits.own_secrets:
        where = f".cluster/{facts.stack or '<stack>'}/secrets/{EAB_KEY}"
        remedy = f"Write what the authority gave with it into {where} (chmod 600)."
    yield Remark("site.tls.acme.eab", f"The key of this id binds the account, and the stack has no {EAB_KEY}.", remedy)


ACME_RULES = (
    Rule("acme-port", WARNING, "An authority's questions by port 80 may not reach nginx.", _acme_port),
    Rule("acme-certificates", WARNING, "Nearly as many certificates in a week as there are.", _many_certificates),
    Rule("acme-eab-key", ERROR, "An account that is to be bound, and nothing that binds it.", _binding_missing),
)
