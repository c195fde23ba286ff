"""Lints of a site that asks its visitors for a user (site.auth_basic)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.config.models import USERS
from cluster.lint.rule import ERROR, WARNING, Remark, Rule, has_secret
from cluster.source import ReleaseError, source_of

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: How a project's code says that it reads Authorization itself: by its name, or by a class that does.
READS = re.compile(
    r"""HTTP_AUTHORIZATION|headers(?:\.get\(|\[)\s*["']authorization["']"""
    r"""|\b(?:Token|Basic|JWT\w*|JSONWebToken|OAuth2|RemoteToken)Authentication\b|\bHttp(?:Bearer|BasicAuth)\b""",
    re.IGNORECASE,
)

#: Of a file of code, bytes that are looked at.
LOOKED_AT = 1 << 20


def _users_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx would answer every request with 403.
    if config.site.auth_basic is None or has_secret(config, facts, USERS) is not False:
        return
    users = '{"name": "password"}'
    remedy = f"Set it: pulumi config set --secret cluster:{USERS} '{users}'."
    if config.platform.traits.own_secrets:
        remedy = f"Write {users} into .cluster/{facts.stack or '<stack>'}/secrets/{USERS} (chmod 600)."
    yield Remark("site.auth_basic", f"nginx would ask for a user, and the stack has none: no {USERS}.", remedy)


def _password_in_the_clear(config: ClusterConfig, _facts: Facts) -> Remarks:
    # RFC 7617: the password is in each request, and anybody on its way can read it.
    if config.site.auth_basic is not None and config.site.tls is None and not config.site.scheme_is_told:
        why = "By plain http the password crosses the network readable, in each request."
        yield Remark("site.auth_basic", why, "Let nginx speak https (site.tls), or name the proxy that ends TLS.")


def _authorization_of_the_project(config: ClusterConfig, facts: Facts) -> Remarks:
    # RFC 9110, section 11.6.2: a request has one Authorization, and here that is nginx's.
    site = config.site
    if site.auth_basic is None or facts.root is None or not all(one.auth_basic for one in site.locations):
        return
    try:
        entries = source_of(config, facts.root).listing.entries
    except (ReleaseError, OSError):
        return  # `up` says so
    for entry in entries:
        if entry.source is None or entry.source.suffix != ".py" or _is_a_test(entry.target):
            continue
        line = _reading(entry.source)
        if line is not None:
            why = f"The project reads Authorization itself ({entry.target}:{line}), and nginx does not pass it on."
            remedy = "Let nginx ask nobody where it does: {path: …, auth_basic: false} in site.locations."
            yield Remark("site.auth_basic", why, remedy)
            return


def _is_a_test(path: str) -> bool:
    *directories, name = path.split("/")
    return "tests" in directories or name.startswith(("test_", "tests.", "conftest."))


def _reading(path: Path) -> int | None:
    """Return the first line of a file by which Authorization is read; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            text = file.read(LOOKED_AT).decode("utf-8", "replace")
    except OSError:
        return None
    lines = (number for number, line in enumerate(text.splitlines(), 1) if READS.search(line.partition("#")[0]))
    return next(lines, None)


USER_RULES = (
    Rule("auth-basic-users", ERROR, "nginx would ask for a user where there is none.", _users_missing),
    Rule("auth-basic-plain", WARNING, "A password that crosses the network by plain http.", _password_in_the_clear),
    Rule(
        "auth-basic-project",
        WARNING,
        "A project that reads Authorization itself, which nginx keeps from it.",
        _authorization_of_the_project,
    ),
)
