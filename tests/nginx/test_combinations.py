"""Every way to the site with every kind of key, by the real nginx and by a linter of configurations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.acme.kept import Store
from cluster.config import parse_config
from cluster.maintenance import asked_for
from cluster.render.maintenance import SUFFIX, render_maintenance
from cluster.tls.certificates import names_of
from tests.nginx.running import THUMBPRINT, free_ports, paths_in, stack
from tests.nginx.test_rendered import gixy_findings
from tests.nginx.test_site import KEYS, PROTECTED, said_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nginx.running import Values
    from tests.nginx_versions import Nginx

#: How the site speaks: each with what is in the place of `listen`'s neighbour.
TLS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "self-signed": {"self_signed": True},
    "acme": {"acme": {}},
    "hsts": {
        "self_signed": True,
        "http2": False,
        "hsts": {"max_age": "730d", "include_subdomains": True, "preload": True},
    },
}

#: What is before it.
BEFORE: dict[str, dict[str, Any]] = {
    "nobody": {},
    "proxies": {"trusted_proxies": ["10.0.0.0/8", "2001:db8::/32"], "forwarded_ports": [80, 443]},
    "the PROXY protocol": {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True},
}

#: None of the keys, each alone, and all together.
SETS: list[tuple[str, ...]] = [(), *((key,) for key in KEYS), tuple(KEYS)]

#: Each with each, by IPv6 too in every other one; `make test-all` has each with and without.
WAYS = [
    pytest.param(tls, before, ipv6, marks=pytest.mark.wide if (one + two) % 2 == ipv6 else ())
    for one, tls in enumerate(TLS)
    for two, before in enumerate(BEFORE)
    for ipv6 in (False, True)
]


#: What gixy finds by https and is meant: it wants 421 for a name that is not the site's in a connection that is there
#: already. That gets no answer, as by plain http: `return 444` for the whole server is as sure as what it looks for.
MEANT_BY_HTTPS = "http2_misdirected_request"

#: How often a linter that draws lots has to find something.
LOOKS = 3

#: And without `hsts`, which is a team's own to say.
MEANT_WITHOUT_HSTS = "hsts_header"


def made(tls: str, before: str, keys: tuple[str, ...], *, ipv6: bool) -> Values:
    first = free_ports(4)
    values = stack(2, listen=first, instance_ports=first + 2, ipv6=ipv6, **BEFORE[before])
    values["app"] |= PROTECTED
    if TLS[tls] is not None:
        values["site"]["tls"] = {"listen": first + 1, **(TLS[tls] or {})}
    for key in keys:
        values["site"] |= KEYS[key]
    if tls == "acme":  # which gives none for wildcards
        known = values["site"].get("redirects", {})
        values["site"]["redirects"] = {name: to for name, to in known.items() if not name.startswith(("*", "."))}
    copied: Values = json.loads(json.dumps(values))
    return copied


def put_beside(values: Values, directory: Path) -> None:
    """Put what the configuration includes into a directory: a certificate's map, and that of maintenance."""
    directory.mkdir()
    paths = paths_in(directory)
    Store(directory / "acme").prepare(names_of(parse_config(values)), THUMBPRINT)
    told = render_maintenance(asked_for("Back soon", "10m", ["10.0.0.0/8"]))
    (directory / f"{paths.maintenance}{SUFFIX}").write_text(told.text)


@pytest.mark.parametrize(("tls", "before", "ipv6"), WAYS)
def test_nginx_accepts_every_way_with_every_kind_of_key_without_a_warning(
    nginx: Nginx, tls: str, before: str, ipv6: bool, tmp_path: Path
) -> None:
    for number, keys in enumerate(SETS):
        values, directory = made(tls, before, keys, ipv6=ipv6), tmp_path / str(number)
        put_beside(values, directory)
        assert said_of(nginx, values, directory) == "", keys


@pytest.mark.parametrize("count", range(0, 101, 10))
def test_nginx_has_room_for_the_variables_of_many_headers(nginx: Nginx, count: int, tmp_path: Path) -> None:
    """It orders its variables by their names, and warns where it finds no good way."""
    values, directory = made("acme", "proxies", tuple(KEYS), ipv6=True), tmp_path / "made"
    values["site"]["headers"] = {f"X-Header-{'abcdefgh'[number % 8]}-{number}": "x" for number in range(count)}
    put_beside(values, directory)
    assert said_of(nginx, values, directory) == ""


@pytest.mark.parametrize(("tls", "before", "ipv6"), WAYS)
def test_a_linter_of_configurations_finds_nothing_in_any_of_them(
    nginx: Nginx, tls: str, before: str, ipv6: bool, tmp_path: Path
) -> None:
    for number, keys in enumerate((SETS[0], SETS[-1])):
        values, directory = made(tls, before, keys, ipv6=ipv6), tmp_path / str(number)
        put_beside(values, directory)
        meant = {MEANT_BY_HTTPS, *([] if tls == "hsts" else [MEANT_WITHOUT_HSTS])}
        # It tries patterns by words that it draws, and rarely finds what it does not find again.
        for _ in range(LOOKS):
            found = [one for one in gixy_findings(nginx, values, directory) if one[0] not in meant]
            if not found:
                break
        assert found == [], keys
