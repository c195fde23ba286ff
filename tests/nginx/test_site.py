"""What the site's own keys do, asked of the real nginx: redirects, headers, locations and their limits, snippets."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from cluster.config import StackFileError, parse_config
from cluster.render.nginx import NginxConfig
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from tests.clients import NO_TLS
from tests.conformance import wait_until
from tests.nginx.running import (
    PATIENCE,
    Running,
    Values,
    free_ports,
    paths_in,
    read_reply,
    render,
    stack,
    write,
)
from tests.nginx.test_rendered import WORN_OUT, gixy_findings, head, is_internal, the_truth, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx


# Redirects


REDIRECTS = {
    "www.cluster.example": "cluster",
    "*.old.example": "localhost",
    "/old/": "/new/",
    "/old/special/": "/s/",
    "/old/special/one": "/one",
    "/home/": "/",
    "/gone": "https://other.example/x",
    "/away/": "http://other.example:8000/y/",
    "/search": "/find?all=1",
    "/f%c3%a4hre": "/faehre",
    "/a.b+c": "/d",
}


@pytest.fixture(scope="module")
def redirecting(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, stack(2, redirects=REDIRECTS, instance_ports=free_ports(2), forwarded_ports=[8443])) as running:
        yield running


def location(running: Running, target: str, *, method: str = "GET", host: str = "cluster") -> str | None:
    """Where a client is sent; None where an instance answers what it was asked."""
    reply = running.raw(head(f"{method} {target} HTTP/1.1\nHost: {host}\nContent-Length: 0"))
    assert reply is not None
    if reply.status == 200:
        assert reply.seen["path"] == target
        return None
    assert reply.status == 308, reply
    assert len(reply.headers.get_all("Location") or []) == 1
    return str(reply.headers["Location"])


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/old/", "/new/"),
        ("/old/a/b?c=d&e", "/new/a/b?c=d&e"),
        ("/old/?", "/new/?"),
        ("/old/special", "/new/special"),
        ("/old/special/", "/s/"),
        ("/old/special/two", "/s/two"),
        ("/old/special/one", "/one"),
        ("/old/special/one?x", "/one?x"),
        ("/old/special/one/more", "/s/one/more"),
        ("/home/a?b", "/a?b"),
        ("/home/", "/"),
        ("/gone", "https://other.example/x"),
        ("/gone?", "https://other.example/x?"),
        ("/gone?a=b?c", "https://other.example/x?a=b?c"),
        ("/away/z?q", "http://other.example:8000/y/z?q"),
        ("/search", "/find?all=1"),
        ("/search?q=x", "/find?all=1&q=x"),
        ("/f%C3%a4hre?x", "/faehre?x"),
        ("/a.b+c", "/d"),
        # Not what is asked for
        ("/old", None),
        ("/older/", None),
        ("/x/old/", None),
        ("/gone/", None),
        ("/gonex", None),
        ("/axb+c", None),
        ("/a.bbc", None),
        ("/x?/old/", None),
        ("/home", None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_leads_elsewhere_with_its_rest_and_its_query(
    redirecting: Running, method: str, target: str, leads_to: str | None
) -> None:
    assert location(redirecting, target, method=method) == leads_to


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/old/%0d%0aSet-Cookie:%20a=b", "/new/%0d%0aSet-Cookie:%20a=b"),
        ("/gone?%0d%0aSet-Cookie:%20a=b", "https://other.example/x?%0d%0aSet-Cookie:%20a=b"),
        ("/home//evil.example", "/evil.example"),
        ("/home///evil.example/x", "/evil.example/x"),
        ("/home/\\evil.example", "/evil.example"),
        ("/home/\\/evil.example", "/evil.example"),
        ("/home/%2fevil.example", "/%2fevil.example"),
        ("/home/@evil.example", "/@evil.example"),
        ("/home/.//evil.example", "/.//evil.example"),
        ("/old/$uri${uri}", "/new/$uri${uri}"),
        ("/old/../-/health", "/new/../-/health"),
    ],
)
def test_a_client_can_add_neither_a_header_nor_another_host(redirecting: Running, target: str, leads_to: str) -> None:
    reply = redirecting.raw(head(f"GET {target} HTTP/1.1\nHost: cluster"))
    assert reply is not None
    assert (reply.status, reply.headers.get_all("Location")) == (308, [leads_to])
    assert "Set-Cookie" not in reply.headers


def test_the_end_of_a_line_that_nginx_decoded_would_be_one_in_the_header(nginx: Nginx) -> None:
    """What must fail: the rest of the path as nginx reads it, all of it."""

    def decoded(text: str) -> str:
        text = text.replace("map $request_uri $cluster_redirect", "map $uri $cluster_redirect")
        return text.replace("(?<cluster_rest>.*)", "(?<cluster_rest>(?s:.*))")

    with Running(nginx, stack(1, redirects={"/old/": "/new/"}), edit=decoded) as running:
        reply = running.raw(head("GET /old/x%0d%0aSet-Cookie:%20a=b HTTP/1.1\nHost: cluster"))
        assert reply is not None
        assert reply.headers["Set-Cookie"] == "a=b"


def test_what_is_the_runtimes_is_nobodys_however_it_is_reached(redirecting: Running) -> None:
    before = len(redirecting.requests)
    for target in ("/-/old/", "/old/../-/health", "/-/../old/"):
        reply = redirecting.raw(head(f"GET {target} HTTP/1.1\nHost: cluster"))
        assert reply is not None
        assert reply.status in {308, 404}
    assert len(redirecting.requests) == before


@pytest.mark.parametrize(
    ("host", "target", "leads_to"),
    [
        ("www.cluster.example", "/", "http://cluster/"),
        ("www.cluster.example", "/a%20b/?c=d", "http://cluster/a%20b/?c=d"),
        ("WWW.Cluster.Example:8443", "/x", "http://cluster:8443/x"),
        ("a.b.old.example", "/old/", "http://localhost/old/"),
        ("www.cluster.example", "/%0d%0aSet-Cookie:%20a=b", "http://cluster/%0d%0aSet-Cookie:%20a=b"),
        ("www.cluster.example", "//evil.example/", "http://cluster//evil.example/"),
        ("www.cluster.example", "/-/health", "http://cluster/-/health"),
    ],
)
def test_a_name_leads_to_another_with_the_port_the_path_and_the_query(
    redirecting: Running, host: str, target: str, leads_to: str
) -> None:
    before = len(redirecting.requests)
    assert location(redirecting, target, host=host, method="POST") == leads_to
    assert len(redirecting.requests) == before


def test_the_site_and_instances_own_ports_are_what_they_were(redirecting: Running) -> None:
    assert location(redirecting, "/") is None
    assert redirecting.raw(head("GET / HTTP/1.1\nHost: old.example")) is None, "no name of the site's"
    first = redirecting.values["site"]["instance_ports"]
    reply = redirecting.request("/old/x", port=first, host="localhost")
    assert (reply.status, reply.seen["path"]) == (200, "/old/x")
    assert redirecting.internal("/old/x").status == 404


# Headers


HEADERS = {
    "Content-Security-Policy": "default-src 'self'; report-uri \"/csp\"",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private",
    "Report-To": '{"group":"default","max_age":1,"endpoints":[{"url":"https://r.example/"}]}',
    "Permissions-Policy": "camera=(); microphone=()",
    "X-Odd": "{a}; #b 'c' \"d\" }",
}
PROTECTED = {"media": {"root": "media"}, "protected_media": {"root": "private"}}


def with_files(running: Running) -> None:
    """Put files where nginx serves some."""
    for path in ("static/r1/static/a.css", "shared/media/a.txt", "shared/media/a.html", "shared/private/a.pdf"):
        (running.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (running.directory / path).write_text(path)
    for name in ("current", "previous"):
        (running.directory / "static" / name).symlink_to("r1")


@pytest.fixture(scope="module")
def adding(nginx: Nginx) -> Iterator[Running]:
    values = stack(2, headers=HEADERS, robots="none", instance_ports=free_ports(2), redirects={"/old": "/new"})
    values["app"] |= PROTECTED
    with Running(nginx, values) as running:
        with_files(running)
        yield running


@pytest.mark.parametrize("kept_open", [None, 1000], ids=["as it is", "a thousand kept open"])
def test_a_worker_serves_more_files_than_it_may_have_open(nginx: Nginx, kept_open: int | None) -> None:
    """A distribution's nginx may have 1024, whatever the site's file says; here it is half of that."""
    values = stack(1)
    values["app"] |= PROTECTED

    def edit(text: str) -> str:
        return text if kept_open is None else re.sub(r"(open_file_cache max=)\d+", rf"\g<1>{kept_open}", text)

    paths = [f"/{where}/{number}" for where in ("static", "media") for number in range(480)]
    with Running(nginx, values, edit) as running:
        with_files(running)
        for path in paths:
            (running.directory / ("static/r1" if path.startswith("/static/") else "shared") / path[1:]).write_text("x")
        workers = psutil.Process(running.process.pid).children
        wait_until(lambda: len(workers()) == os.cpu_count(), "all workers are there")
        for worker in workers():
            worker.rlimit(psutil.RLIMIT_NOFILE, (512, 512))
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{running.port}", headers={"Host": "cluster"}, verify=NO_TLS
            ) as client:
                served = all(client.get(path).status_code == 200 for path in paths)
        except httpx.HTTPError:
            served = False
    assert served == (kept_open is None)


@contextlib.contextmanager
def closing(running: Running, *, really: bool) -> Iterator[None]:
    """Be about to reload, which before 1.27.4 sends requests through other locations."""
    mark = Path(running.paths.closing)
    if really:
        mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


#: One kind of answer, and of each: what is asked, the status, and the headers that are not the site's alone.
BY_PROJECT = "a static file by the project"
ANSWERS: dict[str, tuple[str, int, dict[str, list[str]]]] = {
    "an instance": ("/", 200, {}),
    "an error of an instance's": ("/?status=500", 500, {}),
    "what is not changed": ("/?status=304", 304, {}),
    "a static file": ("/static/a.css", 200, {"Cache-Control": ["public, max-age=60"]}),
    "a missing static file": ("/static/none.css", 404, {"Cache-Control": []}),
    "an upload": ("/media/a.txt", 200, {}),
    "an upload that is no page": (
        "/media/a.html",
        200,
        {
            "Content-Security-Policy": [
                "default-src 'none'; style-src 'unsafe-inline'; sandbox",
                HEADERS["Content-Security-Policy"],
            ]
        },
    ),
    "a missing upload": ("/media/none", 404, {}),
    "what only the project lets out": ("/?accel=/protected/a.pdf", 200, {}),
    BY_PROJECT: ("/?accel=/static/a.css", 200, {"Cache-Control": ["public, max-age=60"]}),
    "the runtime's": ("/-/health", 404, {}),
    "a redirect": ("/old", 308, {}),
    "the answer to search engines": ("/robots.txt", 200, {}),
}


@pytest.mark.parametrize(
    ("what", "about_to_reload"),
    # What the project leads to files that are public anyhow is 418 for a moment before an old nginx reloads.
    [(what, before) for what in ANSWERS for before in (False, True) if (what, before) != (BY_PROJECT, True)],
)
def test_every_answer_has_the_sites_headers_once(adding: Running, what: str, about_to_reload: bool) -> None:
    target, status, others = ANSWERS[what]
    with closing(adding, really=about_to_reload):
        reply = adding.request(target)
    assert reply.status == status
    for name, value in {**HEADERS, "X-Robots-Tag": "none"}.items():
        assert (reply.headers.get_all(name) or []) == others.get(name, [value]), name


def test_an_answer_that_has_no_instance_has_them_too(nginx: Nginx) -> None:
    with Running(nginx, stack(1, headers=HEADERS, client_max_body_size=10)) as running:
        large = running.request("/", method="POST", body=b"x" * 11)
        running.backends["app1"].give_name_up()
        running.backends["app1"].die()
        replies = {413: large, 502: running.request("/")}
    for status, reply in replies.items():
        assert reply.status == status
        assert {name: reply.headers.get_all(name) for name in HEADERS} == {k: [v] for k, v in HEADERS.items()}


@pytest.mark.parametrize("where", ["site", "app1"])
def test_what_the_project_says_itself_stands_alone(adding: Running, where: str) -> None:
    port = adding.values["site"]["instance_ports"] if where == "app1" else None
    own = {"content-security-policy": "default-src *", "X-FRAME-OPTIONS": "SAMEORIGIN", "cache-control": "no-store"}
    query = "&".join(f"header={quote(f'{name}: {value}')}" for name, value in own.items())
    for status in (200, 404, 500):
        reply = adding.request(f"/?status={status}&{query}", host="localhost", port=port)
        assert reply.status == status
        for name, value in own.items():
            assert reply.headers.get_all(name) == [value]
        assert reply.headers.get_all("Permissions-Policy") == [HEADERS["Permissions-Policy"]]


def test_search_engines_are_asked_to_keep_away_even_where_the_project_says_otherwise(adding: Running) -> None:
    reply = adding.request("/?header=X-Robots-Tag:%20all")
    assert reply.headers.get_all("X-Robots-Tag") == ["all", "none"], "they keep to the stricter one"
    robots = adding.request("/robots.txt")
    assert (robots.status, robots.body) == (200, b"User-agent: *\nDisallow: /\n")
    assert robots.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert [path for _method, path in adding.requests if "robots" in path.lower()] == ["/?header=X-Robots-Tag:%20all"]


def test_a_name_that_leads_elsewhere_says_them_as_well(nginx: Nginx) -> None:
    values = stack(1, headers={"X-Frame-Options": "DENY"}, robots="none", redirects={"www.example.org": "cluster"})
    with Running(nginx, values) as running:
        reply = running.request("/robots.txt", host="www.example.org")
    assert (reply.status, reply.headers["X-Frame-Options"], reply.headers["X-Robots-Tag"]) == (308, "DENY", "none")


# Locations


LARGE = 200_000
LOCATIONS: list[dict[str, Any]] = [
    {"path": "/upload/", "client_max_body_size": LARGE},
    {"path": "/upload/small/", "client_max_body_size": 10},
    {"path": "/once", "client_max_body_size": LARGE},
    {"path": "/slow", "proxy_read_timeout": "1s"},
    {"path": "/stream/", "buffering": False, "client_max_body_size": LARGE},
]


@pytest.fixture(scope="module")
def located(nginx: Nginx) -> Iterator[Running]:
    values = stack(2, locations=LOCATIONS, client_max_body_size="64k", instance_ports=free_ports(2))
    with Running(nginx, values) as running:
        with_files(running)
        yield running


#: A location that lets nobody in, and one that a project may have for all below it.
CLOSED = {"server": "location /closed/ { deny all; }\n"}
DOTS = ["/../", "/./", "/x/../", "/%2e%2e/", "/%2E./", "%2f..%2f", "/..%2F", "//../", "/;/../"]


def untidy(running: Running) -> tuple[int, int]:
    """Ask for what nginx takes for one location and a project for another, each way; return how many an instance got.

    And how many were asked.
    """
    paths = ["/closed", "/upload", "/upload/small", "/x"]
    asked = [f"{one}{dots}{other[1:]}/y" for one in paths for other in paths for dots in DOTS if one != other]
    asked += [f"{one}/{dots}" for one in paths for dots in ("..", ".", "%2e%2E", "..?a", ".#a", "x/..")]
    asked += [f"http://cluster{path}" for path in asked]
    for path in asked:
        reply = running.raw(head(f"GET {path} HTTP/1.1\nHost: cluster"))
        assert reply is not None
        assert reply.status in (200, 400, 403), path
    return len(running.requests), len(asked)


@pytest.mark.parametrize("about_to_reload", [False, True])
def test_no_dots_lead_from_one_location_to_another(nginx: Nginx, about_to_reload: bool) -> None:
    """nginx resolves them before it looks for a location, and a project that has a path for all below it may not."""
    values = stack(2, locations=LOCATIONS, snippets=CLOSED)
    with Running(nginx, values) as running, closing(running, really=about_to_reload):
        got, asked = untidy(running)
        assert got == 0
        for path in ("/x/..y", "/x/...", "/.x/", "/.well-known/x", "/x?a=/../b", "/x%2fy"):
            assert running.request(path).status == 200, path
    print(f"{nginx}: 0 of {asked} paths with dots reached an instance")


def test_without_the_line_that_tells_them_they_would(nginx: Nginx) -> None:
    values = stack(2, locations=LOCATIONS, snippets=CLOSED)
    with Running(
        nginx, values, edit=lambda text: text.replace("if ($cluster_untidy)", "if ($cluster_untidy = never)")
    ) as running:
        got, asked = untidy(running)
    assert got > asked / 3


@pytest.mark.parametrize(
    ("path", "largest"),
    [
        *(("/", 65536), ("/upload/", LARGE), ("/upload/x/y?z", LARGE), ("/upload/small/x", 10), ("/once", LARGE)),
        *(("/upload", 65536), ("/uploads", 65536), ("/once/", 65536), ("/upload/small", LARGE), ("/stream/", LARGE)),
        *(("//upload/x", LARGE), ("/%75pload/x", LARGE), ("/upload/..x", LARGE), ("/upload?/../x", 65536)),
    ],
)
@pytest.mark.parametrize("about_to_reload", [False, True])
@pytest.mark.parametrize("where", ["site", "app1"])
def test_a_location_has_a_size_of_its_own(
    located: Running, where: str, about_to_reload: bool, path: str, largest: int
) -> None:
    port = located.values["site"]["instance_ports"] if where == "app1" else located.port
    before = len(located.requests)
    with closing(located, really=about_to_reload):
        fits = located.request(path, method="POST", body=b"x" * largest, host="localhost", port=port)
        assert (fits.status, fits.seen["path"], fits.seen["length"]) == (200, path, largest)
        request = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Length: {largest + 1}\nExpect: 100-continue"
        declared = located.raw(head(request), port=port)
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (largest + 1, b"x" * (largest + 1))
        request = f"POST {path} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
        chunked = located.raw(head(request) + chunk, port=port)
    assert declared is not None
    assert chunked is not None
    assert (declared.status, chunked.status) == (413, 413)
    answered = 1 if "stream" not in path else 2  # what nginx does not take in first reaches an instance, cut off
    assert len(located.requests) - before in range(1, answered + 1)


@pytest.mark.parametrize("about_to_reload", [False, True])
def test_a_location_has_a_time_of_its_own(located: Running, about_to_reload: bool) -> None:
    with closing(located, really=about_to_reload):
        assert located.request("/slow?seconds=0.1").status == 200
        assert located.request("/slow?seconds=3").status == 504
        assert located.request("/slow/?seconds=1.2").status == 200, "not that path"


@pytest.mark.parametrize("about_to_reload", [False, True])
@pytest.mark.parametrize(("path", "at_once"), [("/stream/x", True), ("/upload/x", False)])
def test_without_buffering_an_instance_has_a_request_before_all_of_it_came(
    located: Running, path: str, at_once: bool, about_to_reload: bool
) -> None:
    time.sleep(WORN_OUT)  # no connection to an instance is kept
    with closing(located, really=about_to_reload), located.open() as client:
        before = connections(located)
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: cluster\r\nContent-Length: 20\r\n\r\n".encode() + b"x" * 10)
        if at_once:
            wait_until(lambda: connections(located) > before, "an instance has it")
        else:
            time.sleep(0.3)
            assert connections(located) == before
        client.sendall(b"x" * 10)
        reply = read_reply(client, "POST")
    assert reply is not None
    assert (reply.status, reply.seen["length"]) == (200, 20)


def connections(running: Running) -> int:
    return sum(backend.connections for backend in running.backends.values())


def test_an_instance_is_told_the_same_of_a_client_at_each_location(located: Running) -> None:
    expected = told(located.request("/"))
    for path in ("/upload/x", "/upload", "/once", "/stream/x"):
        assert told(located.request(path, X_Forwarded_For="6.6.6.6")) == expected
    assert expected == the_truth("cluster", located.port)


def test_a_path_without_its_slash_is_the_projects_to_answer(nginx: Nginx) -> None:
    def sabotage(text: str) -> str:
        return text.replace("location = /upload {", "location = /elsewhere {")

    values = stack(1, locations=[{"path": "/upload/"}])
    with Running(nginx, values) as running:
        reply = running.request("/upload?a", method="POST", body=b"x")
        assert (reply.status, reply.seen["path"]) == (200, "/upload?a")
    with Running(nginx, values, edit=sabotage) as running:
        assert running.request("/upload?a", method="POST", body=b"x").status == 301, "nginx would redirect it"


# Limits


SLOWLY = "1r/m"
LIMITS: list[dict[str, Any]] = [
    {"path": "/login", "limit": SLOWLY, "burst": 2},
    {"path": "/api/", "limit": SLOWLY, "burst": 4},
    {"path": "/strict", "limit": SLOWLY, "burst": 0},
    {"path": "/default", "limit": "3r/s"},
    {"path": "/as-the-site/", "proxy_read_timeout": "1m"},
]


@pytest.fixture(scope="module")
def limiting(nginx: Nginx) -> Iterator[Running]:
    values = stack(2, locations=LIMITS, limit=SLOWLY, burst=3, instance_ports=free_ports(2))
    values["app"] |= PROTECTED
    with Running(nginx, values) as running:
        with_files(running)
        yield running


#: An address for each client, so that none has asked before.
addresses = (f"127.0.{first}.{second}" for first in range(1, 200) for second in range(1, 200))


def answers(running: Running, paths: list[str], *, address: str | None = None, port: int | None = None) -> Counter[int]:
    """The statuses that one client gets, one after the other."""
    address = address or next(addresses)
    found: Counter[int] = Counter()
    for path in paths:
        with running.open(port, address) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            reply = read_reply(connection)
            found[reply.status if reply else 0] += 1
    return found


@pytest.mark.parametrize(
    ("paths", "passed"),
    [
        (["/"], 4),
        (["/", "/as-the-site/x", "/x"], 4),
        (["/login"], 3),
        (["/login?a", "//login", "/%6cogin", "/login#/../x"], 3),
        (["/api/a", "/api/b"], 5),
        (["/strict"], 1),
        (["/default"], 4),
        (["/static/a.css"], 12),
        (["/static/none.css", "/media/a.txt"], 12),
    ],
)
@pytest.mark.parametrize("about_to_reload", [False, True])
def test_one_client_gets_what_its_limit_says_and_429_then(
    limiting: Running, paths: list[str], passed: int, about_to_reload: bool
) -> None:
    asked = [paths[number % len(paths)] for number in range(12)]
    before = len(limiting.requests)
    began = time.monotonic()
    with closing(limiting, really=about_to_reload):
        found = answers(limiting, asked)
    # Three a second: more have their turn where the machine is busy. All others have one a minute.
    later = int(3 * (time.monotonic() - began)) if paths == ["/default"] else 0
    assert 12 - passed - later <= found[429] <= 12 - passed
    refused_cost_nothing = len(limiting.requests) - before == (0 if "/static/" in paths[0] else 12 - found[429])
    assert refused_cost_nothing


METHODS: list[dict[str, Any]] = [
    {"path": "/login", "limit": SLOWLY, "burst": 2, "limit_methods": ["POST", "PUT"]},
    {"path": "/free", "limit": SLOWLY, "burst": 0, "limit_methods": ["POST"]},
]


def posted(running: Running, path: str, times: int, method: str = "POST") -> Counter[int]:
    """The statuses of the same request again and again; all by one address."""
    return Counter(running.request(path, method=method, body=b"x").status for _ in range(times))


def test_a_limit_of_some_methods_counts_no_others(nginx: Nginx) -> None:
    """The tries of a login, and not who looks at its page; the site's own limit counts all."""
    with Running(nginx, stack(2, locations=METHODS)) as running:
        assert posted(running, "/login", 20, "GET") == {200: 20}
        assert posted(running, "/login", 2) + posted(running, "//login?a", 3, "PUT") == {200: 3, 429: 2}
        assert posted(running, "/login", 20, "GET") == {200: 20}
        assert posted(running, "/login", 20, "PATCH") == {200: 20}
        assert posted(running, "/free", 3) == {200: 1, 429: 2}
        before = len(running.requests)
        assert posted(running, "/login", 5) == {429: 5}
        assert len(running.requests) == before
    with Running(nginx, stack(2, locations=METHODS, limit=SLOWLY, burst=9)) as running:
        assert posted(running, "/login", 5) == {200: 3, 429: 2}
        assert posted(running, "/login", 12, "GET") == {200: 7, 429: 5}, "three of ten were posted"


