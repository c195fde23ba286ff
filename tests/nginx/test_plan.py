"""What a plan says of a configuration that a real nginx refuses: its own words, and the key of the stack file."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.lint import Facts, Severity, lint
from cluster.plan import against, nginx_check
from cluster.plan.nginx_check import Checker, Refusal, UncheckedError
from cluster.plan.planned import Planned
from cluster.render import locations, upstreams
from cluster.render.directives import build, d
from tests.nginx_versions import installed_nginx

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig, Server

VALUES: dict[str, Any] = {
    "platform": "local",
    "app": {"project": "./shop", "settings": "shop.settings", "media": {"root": "media"}},
    "upstream": {"servers": [{"name": "app1", "weight": 3}, {"name": "app2", "max_fails": 2}, {"name": "app3"}]},
    "site": {
        "server_names": ["shop.example.com", "www.example.com"],
        "listen": 80,
        "limit": "50r/s",
        "burst": 20,
        "headers": {"X-A": "a", "X-B": "b"},
        "redirects": {"/old": "/new"},
        "locations": [{"path": "/a/"}, {"path": "/b/", "limit": "5r/s"}, {"path": "/c", "proxy_read_timeout": "5m"}],
    },
}


@pytest.fixture(scope="module")
def checker() -> Checker:
    nginx = installed_nginx()
    if nginx is None:
        pytest.skip("nginx is not installed")
    return Checker(nginx.command[0], nginx.version)


def config(**site: Any) -> ClusterConfig:
    return parse_config({**VALUES, "site": {**VALUES["site"], **site}})


def refusals(checker: Checker, asked: ClusterConfig) -> list[Refusal]:
    """Return what nginx refuses, of a stack with which the lints find nothing wrong."""
    facts = Facts(nginx=checker.version, privileged=True)
    assert [one for one in lint(asked, facts) if one.severity is Severity.ERROR] == []
    return checker.refusals(asked)


@pytest.mark.parametrize(
    "site",
    [
        {},
        {"ipv6": True, "auth_basic": "Shop", "static_url": None},
        {"tls": {"self_signed": True}, "instance_ports": 8000},
        {"tls": {"files": {"certificate": "a.pem", "key": "a.key"}}},
        {"tls": {"acme": {}}, "robots": "none"},
        {"proxy_protocol": True, "trusted_proxies": ["10.0.0.0/8"]},
        {"snippets": {"http": "map $uri $a {\n    default 1;\n}\n", "server": "access_log /var/log/elsewhere/a.log;"}},
    ],
)
def test_what_nginx_takes_is_refused_by_nobody(checker: Checker, site: dict[str, Any]) -> None:
    assert checker.refusals(config(**site)) == []


#: What only nginx notices: the snippets, the key, and its words.
BROKEN = {
    "an unknown directive": (
        {"server": "add_header X-C c;\nadd_haeder X-C c;\n"},
        {"site.snippets.server": 'unknown directive "add_haeder" in snippets/server.conf:2'},
    ),
    "a directive in the wrong place": (
        {"server": "limit_req_zone $uri zone=a:1m rate=1r/s;"},
        {"site.snippets.server": '"limit_req_zone" directive is not allowed here in snippets/server.conf:1'},
    ),
    "a value that is no number": (
        {"http": "client_body_buffer_size many;"},
        {"site.snippets.http": '"client_body_buffer_size" directive invalid value in snippets/http.conf:1'},
    ),
    "too few words": (
        {"server": "add_header X-C;"},
        {"site.snippets.server": 'invalid number of arguments in "add_header" directive in snippets/server.conf:1'},
    ),
    "a pattern that ends nowhere": (
        {"server": "location ~ ( {\n    return 204;\n}\n"},
        {"site.snippets.server": "missing closing parenthesis"},
    ),
    "a variable that nobody sets": (
        {"server": "add_header X-C $nobody;"},
        {"site.snippets.server": 'unknown "nobody" variable'},
    ),
    "a zone that nobody makes": (
        {"server": "limit_req zone=nobody;"},
        {"site.snippets.server": 'zero size shared memory zone "nobody"'},
    ),
    "what the site says already": (
        {"server": "client_max_body_size 9m;"},
        {"site.snippets.server": '"client_max_body_size" directive is duplicate in snippets/server.conf:1'},
    ),
    "a zone that is too small": (
        {"http": "limit_req_zone $uri zone=a:1k rate=1r/s;"},
        {"site.snippets.http": "is too small in snippets/http.conf:1"},
    ),
    "two at once": (
        {"http": "map $uri $a {\n    a 1;\n    a 2;\n}\n", "server": "try_files;"},
        {
            "site.snippets.http": 'conflicting parameter "a" in snippets/http.conf:3',
            "site.snippets.server": 'invalid number of arguments in "try_files" directive in snippets/server.conf:1',
        },
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_only_nginx_notices_is_told_by_its_key(checker: Checker, name: str) -> None:
    snippets, told = BROKEN[name]
    found = {one.key: one.words for one in refusals(checker, config(snippets=snippets))}
    assert found.keys() == told.keys()
    assert [key for key, words in told.items() if words not in found[key]] == [], found


def test_a_key_of_a_server_is_told_by_its_place(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the schema let something through: what is rendered of one value is no word of nginx's."""
    rendered = upstreams.server_parameters

    def broken(server: Server) -> list[str]:
        return [one.replace("max_fails=2", "max_fails=two") for one in rendered(server)]

    monkeypatch.setattr(upstreams, "server_parameters", broken)
    (found,) = refusals(checker, config())
    assert found.key == "upstream.servers[1].max_fails"
    assert found.words == 'invalid parameter "max_fails=two" in sites-enabled/cluster:' + found.words.rpartition(":")[2]


