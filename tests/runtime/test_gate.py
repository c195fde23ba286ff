"""What a visitor meets: pages and their files, without a server."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from django.urls.resolvers import RegexPattern

from cluster_runtime.facts import _example_of
from cluster_runtime.gate import Answer, Site, Visitor, asker, judge
from cluster_runtime.progress import follow
from cluster_runtime.trial import Trial
from tests.runtime.standing import SETTINGS, URLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cluster_runtime.gate import Ask
    from tests.runtime.standing import Stand

SITE = "http://localhost:8080"


def visitor(answers: dict[str, Answer], *, files: bool = False, **site: object) -> Visitor:
    """Return a visitor of a site that answers so; 404 to all else."""

    def ask(url: str, _cookies: dict[str, str]) -> Answer:
        return answers.get(url.removeprefix(SITE), Answer(status=404))

    known = {"site": SITE, "hosts": ("localhost", "www.example.org"), "static_url": "/static/", **site}
    return Visitor(Site(**known), ask, files=files)  # type: ignore[arg-type]


def kinds(found: Visitor, page: str = "/") -> list[str]:
    return [fault.kind for fault in found.look(page)]


def to(location: str, **more: object) -> Answer:
    return Answer(status=302, location=location, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_runtime.gate.AGAIN", 0.0)


@pytest.mark.parametrize("status", [200, 204, 401, 403, 404, 410, 503])
def test_what_a_project_may_answer_is_no_fault(status: int) -> None:
    assert kinds(visitor({"/": Answer(status=status)})) == []


@pytest.mark.parametrize("status", [500, 501, 502, 504])
def test_an_error_of_the_server_is_one(status: int) -> None:
    assert kinds(visitor({"/": Answer(status=status)})) == ["error"]


def test_a_page_that_the_project_does_not_have_is_not_judged_but_where_it_leads_is() -> None:
    broken = Answer(status=500)
    assert kinds(visitor({"/": broken}, unrouted=("/",))) == []
    assert kinds(visitor({"/": to("/en/"), "/en/": broken}, unrouted=("/",))) == ["error"]
    lacking = Answer(status=200, html='<script src="/static/a.js"></script>')
    assert kinds(visitor({"/": lacking}, unrouted=("/",))) == ["file"], "a middleware answers it"


def test_what_fails_once_and_not_again_is_no_fault() -> None:
    answers = iter([Answer(status=500), Answer(status=200)])
    found = Visitor(Site(site=SITE), lambda _url, _cookies: next(answers), files=False)
    assert kinds(found) == []


#: Where / leads, and what is a fault of it.
REDIRECTS: dict[str, tuple[dict[str, Answer], list[str]]] = {
    "elsewhere": ({"/": to("https://sso.example.com/login")}, []),
    "to a page of its own": ({"/": to("/home"), "/home": Answer(status=200)}, []),
    "to a page of its own that fails": ({"/": to("home"), "/home": Answer(status=500)}, ["error"]),
    "to itself": ({"/": to("/")}, ["loop"]),
    "to itself by its whole address": ({"/": to(f"{SITE}/")}, ["loop"]),
    "there and back": ({"/": to("/a"), "/a": to("/")}, ["loop"]),
    "ever further": ({f"/{'a' * number}": to(f"/{'a' * (number + 1)}") for number in range(30)}, ["loop"]),
    "to itself by TLS, which nobody answers": ({"/": to("https://localhost:8080/")}, ["loop"]),
    "to itself by TLS on its own port": ({"/": to("https://localhost/")}, ["loop"]),
    "to another of its names by TLS": ({"/": to("https://www.example.org/")}, ["loop"]),
    "to another page by TLS": ({"/": to("/in"), "/in": to("https://localhost:8080/in")}, ["loop"]),
    "to another of its names": ({"/": to("http://www.example.org:8080/")}, []),
    "to a name of a domain of its own that fails": ({"/": to("http://a.example.net:8080/b")}, ["error"]),
    "to what is no address": ({"/": to("http://[broken/")}, ["loop"]),
    "to a port that is no number": ({"/": to("http://localhost:port/")}, ["loop"]),
}


@pytest.mark.parametrize("what", REDIRECTS)
def test_a_redirect_is_followed_within_the_site(what: str) -> None:
    answers, faults = REDIRECTS[what]
    answers |= {"http://a.example.net:8080/b": Answer(status=500)}
    assert kinds(visitor(answers, hosts=("localhost", "www.example.org", ".example.net"))) == faults


@pytest.mark.parametrize(
    ("hosts", "faults"), [(("localhost",), ["loop"]), (("localhost", "www.localhost"), []), (("localhost", "*"), [])]
)
def test_a_redirect_to_www_is_one_to_nobody_where_nginx_does_not_know_that_name(
    hosts: tuple[str, ...], faults: list[str]
) -> None:
    answers = {"/": to("http://www.localhost:8080/"), "http://www.localhost:8080/": Answer(status=200)}
    assert kinds(visitor(answers, hosts=hosts, prepend_www=True)) == faults
    assert kinds(visitor(answers, hosts=hosts)) == [], "anybody's server may have it"


def test_a_page_that_wants_a_cookie_first_leads_back_to_itself_only_once() -> None:
    def ask(_url: str, cookies: dict[str, str]) -> Answer:
        return Answer(status=200) if cookies.get("seen") == "yes" else to("/", cookies={"seen": "yes"})

    assert kinds(Visitor(Site(site=SITE), ask, files=False)) == []


#: What a page of /in/ names, and which of it is missing.
PAGES: dict[str, tuple[str, list[str]]] = {
    "a style sheet": ('<link rel="stylesheet" href="/static/a.css">', ["/static/a.css"]),
    "one without a word of what it is": ('<link href="/static/a.css?v=1">', ["/static/a.css"]),
    "an icon": ('<link rel="icon" href="/static/a.ico">', []),
    "a script": ("<script src=/static/a.js></script>", ["/static/a.js"]),
    "a script in the page": ("<script>go()</script>", []),
    "the second of two": (
        '<link rel=stylesheet href="/static/here.css"><link rel=stylesheet href="/static/b.css">',
        ["/static/b.css"],
    ),
    "the first picture": ('<img src="/static/a.png"><img src="/static/b.png">', ["/static/a.png"]),
    "a relative one": ('<script src="../static/a.js"></script>', ["/static/a.js"]),
    "one by another base": ('<base href="/static/x/"><script src="a.js"></script>', ["/static/x/a.js"]),
    "an upload": ('<img src="/media/a.png">', []),
    "another server's": ('<script src="https://cdn.example.com/static/a.js"></script>', []),
    "a file that is there": ('<script src="/static/here.js"></script>', []),
    "a name with a space": ('<script src="/static/a%20b.js"></script>', ["/static/a%20b.js"]),
    "what is no HTML at all": ("<<<>>&;<link <script", []),
    "a comment of a kind that nobody knows": ('<![x[ y ]]><script src="/static/a.js"></script>', ["/static/a.js"]),
    "an address that is none": ('<script src="http://[x/a.js"></script><img src="/static/a.png">', ["/static/a.png"]),
    "a base that is none": ('<base href="http://[x/"><script src="/static/a.js"></script>', ["/static/a.js"]),
    "a name that no file has": (f'<script src="/static/{"a" * 300}.js"></script>', [f"/static/{'a' * 300}.js"]),
}


@pytest.mark.parametrize("what", PAGES)
@pytest.mark.parametrize("files", [False, True])
def test_a_page_s_files_are_looked_for(tmp_path: Path, what: str, *, files: bool) -> None:
    html, missing = PAGES[what]
    answers = {
        "/in/": Answer(status=200, html=html),
        **{f"/static/here.{e}": Answer(status=200) for e in ("css", "js")},
    }
    for ending in ("css", "js"):
        (tmp_path / f"here.{ending}").touch()
    served = {"static_root": str(tmp_path), "served_static_url": "/static/"} if files else {}
    found = visitor(answers, files=files, **served).look("/in/")
    assert [fault.url.removeprefix(SITE).partition("?")[0] for fault in found] == missing


def test_what_another_server_takes_from_here_is_looked_for_here(tmp_path: Path) -> None:
    html = '<link rel=stylesheet href="https://cdn.example.com/static/a.css">'
    site = {"static_url": "https://cdn.example.com/static/", "static_root": str(tmp_path)}
    answers = {"/": Answer(status=200, html=html)}
    assert kinds(visitor(answers, files=True, static_here=True, **site)) == ["file"]
    assert kinds(visitor(answers, files=True, static_here=False, **site)) == [], "a store elsewhere"
    (tmp_path / "a.css").touch()
    assert kinds(visitor(answers, files=True, static_here=True, **site)) == []


def test_a_file_with_another_hash_in_its_name_is_the_same_fault() -> None:
    def key(name: str) -> object:
        answers = {"/": Answer(status=200, html=f'<script src="/static/{name}"></script>')}
        return visitor(answers).look("/")[0].key

    assert key("app.0123456789ab.js") == key("app.ba9876543210.js")
    assert key("app.0123456789ab.js") != key("other.0123456789ab.js")


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Ask]:
    """Ask a server that answers every GET so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asker(lambda: http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5), lambda _url: {})
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_that_streams_for_ever_is_looked_at_for_as_long_as_a_page_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster_runtime.gate.TIMEOUT", 0.5)

    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(b'<script src="/static/a.js"></script>')
        with suppress(OSError):
            for _second in range(200):
                handler.wfile.write(b"<p>more")
                time.sleep(0.05)

    with answering(stream) as ask:
        begun = time.monotonic()
        assert ask(f"{SITE}/", {}).html.startswith("<script")
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "no-such-charset"])
def test_a_page_is_read_in_its_own_charset(charset: str) -> None:
    html = "<script src='/static/a.js'></script>"

    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", f"text/html; charset={charset}")
        handler.end_headers()
        handler.wfile.write(html.encode("utf-8" if charset.startswith("no") else charset))

    with answering(page) as ask:
        assert ask(f"{SITE}/", {}).html == html


