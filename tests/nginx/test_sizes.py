"""How large an address and headers may be: at the limit they pass, and just above it the answer says what is wrong."""

from __future__ import annotations

import contextlib
import http.client
from typing import TYPE_CHECKING, Any

import pytest

from tests.nginx.running import Running, free_ports, stack, versions
from tests.runtime.standing import Stand
from tests.runtime.test_asgi import FILES, values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

#: What docs/site.md promises, in bytes: a URL of a GET, one line of a request's headers, all headers of a response.
URL, LINE, RESPONSE = 8_000, 8_188, 32 * 1024

#: nginx takes a request's line, and each of its headers', of 8,190 bytes and no more.
NGINX_URL, NGINX_LINE = 8_190 - len("GET  HTTP/1.1"), 8_190


#: nginx's buffer for the headers of a response.
BUFFER = 36 * 1024


@pytest.fixture(params=versions(), scope="module")
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as made:
        made.start(instance="app1").wait_for("serving")
        yield made


@pytest.fixture(scope="module")
def site(nginx: Nginx, stand: Stand) -> Iterator[Running]:
    """A real instance behind nginx."""
    with Running(nginx, stack([{"name": "app1"}], listen=free_ports()), sockets=stand.sockets) as running:
        yield running


def status(site: Running, url: int = 0, *lines: int) -> int:
    """The answer to a request with a URL of that size, and a cookie and further headers of these, whole lines."""
    path = "/" if not url else "/?".ljust(url, "x")
    headers: dict[str, Any] = {}
    for number, size in enumerate(lines):
        name = f"X-{number}" if number else "Cookie"
        headers[name] = "".rjust(size - len(f"{name}: "), "x")
    return site.request(path, host="localhost", **headers).status


def test_an_address_of_eight_thousand_bytes_passes(site: Running) -> None:
    sizes = (URL, NGINX_URL, NGINX_URL + 1)
    assert [status(site, size) for size in sizes] == [200, 200, 414]


def test_a_line_of_headers_may_be_as_long_as_gunicorn_takes_one(site: Running) -> None:
    sizes = (LINE, LINE + 1, NGINX_LINE, NGINX_LINE + 1)
    assert [status(site, 0, size) for size in sizes] == [200, 431, 431, 400]


def test_an_address_and_cookies_may_both_be_as_large_as_they_may_be(site: Running) -> None:
    assert status(site, URL, LINE) == 200
    # nginx has four buffers of 8 KiB for a request's head.
    assert status(site, URL, LINE, LINE) == 200
    assert status(site, URL, LINE, LINE, LINE, LINE) == 400


def test_asgi_takes_as_much_and_the_limits_are_nginxs(nginx: Nginx) -> None:
    with contextlib.closing(Stand(FILES)) as stand:
        stand.start(instance="app1", **values(stand)).wait_for("serving")
        with Running(nginx, stack([{"name": "app1"}], listen=free_ports()), sockets=stand.sockets) as site:
            assert [status(site, size) for size in (URL, NGINX_URL, NGINX_URL + 1)] == [200, 200, 414]
            assert [status(site, 0, size) for size in (LINE, NGINX_LINE, NGINX_LINE + 1)] == [200, 200, 400]
            assert [status(site, URL, LINE), status(site, URL, LINE, LINE)] == [200, 200]
            assert status(site, URL, LINE, LINE, LINE, LINE) == 400


def test_with_gunicorns_own_limit_an_address_of_half_that_size_would_not_pass(nginx: Nginx) -> None:
    with contextlib.closing(Stand()) as stand:
        started = stand.start(instance="app1", environment={"GUNICORN_CMD_ARGS": "--limit-request-line=4094"})
        started.wait_for("serving")
        with Running(nginx, stack([{"name": "app1"}], listen=free_ports()), sockets=stand.sockets) as site:
            assert status(site, URL) == 414


def test_headers_of_a_response_of_32_kilobytes_pass_and_larger_ones_are_502(nginx: Nginx) -> None:
    with Running(nginx, stack(1)) as running:
        for size in (20_000, RESPONSE, BUFFER - 1):
            reply = running.request(f"/?head={size}")
            assert (reply.status, reply.seen["method"]) == (200, "GET"), size
            assert len(str(reply.headers["X-Filler"])) > size - 100
        assert running.request(f"/?head={BUFFER + 1}").status == 502
        assert "too big header" in running.error_log


def test_with_a_buffer_of_just_that_size_the_body_would_be_lost(nginx: Nginx) -> None:
    def tight(text: str) -> str:
        return text.replace("proxy_buffer_size 36k", "proxy_buffer_size 32k")

    with Running(nginx, stack(1), edit=tight) as running:
        assert running.request(f"/?head={RESPONSE - 1}").status == 200
        with pytest.raises(http.client.IncompleteRead):
            running.request(f"/?head={RESPONSE}")


def test_with_the_former_buffer_twenty_kilobytes_would_be_502(nginx: Nginx) -> None:
    def former(text: str) -> str:
        return text.replace("proxy_buffer_size 36k", "proxy_buffer_size 16k")

    with Running(nginx, stack(1), edit=former) as running:
        assert running.request("/?head=20000").status == 502
