"""A request that goes by another host's nginx is what it is on one machine, and so is its answer; byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from cluster.render.between import CONNECT_TIMEOUT
from tests.nginx.relayed import Hosts, Seen, on, request, values_of, whole
from tests.nginx.running import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.nginx_versions import Nginx

#: Both sites' own, where an instance may ask for more.
SITE: dict[str, Any] = {
    "client_max_body_size": "60m",
    "locations": [
        {"path": "/patient/", "proxy_read_timeout": "90s"},
        {"path": "/hasty/", "proxy_read_timeout": "1s"},
        {"path": "/through/", "buffering": False},
    ],
}

LARGE = bytes(range(256)) * 4 * 1024 * 50

#: What an instance may answer, by path.
ANSWERS: dict[str, bytes] = {
    "/cookies": whole("200 OK", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; HttpOnly", "Vary: Cookie", body=b"x"),
    "/own": whole("200 OK", "Server: mine", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "X-Pad: 1", "X-Powered-By: me"),
    "/cached": whole("200 OK", "Cache-Control: max-age=5", "Expires: Thu, 01 Jan 1970 00:00:00 GMT", "Vary: *"),
    "/pragma": whole("200 OK", "Pragma: no-cache", "Age: 5", "Via: 1.1 me", "Warning: 199 - x", 'ETag: W/"1"'),
    "/accel": whole("200 OK", "X-Accel-Expires: 5", "X-Accel-Limit-Rate: 100000", "X-Accel-Charset: off", body=b"x"),
    "/unbuffered": whole("200 OK", "X-Accel-Buffering: no", body=b"x" * 100_000),
    "/latin": whole("200 OK", "X-Name: caf\xe9", "Content-Type: text/html", body=b"<p>"),
    "/charset": whole("200 OK", "Content-Type: text/html; charset=latin-1", body=b"<p>"),
    "/empty": b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "/same": b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n',
    "/led": whole("302 Found", "Location: http://shop.test/x"),
    "/led-secure": whole("302 Found", "Location: https://cluster-shop/x"),
    "/led-relay": whole("302 Found", "Location: http://cluster-shop_relay-app1/x", "Refresh: 0; url=http://localhost/"),
    "/compressible": whole("200 OK", "Content-Type: text/html", body=b"<p>" + b"cluster " * 1000),
    "/compressed": whole("200 OK", "Content-Type: text/html", "Content-Encoding: gzip", body=b"\x1f\x8b" + b"x" * 3000),
    "/reason": whole("299 A Reason", "X-A: 1", body=b"x"),
    "/large": whole("200 OK", "Content-Type: application/octet-stream", body=LARGE),
    "/heads": whole("200 OK", *(f"X-{number}: {'y' * 1000}" for number in range(32)), body=b"heads"),
    "/too-large": whole("200 OK", f"X-A: {'y' * 40_000}", body=b"heads"),
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "/trailers": b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n",
    "/old": b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    "/ends": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    "/short": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 50\r\n\r\nnot all",
    "/nothing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Broken\r\n: x\r\nA_b: 1\r\nContent-Length: 0\r\n\r\n",
    "/bad-length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nConnection: close\r\n\r\n",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxy",
    "/file": whole("200 OK", "X-Accel-Redirect: /protected/a.txt", "Content-Type: text/plain", "Set-Cookie: c=1"),
    "/to-named": whole("200 OK", "X-Accel-Redirect: @closing"),
    "/to-runtime": whole("200 OK", "X-Accel-Redirect: /-/probe"),
    **{
        f"/status/{code}": whole(f"{code} Own", "X-Own: 1", body=b"own")
        for code in (*range(400, 432), *range(500, 512))
    },
    **{f"/led/{code}": whole(f"{code} Own", "Location: /x") for code in (201, 301, 303, 307, 308)},
}


def closes(connection: socket.socket, _seen: Seen) -> bool:
    """Let an instance end a connection without an answer."""
    connection.shutdown(socket.SHUT_RDWR)
    return False


#: Targets of requests, as a visitor writes them.
TARGETS = [
    *("//a//b", "/a%2Fb/./c/../d//e?x=%20&y=/-/", "/%c3%a9?", "/a?b?c#d", "/a\xe9", "/%", "/%zz", "/%00", "/-/health"),
    *("/a/../-/health", "/%2d/x", "/a;b=c", "*", "http://shop.test/abs?x", "http://shop.test?x=1", "http://shop.test"),
    *("/a b", "/?", "/a%0d%0aX: y", "/../x", f"/{'a' * 7000}", f"/x?{'y' * 8000}", "/through/%2F?", "/patient/../x"),
]

#: Headers with which a visitor may try to be somebody else, or to reach something else.
HEADERS: list[list[str]] = [
    ["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6"],
    ["X-Cluster-Request: forged", "X-Forwarded-Host: evil", "X-Forwarded-Server: x", "X-Forwarded-Port: 1", "Proxy: x"],
    ["X-Forwarded-Ssl: on", "X-Forwarded-Protocol: https", "X-Probe-Address: 6.6.6.6", "X-Accel-Redirect: /x"],
    *(
        [f"Cookie: {'c' * 8000}", f"X-B: {'d' * 8000}"],
        [f"Cookie: {'c' * 7000}", *[f"X-{n}: {'d' * 4300}" for n in "abc"]],
    ),
    *(["Cookie: a=1", "Cookie: b=2"], ["X-A: 1", "X-A: 2"], ["A_b: 1"], ["TE: trailers", "Keep-Alive: 5"]),
    *(
        ["Connection: X-Foo", "X-Foo: 1"],
        ["Upgrade: h2c", "HTTP2-Settings: x"],
        ["Expect: 100-continue"],
        ["Via: 1.1 x"],
    ),
    *(["Accept-Encoding: br"], ["Authorization: Basic x"], ["X-Empty:"], ["X-L: caf\xe9"], ["X-T: a\tb"], ["Date: x"]),
    ["Range: bytes=0-1", 'If-None-Match: "1"', "If-Modified-Since: x", "If-Range: x"],
    *(
        ["Content-Type: multipart/form-data; boundary=x"],
        ["Host: evil"],
        ["Transfer-Encoding: gzip"],
        [": x"],
        ["A b: c"],
    ),
]

FRAMES = {
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n",
    "chunked and empty": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "twice a length": b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "no length": b"\r\n",
    "nothing": b"Content-Length: 0\r\n\r\n",
    "bad chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
}


def spread(nginx: Nginx) -> Hosts:
    """Return two hosts with an instance each, and one with visitors, which asks the first: the other is a backup."""

    def patient(_path: str, text: str) -> str:
        """On a busy machine a handshake that takes its time is no host that is down, for which the backup is asked."""
        return text.replace(f"proxy_connect_timeout {CONNECT_TIMEOUT};", "proxy_connect_timeout 30s;")

    return Hosts(nginx, values_of(["web1", "web2", "edge"], servers("web1", "web2"), **site()), patient)


def alone(nginx: Nginx) -> Hosts:
    """Return the same on one host."""
    return Hosts(nginx, values_of(["both"], servers("both", "both"), **site()))


def servers(*hosts: str) -> list[dict[str, Any]]:
    first, second = on(*hosts)
    return [first, {**second, "backup": True}]


def site() -> dict[str, Any]:
    return {**SITE, "locations": [dict(one) for one in SITE["locations"]]}


@pytest.fixture(scope="module", params=versions())
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Hosts, Hosts]]:
    """The same stack on one machine, and on several hosts."""
    with alone(request.param) as one, spread(request.param) as several:
        for hosts in (one, several):
            hosts.answers |= ANSWERS
            hosts.answers["/closes"] = closes
            hosts.answers["/ws"] = upgrade
            hosts.answers["/streams"] = streams(hosts, "X-Accel-Buffering: no")
            hosts.answers["/through/streams"] = streams(hosts, "X-A: 1")
            hosts.answers["/hasty/x"] = hosts.answers["/slow"] = slow
        yield one, several


def upgrade(connection: socket.socket, seen: Seen) -> bool:
    """Send back whatever comes, turned round."""
    wanted = seen.sent("Connection") + seen.sent("Upgrade")
    told = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-Saw: {wanted}\r\n\r\n"
    connection.sendall(told.encode())
    while data := connection.recv(65536):
        connection.sendall(data[::-1])
    return False


def streams(hosts: Hosts, header: str) -> Callable[[socket.socket, Seen], bool]:
    """Send a first part, and the last once that has arrived with the visitor, or after a while."""

    def answer(connection: socket.socket, _seen: Seen) -> bool:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n".encode())
        came = hosts.arrived.wait(60)
        connection.sendall(b"4\r\nlast\r\n0\r\n\r\n" if came else b"5\r\nalone\r\n0\r\n\r\n")
        return True

    return answer


def slow(connection: socket.socket, _seen: Seen) -> bool:
    time.sleep(2.5)
    connection.sendall(whole("200 OK", body=b"late"))
    return True


def plain(text: bytes) -> bytes:
    """Return a message without what differs from one time to the next."""
    text = re.sub(rb"\r\nDate: [^\r]* GMT", b"\r\nDate: now", text)
    return re.sub(rb"X-Cluster-Request: [0-9a-f]{32}", b"X-Cluster-Request: x", text)


def exchanged(hosts: Hosts, text: bytes) -> tuple[bytes, list[tuple[bytes, list[bytes], int, str]]]:
    """Return what a visitor gets, and what instances were sent.

    Of that the first line and the headers by themselves: nginx puts those that it makes first, and the second makes
    fewer. Of one name the order counts.
    """
    hosts.forget()
    got = plain(hosts.raw(text))
    found = []
    for seen in hosts.seen:
        first, *headers = hosts.as_port(plain(seen.head)).split(b"\r\n")
        found.append((first, sorted(headers, key=lambda one: one.partition(b":")[0].lower()), seen.length, seen.sha256))
    return got, found


def the_same(both: tuple[Hosts, Hosts], cases: dict[str, bytes]) -> int:
    """See that visitors get the same, and instances are sent the same; return how many requests those were sent."""
    differ, sent = {}, 0
    for name, text in cases.items():
        one, several = (exchanged(hosts, text) for hosts in both)
        sent += len(several[1])
        if one != several:
            differ[name] = (one, several)
    print(f"{both[0].nginx}: {len(differ)} of {len(cases)} exchanges differ, {sent} requests reached instances")
    assert differ == {}
    return sent


def test_a_request_is_the_same(both: tuple[Hosts, Hosts]) -> None:
    cases = {target: request(target) for target in TARGETS}
    cases |= {method: request("/x", method, b"body") for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "LOCK", "FOO")}
    for headers in HEADERS:
        cases[f"GET {headers}"] = request("/x", "GET", b"", *headers)
        cases[f"POST {headers}"] = request("/x", "POST", b"abc", *headers)
    for name, frame in FRAMES.items():
        for path in ("/x", "/through/x"):
            cases[f"{name} {path}"] = (
                f"POST {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n".encode() + frame
            )
    cases["HTTP/1.0"] = b"GET /chunked HTTP/1.0\r\nHost: shop.test\r\n\r\n"
    cases["HTTP/1.0 without a name"] = b"GET /x HTTP/1.0\r\n\r\n"
    cases["a name's case and dot"] = b"GET /x HTTP/1.1\r\nHost: SHOP.test.:PORT\r\nConnection: close\r\n\r\n"
    assert the_same(both, cases) > len(cases) // 2


def test_an_answer_is_the_same(both: tuple[Hosts, Hosts]) -> None:
    cases = {path: request(path) for path in ANSWERS}
    cases |= {
        f"POST {path}": request(path, "POST", b"x=1") for path in ("/status/502", "/short", "/cookies", "/led/303")
    }
    cases |= {
        f"HEAD {path}": request(path, "HEAD")
        for path in ("/cookies", "/large", "/empty", "/same", "/chunked", "/heads", "/file", "/status/502")
    }
    cases |= {
        f"gzip {path}": request(path, "GET", b"", "Accept-Encoding: gzip")
        for path in ("/compressible", "/compressed", "/large", "/file", "/chunked")
    }
    assert the_same(both, cases) >= len(cases)


def test_a_response_is_compressed_once_and_by_the_first(both: tuple[Hosts, Hosts]) -> None:
    reply = both[1].raw(request("/compressible", "GET", b"", "Accept-Encoding: gzip"))
    assert reply.count(b"Content-Encoding: gzip") == 1
    body = reply.partition(b"\r\n\r\n")[2]
    whole_body, rest = b"", body
    while (size := int(rest.partition(b"\r\n")[0], 16)) > 0:
        part = rest.partition(b"\r\n")[2]
        whole_body, rest = whole_body + part[:size], part[size + 2 :]
    assert gzip.decompress(whole_body) == ANSWERS["/compressible"].partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/x", "/through/x"])
def test_a_large_body_arrives_whole(both: tuple[Hosts, Hosts], path: str) -> None:
    cases = {"POST": request(path, "POST", LARGE), "PUT": request(path, "PUT", LARGE)}
    assert the_same(both, cases) == 2
    assert both[1].seen[0].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert both[1].raw(request(path, "POST", LARGE + b"x" * (20 << 20))).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["/x", "/through/x"])
def test_a_slow_body_arrives_whole(both: tuple[Hosts, Hosts], path: str) -> None:
    for hosts in both:
        hosts.forget()
        with hosts.connect() as connection:
            connection.sendall(hosts.called(request(path, "POST", b"x" * 30)[:-30]))
            for _ in range(30):
                connection.sendall(b"x")
                time.sleep(0.02)
            assert hosts.rest(connection).startswith(b"HTTP/1.1 200 ")
        assert [(one.length, one.instance) for one in hosts.seen] == [(30, "app1")]


@pytest.mark.parametrize("path", ["/streams", "/through/streams"])
def test_what_is_not_to_be_kept_back_is_not(both: tuple[Hosts, Hosts], path: str) -> None:
    for hosts in both:
        hosts.arrived.clear()
        with hosts.connect() as connection:
            connection.sendall(hosts.called(request(path)))
            found = b""
            while b"first" not in found:
                found += connection.recv(4096)
            hosts.arrived.set()
            assert b"last" in found + hosts.rest(connection)


def test_a_websocket_goes_both_ways(both: tuple[Hosts, Hosts]) -> None:
    data, told = bytes(range(256)) * 4000, []
    for hosts in both:
        with hosts.connect() as connection:
            connection.sendall(
                b"GET /ws HTTP/1.1\r\nHost: shop.test\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            told.append(plain(head))
            for start in range(0, len(data), 50_000):
                part, found = data[start : start + 50_000], 0
                connection.sendall(part)
                while found < len(part):
                    found += len(connection.recv(65536))
            time.sleep(0.1)
            connection.sendall(b"abc")
            assert connection.recv(3) == b"cba"
    assert told[0] == told[1]
    assert b"X-Saw: ['upgrade', 'WebSocket']" in told[1]


def test_an_instance_s_own_errors_are_nobody_s_failure(both: tuple[Hosts, Hosts]) -> None:
    _, several = both
    several.forget()
    for status in (502, 503, 504, 500, 429):
        assert {several.status(f"/status/{status}", method) for method in ("GET", "POST") * 15} == {status}
    assert several.status() == 200
    assert [one.instance for one in several.seen] == ["app1"] * 151


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_an_instance_that_ends_in_the_middle_is_not_asked_twice_for_a_post(
    both: tuple[Hosts, Hosts], method: str
) -> None:
    found = []
    for hosts in both:
        hosts.forget()
        text = request("/closes", method, b"" if method == "GET" else b"x")
        answers = [plain(hosts.raw(text)) for _ in range(20)]
        assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 502 Bad Gateway"}
        asked = Counter(one.instance for one in hosts.seen)
        found.append((set(answers), asked))
    if method == "POST":
        assert found[1][1].total() == 20
    assert found[0][0] == found[1][0]


def test_how_long_an_instance_is_waited_for_is_the_site_s_word(both: tuple[Hosts, Hosts]) -> None:
    for hosts in both:
        hosts.forget()
        assert hosts.status("/slow") == 200
        assert hosts.status("/hasty/x") == 504
        assert [one.line for one in hosts.seen] == ["GET /slow HTTP/1.1", "GET /hasty/x HTTP/1.1"]