def test_a_page_of_any_letters_is_asked_for() -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200 if handler.path == "/stra%C3%9Fe%20a/?q=%C3%BC%20b&r=%20" else 404)
        handler.end_headers()

    with answering(page) as ask:
        assert ask(f"{SITE}/straße a/?q=ü b&r=%20", {}).status == 200


def test_an_answer_that_never_comes_is_a_fault() -> None:
    def ask(_url: str, _cookies: dict[str, str]) -> Answer:
        raise http.client.RemoteDisconnected("gone")

    assert kinds(Visitor(Site(site=SITE), ask, files=False)) == ["error"]


def test_a_release_is_judged_by_what_the_serving_one_does(stand: Stand) -> None:
    """In one process each: the serving one answers, the new one raises; then both do."""
    health = {"pages": ["/", "/boom"]}
    stand.write({"good/__init__.py": "", "good/urls.py": URLS, "good/settings.py": SETTINGS.replace("mini.", "good.")})
    stand.write({"mini/urls.py": URLS.replace('path("", home)', 'path("", boom)')})
    serving = stand.serving("one", settings="good.settings", health=health)
    new = stand.start("two", health=health)
    new.wait_for("ready")
    found = judge(new.name.socket("two"), serving.name.socket("one"))
    assert found[0] == "app.health.pages: GET / is answered with 500; the serving release answers 200"
    assert found[-1].strip() == "RuntimeError: boom"
    assert sum(line.startswith("app.health.pages") for line in found) == 1, "/boom fails in both"
    both = judge(new.name.socket("two"), None)
    assert sum(line.startswith("app.health.pages") for line in both) == 2
    assert judge(serving.name.socket("one"), new.name.socket("two")) == []