def test_a_limit_of_some_methods_comes_and_goes_by_a_reload(nginx: Nginx) -> None:
    """nginx takes none in which a zone of the same name counts something else."""
    plain = [{**one, "limit_methods": []} for one in METHODS]
    with Running(nginx, stack(2, locations=plain)) as running:
        for locations in (METHODS, plain, [{**METHODS[0], "limit_methods": ["GET"]}], METHODS, []):
            running.reload(stack(2, listen=running.port, locations=locations))
            assert running.request("/").status == 200


def test_each_client_and_each_location_counts_for_itself(limiting: Running) -> None:
    client = next(addresses)
    assert answers(limiting, ["/login"] * 5, address=client) == {200: 3, 429: 2}
    assert answers(limiting, ["/api/"] * 6, address=client) == {200: 5, 429: 1}
    assert answers(limiting, ["/"] * 6, address=client) == {200: 4, 429: 2}
    assert answers(limiting, ["/login"] * 5) == {200: 3, 429: 2}, "another client"


def test_an_instances_own_port_and_the_internal_socket_are_not_limited(limiting: Running) -> None:
    first = limiting.values["site"]["instance_ports"]
    assert answers(limiting, ["/", "/login"] * 6, port=first) == {200: 12}
    assert {limiting.internal("/-/config").status for _ in range(12)} == {200}
    assert {limiting.internal("/-/probe").status for _ in range(12)} == {200}


