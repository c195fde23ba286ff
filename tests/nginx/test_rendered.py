"""What the rendered configuration does, asked of the real nginx: the parsed tree, and what instances get to see."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import posixpath
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import crossplane
import pytest
from crossplane.analyzer import DIRECTIVES, NGX_CONF_TAKE1, NGX_HTTP_MAIN_CONF, NGX_HTTP_UPS_CONF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.topology import shares
from tests.nginx.running import TEXT, Reply, Running, Values, ask, free_ports, paths_in, render, stack, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

# Newer than crossplane, whose own way to tell it of directives is for Python 2.
DIRECTIVES.update(
    {
        "keepalive_time": [NGX_HTTP_UPS_CONF | NGX_CONF_TAKE1],
        "keepalive_min_timeout": [NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1],
    }
)

BODY_LIMIT = 64 * 1024
#: Seconds after which nginx holds no connection to a process that lost its name.
WORN_OUT = 2.1

HASHED = "app.0123456789ab.css"

settings.register_profile("nginx", deadline=None, derandomize=True, database=None)
settings.load_profile("nginx")


@pytest.fixture(scope="module")
def site(nginx: Nginx) -> Iterator[Running]:
    """Two instances, each with a port of its own too, and static files of two releases."""
    values = stack(2, client_max_body_size="64k", instance_ports=free_ports(2), forwarded_ports=[80, 81, 8080])
    with Running(nginx, values) as running:
        static = Path(running.paths.static)
        for release, names in {"r1": ["old.css", "both.css"], "r2": [HASHED, "plain.css", "both.css"]}.items():
            directory = static / release / "static"
            directory.mkdir(parents=True)
            for name in names:
                (directory / name).write_text(f"{release} {name}\n")
        (static / "r2" / "static" / "plain.css.gz").write_bytes(gzip.compress(b"compressed before\n"))
        (static / "r2" / "secret.txt").write_text("not below the static URL")
        (static / "secret.txt").write_text("not below a release")
        (static / "current").symlink_to("r2")
        (static / "previous").symlink_to("r1")
        yield running


@pytest.fixture
def ports(site: Running) -> dict[str, int]:
    """Where the public reaches the site: by its port, and an instance by its own."""
    first = site.values["site"]["instance_ports"]
    return {"site": site.port, "app1": first, "app2": first + 1}


def head(text: str) -> bytes:
    """A request as a client may write it: a line each, closing the connection."""
    return "\r\n".join([*text.split("\n"), "Connection: close", "", ""]).encode("latin-1")


# The parsed tree


def tree(values: Values, version: tuple[int, int, int], directory: Path) -> list[str]:
    """A rendered configuration as one line a directive, in order: the blocks that it stands in, and its arguments."""
    paths = paths_in(Path("/DIR"))
    config = render(values, paths, version)
    conf = write(config, directory)
    parsed = crossplane.parse(str(conf), strict=True, combine=True, check_ctx=True, check_args=True)
    assert parsed["status"] == "ok", parsed["errors"]
    (file,) = parsed["config"]
    return [line.replace(config.digest, "DIGEST") for line in flat(file["parsed"], ())]


def flat(block: list[dict[str, Any]], inside: tuple[str, ...]) -> Iterator[str]:
    for directive in block:
        here = " ".join([directive["directive"], *directive["args"]])
        if directive["directive"] == "server" and "block" in directive:
            named: list[str] = next((d["args"] for d in directive["block"] if d["directive"] == "server_name"), [])
            listen = next(d["args"][0] for d in directive["block"] if d["directive"] == "listen")
            here = f"server[{listen} {' '.join(named)}]"
        yield " > ".join((*inside, here))
        yield from flat(directive.get("block", []), (*inside, here))


def changed(values: Values, version: tuple[int, int, int], tmp_path: Path) -> tuple[list[str], list[str]]:
    """What a stack's tree lacks of the plain one's, and what it has more, without the `http` that all stand in."""
    before = Counter(tree(stack(), version, tmp_path / "before"))
    after = Counter(tree(values, version, tmp_path / "after"))
    return tuple(  # type: ignore[return-value]
        [line.removeprefix("http > ") for line in difference.elements()]
        for difference in (before - after, after - before)
    )


SERVER = "upstream cluster > server unix:/DIR/s/app{}/http.sock{}"

#: What a server has by default: nginx's own default of 1 would take it out of service for a single reset.
BY_DEFAULT = " max_fails=0"
SITE = "server[127.0.0.1:8080 cluster localhost]"


def first_server(**parameters: Any) -> Values:
    return stack([{"name": "app1", **parameters}, {"name": "app2"}])


def server_case(parameter: str, **parameters: Any) -> tuple[Values, list[str], list[str]]:
    return first_server(**parameters), [SERVER.format(1, BY_DEFAULT)], [SERVER.format(1, parameter)]


CLIENT_NETWORK = "map $binary_remote_addr $cluster_client_network"

#: What each option takes out of the plain tree, and what it puts in.
OPTIONS: dict[str, tuple[Values, list[str], list[str]]] = {
    "weight": server_case(" weight=3 max_fails=0", weight=3),
    "largest weight": server_case(" weight=65535 max_fails=0", weight=65535),
    "max_fails": server_case(" max_fails=2", max_fails=2),
    "nginx's own max_fails": server_case("", max_fails=1),
    "fail_timeout": server_case(" max_fails=0 fail_timeout=20s", fail_timeout="20s"),
    "fail_timeout in minutes": server_case(" max_fails=0 fail_timeout=2m", fail_timeout="120s"),
    "max_conns": server_case(" max_conns=8 max_fails=0", max_conns=8),
    "backup": server_case(" max_fails=0 backup", backup=True),
    "down": server_case(" max_fails=0 down", down=True),
    "all of a server": server_case(
        " weight=5 max_conns=7 max_fails=3 fail_timeout=1s backup",
        weight=5,
        max_conns=7,
        max_fails=3,
        fail_timeout="1s",
        backup=True,
    ),
    "one server more": (
        stack(3),
        ["upstream cluster > zone cluster 132k"],
        ["upstream cluster > zone cluster 134k", SERVER.format(3, BY_DEFAULT)],
    ),
    "least_conn": (stack(upstream={"method": "least_conn"}), [], ["upstream cluster > least_conn"]),
    "ip_hash": (stack(upstream={"method": "ip_hash"}), [], ["upstream cluster > ip_hash"]),
    "random": (stack(upstream={"method": "random"}), [], ["upstream cluster > random two least_conn"]),
    "hash": (stack(upstream={"method": "hash"}), [], ["upstream cluster > hash $request_uri consistent"]),
    "hash of a key": (
        stack(upstream={"method": "hash", "hash": {"key": "${host} $cookie_a", "consistent": False}}),
        [],
        ["upstream cluster > hash ${host} $cookie_a"],
    ),
    "keepalive": (
        stack(upstream={"keepalive": 8}),
        ["upstream cluster > keepalive 256"],
        ["upstream cluster > keepalive 8"],
    ),
    "client_max_body_size": (
        stack(client_max_body_size="10m"),
        [f"{SITE} > client_max_body_size 1m"],
        [f"{SITE} > client_max_body_size 10m"],
    ),
    "no client_max_body_size": (
        stack(client_max_body_size=0),
        [f"{SITE} > client_max_body_size 1m"],
        [f"{SITE} > client_max_body_size 0"],
    ),
    "proxy_read_timeout": (
        stack(proxy_read_timeout="90s"),
        ["proxy_read_timeout 1m"],
        ["proxy_read_timeout 90s"],
    ),
    "auth_basic": (
        stack(auth_basic="Staging area"),
        [],
        [
            "proxy_set_header Authorization $cluster_authorization",
            f"{SITE} > auth_basic Staging area",
            f"{SITE} > auth_basic_user_file /DIR/users",
            f"{SITE} > set $cluster_authorization ",
        ],
    ),
    "auth_basic_limit": (
        stack(auth_basic="Staging area", auth_basic_limit="10r/s"),
        [],
        [
            "map $cluster_authorization $cluster_password",
            "map $cluster_authorization $cluster_password > default ",
            "map $cluster_authorization $cluster_password >  $http_authorization",
            "map $cluster_password $cluster_password_of",
            "map $cluster_password $cluster_password_of > default $binary_remote_addr",
            "map $cluster_password $cluster_password_of >  ",
            "limit_req_zone $cluster_password_of zone=cluster_passwords:10m rate=10r/s",
            "limit_req_status 429",
            "limit_req_log_level warn",
            "proxy_set_header Authorization $cluster_authorization",
            f"{SITE} > auth_basic Staging area",
            f"{SITE} > auth_basic_user_file /DIR/users",
            f"{SITE} > set $cluster_authorization ",
            f"{SITE} > limit_req zone=cluster_passwords burst=200 nodelay",
        ],
    ),
    "ipv6": (
        stack(ipv6=True, connections_per_address=0),
        [
            "limit_conn_zone $binary_remote_addr zone=cluster_addresses:10m",
            "limit_conn_status 429",
            "limit_conn_log_level warn",
            f"{SITE} > limit_conn cluster_addresses 1024",
        ],
        ["server[127.0.0.1:8080 ] > listen [::1]:8080 default_server", f"{SITE} > listen [::1]:8080"],
    ),
    "ipv6 with limits": (
        stack(ipv6=True),
        [
            "limit_conn_zone $binary_remote_addr zone=cluster_addresses:10m",
            f"{SITE} > limit_conn cluster_addresses 1024",
        ],
        [
            CLIENT_NETWORK,
            f"{CLIENT_NETWORK} > default $binary_remote_addr",
            rf"{CLIENT_NETWORK} > ~(?s)^\x00{{10}}\xff{{2}}(?<cluster_ipv4>.{{4}})\z $cluster_ipv4",
            rf"{CLIENT_NETWORK} > ~(?s)^(?<cluster_first_half>.{{8}}).{{8}}\z $cluster_first_half",
            "limit_conn_zone $cluster_client_network zone=cluster_networks:10m",
            "server[127.0.0.1:8080 ] > listen [::1]:8080 default_server",
            f"{SITE} > listen [::1]:8080",
            f"{SITE} > limit_conn cluster_networks 1024",
        ],
    ),
    "anybody": (
        stack(server_names=["_"]),
        [],
        [],
    ),
    "instance_ports": (stack(instance_ports=8000), [], []),
    "no access_log": (stack(access_log=False), [], ["access_log off"]),
    "no static_url": (stack(static_url=None), [], []),
    "another static_url": (stack(static_url="/assets/files/"), [], []),
}

#: What only says what is so anyhow.
NO_CHANGE: dict[str, Values] = {
    "servers by name": stack([{"name": "app1"}, {"name": "app2"}]),
    "a server's defaults": first_server(
        weight=1, max_fails=0, fail_timeout="10s", max_conns=0, backup=False, down=False
    ),
    "a bare number of seconds": first_server(fail_timeout=10),
    "milliseconds": first_server(fail_timeout="10000ms"),
    "the upstream's defaults": stack(upstream={"method": "round_robin", "keepalive": 256}),
    "the key of a method that is not used": stack(upstream={"hash": {"key": "$host", "consistent": False}}),
    "the site's defaults": stack(
        client_max_body_size="1m", proxy_read_timeout="1m", access_log=True, static_url="/static/", listen=8080
    ),
    "kilobytes": stack(client_max_body_size="1024K"),
    "no ports of instances": stack(instance_ports=None),
}

#: Options whose change of the tree has a test of its own.
SEPARATE = {"anybody", "instance_ports", "no access_log", "no static_url", "another static_url"}


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - SEPARATE))
def test_an_option_changes_its_directive_and_nothing_else(nginx: Nginx, option: str, tmp_path: Path) -> None:
    values, removed, added = OPTIONS[option]
    assert changed(values, nginx.version, tmp_path) == (removed, added)


@pytest.mark.parametrize("case", sorted(NO_CHANGE))
def test_saying_a_default_changes_no_byte(nginx: Nginx, case: str, tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    assert render(NO_CHANGE[case], paths, nginx.version) == render(stack(), paths, nginx.version)


def test_without_an_access_log_its_format_goes_too(nginx: Nginx, tmp_path: Path) -> None:
    removed, added = changed(OPTIONS["no access_log"][0], nginx.version, tmp_path)
    assert added == ["access_log off"]
    assert [line.split()[0] for line in removed] == ["log_format", "access_log"]
    assert removed[1] == "access_log /DIR/logs/access.log cluster buffer=32k flush=1s"


def test_without_a_static_url_nothing_is_served_from_files(nginx: Nginx, tmp_path: Path) -> None:
    removed, added = changed(OPTIONS["no static_url"][0], nginx.version, tmp_path)
    assert added == []
    blocks = {line.split(" > ")[1] for line in removed}
    polite = nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
    closing = ["location @closing_static", "location @closing_previous_static"]
    assert blocks == {"location ^~ /static/", "location @previous_static", *(closing if polite else [])}
    assert not any("> root " in line for line in tree(stack(static_url=None), nginx.version, tmp_path / "none"))


def test_the_static_url_is_the_location(nginx: Nginx, tmp_path: Path) -> None:
    removed, added = changed(OPTIONS["another static_url"][0], nginx.version, tmp_path)
    assert [line.replace("/assets/files/", "/static/") for line in added] == removed
    assert removed


def test_a_site_for_anybody_is_the_default_server_and_turns_nobody_away(nginx: Nginx, tmp_path: Path) -> None:
    _removed, added = changed(OPTIONS["anybody"][0], nginx.version, tmp_path)
    lines = tree(OPTIONS["anybody"][0], nginx.version, tmp_path / "anybody")
    assert "server[127.0.0.1:8080 _] > listen 127.0.0.1:8080 default_server" in added
    assert not any(line.endswith("return 444") for line in lines)
    plain = tree(stack(), nginx.version, tmp_path / "plain")
    assert "http > server[127.0.0.1:8080 ] > listen 127.0.0.1:8080 default_server" in plain
    assert "http > server[127.0.0.1:8080 ] > return 444" in plain


def test_instance_ports_add_a_server_and_an_upstream_for_each(nginx: Nginx, tmp_path: Path) -> None:
    removed, added = changed(OPTIONS["instance_ports"][0], nginx.version, tmp_path)
    assert removed == []
    for number in (1, 2):
        server = f"server[127.0.0.1:{7999 + number} 127.0.0.1 localhost]"
        assert f"{server} > location / > proxy_pass http://cluster_app{number}" in added
        assert f"{server} > location ^~ /-/ > return 404" in added
        assert f"{server} > client_max_body_size 1m" in added
        upstream = [line for line in added if line.startswith(f"upstream cluster_app{number} > ")]
        assert [line.split(" > ")[1] for line in upstream] == [
            f"server unix:/DIR/s/app{number}/http.sock",
            "keepalive 4",
            "keepalive_time 250ms",
            "keepalive_timeout 250ms",
            "keepalive_requests 100000",
        ]
    assert {line.split(" ")[0].split("[")[0] for line in added} == {"server", "upstream"}


def test_only_an_old_nginx_closes_connections_before_a_reload(nginx: Nginx, tmp_path: Path) -> None:
    lines = tree(stack(), nginx.version, tmp_path)
    closing = [line for line in lines if "closing" in line]
    polite = nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
    assert bool(closing) is polite
    assert ("http > keepalive_min_timeout 5s" in lines) is not polite


def test_the_versions_differ_in_how_they_reload_alone(nginx: Nginx, tmp_path: Path) -> None:
    old, new = (Counter(tree(stack(), version, tmp_path / str(version))) for version in ((1, 22, 0), (1, 30, 0)))
    assert nginx.version in {(1, 22, 0), (1, 30, 0)} or Counter(tree(stack(), nginx.version, tmp_path)) in (old, new)
    assert list((new - old).elements()) == ["http > keepalive_min_timeout 5s"]
    assert all("@closing" in line or "/DIR/closing" in line for line in old - new)


def test_rendering_twice_gives_the_same_bytes_and_no_two_options_the_same_digest(nginx: Nginx, tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    digests = set()
    for values in [stack(), *(values for values, _removed, _added in OPTIONS.values())]:
        config = render(values, paths, nginx.version)
        assert config == render(values, paths, nginx.version)
        digests.add(config.digest)
    assert len(digests) == len(OPTIONS) + 1


def test_nginx_tells_the_digest_of_its_configuration(site: Running) -> None:
    reply = site.internal("/-/config")
    assert (reply.status, reply.body.decode()) == (200, site.config.digest)
    assert reply.headers["Content-Type"].startswith("text/plain")


def refusal(nginx: Nginx, values: Values, directory: Path) -> str:
    """What `nginx -t` has to say: nothing, when all is well."""
    for name in ("logs", "temp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    values["site"]["listen"] = free_ports()
    if values["site"].get("instance_ports"):
        values["site"]["instance_ports"] = free_ports(2)
    conf = write(render(values, paths_in(directory), nginx.version), directory / "conf")
    command = [*nginx.command, "-t", "-q", "-p", str(directory), "-e", "stderr", "-c", str(conf)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stderr


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_nginx_accepts_every_option_without_a_warning(nginx: Nginx, option: str, tmp_path: Path) -> None:
    values = json.loads(json.dumps(OPTIONS[option][0]))
    assert refusal(nginx, values, tmp_path) == ""


def test_nginx_accepts_a_cluster_of_the_largest_size(nginx: Nginx) -> None:
    names = [f"n{number}{'x' * 28}" for number in range(1000)]
    servers = [{"name": name[:32], "weight": 2, "max_fails": 3} for name in names]
    hosts = [f"{number}.{'a' * 60}.{'b' * 60}.example.com" for number in range(100)]
    with tempfile.TemporaryDirectory() as short:  # a socket's path has an end
        assert refusal(nginx, stack(servers, server_names=hosts), Path(short)) == ""


@st.composite
def stacks(draw: st.DrawFn) -> Values:
    """Stacks that are valid and sane: at least one server takes traffic, a backup only where nginx has them."""
    method = draw(st.sampled_from(["round_robin", "least_conn", "ip_hash", "hash", "random"]))
    backups = method in {"round_robin", "least_conn"}
    servers: list[dict[str, Any]] = [{"name": "app0", "weight": draw(st.integers(1, 100))}]
    for number in range(1, draw(st.integers(1, 6))):
        server: dict[str, Any] = {"name": f"app{number}"}
        options = {
            "weight": st.integers(1, 300),
            "max_fails": st.integers(0, 2**31 - 1),
            "max_conns": st.integers(0, 2**31 - 1),
            "fail_timeout": st.integers(1, 10**7).map(lambda seconds: f"{seconds}s"),
            "down": st.booleans(),
        } | ({"backup": st.booleans()} if backups else {})
        for name in draw(st.sets(st.sampled_from(sorted(options)))):
            server[name] = draw(options[name])
        servers.append(server)
    label = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
    names = st.builds(
        lambda prefix, labels: prefix + ".".join(labels),
        st.sampled_from(["", "*.", "."]),
        st.lists(label, min_size=2, max_size=5),
    )
    site = {
        "server_names": draw(st.lists(names, min_size=1, max_size=4, unique_by=lambda name: name.lower().lstrip("*."))),
        "client_max_body_size": f"{draw(st.integers(0, 1024))}{draw(st.sampled_from(['', 'k', 'm', 'g']))}",
        "proxy_read_timeout": f"{draw(st.integers(1, 876_000))}{draw(st.sampled_from(['ms', 's', 'm', 'h']))}",
        "access_log": draw(st.booleans()),
        "static_url": draw(st.sampled_from([None, "/static/", "/a/", "/files.d/v-1/~x/"])),
    }
    return stack(servers, upstream={"method": method, "keepalive": draw(st.integers(1, 1000))}, **site)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(values=stacks())
def test_nginx_accepts_whatever_is_valid(nginx: Nginx, tmp_path: Path, values: Values) -> None:
    assert refusal(nginx, values, tmp_path) == ""


def test_a_check_leaves_the_running_nginx_its_sockets(site: Running) -> None:
    conf = str(site.directory / "conf" / "nginx.conf")
    command = [*site.nginx.command, "-t", "-q", "-p", str(site.directory), "-e", "stderr", "-c", conf]
    assert subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).returncode == 0
    assert site.live_digest() == site.config.digest


# Headers


#: What a client may try, a line each.
FORGERIES = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-For: 6.6.6.7",
    "x-forwarded-for: 6.6.6.8",
    "X_Forwarded_For: 6.6.6.9",
    "X-Forwarded-Proto: https",
    "X_Forwarded_Proto: https",
    "X-Forwarded-Proto : https",
    "X-Forwarded-Host: evil",
    "X-FORWARDED-HOST: evil",
    "X_Forwarded_Host: evil",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Server: evil",
    "X-Forwarded-Protocol: ssl",
    "X_Forwarded_Protocol: ssl",
    "X-Forwarded-Ssl: on",
    "X_Forwarded_Ssl: on",
    "X-Real-IP: 6.6.6.6",
    "X_Real_Ip: 6.6.6.6",
    "Forwarded: for=6.6.6.6;host=evil;proto=https",
    "Forwarded: for=6.6.6.7",
    "Proxy: http://evil",
    "Script_Name: /evil",
    "Path_Info: /evil",
    "Remote_User: root",
    "X-Probe-Address: 6.6.6.6",
]


def told(reply: Reply | None) -> dict[str, list[str]]:
    """What an instance is told of the client and the address, by the names that its WSGI server would give them."""
    assert reply is not None, "nginx closed the connection"
    found: dict[str, list[str]] = {}
    for name, value in reply.seen["headers"]:
        key = name.upper().replace("-", "_")
        if key.startswith(("X_FORWARDED", "X_REAL")) or key in {"HOST", "FORWARDED", "PROXY", "CONNECTION", "UPGRADE"}:
            found.setdefault(key, []).append(value)
        assert "_" not in name, f"{name} would be taken for another header"
    return found


def the_truth(host: str, port: int) -> dict[str, list[str]]:
    return {
        "HOST": [host],
        "X_FORWARDED_HOST": [host],
        "X_FORWARDED_PROTO": ["http"],
        "X_FORWARDED_PORT": [str(port)],
        "X_FORWARDED_FOR": ["127.0.0.1"],
        "X_REAL_IP": ["127.0.0.1"],
    }


@pytest.mark.parametrize("where", ["site", "app1"])
@pytest.mark.parametrize(
    "forgery", [*(f for f in FORGERIES if " :" not in f), "\n".join(FORGERIES[:6] + FORGERIES[7:])]
)
def test_a_client_cannot_say_who_it_is(site: Running, ports: dict[str, int], where: str, forgery: str) -> None:
    reply = site.raw(head(f"GET /x HTTP/1.1\nHost: localhost\n{forgery}"), port=ports[where])
    assert told(reply) == the_truth("localhost", ports[where])


def test_a_space_before_the_colon_is_no_way_around(site: Running) -> None:
    reply = site.raw(head("GET /x HTTP/1.1\nHost: cluster\nX-Forwarded-Proto : https"))
    assert reply is None or reply.status == 400 or told(reply) == the_truth("cluster", site.port)


@pytest.mark.parametrize(
    ("line", "host", "passed_on"),
    [
        ("GET /", "cluster", "cluster"),
        ("GET /", "cluster:8080", "cluster:8080"),
        ("GET /", "CLUSTER", "cluster"),
        ("GET /", "cLusTer:80", "cluster:80"),
        ("GET /", "cluster.", "cluster"),
        ("GET /", "Cluster.:81", "cluster:81"),
        ("GET http://cluster/", "evil", "cluster"),
        ("GET http://cluster/", "evil.example.com", "cluster"),
        ("GET HTTP://CLUSTER:81/", "localhost", "cluster"),
    ],
)
def test_an_instance_gets_the_host_that_nginx_chose_the_server_by(
    site: Running, line: str, host: str, passed_on: str
) -> None:
    assert told(site.raw(head(f"{line} HTTP/1.1\nHost: {host}"))) == the_truth(passed_on, site.port)


@pytest.mark.parametrize(
    "request_head",
    [
        "GET / HTTP/1.1\nHost: evil",
        "GET / HTTP/1.1\nHost: cluster.evil",
        "GET / HTTP/1.1\nHost: evil:8080",
        "GET / HTTP/1.1\nHost: 127.0.0.1",
        "GET / HTTP/1.1\nHost: user@cluster",
        "GET / HTTP/1.1\nHost: cluster, evil",
        "GET / HTTP/1.1\nHost: cluster evil",
        "GET / HTTP/1.1\nHost: evil\tcluster",
        "GET / HTTP/1.1\nHost: cluster/",
        "GET / HTTP/1.1\nHost: cluster\\evil",
        "GET / HTTP/1.1\nHost: [::1]",
        "GET / HTTP/1.1\nHost: _",
        "GET / HTTP/1.1\nHost: internal",
        "GET / HTTP/1.1\nHost: ",
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/1.1\nHost: cluster\nHost: evil",
        "GET / HTTP/1.1\nHost: evil\nHost: cluster",
        "GET http://evil/ HTTP/1.1\nHost: cluster",
        "GET http://evil@cluster.evil/ HTTP/1.1\nHost: cluster",
        "GET http://internal/-/config HTTP/1.1\nHost: cluster",
    ],
)
def test_an_unknown_host_reaches_no_instance(site: Running, request_head: str) -> None:
    before = len(site.requests)
    reply = site.raw(head(request_head))
    assert reply is None or reply.status == 400, reply
    assert len(site.requests) == before


def test_an_unknown_host_gets_no_answer_at_all(site: Running) -> None:
    assert site.raw(head("GET / HTTP/1.1\nHost: evil")) is None
    assert site.raw(head("GET / HTTP/1.0")) is None


def test_a_site_for_anybody_passes_any_host_on(nginx: Nginx) -> None:
    with Running(nginx, stack(1, server_names=["_"], forwarded_ports=[81])) as running:
        reply = running.raw(head("GET / HTTP/1.1\nHost: Any.Example.com:81\nX-Forwarded-Host: evil"))
        assert told(reply) == the_truth("any.example.com:81", running.port)


# What the public must not reach


def wsgi_path(target: str) -> str:
    """PATH_INFO, as WSGI servers make it of what nginx sent."""
    return unquote(target.partition("?")[0], "latin-1")


def is_internal(target: str) -> bool:
    """Tell whether any reading of a path leads below `/-/`."""
    path = "/" + wsgi_path(target).lstrip("/")
    return path.startswith("/-/") or posixpath.normpath(path).startswith("/-/")


SPELLINGS = [
    "/-/health",
    "/-/health?deep",
    "/-/probe",
    "/-/probe/session?create",
    "/-/config",
    "/-/connections",
    "/%2d/health",
    "/%2D/health",
    "/%2D%2Fhealth",
    "/-%2fhealth",
    "%2F-/health",
    "//-/health",
    "///-///health",
    "/./-/health",
    "/.//-/./health",
    "/x/../-/health",
    "/x/%2e%2e/-/health",
    "/x/..%2f-/health",
    "/-/../-/probe",
    "/-/x/../probe",
    "/-/",
    "//-//",
    "/-/%2e/health",
    "/-/../-/../-/health",
    "/-/health#x",
    "/-/..",
    "/-/../",
    "/-/../x",
    "/-/%2e%2e/probe",
    "/%2d/../probe",
    "/-/..%2fprobe",
    "/-%2f..%2fx",
    "//-/../x",
    "/%2f-/../x",
    "/-/..#",
    "/-/..?x",
]


@pytest.mark.parametrize("where", ["site", "app1", "absolute"])
@pytest.mark.parametrize("target", SPELLINGS)
def test_what_the_runtime_answers_is_not_the_publics(
    site: Running, ports: dict[str, int], where: str, target: str
) -> None:
    before = len(site.requests)
    prefix = "http://localhost" if where == "absolute" else ""
    reply = site.raw(head(f"GET {prefix}{target} HTTP/1.1\nHost: localhost"), port=ports.get(where, site.port))
    assert [path for _method, path in site.requests[before:]] == []
    assert reply is None or reply.status in {400, 404}


def test_the_public_gets_the_paths_beside_it(site: Running) -> None:
    for target in ("/-", "/-x/", "/x/-/probe", "/%252d/probe", "/-%5cprobe", "/-%255c"):
        assert site.request(target).seen["path"] == target


PIECES = [
    "/",
    "//",
    "-",
    "%2d",
    "%2D",
    "%2f",
    "%2F",
    ".",
    "%2e",
    "..",
    "%2E%2e",
    "/./",
    "/../",
    "\\",
    "%5c",
    "%",
    "%25",
]
NOISE = [
    *PIECES,
    "probe",
    "x",
    "?",
    "#",
    ";",
    "%00",
    "%0a",
    "%c0%af",
    "%ef%bc%8f",
    "+",
    "*",
    "\x7f",
    "~",
    "&",
    ":",
    "@",
]


def spelled(character: str) -> st.SearchStrategy[str]:
    code = f"{ord(character):02x}"
    return st.sampled_from([character, character, f"%{code}", f"%{code.upper()}", f"%25{code}"])


targets = st.one_of(
    # The path, each character spelled one way or another, with something put in anywhere
    st.builds(
        lambda parts, noise: "".join(a + b for a, b in zip(parts, noise, strict=True)),
        st.tuples(*map(spelled, "/-/probe")),
        st.lists(st.one_of(st.just(""), st.just(""), st.just(""), st.sampled_from(NOISE)), min_size=8, max_size=8),
    ),
    # or pieces of it in any order.
    st.lists(st.sampled_from(PIECES), max_size=6).map(lambda pieces: "/-/" + "".join(pieces)),
    st.lists(st.sampled_from(NOISE), max_size=8).map(lambda pieces: "/" + "".join(pieces)),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=targets, prefix=st.sampled_from(["", "", "http://cluster"]), instance=st.booleans())
def test_no_spelling_of_a_path_leads_below_the_runtimes(
    site: Running, ports: dict[str, int], target: str, prefix: str, instance: bool
) -> None:
    before = len(site.requests)
    host, port = ("localhost", ports["app1"]) if instance else ("cluster", site.port)
    site.raw(head(f"GET {prefix}{target} HTTP/1.1\nHost: {host}"), port=port)
    assert [path for _method, path in site.requests[before:] if is_internal(path)] == []


# Connections


def test_a_websocket_reaches_an_instance_and_bytes_flow_both_ways(site: Running) -> None:
    with site.open() as client:
        client.sendall(b"GET /ws HTTP/1.1\r\nHost: cluster\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"connection: upgrade" in answer.lower()
        for message in (b"one", b"two", b"x" * 100_000):
            client.sendall(message)
            back = b""
            while len(back) < len(message):
                back += client.recv(65536)
            assert back == message


def test_without_an_upgrade_the_connection_to_an_instance_is_kept(site: Running) -> None:
    with contextlib.closing(site.connect()) as connection:
        replies = [ask(connection, "/", method="POST", body=b"x", Connection="keep-alive") for _ in range(20)]
    used = {(reply.seen["instance"], reply.seen["connection"]) for reply in replies}
    # One connection to each instance, and one more where that was old already.
    assert len(used) <= 4
    assert all(reply.sent("Connection") == [] and reply.sent("Upgrade") == [] for reply in replies)


# Bodies, files and compression


@pytest.mark.parametrize("where", ["site", "app1"])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(site: Running, ports: dict[str, int], where: str) -> None:
    port, host = ports[where], "localhost"
    largest = site.request("/", method="POST", body=b"x" * BODY_LIMIT, host=host, port=port)
    assert (largest.status, largest.seen["length"]) == (200, BODY_LIMIT)
    before = len(site.requests)
    declared = f"POST / HTTP/1.1\nHost: {host}\nContent-Length: {BODY_LIMIT + 1}\nExpect: 100-continue"
    reply = site.raw(head(declared), port=port)
    assert reply is not None
    assert reply.status == 413
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (BODY_LIMIT + 1, b"x" * (BODY_LIMIT + 1))
    reply = site.raw(head(f"POST / HTTP/1.1\nHost: {host}\nTransfer-Encoding: chunked") + chunk, port=port)
    assert reply is not None
    assert reply.status == 413
    assert len(site.requests) == before


@pytest.mark.parametrize("where", ["site", "app1"])
def test_static_files_say_how_long_they_may_be_kept(site: Running, ports: dict[str, int], where: str) -> None:
    expected = {
        HASHED: ("r2", "public, max-age=31536000, immutable"),
        "plain.css": ("r2", "public, max-age=60"),
        "both.css": ("r2", "public, max-age=60"),
        "old.css": ("r1", "public, max-age=60"),
    }
    before = len(site.requests)
    for name, (release, kept) in expected.items():
        reply = site.request(f"/static/{name}?v=1", port=ports[where], host="localhost")
        assert (reply.status, reply.body.decode()) == (200, f"{release} {name}\n")
        assert reply.headers.get_all("Cache-Control") == [kept]
        assert reply.headers["Content-Type"] == "text/css"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert len(site.requests) == before


def test_a_static_file_that_is_missing_is_nginxs_own_404(site: Running) -> None:
    before = len(site.requests)
    for name in ("none.css", "", "app.0123456789ab.js", "old.css/", "old.css/x"):
        reply = site.request(f"/static/{name}")
        assert reply.status == 404, name
        assert "Cache-Control" not in reply.headers, "nobody must remember that a file is missing"
    assert len(site.requests) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another user's")
def test_a_link_among_static_files_leads_only_to_what_is_its_maker_s_own(site: Running) -> None:
    static = Path(site.paths.static) / "r2" / "static"
    stolen, own, directory = static / "stolen.css", static / "own.css", static / "aside"
    stolen.symlink_to("/etc/hostname")
    own.symlink_to("plain.css")
    directory.symlink_to("/etc")
    for path in (stolen, directory):
        os.lchown(path, 4321, 4321)
    try:
        assert site.request("/static/own.css").body == b"r2 plain.css\n", "collectstatic --link makes such ones"
        for name in ("stolen.css", "aside/hostname"):
            assert site.request(f"/static/{name}").status == 404, name
    finally:
        for path in (stolen, own, directory):
            path.unlink()


def test_a_file_that_was_compressed_before_is_sent_so_to_who_can_read_it(site: Running) -> None:
    squeezed = site.request("/static/plain.css", Accept_Encoding="gzip")
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(squeezed.body) == b"compressed before\n"
    assert "Accept-Encoding" in squeezed.headers["Vary"]
    plain = site.request("/static/plain.css")
    assert "Content-Encoding" not in plain.headers
    assert plain.body == b"r2 plain.css\n"


def test_a_range_and_a_revalidation_of_a_static_file_work(site: Running) -> None:
    whole = site.request("/static/plain.css")
    part = site.request("/static/plain.css", Range="bytes=3-7")
    assert (part.status, part.body) == (206, b"plain")
    assert site.request("/static/plain.css", If_None_Match=whole.headers["ETag"]).status == 304


@pytest.mark.parametrize("where", ["site", "app1"])
@pytest.mark.parametrize(
    "target",
    [
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/..%2f..%2fsecret.txt",
        "/static/%252e%252e/secret.txt",
        "/static/..%5csecret.txt",
        "/static/....//secret.txt",
        "/static/..;/secret.txt",
        "/static//../secret.txt",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
        "/static../secret.txt",
        "/static/%00/../secret.txt",
    ],
)
def test_no_path_leaves_the_static_directory(site: Running, ports: dict[str, int], where: str, target: str) -> None:
    reply = site.raw(head(f"GET {target} HTTP/1.1\nHost: localhost"), port=ports[where])
    assert reply is not None
    assert b"not below" not in reply.body
    assert b"root:" not in reply.body
    if reply.status == 200:  # not a static file's path, then: an instance answered
        assert reply.seen["path"] == target


def test_an_instances_text_is_compressed(site: Running) -> None:
    reply = site.request("/text", Accept_Encoding="gzip")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(reply.body).decode() == TEXT
    assert "Accept-Encoding" in reply.headers["Vary"]
    plain = site.request("/text")
    assert "Content-Encoding" not in plain.headers
    assert plain.body.decode() == TEXT


def test_a_session_in_a_cookie_as_large_as_browsers_keep_passes(site: Running) -> None:
    """With nginx's own buffer it would be a 502, and whoever has just logged in would not be."""
    reply = site.request("/?cookie=4093")
    assert reply.status == 200
    cookie = str(reply.headers["Set-Cookie"]).partition(";")[0]
    assert len(cookie) == 4093
    assert site.request("/", Cookie=cookie).sent("Cookie") == [cookie]