def test_a_project_without_a_page_to_log_in_is_judged_by_the_others(stand: Stand) -> None:
    stand.write({"mini/settings.py": SETTINGS + "LOGIN_URL = None\n"})
    serving = stand.serving("one")
    assert judge(serving.name.socket("one"), None) == []


#: Reads what every browser says, and what nginx adds.
PARTICULAR = """
def particular(get_response):
    def answer(request):
        for name in ("HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE"):
            request.META[name]
        if request.path != "/":
            request.META["HTTP_X_REAL_IP"], request.META["HTTP_X_FORWARDED_PORT"]
        return get_response(request)
    return answer
"""


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_project_that_relies_on_what_browsers_and_nginx_say_gets_healthy(stand: Stand, interface: str) -> None:
    settings = SETTINGS.replace("MIDDLEWARE = []", 'MIDDLEWARE = ["mini.particular.particular"]')
    stand.write({"mini/settings.py": settings, "mini/particular.py": PARTICULAR})
    serving = stand.serving("one", interface=interface, health={"path": "/"})
    assert judge(serving.name.socket("one"), None) == []


@pytest.mark.parametrize(
    ("pattern", "path"),
    [(r"ws/(?P<room>\w+)/$", "/ws/1/"), (r"^/?ws/$", "/ws/"), (r"(?i)ws/$", None), (r"ws/100%/$", None)],
)
def test_a_websocket_that_is_asked_for_is_one_that_its_route_matches(pattern: str, path: str | None) -> None:
    route = SimpleNamespace(pattern=RegexPattern(pattern, is_endpoint=True))
    assert _example_of(route) == path


def test_progress_is_told_while_a_program_runs() -> None:
    lines = ["Operations to perform:", *(f"  Applying app.{number:04}_x... OK" for number in range(30))]
    code = f"import time\nfor line in {lines!r}:\n    print(line, flush=True)\n    time.sleep(0.1)\nraise SystemExit(3)"
    said: list[str] = []
    done = follow([sys.executable, "-c", code], said.append, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout.splitlines()) == (3, lines)
    first = int(said[0].split()[1].rstrip(":"))  # of two that came at once the later one is told
    assert said[0] == f"migration {first}: app.{first - 1:04}_x"
    assert 2 <= len(said) < len(lines), said


def _fail(text: str) -> Iterator[str]:
    yield from ()
    raise ValueError(text)


def test_a_page_in_an_error_s_text_hides_no_frame() -> None:
    """As django-compressor's OfflineGenerationError holds the block that it misses."""
    trial = Trial(site="http://localhost")
    page = "\n".join(["missing:", "x" * 1000, *["<p>a line</p>"] * 400])
    with pytest.raises(ValueError, match="missing") as raised:
        next(_fail(page))
    trial.failed(raised.value)
    lines = trial.failure.splitlines()
    assert "test_gate.py" in trial.failure
    assert lines[-1] == "…"
    assert len(lines) < 20
    assert max(map(len, lines)) < 400
