"""What the site's own keys do, asked of the real nginx: redirects, headers, locations and their limits, snippets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nginx.running import Running, free_ports, stack, versions
from tests.nginx.test_rendered import head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx


@pytest.fixture(scope="module", params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


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
    with Running(nginx, stack(2, redirects=REDIRECTS, instance_ports=free_ports(2))) as running:
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