def test_an_instances_status_418_is_its_own(site: Running) -> None:
    assert site.request("/?status=418").seen["method"] == "GET"


# Shares


def workers(number: int) -> Any:
    return lambda text: text.replace("worker_processes auto;", f"worker_processes {number};")


def served_by(running: Running, path: str, requests: int, *, clients: int = 4) -> Counter[str]:
    """Send requests at the same time, each on a connection of its own (so that all workers get some)."""
    with ThreadPoolExecutor(clients) as pool:
        send = running.internal if path.startswith("/-/") else running.request
        return Counter(reply.seen["instance"] for reply in pool.map(send, [path] * requests))


@pytest.mark.parametrize("weights", [[1], [1, 1, 1, 1], [3, 1, 1, 1], [5, 1], [7, 3, 2, 1], [100, 1]])
@pytest.mark.parametrize("path", ["/", "/-/probe"])
def test_each_server_gets_the_share_of_its_weight_whichever_worker_serves(
    nginx: Nginx, weights: list[int], path: str
) -> None:
    servers = [{"name": f"app{number}", "weight": weight} for number, weight in enumerate(weights, 1)]
    requests = 2 * sum(weights) + 7
    with Running(nginx, stack(servers), edit=workers(4)) as running:
        counts = served_by(running, path, requests)
    share = shares(parse_config(stack(servers)).upstream.servers)
    assert counts.total() == requests
    for name, part in share.items():
        assert abs(counts[name] - requests * part) <= 1, counts