def test_a_key_of_a_location_is_told_by_its_place(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = locations._own

    def broken(location: Any) -> list[Any]:
        return [d("proxy_read_timeout", "long") if one["args"] == ["5m"] else one for one in rendered(location)]

    monkeypatch.setattr(locations, "_own", broken)
    assert [one.key for one in refusals(checker, config())] == ["site.locations[2].proxy_read_timeout"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("$upstream_http_x_b", "site.headers.X-B"),
        ("'~^/old(", 'site.redirects["/old"]'),
        ("location ^~ /b/ {", "site.locations[1].path"),
        ("rate=5r/s", "site.locations[1].limit"),
        ("rate=50r/s", "site.limit"),
        ("burst=20", "site.burst"),
        ("server_name shop.example.com", "site.server_names[0]"),
        ("weight=3", "upstream.servers[0].weight"),
    ],
)
def test_whatever_key_makes_a_line_is_the_one_that_is_told(
    checker: Checker, monkeypatch: pytest.MonkeyPatch, text: str, key: str
) -> None:
    """Whatever has this text among its own is made unknown to nginx."""

    def spoiled(tree: list[Any]) -> str:
        built = build(tree)
        return f"{built}nonsense;\n" if text in built else built

    monkeypatch.setattr("cluster.render.nginx.build", spoiled)
    (found,) = refusals(checker, config())
    assert (found.key, found.words.partition(" in ")[0]) == (key, 'unknown directive "nonsense"')


def test_what_no_key_makes_is_said_so(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "ZONE_BASE", -1)
    monkeypatch.setattr(upstreams, "ZONE_PER_SERVER", 0)
    (found,) = checker.refusals(config())
    assert (found.key, str(found).startswith("nginx: nginx refuses it: invalid zone size")) == ("", True)


