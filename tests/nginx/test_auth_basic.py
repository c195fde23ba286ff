"""A site that asks each visitor for a user, by the real nginx: who is asked, and what the project is told."""

from __future__ import annotations

import base64
import contextlib
import http.client
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.maintenance import asked_for
from cluster.render.maintenance import SUFFIX, render_maintenance
from cluster.render.users import users_file
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.tls.authority import root_of
from tests.conformance import wait_until
from tests.nginx.running import ANN, AUTHORITY, PATIENCE, ZOE, Reply, Running, ask, free_ports, stack
from tests.nginx.test_reload import add_static_file
from tests.secure_load import Secure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx.running import Values
    from tests.nginx_versions import Nginx


def sent(authorization: str | None) -> dict[str, Any]:
    return {} if authorization is None else {"Authorization": authorization}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


#: What whoever has no password may send.
STRANGERS: dict[str, dict[str, str]] = {
    "nothing": {},
    "another password": {"Authorization": basic("ann", "no password")},
    "no password": {"Authorization": basic("ann", "")},
    "a hash": {"Authorization": basic("ann", "$6$x$y")},
    "nobody": {"Authorization": basic("", "")},
    "another's name": {"Authorization": basic("bob", "a password: of ann's")},
    "a token": {"Authorization": "Bearer abc"},
    "no base64": {"Authorization": "Basic ***"},
    "another header": {"X-Authorization": ANN, "Proxy-Authorization": ANN},
}

#: What a visitor may ask for: pages, files, uploads, what is nowhere.
PATHS = ["/", "/a?b", "/static/a.css", "/static/none", "/media/a.txt", "/media/none", "/upload/x", "//", "/robots.txtx"]


def asking(**site: Any) -> Values:
    values = stack(2, auth_basic="Staging", locations=[{"path": "/upload/"}, {"path": "/hook/", "auth_basic": False}])
    values["app"]["media"] = {"root": "media", "url": "/media/"}
    values["site"] |= site
    return values


def add_files(running: Running) -> None:
    add_static_file(running)
    media = Path(running.paths.shared) / "media"
    media.mkdir(parents=True)
    (media / "a.txt").write_text("upload\n")


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, asking(instance_ports=free_ports(2))) as found:
        add_files(found)
        yield found


def let_in(running: Running) -> list[str]:
    """What is not refused to strangers, with and without the file by which an old nginx closes connections."""
    found = []
    for closing in (False, True):
        if closing:
            Path(running.paths.closing).touch()
        for path in PATHS:
            for stranger, headers in STRANGERS.items():
                given: dict[str, Any] = {name.replace("-", "_"): text for name, text in headers.items()}
                reply = running.request(path, **given)
                if (reply.status, reply.headers["WWW-Authenticate"]) != (401, 'Basic realm="Staging"'):
                    found.append(f"{path} by {stranger}: {reply.status}")
    Path(running.paths.closing).unlink()
    return found


def test_nobody_gets_anything_without_a_user_and_no_instance_hears_of_it(running: Running) -> None:
    before = len(running.requests)
    assert let_in(running) == []
    assert len(running.requests) == before
    print(f"{running.nginx}: {2 * len(PATHS) * len(STRANGERS)} requests by strangers, 0 let in")


def test_without_the_directive_all_of_them_would(nginx: Nginx) -> None:
    """What must fail: the same, with the one line less."""
    with Running(nginx, asking(), edit=lambda text: text.replace("    auth_basic Staging;\n", "")) as found:
        add_files(found)
        assert len(let_in(found)) == 2 * len(PATHS) * len(STRANGERS)


@pytest.mark.parametrize("user", [ANN, ZOE])
def test_a_user_gets_everything_and_the_project_is_not_told_the_password(running: Running, user: str) -> None:
    statuses = [running.request(path, Authorization=user).status for path in PATHS]
    assert statuses == [200, 200, 200, 404, 200, 404, 200, 200, 200]
    for path in ("/", "/upload/x"):
        assert running.request(path, Authorization=user).sent("Authorization") == []


@pytest.mark.parametrize("path", ["/x/../hook/y", "/x%2f..%2fhook/y", "/x/%2e%2e/hook/y", "/./hook/y", "/hook/../x"])
def test_no_dots_lead_around_it(running: Running, path: str) -> None:
    """By a path that is nginx's /hook/ and the project's /x/."""
    before = len(running.requests)
    for user in (None, ANN):
        assert running.request(path, **sent(user)).status in (400, 401)
    assert len(running.requests) == before