def test_shares_of_a_probe_and_of_the_site_count_together(nginx: Nginx) -> None:
    with Running(nginx, stack(3), edit=workers(2)) as running:
        counts = Counter(
            (running.internal("/-/probe") if number % 2 else running.request("/")).seen["instance"]
            for number in range(30)
        )
    assert set(counts.values()) == {10}


def test_a_server_that_is_down_gets_nothing_and_a_backup_only_when_the_others_are_gone(nginx: Nginx) -> None:
    servers: list[dict[str, Any]] = [
        {"name": "app1", "weight": 2},
        {"name": "app2"},
        {"name": "app3", "down": True},
        {"name": "app4", "backup": True},
    ]
    with Running(nginx, stack(servers), edit=workers(2)) as running:
        assert served_by(running, "/", 30) == {"app1": 20, "app2": 10}
        running.backends["app1"].give_name_up()
        time.sleep(WORN_OUT)
        assert served_by(running, "/", 30) == {"app2": 30}
        running.backends["app2"].die()
        assert served_by(running, "/", 30) == {"app4": 30}
        assert running.backends["app3"].requests == []


def failures(running: Running, requests: int) -> int:
    failed = 0
    for number in range(requests):
        body = b"x" * 2000 if number % 2 else None
        failed += running.request("/", method="POST" if body else "GET", body=body).status != 200
    return failed