def test_what_the_project_leads_to_a_file_counts_once(limiting: Running) -> None:
    assert answers(limiting, ["/?accel=/protected/a.pdf"] * 6) == {200: 4, 429: 2}


def test_requests_at_a_time_are_limited_in_each_location_too(nginx: Nginx) -> None:
    values = stack(2, connections_per_address=2, limit="1000r/s", locations=[{"path": "/slow", "limit": "1000r/s"}])
    with Running(nginx, values) as running, ThreadPoolExecutor(6) as pool:
        client = next(addresses)
        found = list(pool.map(lambda _: answers(running, ["/slow?seconds=4"], address=client), range(6)))
    assert sum(found, Counter()) == {200: 2, 429: 4}


def test_a_limit_that_changes_is_taken_by_a_reload(nginx: Nginx) -> None:
    values = stack(1, limit=SLOWLY, burst=1)
    with Running(nginx, values) as running:
        client = next(addresses)
        assert answers(running, ["/"] * 4, address=client) == {200: 2, 429: 2}
        site = {**running.values["site"], "burst": 9, "locations": [{"path": "/x", "limit": SLOWLY}]}
        former = psutil.Process(running.process.pid).children()
        running.reload({**values, "site": site}, politely=False)
        psutil.wait_procs(former, timeout=PATIENCE)  # until it ends, one may still take a connection
        found = answers(running, ["/"] * 6)
        assert found == {200: 6}


