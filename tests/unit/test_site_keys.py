"""What the keys of `cluster:site` refuse: each mistake gets a line that says which key, and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import StackFileError, load_stack, parse_config
from cluster.config.limits import allowed_burst
from cluster.config.redirects import PathRedirect, path_redirects

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["example.org", "*.shop.example.org", ".example.net"]
UPLOADS = {"media": {"root": "media"}, "protected_media": {"root": "private"}}


def values(app: dict[str, Any] | None = None, **site: Any) -> dict[str, Any]:
    return {
        "platform": "local",
        "app": {"project": "./example", "settings": "example.settings", **(app or {})},
        "upstream": {"servers": 2},
        "site": {"server_names": NAMES, **site},
    }


def problems(app: dict[str, Any] | None = None, **site: Any) -> list[str]:
    try:
        parse_config(values(app, **site))
    except StackFileError as error:
        return [str(problem) for problem in error.problems]
    return []


# --- redirects


FORM = "a host name of site.server_names, a path that begins with /, or https://…, without $, # and quotes"
STATIC = "would take what is below /static/, where nginx serves static files (site.static_url)"

REDIRECTS: dict[str, tuple[dict[Any, Any], list[str]]] = {
    "a name that is the site's": (
        {"example.org": "example.net"},
        ['["example.org"]: is one of site.server_names, and answers itself; remove it there or here'],
    ),
    "a pattern that is the site's": (
        {"*.example.net": "example.org"},
        ['["*.example.net"]: is one of site.server_names, and answers itself; remove it there or here'],
    ),
    "one name twice": (
        {"www.example.org": "example.org", "WWW.example.org": "example.net"},
        ['["WWW.example.org"]: is redirected by www.example.org already'],
    ),
    "any name": ({"_": "example.org"}, ["._: must name a host: others than the site's get no answer"]),
    "a name to another site": (
        {"www.example.org": "example.com"},
        ['["www.example.org"]: must be one of site.server_names'],
    ),
    "a name to a pattern": (
        {"www.example.org": "*.shop.example.org"},
        ['["www.example.org"]: a host name leads to a host name of site.server_names'],
    ),
    "a name to a path": (
        {"www.example.org": "/x"},
        ['["www.example.org"]: a host name leads to a host name of site.server_names'],
    ),
    "names in a circle": (
        {"a.shop.example.org": "b.shop.example.org", "b.shop.example.org": "a.shop.example.org"},
        [
            '["a.shop.example.org"]: is redirected itself, which may lead in a circle',
            '["b.shop.example.org"]: is redirected itself, which may lead in a circle',
        ],
    ),
    "all of the site": (
        {"/": "https://example.com/"},
        [
            '["/"]: is every path of the site; name those that lead elsewhere',
            f'["/"]: {STATIC}',
        ],
    ),
    "into itself": ({"/a/": "/a/b/"}, ['["/a/"]: leads to itself: it is what /a/ redirects']),
    "to itself": ({"/a": "/a?b"}, ['["/a"]: leads to itself: it is what /a redirects']),
    "two in a circle": (
        {"/a/": "/b/", "/b/": "/a/", "/c/": "/a/"},
        ['["/a/"]: may lead in a circle, with /b/', '["/b/"]: may lead in a circle, with /a/'],
    ),
    "three in a circle": (
        {"/a": "/b", "/b": "/c", "/c": "/a"},
        [
            '["/a"]: may lead in a circle, with /b, /c',
            '["/b"]: may lead in a circle, with /a, /c',
            '["/c"]: may lead in a circle, with /a, /b',
        ],
    ),
    "a circle of one path among many": (
        {"/a/": "/b/", "/b/x": "/a/x"},
        ['["/b/x"]: may lead in a circle, with /a/', '["/a/"]: may lead in a circle, with /b/x'],
    ),
    "what is the runtime's": (
        {"/-/health": "/x", "/%2D/x": "/y", "//-/x": "/z"},
        [
            '["/-/health"]: is below /-/, which is the runtime\'s and never public',
            '["/%2D/x"]: is below /-/, which is the runtime\'s and never public',
            '["//-/x"]: is below /-/, which is the runtime\'s and never public',
        ],
    ),
    "to what is the runtime's": (
        {"/x": "/-/health"},
        ['["/x"]: leads below /-/, which is the runtime\'s and never public'],
    ),
    "static files": ({"/static/old.css": "/x"}, [f'["/static/old.css"]: {STATIC}']),
    "what is above static files": ({"/s": "/x", "/static/": "/y/"}, [f'["/static/"]: {STATIC}']),
    "dots": ({"/a/../b": "/x"}, ['["/a/../b"]: clients resolve . and .. before they ask, so this never matches']),
    "another site without its scheme": (
        {"/x": "//evil.example"},
        ['["/x"]: browsers read // as another host; write https:// before it'],
    ),
    "this site with its scheme": (
        {"/x": "https://Example.org/x", "/y": "http://a.shop.example.org/"},
        ['["/x"]: is this site itself; write the path alone', '["/y"]: is this site itself; write the path alone'],
    ),
    "all below a path to one": (
        {"/x/": "/y", "/z/": "https://example.com"},
        [
            '["/x/"]: must end with /, as the path does that leads there: the rest is added',
            '["/z/"]: must end with /, as the path does that leads there: the rest is added',
        ],
    ),
    "a path to a name": (
        {"/x": "example.org"},
        ['["/x"]: a path leads to a path, or to an address that begins with https://'],
    ),
    **{
        f"a target with {what}": (
            {"/x": target},
            [f'["/x"]: is not of the right form, got {target!r} ({FORM})'],
        )
        for what, target in {
            "a variable": "/$uri",
            "a quote": "/a'b",
            "another quote": '/a"b',
            "the end of a line": "/a\r\nSet-Cookie: x",
            "a tab": "/a\tb",
            "a space": "/a b",
            "another scheme": "javascript:alert(1)",
            "a port that is none": "https://example.com:x/",
            "nothing": "",
        }.items()
    },
    "a source with a space": (
        {"/a b": "/x"},
        ["""["/a b"]: is not of the right form, got '/a b' (a host name, or a path that begins with /, without"""],
    ),
    "a number": ({1: "/x"}, ['["1"]: a key must be text, got 1; write "1" in quotes']),
}


@pytest.mark.parametrize("what", REDIRECTS)
def test_a_redirect_that_cannot_be_is_refused(what: str) -> None:
    redirects, expected = REDIRECTS[what]
    found = problems(redirects=redirects)
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        assert line.startswith(f"site.redirects{words}"), line


GOOD_REDIRECTS = {
    "www.example.org": "example.org",
    "*.example.com": "example.net",
    "old.shop.example.org": "new.shop.example.org",
    "/blog/": "/",
    "/shop/": "/",
    "/a/": "/b/",
    "/b": "/a/",
    "/old": "/new/",
    "/s": "/static/x",
    "/gone": "https://example.com/x?y=z",
    "/gone/": "http://127.0.0.1:8000/",
    "/f%C3%A4hre": "/faehre",
}


def test_redirects_that_end_are_taken() -> None:
    assert problems(redirects=GOOD_REDIRECTS) == []


def test_the_longer_path_is_tried_first_and_one_path_before_all_below_it() -> None:
    found = path_redirects({"/a/": "/x/", "/a/b/": "/y/", "/a/b/c": "/z", "example.com": "example.org"})
    assert [one.source for one in found] == ["/a/b/c", "/a/b/", "/a/"]


def test_of_redirects_of_paths_none_that_is_taken_leads_in_a_circle() -> None:
    """Every address of a small world is followed through every set of redirects in it."""
    segments = ("/a/", "/b/", "/a/b/", "/a", "/b/a")
    targets = ("/a/", "/b/", "/b/a/", "/a", "/b", "/")
    taken = refused = 0
    for first in segments:
        for second in segments:
            for to_first in targets:
                for to_second in targets:
                    redirects = {first: to_first, second: to_second}
                    if problems(redirects=redirects):
                        refused += 1
                        continue
                    taken += 1
                    for start in ("/a", "/b", "/a/", "/b/", "/a/b/", "/b/a", "/a/a/b/a", "/b/a/b/a/", "/a/b/a/b"):
                        assert ends(start, path_redirects(redirects)), (redirects, start)
    print(f"{taken} sets of redirects were taken, {refused} refused")
    assert taken > 100
    assert refused > 100


def ends(path: str, redirects: list[PathRedirect]) -> bool:
    for _ in range(50):
        one = next((one for one in redirects if one.covers(path)), None)
        if one is None:
            return True
        path = one.target + path[len(one.source) :]
    return False


def test_many_redirects_are_judged_at_once() -> None:
    began = time.process_time()
    assert problems(redirects={f"/a{number}": f"/a{number + 1}" for number in range(500)}) == []
    assert problems(redirects={f"/a{number}/": "/" for number in range(500)}) == []
    assert len(problems(redirects={f"/a{number}/": f"/a{(number + 1) % 400}/" for number in range(400)})) > 1
    assert problems(redirects={f"/a{n}": "/" for n in range(501)})[0].startswith(
        "site.redirects: must have at most 500"
    )
    assert time.process_time() - began < 5


# --- headers


ONE_ANSWER = "is of one answer, and only who gives it can say it"
CONNECTION = "is of the connection, and nginx's to say"
DOLLAR = "must not contain $: nginx reads a variable there, and has no way to write the character itself"
VISIBLE = "must be visible characters of ASCII and spaces within"

HEADERS: dict[str, tuple[dict[Any, Any], list[str]]] = {
    **{
        name: ({name: "x"}, [f".{name}: {CONNECTION}, got '{name}'"])
        for name in ("Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "TE", "Trailer")
    },
    **{
        name: ({name: "x"}, [f".{name}: {ONE_ANSWER}, got '{name}'"])
        for name in ("Date", "Server", "Location", "Vary", "ETag", "X-Accel-Redirect", "content-length", "sEt-cOOkie")
    },
    "HSTS": (
        {"strict-transport-security": "max-age=1"},
        ["is a matter of TLS: site.tls.hsts says it, or whatever ends TLS before nginx"],
    ),
    "a name with a colon": ({"X:": "x"}, ['["X:"]: is not of the right form']),
    "a name with the end of a line": ({"X\nY": "x"}, ['["X\\nY"]: is not of the right form']),
    "a name with _": ({"X_Y": "x"}, ["X_Y: is not of the right form, got 'X_Y' (letters, digits and -"]),
    "one name twice": ({"X-A": "x", "x-a": "y"}, ["x-a: is said by X-A already"]),
    "a variable": ({"X-A": "a $uri"}, [f"X-A: {DOLLAR}, got 'a $uri'"]),
    "the end of a line": ({"X-A": "a\r\nX-B: b"}, [f"X-A: {VISIBLE}"]),
    "a tab": ({"X-A": "a\tb"}, [f"X-A: {VISIBLE}"]),
    "a letter of another alphabet": ({"X-A": "ä"}, [f"X-A: {VISIBLE}"]),
    "a space at the end": ({"X-A": "a "}, [f"X-A: {VISIBLE}"]),
    "nothing": ({"X-A": ""}, [f"X-A: {VISIBLE}"]),
    "a backslash": ({"X-A": "a\\nb"}, ["X-A: must not contain a backslash: nginx reads an escape there"]),
    "a long one": ({"X-A": "a" * 4001}, ["X-A: must have at most 4000 characters, which is what nginx reads"]),
    "a number": ({"X-A": 1}, ["X-A: must be text, got 1"]),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_no_site_can_say_is_refused(what: str) -> None:
    headers, expected = HEADERS[what]
    found = problems(headers=headers)
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        assert line.startswith("site.headers"), line
        assert words in line


def test_the_sign_for_search_engines_is_one_keys_to_say() -> None:
    assert problems(robots="none", headers={"x-robots-tag": "all"}) == [
        "site.headers.x-robots-tag: is said by site.robots already, got 'x-robots-tag'"
    ]
    assert problems(headers={"x-robots-tag": "all"}) == []
    assert problems(robots="all") == ["site.robots: must be one of none, got 'all'"]
    (line,) = problems(robots="none", redirects={"/robots.txt": "/x"})
    assert "would take /robots.txt, where nginx answers itself (site.robots)" in line
    assert problems(robots="none", redirects={"/robots.txt.old": "/x"}) == []


# --- locations and limits


RATE = "(requests in a second or a minute, for example 10r/s or 30r/m)"

LOCATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "the whole site": ({"path": "/"}, "path: is the whole site: say this in cluster:site itself, got '/'"),
    "the runtime's": ({"path": "/-/x"}, "path: is the runtime's and never public, got '/-/x'"),
    "dots": ({"path": "/a/../b"}, "path: nginx resolves //, . and .. before it looks for a path, so this one never"),
    "slashes": ({"path": "/a//b"}, "path: nginx resolves //, . and .. before it looks for a path, so this one never"),
    "static files": (
        {"path": "/static/"},
        "path: would take what is below /static/, where nginx serves static files (site.static_url), got '/static/'",
    ),
    "what is below static files": ({"path": "/static/x"}, "path: would take what is below /static/"),
    "what is redirected": ({"path": "/old/x"}, "path: is redirected already, by /old/ of site.redirects, got '/old/x'"),
    "no path": ({}, "path: required: The path alone, or all below it where it ends with /."),
    "a path without /": ({"path": "x"}, "path: is not of the right form, got 'x' (a path that begins with /; all"),
    "a pattern": ({"path": "~ ^/x"}, "path: is not of the right form"),
    "a variable": ({"path": "/$x/"}, "path: is not of the right form"),
    "a burst of no limit": ({"path": "/x", "burst": 3}, "burst: is that of a limit, and there is none, got 3"),
    "a rate of nothing": ({"path": "/x", "limit": "0r/s"}, f"limit: is not of the right form, got '0r/s' {RATE}"),
    "a rate by the hour": ({"path": "/x", "limit": "10r/h"}, f"limit: is not of the right form, got '10r/h' {RATE}"),
    "a bare number": ({"path": "/x", "limit": 10}, "limit: must be text, got 10"),
    "another key": ({"path": "/x", "proxy_pass": "y"}, "proxy_pass: unknown key; did you mean proxy_read_timeout?"),
    "methods of no limit": (
        {"path": "/x", "limit_methods": ["POST"]},
        "limit_methods: is what a limit counts, and there is none, got ['POST']",
    ),
    "no method": (
        {"path": "/x", "limit": "1r/s", "limit_methods": ["post"]},
        "limit_methods[0]: must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, got 'post'",
    ),
    "a burst below nothing": ({"path": "/x", "limit": "1r/s", "burst": -1}, "burst: must be at least 0, got -1"),
}


@pytest.mark.parametrize("what", LOCATIONS)
def test_a_location_that_cannot_be_is_refused(what: str) -> None:
    location, expected = LOCATIONS[what]
    (line,) = problems(locations=[{"path": "/good/"}, location], redirects={"/old/": "/new/"})
    assert line.startswith(f"site.locations[1].{expected}"), line


def test_one_path_is_one_location() -> None:
    assert problems(locations=[{"path": "/x/"}, {"path": "/x"}, {"path": "/x/y/"}]) == []
    assert problems(locations=[{"path": "/x/"}, {"path": "/x/"}]) == [
        "site.locations[1].path: stands here twice, got '/x/'"
    ]
    for path in ("/robots.txt", "/robots.txt/"):
        (line,) = problems(robots="none", locations=[{"path": path}])
        assert "would take /robots.txt, where nginx answers itself (site.robots)" in line
    assert problems(auth_basic_limit="1r/s", auth_basic_burst=3) == [
        "site.auth_basic_limit: counts passwords, and site.auth_basic asks nobody for one, got '1r/s'"
    ]
    assert problems(auth_basic="Staging", auth_basic_burst=3) == [
        "site.auth_basic_burst: is that of auth_basic_limit, and there is none, got 3"
    ]
    assert problems(burst=3) == ["site.burst: is that of a limit, and there is none, got 3"]


@pytest.mark.parametrize(
    ("limit", "burst", "expected"),
    [
        *(("10r/s", None, 10), ("1r/s", None, 1), ("90r/m", None, 1), ("120r/m", None, 2), ("1r/m", None, 1)),
        *(("10r/s", 0, 0), ("10r/s", 7, 7), (None, None, 0)),
    ],
)
def test_a_burst_is_what_is_sent_in_a_second(limit: str | None, burst: int | None, expected: int) -> None:
    location = {"path": "/x", "limit": limit, "burst": burst}
    config = parse_config(values(limit=limit, burst=burst, locations=[location]))
    assert allowed_burst(config.site) == allowed_burst(config.site.locations[0]) == expected


# --- snippets


CLIENT = "tells the project who its client is; one's own, or none, would let a client say so itself"
OTHER_SERVER = "would also be of the runtime's own server; say it in site.snippets.server"
OWN = "uses a name that is this configuration's own: "
PUBLIC = "leads below /-/, which is the runtime's and never public"
PLAIN = "must name where it passes requests on, without a variable: "

#: What no snippet may be: in http, in the server, or in both, and what is said of it. The line is the second.
SNIPPETS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "the end of a block of ours": (("http", "server"), "}", "} ends a block that does not begin here"),
    "the end of a block, and another": (
        ("http", "server"),
        "} server { listen 80;",
        "} ends a block that does not begin here",
    ),
    "a block that does not end": (("http", "server"), "map $a $b {", 'unexpected end of file, expecting "}"'),
    "a directive that does not end": (("http", "server"), "gzip off", 'must end with ";" before what comes next'),
    "a quote that does not end": (("server",), "return 200 'x;", 'unexpected end of file, expecting "\'"'),
    "a block whose last line does not end": (
        ("server",),
        "location /x { return 200 }",
        'must end with ";" before what comes next',
    ),
    "a variable that does not end": (("server",), "set $a ${b;c};", "set has a variable that is not closed: ${b;c}"),
    "another port": (("server",), "listen 81;", "listen is said in cluster:site (listen)"),
    "another name": (("server",), "server_name x;", "server_name is said in cluster:site (server_names)"),
    "another server": (("http",), "server { root /; }", "server is another site, which nothing of this stack knows"),
    "another file": (
        ("http", "server"),
        "include /etc/x;",
        "include would take in what is neither checked nor delivered; write it here",
    ),
    "a module": (("http",), "load_module x.so;", "load_module belongs to nginx's main configuration"),
    "a user": (("http",), "user root;", "user belongs to nginx's main configuration"),
    "a header to the project": (
        ("http", "server"),
        "proxy_set_header X-Forwarded-For x;",
        f"proxy_set_header {CLIENT}",
    ),
    "another client": (("http", "server"), "real_ip_header X-Forwarded-For;", f"real_ip_header {CLIENT}"),
    "whom to believe": (("http", "server"), "set_real_ip_from 0.0.0.0/0;", f"set_real_ip_from {CLIENT}"),
    "names with _": (
        ("http", "server"),
        "underscores_in_headers on;",
        "underscores_in_headers keeps clients from telling an instance what nginx tells it",
    ),
    "who may ask": (("http",), "deny all;", f"deny {OTHER_SERVER}"),
    "a password": (("http",), "auth_basic x;", f"auth_basic {OTHER_SERVER}"),
    "the runtime's path": (("server",), "rewrite ^/x$ /-/health last;", f"rewrite {PUBLIC}"),
    "the runtime's path otherwise": (("server",), "rewrite ^/x$ /%2D/health last;", f"rewrite {PUBLIC}"),
    "the runtime's path as a location": (("server",), "location ~ ^/-/ { return 200; }", f"location {PUBLIC}"),
    "the runtime's path in a block": (
        ("server",),
        "if ($arg_x) { rewrite ^ /-/probe; }",
        f"rewrite {PUBLIC}",
    ),
    "a variable of ours": (("server",), "set $cluster_port x;", f"set {OWN}$cluster_port"),
    "a variable of ours in braces": (("server",), "return 200 x${Cluster_port};", f"return {OWN}x${{Cluster_port}}"),
    "a capture of ours": (("server",), 'rewrite "^/(?<cluster_x>.)" /;', f"rewrite {OWN}^/(?<cluster_x>.)"),
    "a map of ours": (("http",), "map $uri $cluster_internal { default 0; }", f"map {OWN}$cluster_internal"),
    "an upstream of ours": (("http",), "upstream cluster { server x; }", f"upstream {OWN}cluster"),
    "a name of ours": (("server",), "access_log /tmp/x cluster;", f"access_log {OWN}cluster"),
    "a count of ours": (("server",), "limit_conn cluster_addresses 1;", f"limit_conn {OWN}cluster_addresses"),
    "a zone of ours": (("http",), "limit_req_zone $uri zone=cluster_rate:1m rate=1r/s;", f"{OWN}zone=cluster_rate:1m"),
    "a way to the instances": (("server",), "location /x { proxy_pass http://cluster; }", f"{OWN}http://cluster"),
    "a way to one": (("server",), "location /x { proxy_pass http://cluster_app1/y; }", f"{OWN}http://cluster_app1/y"),
    "a way to the instances by a variable": (
        ("server",),
        "location /x { set $a clus; proxy_pass http://${a}ter; }",
        f"proxy_pass {PLAIN}http://${{a}}ter",
    ),
    "a socket by a variable": (
        ("server",),
        "location /x { proxy_pass http://unix:/run/$a/http.socket; }",
        f"proxy_pass {PLAIN}http://unix:/run/$a/http.socket",
    ),
    "an instance's socket": (
        ("server",),
        "location /x { proxy_pass http://unix:/run/app1/http.sock; }",
        "proxy_pass leads past this configuration to a socket of its own: http://unix:/run/app1/http.sock",
    ),
    "a location of ours by its name": (
        ("server",),
        "location /x { error_page 404 = @closing; }",
        f"error_page {OWN}@closing",
    ),
    "control characters": (("http", "server"), "gzip off;\x1b", "is not of the right form"),
}


@pytest.mark.parametrize("what", SNIPPETS)
def test_a_snippet_that_would_break_what_is_ours_is_refused_with_its_line(what: str) -> None:
    places, text, words = SNIPPETS[what]
    for where in places:
        (line,) = problems(snippets={where: f"# first\n{text}\n"})
        assert line.startswith(f"site.snippets.{where}: "), line
        assert words in line
        assert "line 2: " in line or what == "control characters"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/", "which passes on to the instances what has no other location"),
        ("^~ /", "which passes on to the instances what has no other location"),
        ("/static/", "where nginx serves static files (site.static_url)"),
        ("^~ /static/", "where nginx serves static files (site.static_url)"),
        ("/media/", "where nginx serves uploads (app.media)"),
        ("= /robots.txt", "where nginx answers itself (site.robots)"),
        ("/upload/", "which is one of site.locations"),
        ("= /upload", "which is one of site.locations"),
    ],
)
def test_a_location_that_is_there_already_is_refused(path: str, what: str) -> None:
    snippets = {"server": f"location /other/ {{ return 404; }}\nlocation {path} {{ return 404; }}\n"}
    (line,) = problems(UPLOADS, snippets=snippets, robots="none", locations=[{"path": "/upload/"}])
    name = path.rpartition(" ")[2]
    assert line == f"site.snippets.server: line 2: the location {name} is there already, {what}, got '{name}'"


GOOD_SNIPPETS = {
    "http": """
# A few things that have no key
map $http_user_agent $bot { default 0; "~*(bot|crawl;)" 1; }
upstream legacy { server 127.0.0.1:9000; server unix:/run/legacy/app.sock; }
proxy_cache_path /tmp/cache keys_zone=pages:1m;
geo $near { default 0; 10.0.0.0/8 1; }
""",
    "server": """
location = / { return 302 /en/; }
location ~ "^/a{1,2}$" { return 200 "} # no end"; }
location /legacy/ {
    proxy_set_header Host $host;   # to something else
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Site cluster;
    proxy_pass http://legacy/;
}
location /direct/ { proxy_pass http://127.0.0.1:9000$request_uri; }
location /far/ { proxy_pass https://cluster.example.org/x; }
location /cluster/ { return 200 "of the cluster"; }
if ($bot) { return 403; }
error_page 502 /50x.html;
allow 10.0.0.0/8;
deny all;
""",
}


def test_what_is_nobodys_else_may_be_said() -> None:
    assert problems(snippets=GOOD_SNIPPETS) == []


# --- uploads, wherever their place is said


TAKEN = "would take what is below {}, where nginx serves {}, got '{}'"


def test_what_nginx_serves_of_uploads_is_not_the_sites_keys_to_take(tmp_path: Path) -> None:
    redirects = {"/media/old/": "/x/", "/protected/": "/y/"}
    expected = [
        f'site.redirects["/media/old/"]: {TAKEN.format("/media/", "uploads (app.media)", "/media/old/")}',
        f'site.redirects["/protected/"]: {TAKEN.format("/protected/", "app.protected_media", "/protected/")}',
    ]
    assert problems(UPLOADS, redirects=redirects) == expected
    assert problems(UPLOADS, locations=[{"path": "/media/big/"}, {"path": "/protected/"}, {"path": "/m/"}]) == [
        f"site.locations[0].path: {TAKEN.format('/media/', 'uploads (app.media)', '/media/big/')}",
        f"site.locations[1].path: {TAKEN.format('/protected/', 'app.protected_media', '/protected/')}",
    ]
    # The same where the project's settings say where its uploads are.
    (tmp_path / "stacks").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "manage.py").write_text("")
    (tmp_path / "project" / "settings.py").write_text('MEDIA_ROOT = "media"\nMEDIA_URL = "/media/"\n')
    (tmp_path / "stacks" / "Pulumi.dev.yaml").write_text(
        "config:\n"
        "  cluster:platform: local\n"
        "  cluster:app: {project: project, settings: settings}\n"
        "  cluster:upstream: {servers: 2}\n"
        "  cluster:site:\n"
        "    server_names: [example.org]\n"
        "    redirects: {/media/old/: /x/}\n"
    )
    with pytest.raises(StackFileError) as raised:
        load_stack(tmp_path, "dev")
    assert [str(problem) for problem in raised.value.problems] == expected[:1]