def three_of_four_dead(running: Running) -> None:
    running.backends["app1"].give_name_up()
    running.backends["app2"].die()
    running.backends["app4"].give_name_up()


def test_dead_instances_cost_no_request(nginx: Nginx) -> None:
    with Running(nginx, stack(4)) as running:
        three_of_four_dead(running)
        failed = failures(running, 100)
        print(f"{nginx}: {failed} of 100 requests failed with three of four instances dead")
        assert failed == 0
        assert {backend.name for backend in running.backends.values() if backend.requests} == {"app3"}


def test_dead_instances_would_cost_requests_without_a_next_one_to_try(nginx: Nginx) -> None:
    def sabotage(text: str) -> str:
        return text.replace("proxy_next_upstream error;", "proxy_next_upstream off;")

    with Running(nginx, stack(4), edit=sabotage) as running:
        three_of_four_dead(running)
        failed = failures(running, 100)
        print(f"{nginx}: {failed} of 100 requests failed without proxy_next_upstream")
        assert failed == 75


def test_a_site_of_which_nothing_was_left_is_back_at_once(nginx: Nginx) -> None:
    with Running(nginx, stack(2)) as running:
        for backend in running.backends.values():
            backend.give_name_up()
        assert failures(running, 10) == 10
        for backend in running.backends.values():
            backend.take_name()
        assert failures(running, 10) == 0