def test_the_check_writes_nothing_anywhere(checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "logs"
    there.mkdir()
    own = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    monkeypatch.setattr(nginx_check, "_short", lambda: str(own))
    http = f"access_log {there}/a.log;\nproxy_cache_path {there}/cache keys_zone=a:1m;\n"
    asked = config(snippets={"http": http, "server": f'error_log "{there}/b.log";'})
    assert checker.refusals(asked) == []
    assert (list(there.iterdir()), list(own.iterdir())) == ([], [])
    monkeypatch.setattr(nginx_check.Checker, "_moved", lambda _self, text, *_places: text)
    assert checker.refusals(asked) == []
    assert {path.name for path in there.iterdir()} == {"a.log", "b.log", "cache"}, "the saboteur: nginx -t makes files"
    monkeypatch.undo()
    own.rmdir()
    elsewhere = config(snippets={"server": "access_log ../../../../etc/a.log;"})
    with pytest.raises(UncheckedError, match="nobody can say what that writes"):
        checker.refusals(elsewhere)


def test_a_directory_that_is_not_there_where_it_runs_is_refused(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    here = Checker(checker.program, checker.version, prefix=tmp_path)
    assert here.refusals(config(snippets={"server": "access_log logs/a.log;"})) == []
    (found,) = here.refusals(config(snippets={"server": "access_log /nowhere/a.log;"}))
    assert (found.key, found.words) == (
        "site.snippets.server",
        'open() "/nowhere/a.log" failed (2: No such file or directory)',
    )


def test_where_no_socket_fits_nothing_is_refused(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(nginx_check, "_short", lambda: str(long))
    with pytest.raises(UncheckedError, match="has too long a path for sockets"):
        checker.refusals(config())


def test_a_program_that_is_no_nginx_refuses_nothing(checker: Checker, tmp_path: Path) -> None:
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    program.chmod(0o755)
    with pytest.raises(UncheckedError, match="nginx -t fails: no library"):
        Checker(str(program), checker.version).refusals(config())


def become_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


def asked_as(checker: Checker) -> tuple[int, list[Refusal]]:
    return os.geteuid(), Checker(checker.program, checker.version).refusals(config())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else; all else here is asked by who is none")
def test_it_needs_no_root(checker: Checker) -> None:
    assert checker.refusals(config()) == []  # from here on all is imported
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context, initializer=become_nobody) as pool:
        user, found = pool.submit(asked_as, checker).result()
    assert (user, found) == (pwd.getpwnam("nobody").pw_uid, [])


# --- in a plan


PLANNED = Planned(stack="local", changes=True)
BAD = {"snippets": {"server": "add_haeder X-C c;"}}


def asked(planned: Planned, **values: Any) -> Planned:
    return against._asked_of_nginx(planned, parse_config({**VALUES, "site": {**VALUES["site"], **BAD}, **values}))


def test_against_a_revision_the_nginx_that_is_here_is_asked(checker: Checker) -> None:
    found = asked(PLANNED)
    assert found.refused == (
        'site.snippets.server: nginx refuses it: unknown directive "add_haeder" in snippets/server.conf:1',
    )
    assert found.unknown == ()


def test_what_another_version_says_is_no_refusal(checker: Checker) -> None:
    major, minor, _patch = checker.version
    here = ".".join(map(str, checker.version))
    found = asked(PLANNED, platform="docker", images={"nginx": f"nginx:{major}.{minor}"})
    assert found.refused
    found = asked(PLANNED, platform="docker", images={"nginx": f"nginx:{major}.{minor + 1}"})
    assert found.refused == ()
    words = 'site.snippets.server: nginx refuses it: unknown directive "add_haeder" in snippets/server.conf:1'
    assert found.unknown == (
        f"here, by nginx {here}: {words}",
        f"whether nginx {major}.{minor + 1} takes its configuration: nginx {here} was asked",
    )


def test_of_the_nginx_of_hosts_nobody_knows_the_version(checker: Checker) -> None:
    host = {"name": "web1", "address": "10.0.0.1", "host_key": "ssh-ed25519 AAAA"}
    found = asked(PLANNED, platform="remote", hosts=[host])
    assert (found.refused, len(found.unknown)) == ((), 2)
    assert found.unknown[1].startswith("whether nginx of the hosts takes its configuration: nginx ")


def test_a_host_that_is_not_known_here_may_be_where_the_stack_runs(checker: Checker) -> None:
    text = "location /other/ {\n    proxy_pass http://nobody.invalid;\n}\n"
    found = against._asked_of_nginx(PLANNED, config(snippets={"server": text}))
    assert found.refused == ()
    assert 'host not found in upstream "nobody.invalid"' in found.unknown[0]


def test_where_there_is_no_nginx_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.machine.nginx.search_path", lambda: "/nonexistent")
    (unknown,) = asked(PLANNED).unknown
    assert unknown.startswith("whether nginx takes its configuration: nginx is not installed")
