"""Lints of HTTP/3: whether nginx can speak it, and what is said of it without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.lint.rule import ERROR, WARNING, Remark, Rule
from cluster.render.versions import HTTP3_SINCE, shown

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

KEY = "site.tls.http3"


def _unknown_to_nginx(config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx: invalid parameter "quic".
    if not config.site.http3:
        return
    if facts.nginx is not None and facts.nginx < HTTP3_SINCE:
        why = f"nginx {shown(facts.nginx)} speaks no HTTP/3, which is of {shown(HTTP3_SINCE)} and later ones."
        yield Remark(KEY, why, "Install a newer nginx, or leave it out.")
    elif facts.http3 is False:
        why = "This nginx was built without HTTP/3: `nginx -V` names no --with-http_v3_module."
        yield Remark(KEY, why, "Install one that has it, as Debian 13 does and nginx.org, or leave it out.")


def _discards_nothing(config: ClusterConfig, _facts: Facts) -> Remarks:
    tls = config.site.tls
    if tls is not None and tls.discard_http3_requests and not tls.http3:
        why = "Without http3 it says nothing, and lets HTTP/3 be set later without a word."
        yield Remark("site.tls.discard_http3_requests", why, "Take it out.")


HTTP3_RULES = (
    Rule("http3-nginx", ERROR, "HTTP/3 by an nginx that does not speak it.", _unknown_to_nginx),
    Rule("http3-discard", WARNING, "discard_http3_requests without HTTP/3.", _discards_nothing),
)