def test_a_name_that_comes_back_is_served_again(nginx: Nginx) -> None:
    with Running(nginx, stack([{"name": "app1", "max_fails": 1, "fail_timeout": "1s"}, {"name": "app2"}])) as running:
        running.backends["app1"].give_name_up()
        assert failures(running, 10) == 0
        running.backends["app1"].take_name()
        seen: set[str] = set()
        for _ in range(100):
            seen.add(running.request("/slow?seconds=0.02").seen["instance"])
        assert seen == {"app1", "app2"}


# The internal socket


def hashed_to(running: Running, addresses: list[str], *, public: bool) -> list[tuple[str, list[str]]]:
    send = running.request if public else running.internal
    replies = [send("/-/probe" if not public else "/", X_Probe_Address=address) for address in addresses]
    return [(reply.seen["instance"], reply.sent("X-Forwarded-For")) for reply in replies]


def test_a_probe_stands_for_a_client_on_the_internal_socket_alone(nginx: Nginx) -> None:
    addresses = [f"10.0.{number}.1" for number in range(24)]
    with Running(nginx, stack(4, upstream={"method": "ip_hash"})) as running:
        inside = hashed_to(running, addresses, public=False)
        assert len({instance for instance, _told in inside}) > 1, "the address chooses the instance"
        assert inside == hashed_to(running, addresses, public=False), "always the same one"
        assert all(forwarded == [] for _instance, forwarded in inside), "which is how the runtime knows a probe"
        outside = hashed_to(running, addresses, public=True)
        assert len({instance for instance, _told in outside}) == 1
        assert all(forwarded == ["127.0.0.1"] for _instance, forwarded in outside)