# Snippets


SNIPPETS = {
    "http": """
map $arg_who $who { default nobody; "a;b" "} # everybody"; }
limit_req_zone $binary_remote_addr zone=mine:1m rate=1r/m;
""",
    "server": """
location = /who { default_type text/plain; return 200 $who; }
location /mine/ { limit_req zone=mine; return 200 mine; }
location = / { return 302 /en/; }
error_page 502 504 /sorry.html;
location = /sorry.html { internal; default_type text/html; return 200 sorry; }
if ($arg_stop) { return 410; }""",
}


@pytest.fixture(scope="module")
def snipped(nginx: Nginx) -> Iterator[Running]:
    values = stack(1, snippets=SNIPPETS, instance_ports=free_ports(), proxy_read_timeout="5s")
    values["site"]["locations"] = [{"path": "/slow", "proxy_read_timeout": "300ms"}]
    with Running(nginx, values) as running:
        yield running


@pytest.mark.parametrize("about_to_reload", [False, True])
def test_a_snippet_stands_in_http_and_in_the_sites_server(snipped: Running, about_to_reload: bool) -> None:
    with closing(snipped, really=about_to_reload):
        assert snipped.request("/who").body == b"nobody"
        assert snipped.request("/who?who=a;b").body == b"} # everybody"
        assert snipped.request("/").headers["Location"].endswith("/en/")
        assert snipped.request("/x").seen["path"] == "/x"
        assert snipped.request("/x?stop=1").status == 410
        for path in ("/slow?seconds=1", "/-/../x"):
            assert snipped.request(path).status == (504 if "slow" in path else 404)
        # Once an old nginx was sent elsewhere to close a connection, it goes to no page of errors any more.
        plain = about_to_reload and snipped.nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
        assert (snipped.request("/slow?seconds=1").body == b"sorry") is not plain
    first = snipped.values["site"]["instance_ports"]
    assert snipped.request("/who", host="localhost", port=first).seen["path"] == "/who"
    assert snipped.internal("/who").status == 404