def test_without_the_line_that_keeps_it_back_the_project_would_be_told(nginx: Nginx) -> None:
    line = "proxy_set_header Authorization $cluster_authorization;\n"
    with Running(nginx, asking(), edit=lambda text: text.replace(line, "")) as found:
        assert found.request("/", Authorization=ANN).sent("Authorization") == [ANN]


def test_where_nobody_is_asked_the_projects_own_header_arrives(running: Running, nginx: Nginx) -> None:
    for sent in ("Bearer abc", basic("of the", "project")):
        assert running.request("/hook/x", Authorization=sent).sent("Authorization") == [sent]
        first: int = running.values["site"]["instance_ports"]
        reply = running.request("/", host="localhost", port=first, Authorization=sent)
        assert reply.sent("Authorization") == [sent]
    with Running(nginx, stack(1)) as plain:
        assert plain.request("/", Authorization="Bearer abc").sent("Authorization") == ["Bearer abc"]


def test_what_is_the_runtimes_is_closed_as_before_and_the_internal_socket_answers(running: Running) -> None:
    for path in ("/-/health", "/-/probe", "/-/", "/x/..%2f-/health"):
        for user in (None, ANN):
            assert running.request(path, **sent(user)).status == 404, path
    assert running.internal("/-/config").status == 200
    assert running.internal("/-/probe").status == 200


def test_what_nginx_answers_itself_at_once_asks_nobody(nginx: Nginx) -> None:
    """As an authority asks for the challenge of a certificate."""
    challenge = 'location ~ "^/\\.well-known/acme-challenge/([-_a-zA-Z0-9]+)$" { return 200 "$1.thumb"; }\n'
    values = asking(robots="none", redirects={"/old/": "/new/"}, snippets={"server": challenge})
    with Running(nginx, values) as found:
        assert found.request("/.well-known/acme-challenge/abc").body == b"abc.thumb"
        assert found.request("/robots.txt").status == 200
        assert found.request("/old/a").headers["Location"] == "/new/a"
        assert found.request("/new/a").status == 401
        map_file = Path(f"{found.paths.maintenance}{SUFFIX}")
        wanted = render_maintenance(asked_for("Back soon", "10m", []))
        map_file.write_text(wanted.text)
        found.reload(found.values)
        wait_until(lambda: found.internal("/-/maintenance").body.decode() == wanted.digest, "nginx has read it")
        assert found.request("/").status == 503


def test_where_there_is_https_nobody_is_asked_by_plain_http(nginx: Nginx) -> None:
    port = free_ports(2)
    values = asking(
        listen=port, tls={"listen": port + 1, "self_signed": True}, redirects={"www.example.org": "cluster"}
    )
    with Running(nginx, values) as found:
        for path in PATHS:
            for host in ("cluster", "www.example.org", "other.example"):
                with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):  # a stranger's name
                    reply = found.request(path, host=host)
                    assert (reply.status, reply.headers["WWW-Authenticate"]) == (308, None)
        with contextlib.closing(Secure(("127.0.0.1", port + 1), "cluster", root_of(AUTHORITY), PATIENCE)) as secure:
            replies: list[Reply] = [ask(secure, "/", host=f"cluster:{port + 1}", **sent(user)) for user in (None, ANN)]
            assert [reply.status for reply in replies] == [401, 200]


def test_other_passwords_count_at_once_without_a_reload_for_connections_that_are_kept_too(running: Running) -> None:
    users = Path(running.paths.users)
    before = users.read_text()
    changed = users_file(parse_config(running.values), '{"ann": "another password"}')
    with contextlib.closing(running.connect()) as connection:
        assert ask(connection, "/", Authorization=ANN).status == 200
        users.with_name("next").write_text(changed)
        users.with_name("next").rename(users)
        try:
            assert ask(connection, "/", Authorization=ANN).status == 401
            assert ask(connection, "/", Authorization=basic("ann", "another password")).status == 200
        finally:
            users.write_text(before)