def test_the_internal_socket_answers_what_it_is_for(site: Running) -> None:
    before = len(site.requests)
    assert site.internal("/-/connections").status == 200
    for path in ("/", "/-/health", "/-/", "/static/plain.css", "/-/config/x"):
        assert site.internal(path).status == 404, path
    assert len(site.requests) == before
    assert site.internal("/-/probe/session?create").seen["path"] == "/-/probe/session?create"


def test_nginx_listens_where_it_should_and_nowhere_else(site: Running, tmp_path: Path) -> None:
    listens = {line.split(" > ")[-1] for line in tree(site.values, site.nginx.version, tmp_path) if "listen " in line}
    first = site.values["site"]["instance_ports"]
    assert listens == {
        f"listen 127.0.0.1:{site.port}",
        f"listen 127.0.0.1:{site.port} default_server",
        f"listen 127.0.0.1:{first}",
        f"listen 127.0.0.1:{first + 1}",
        "listen unix:/DIR/internal.sock",
    }
    with socket.socket() as other:
        other.settimeout(1)
        assert other.connect_ex(("127.0.0.2", site.port)) != 0


# A linter of nginx configurations


#: What it finds and is meant: it counts two files for a connection, but nginx counts that to an instance as another,
#: and of many connections most have no file. More files than that many machines don't allow.
MEANT = "worker_rlimit_nofile_vs_connections"


def gixy_findings(nginx: Nginx, values: Values, tmp_path: Path) -> list[tuple[str, str, str]]:
    """What gixy finds that is not meant."""
    conf = write(render(values, paths_in(tmp_path), nginx.version), tmp_path)
    command = [sys.executable, "-m", "gixy", "--format", "json", str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = [(finding["plugin"], finding["reason"], finding["config"]) for finding in json.loads(done.stdout)]
    return [finding for finding in found if finding[0] != MEANT]


@pytest.mark.parametrize("option", ["plain", "anybody", "hash of a key", "instance_ports"])
def test_gixy_finds_nothing(nginx: Nginx, option: str, tmp_path: Path) -> None:
    values = OPTIONS[option][0] if option != "plain" else stack()
    assert gixy_findings(nginx, values, tmp_path) == []