def test_a_snippet_is_part_of_the_digest_and_a_change_is_taken_by_a_reload(nginx: Nginx) -> None:
    def said(text: str) -> Values:
        return stack(1, snippets={"server": f"location = /x {{ return 200 {text}; }}"}, listen=port)

    port = free_ports()
    with Running(nginx, said("one")) as running:
        digest = running.live_digest()
        assert running.request("/x").body == b"one"
        running.reload(said("two"), politely=False)
        assert running.live_digest() != digest
        deadline = time.monotonic() + 5
        while running.request("/x").body != b"two":
            assert time.monotonic() < deadline


def refused_by_nginx(nginx: Nginx, where: str, text: str, directory: Path) -> str:
    """What nginx says of a snippet that nothing else has looked at."""
    for name in ("logs", "temp"):
        (directory / name).mkdir(exist_ok=True)
    config = render(stack(1, snippets={where: "# text"}, listen=free_ports()), paths_in(directory), nginx.version)
    files = {path: found.replace("# text", text) for path, found in config.files.items()}
    conf = write(NginxConfig(files=files, links=config.links, digest=config.digest), directory / "conf")
    command = [*nginx.command, "-t", "-q", "-p", str(directory), "-e", "stderr", "-c", str(conf)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stderr


@pytest.mark.parametrize("where", ["http", "server"])
@pytest.mark.parametrize(
    "text",
    ["} server { listen 81;", "}", "} }", "map $a $b {", "gzip", "} map $a $b {", "if ($a) { return 404;", '"'],
)
def test_nginx_itself_lets_no_snippet_end_a_block_of_ours(nginx: Nginx, where: str, text: str, tmp_path: Path) -> None:
    assert f"snippets/{where}.conf:" in refused_by_nginx(nginx, where, text, tmp_path)
    with pytest.raises(StackFileError):
        parse_config(stack(1, snippets={where: text}))


def test_what_only_nginx_knows_is_said_by_nginx_with_the_line(nginx: Nginx, tmp_path: Path) -> None:
    said = refused_by_nginx(nginx, "server", "gzip off;\nno_such_thing;", tmp_path)
    assert 'unknown directive "no_such_thing" in' in said
    assert "snippets/server.conf:2" in said


#: What a snippet may say and still can't bring anybody to the runtime's paths: `$d` is a dash.
ATTACKS = {
    "a pattern for them": "location ~ ^/[-]/ { return 200 mine; }",
    "any path": "location ~ . { return 200 mine; }",
    "a path with a wildcard": "location ~* ^/./health { return 200 mine; }",
    "a rewrite for all": "set $d -; rewrite ^/x /$d/health last;",
    "a rewrite for all that stays": "set $d -; rewrite ^/x /$d/health break;",
    "a rewrite that is a redirect": "set $d -; rewrite ^/x /$d/health redirect;",
    "a condition": "set $d -; if ($arg_x) { rewrite ^ /$d/probe last; }",
    "a condition that stays": "set $d -; if ($arg_x) { rewrite ^ /$d/probe break; }",
    "a location's rewrite": "location /x { set $d -; rewrite ^ /$d/health last; }",
    "a location's rewrite to the site": (
        "location /x { set $d -; rewrite ^ /$d/health break; proxy_pass http://127.0.0.1:PORT; "
        "proxy_set_header Host cluster; }"
    ),
    "a try": "set $d -; location /x { try_files /none /$d/health; }",
    "a try of all": "set $d -; try_files /none /$d/health;",
    "a page for errors": "set $d -; error_page 403 404 /$d/health; location /x { return 404; }",
    "a page for errors that are the project's": (
        "set $d -; proxy_intercept_errors on; error_page 404 /$d/health; location /x { return 404; }"
    ),
    "a named location": "location /x { try_files /none @y; } location @y { set $d -; rewrite ^ /$d/health last; }",
    "a named location of ours": (
        'location /x { set $d -; set $n ing; error_page 403 = "@clos$n"; rewrite ^ /$d/health break; deny all; }'
    ),
    "a prefix": "location /- { return 200 mine; }",
    "an exact path beside it": "location = /- { return 200 mine; }",
    "no answer for them": "if ($uri ~ health) { return 200 mine; }",
    "another host": "if ($host = localhost) { rewrite ^ /x/../y last; }",
}

#: What a client may try then.
TRIES = [
    *(
        "/x",
        "/x?x=1",
        "/x/y",
        "/y",
        "/?x=1",
        "/-/health",
        "/-/probe?x=1",
        "//-/health",
        "/%2d/health",
        "/x/..%2f-/health",
    ),
    *(
        "/-/",
        "/-",
        "/./-/health",
        "/-/../x",
        "/x/%2e%2e/-/health",
        "/y?status=404",
        "/?status=404",
        "/-/probe/session?create",
    ),
]


def reached(nginx: Nginx, text: str, *, edit: Any = str) -> tuple[int, int]:
    """How many of how many requests come to an instance below the runtime's paths."""
    port = free_ports()
    values = stack(1, listen=port, snippets={"server": text.replace("PORT", str(port))})
    values["site"]["locations"] = [{"path": "/y"}]
    with Running(nginx, values, edit=edit) as running:
        for really in (False, True):
            with closing(running, really=really):
                for target in TRIES:
                    for host in ("cluster", "localhost"):
                        running.raw(head(f"GET {target} HTTP/1.1\nHost: {host}"))
        return sum(is_internal(path) for _method, path in running.requests), 4 * len(TRIES)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_snippet_brings_anybody_to_the_runtimes_paths(nginx: Nginx, attack: str) -> None:
    found, requests = reached(nginx, ATTACKS[attack])
    print(f"{nginx}: {attack}: {found} of {requests} requests reached the runtime's paths")
    assert found == 0


def test_a_way_to_the_instances_of_a_snippets_own_would_bring_everybody_there(nginx: Nginx) -> None:
    """What must fail: a snippet that the stack file refuses."""
    text = "location /x { set $d -; rewrite ^ /$d/health break; proxy_pass http://cluster; }"
    with pytest.raises(StackFileError):
        parse_config(stack(1, snippets={"server": text}))
    found, requests = reached(nginx, "# text", edit=lambda found: found.replace("# text", text))
    print(f"{nginx}: saboteur: {found} of {requests} requests reached the runtime's paths")
    assert found > 0


def test_a_named_location_of_ours_would_without_its_guard(nginx: Nginx) -> None:
    def sabotage(text: str) -> str:
        return text.replace("$uri ~ ^/-/", "$uri ~ ^/nothing/")

    found, requests = reached(nginx, ATTACKS["a named location of ours"], edit=sabotage)
    print(f"{nginx}: saboteur: {found} of {requests} requests reached the runtime's paths")
    assert (found > 0) is (nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE)


# All of it together


KEYS: dict[str, dict[str, Any]] = {
    "redirects": {"redirects": REDIRECTS},
    "headers": {"headers": HEADERS},
    "locations": {"locations": [*LOCATIONS, *LIMITS, {**METHODS[0], "path": "/tries"}]},
    "limit": {"limit": "10r/s", "burst": 20},
    "snippets": {"snippets": SNIPPETS},
    "robots": {"robots": "none"},
    "a user": {"auth_basic": "Staging", "auth_basic_limit": "30r/m"},
    "no static files": {"static_url": None},
    "no connections counted": {"connections_per_address": 0},
}

COMBINATIONS = [
    keys for count in range(len(KEYS) + 1) for keys in itertools.combinations(KEYS, count) if count in {0, 1, len(KEYS)}
]
ALL_COMBINATIONS = [keys for count in range(len(KEYS) + 1) for keys in itertools.combinations(KEYS, count)]


def combined(keys: tuple[str, ...], *, uploads: bool) -> Values:
    first = free_ports(3)
    values = stack(2, listen=first, instance_ports=first + 1)
    values["app"] |= PROTECTED if uploads else {}
    for key in keys:
        values["site"] |= KEYS[key]
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def said_of(nginx: Nginx, values: Values, directory: Path) -> str:
    for name in ("logs", "temp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    conf = write(render(values, paths_in(directory), nginx.version), directory / "conf")
    command = [*nginx.command, "-t", "-q", "-p", str(directory), "-e", "stderr", "-c", str(conf)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stderr


@pytest.mark.parametrize("keys", COMBINATIONS, ids=lambda keys: " ".join(keys) if len(keys) < 3 else "all")
def test_nginx_accepts_each_key_alone_and_all_together_without_a_warning(
    nginx: Nginx, keys: tuple[str, ...], tmp_path: Path
) -> None:
    for uploads in (False, True):
        assert said_of(nginx, combined(keys, uploads=uploads), tmp_path / str(uploads)) == ""


@pytest.mark.wide
def test_nginx_accepts_every_combination_without_a_warning(nginx: Nginx, tmp_path: Path) -> None:
    for number, keys in enumerate(ALL_COMBINATIONS):
        assert said_of(nginx, combined(keys, uploads=bool(number % 2)), tmp_path / str(number)) == "", keys


@pytest.mark.parametrize("keys", COMBINATIONS, ids=lambda keys: " ".join(keys) if len(keys) < 3 else "all")
def test_rendering_twice_gives_the_same_bytes_whatever_the_order_of_keys(
    nginx: Nginx, keys: tuple[str, ...], tmp_path: Path
) -> None:
    values = combined(keys, uploads=True)
    other = {**values, "site": dict(reversed(values["site"].items()))}
    paths = paths_in(tmp_path)
    assert render(values, paths, nginx.version) == render(other, paths, nginx.version)


@pytest.mark.parametrize("keys", COMBINATIONS, ids=lambda keys: " ".join(keys) if len(keys) < 3 else "all")
def test_a_linter_of_configurations_finds_nothing(nginx: Nginx, keys: tuple[str, ...], tmp_path: Path) -> None:
    assert gixy_findings(nginx, combined(keys, uploads=True), tmp_path) == []