def test_a_site_that_asks_no_more_refuses_nobody_while_it_reloads(nginx: Nginx) -> None:
    """A connection of the former configuration's may be used once more: its worker reads the file of the users."""
    with Running(nginx, asking()) as found, contextlib.closing(found.connect()) as connection:
        assert ask(connection, "/", Authorization=ANN).status == 200
        found.reload(stack(2, listen=found.port))
        assert found.request("/").status == 200
        if nginx.version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
            assert ask(connection, "/", Authorization=ANN).status == 200


def test_a_file_that_is_gone_lets_nobody_in(nginx: Nginx) -> None:
    with Running(nginx, asking()) as found:
        Path(found.paths.users).unlink()
        assert found.request("/").status == 401
        assert found.request("/", Authorization=ANN).status in (403, 500)
        assert found.requests == []


#: What the documentation proposes, by a longer time: an address may send so many requests with a password.
TRIES = {
    "http": 'map $http_authorization $tries { default $binary_remote_addr; "" ""; }\n'
    "limit_req_zone $tries zone=tries:1m rate=1r/m;\nlimit_req_status 429;\n",
    "server": "limit_req zone=tries burst=20 nodelay;\n",
}


def test_passwords_are_tried_no_oftener_than_a_snippet_says_and_whoever_sends_none_is_not_counted(nginx: Nginx) -> None:
    """nginx counts before it looks at a password: one that is right, beyond them, gets in as little."""
    with Running(nginx, asking(snippets=TRIES)) as found:
        add_files(found)
        tried = [found.request(PATHS[n % len(PATHS)], Authorization=basic("ann", str(n))).status for n in range(100)]
        assert tried[:21] == [401] * 21
        assert set(tried) == {401, 429}
        assert tried.count(401) < 50
        assert found.request("/", Authorization=ANN).status == 429
        print(f"{nginx}: of 100 passwords {tried.count(401)} were looked at, {tried.count(429)} not")
        assert {found.request("/static/a.css").status for _ in range(50)} == {401}
        assert found.requests == []


LIMITED = {"auth_basic_limit": "1r/m", "auth_basic_burst": 20}


@pytest.mark.parametrize("about_to_reload", [False, True])
@pytest.mark.parametrize("limit", [None, "1000r/s"])
def test_an_address_sends_so_many_passwords_as_it_may_at_whatever_path(
    nginx: Nginx, limit: str | None, about_to_reload: bool
) -> None:
    """Locations with limits of their own, and a site that has one, included; who sends none is counted nowhere."""
    values = asking(**LIMITED, limit=limit)
    values["site"]["locations"] += [{"path": "/login/", "limit": "1000r/s", "limit_methods": ["POST"]}]
    with Running(nginx, values) as found:
        add_files(found)
        if about_to_reload:
            Path(found.paths.closing).touch()
        assert {found.request(path).status for path in PATHS for _ in range(5)} == {401}
        hook = [found.request("/hook/x", Authorization=basic("ann", str(n))).status for n in range(50)]
        assert hook == [200] * 50, "nginx asks for none there"
        paths = [*PATHS, "/login/"]
        tried = [found.request(paths[n % len(paths)], Authorization=basic("ann", str(n))).status for n in range(100)]
        assert (tried[:21], tried[21:]) == ([401] * 21, [429] * 79)
        assert found.request("/", Authorization=ANN).status == 429, "nginx counts before it looks"
        assert found.request("/").status == 401
        print(f"{nginx}: of 100 passwords {tried.count(401)} were looked at, {tried.count(429)} not")


def test_a_page_with_its_files_is_within_what_an_address_may_send(nginx: Nginx) -> None:
    with Running(nginx, asking(auth_basic_limit="1r/m")) as found:
        add_files(found)
        assert {found.request("/static/a.css", Authorization=ANN).status for _ in range(200)} == {200}


def test_without_a_limit_all_of_them_are_looked_at(running: Running) -> None:
    assert {running.request("/", Authorization=basic("ann", str(n))).status for n in range(100)} == {401}


def test_the_limit_comes_and_goes_by_a_reload(nginx: Nginx) -> None:
    with Running(nginx, asking()) as found:
        for more in (LIMITED, {"auth_basic_limit": "9r/s"}, {"auth_basic_limit": "9r/s", "ipv6": False}, {}):
            found.reload(asking(listen=found.port, **more))
            assert found.request("/", Authorization=ANN).status == 200
