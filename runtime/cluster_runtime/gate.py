"""Looks at a site as a visitor would: `python -m cluster_runtime.gate --socket NEW [--former SERVING]`.

Each page (`app.health.pages`) is asked for with the site's own Host and scheme, redirects within the site are followed,
and of an HTML page the style sheets, the scripts and the first picture that lie below STATIC_URL are looked for. What
a release does not do for a visitor, and the serving one does, keeps it from its name: an answer of 500, a redirect that
leads back to itself, a file that is missing. Every line of the output is a problem, or a frame of its traceback; the
exit status is 1 then. `cluster verify` looks through nginx by the same class.
"""

from __future__ import annotations

import argparse
import http.client
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.trial import SERVER_ERROR, UNAVAILABLE, VISITOR, passed_on
from cluster_runtime.unix_http import UnixConnection
from cluster_runtime.untrusted_json import object_in

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds that a page may take. The first request of a process is the slowest.
TIMEOUT = 30.0

#: Seconds until a page that failed is asked for again: what fails once may have been another's fault.
AGAIN = 1.0

#: Redirects that are followed, and bytes of a page that are read.
MOST_REDIRECTS, MOST_BYTES = 10, 2_000_000

#: Style sheets and scripts of one page that are looked for. Without one of them it may be of no use.
MOST_FILES = 30

#: What stands in a request's path as it is; `%` begins what is quoted already.
KEPT_IN_PATHS = "/?%:@!$&'()*+,;=~[]"

#: What there is to do where Django leads everybody to www. and nginx does not know that name.
PREPEND_WWW = "whose name is not in site.server_names: add it there, or set PREPEND_WWW to False for this stack"

REDIRECTS = (301, 302, 303, 307, 308)

#: What ManifestStaticFilesStorage, and webpack, put into a file's name.
HASH = re.compile(r"[.-][0-9a-f]{8,}(?=\.)")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response, as far as it matters here."""

    status: int
    location: str = ""
    html: str = ""
    cookies: dict[str, str] = field(default_factory=dict)


#: Asks for a URL of the site's, with cookies; raises OSError or HTTPException where no answer comes.
Ask = Callable[[str, dict[str, str]], Answer]


@dataclass(frozen=True, kw_only=True)
class Site:
    """What an instance says of the site (`/-/probe/site`, cluster_runtime.facts)."""

    site: str
    hosts: tuple[str, ...] = ()
    pages: tuple[str, ...] = ("/",)
    unrouted: tuple[str, ...] = ()
    static_url: str = ""
    static_root: str = ""
    static_here: bool = False
    served_static_url: str = ""
    ssl_redirect: bool = False
    prepend_www: bool = False
    websocket: str | None = None

    @classmethod
    def read(cls, said: dict[str, Any]) -> Site:
        """Read what an instance said."""
        lists = {name: tuple(said[name]) for name in ("hosts", "pages", "unrouted")}
        known = {name: value for name, value in said.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, **lists})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a visitor of a page meets. `url` is what failed."""

    page: str
    kind: str
    url: str
    text: str
    hint: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same fault in another release."""
        path = HASH.sub("", urlsplit(self.url).path) if self.kind == "file" else ""
        return (self.page, self.kind, path)


class Visitor:
    """Somebody who looks at pages of a site. `files`: look for files where nginx serves them from, not by requests."""

    def __init__(self, site: Site, ask: Ask, *, files: bool) -> None:
        self.site = site
        self.ask = ask
        self.files = files
        self.statuses: dict[str, int] = {}

    def look(self, page: str) -> list[Fault]:
        """Return what is wrong with a page; asked again where it failed."""
        faults = self._look(page)
        if any(fault.kind == "error" for fault in faults):
            time.sleep(AGAIN)
            faults = self._look(page)
        return faults

    def _look(self, page: str) -> list[Fault]:
        url = urljoin(self.site.site + "/", page)
        try:
            url, answer = self._follow(url)
        except _Loop as loop:
            return [self._loop(page, str(loop))]
        except _Nowhere as nowhere:
            return [Fault(page=page, kind="loop", url=url, text=f"GET {page} leads to {nowhere}")]
        except (OSError, http.client.HTTPException) as error:
            text = f"GET {page}: {'no answer in time' if isinstance(error, TimeoutError) else error!r}"
            return [Fault(page=page, kind="error", url=url, text=text)]
        self.statuses[page] = answer.status
        led = "" if _path(url) == page else f" leads to {_path(url)}, which"
        if page in self.site.unrouted and not led and answer.status >= http.HTTPStatus.BAD_REQUEST:
            return []  # the project has no such page, and its page for what is not found does not decide
        if answer.status >= SERVER_ERROR and answer.status != UNAVAILABLE:
            return [Fault(page=page, kind="error", url=url, text=f"GET {page}{led} is answered with {answer.status}")]
        return list(self._missing(page, url, answer.html))

    def _follow(self, url: str) -> tuple[str, Answer]:
        """Follow redirects as long as they lead within the site; return the last URL and its answer."""
        cookies: dict[str, str] = {}
        seen = set()
        for _redirect in range(MOST_REDIRECTS):
            seen.add((url, tuple(sorted(cookies.items()))))
            answer = self.ask(url, cookies)
            if answer.status not in REDIRECTS or not answer.location:
                return url, answer
            cookies |= answer.cookies
            there = _joined(url, answer.location)
            if there is None:
                raise _Nowhere(f"{answer.location}, which is no address")
            if self._is_own_by_www(there):
                raise _Nowhere(f"{there}, {PREPEND_WWW}")
            if (there, tuple(sorted(cookies.items()))) in seen:
                raise _Loop(there)
            if self._is_own_by_tls(there):
                raise _Loop(there)
            if not self._is_own(there):
                return url, answer
            url = there
        raise _Loop(url)

    def _is_own(self, url: str) -> bool:
        own, parts = urlsplit(self.site.site), urlsplit(url)
        return self._is_known(parts.hostname) and (parts.scheme, parts.port) == (own.scheme, own.port)

    def _is_known(self, host: str | None) -> bool:
        """Tell whether a host is one of the site's names; one that begins with a dot is that domain, and all below."""
        own = urlsplit(self.site.site).hostname
        below = any(name.startswith(".") and f".{host}".endswith(name) for name in self.site.hosts)
        return host == own or host in self.site.hosts or below

    def _is_own_by_tls(self, url: str) -> bool:
        """Tell whether a URL is of this site, but by TLS where the site has none: nobody answers there."""
        own, parts = urlsplit(self.site.site), urlsplit(url)
        return self._is_known(parts.hostname) and (own.scheme, parts.scheme) == ("http", "https")

    def _is_own_by_www(self, url: str) -> bool:
        """Tell whether Django puts www. before the site's own name, by which nginx does not know it."""
        host = urlsplit(url).hostname
        led = self.site.prepend_www and host == f"www.{urlsplit(self.site.site).hostname}"
        return led and not self._is_known(host) and "*" not in self.site.hosts

    def _loop(self, page: str, there: str) -> Fault:
        if not self._is_own_by_tls(there):
            return Fault(page=page, kind="loop", url=there, text=f"GET {page} leads back to itself ({_path(there)})")
        setting = "SECURE_SSL_REDIRECT" if self.site.ssl_redirect else "The project's redirect to https"
        return Fault(
            page=page,
            kind="loop",
            url=there,
            text=f"GET {page} leads to {there}, and this stack answers without TLS: a visitor is led there again and "
            "again",
            hint=f"{setting} must be off for this stack: set it to False in the settings that app.settings names, or "
            "by app.environment where they read it from there.",
        )

    # --- a page's files

    def _missing(self, page: str, url: str, html: str) -> Iterator[Fault]:
        for found in _references(html, url):
            reference = self._static(found)
            if reference is None or self._is_there(reference):
                continue
            collected = " among the collected static files" if self._is_served(reference) and self.files else ""
            yield Fault(
                page=page,
                kind="file",
                url=reference,
                text=f"GET {page} names {_path(reference)}, which is not there{collected}",
                hint="Is it in STATICFILES_DIRS or an app's static/, and made before the release "
                "(app.release_commands)?",
            )

    def _static(self, url: str) -> str | None:
        """Return a URL where it is one of a static file that can be judged."""
        base = urljoin(self.site.site + "/", self.site.static_url) if self.site.static_url else None
        if (base and url.startswith(base)) or self._is_served(url):
            elsewhere = not self._is_own(url)
            return None if elsewhere and not (self.files and self.site.static_here) else url
        return None

    def _is_served(self, url: str) -> bool:
        """Tell whether nginx answers for a URL by itself, from the collected files."""
        served = self.site.served_static_url
        return bool(served) and self._is_own(url) and urlsplit(url).path.startswith(served)

    def _is_there(self, url: str) -> bool:
        path = urlsplit(url).path
        if self.files and self._is_served(url):
            return _is_file(self.site.static_root, path.removeprefix(self.site.served_static_url))
        prefix = urlsplit(urljoin(self.site.site + "/", self.site.static_url)).path
        if self.files and not self._is_own(url) and _is_file(self.site.static_root, path.removeprefix(prefix)):
            return True  # whoever serves it takes it from there
        try:
            return self.ask(urljoin(self.site.site + "/", path), {}).status < http.HTTPStatus.BAD_REQUEST
        except (OSError, http.client.HTTPException):
            return False


class _Loop(Exception):  # noqa: N818 - a state, not a mistake
    """A redirect leads to where somebody has been."""


class _Nowhere(Exception):  # noqa: N818 - a state, not a mistake
    """A redirect leads to where nobody answers; the text says where, and why."""


def _is_file(root: str, path: str) -> bool:
    try:
        return not root or (Path(root) / unquote(path).lstrip("/")).is_file()
    except OSError:
        return False  # no file has a name so long


def _joined(base: str, reference: str) -> str | None:
    """Return the URL that a page or a redirect names; None where a browser would make none of it either."""
    try:
        url = urljoin(base, reference.strip()).partition("#")[0]
        urlsplit(url).port  # noqa: B018 - read only here, and no number perhaps
    except ValueError:
        return None
    return url


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


class _References(HTMLParser):
    """Collects what a page names: style sheets, scripts, pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.files: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        match tag:
            case "base":
                self.base = self.base or values.get("href", "")
            case "link":
                url = values.get("href", "")
                sheet = "stylesheet" in values.get("rel", "").lower().split() or urlsplit(url).path.endswith(".css")
                self.files += [url] if url and sheet else []
            case "script":
                self.files += [values["src"]] if values.get("src") else []
            case "img":
                self.pictures += [values["src"]] if values.get("src") else []
            case _:
                pass

    def parse_marked_section(self, start: int, report: int = 1) -> int:
        """Take `<![…>` for a comment, as browsers do: Python's own parser raises where it does not know the word."""
        return self.parse_bogus_comment(start, report=bool(report))


def _references(html: str, url: str) -> list[str]:
    """Return the URLs of a page's style sheets and scripts, and of its pictures the first."""
    parser = _References()
    parser.feed(html)
    base = _joined(url, parser.base) or url
    found = [_joined(base, reference) for reference in (*parser.files[:MOST_FILES], *parser.pictures[:1])]
    return list(dict.fromkeys(reference for reference in found if reference is not None))


# --- asking


def asker(connect: Callable[[], http.client.HTTPConnection], headers: Callable[[str], dict[str, str]]) -> Ask:
    """Return what asks for URLs over a connection of its own each; `headers` are those for a URL."""

    def ask(url: str, cookies: dict[str, str]) -> Answer:
        sent = {
            "Host": urlsplit(url).netloc,
            **VISITOR,
            "Connection": "close",
            **({"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}),
            **headers(url),
        }
        connection = connect()
        try:
            connection.request("GET", quote(_path(url) or "/", safe=KEPT_IN_PATHS), headers=sent)
            response = connection.getresponse()
            is_html = response.headers.get_content_type() in ("text/html", "application/xhtml+xml")
            html = _read(response) if is_html else ""
            return Answer(
                status=response.status,
                location=response.headers.get("Location", ""),
                html=html,
                cookies=_cookies(response.headers.get_all("Set-Cookie") or []),
            )
        finally:
            connection.close()

    return ask


def _read(response: http.client.HTTPResponse) -> str:
    """Read a page, of one that goes on for ever what comes within the time that a page may take."""
    deadline, read = time.monotonic() + TIMEOUT, b""
    while len(read) < MOST_BYTES and time.monotonic() < deadline:
        part = response.read1(MOST_BYTES)
        if not part:
            break
        read += part
    try:
        return read.decode(response.headers.get_content_charset("utf-8"), "replace")
    except LookupError:
        return read.decode("utf-8", "replace")


def _cookies(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        try:
            found |= {name: morsel.coded_value for name, morsel in SimpleCookie(line).items()}
        except CookieError:
            continue  # as browsers do
    return found


def ask_instance(socket: Path) -> Ask:
    """Return what asks an instance as nginx does, for a visitor."""
    return asker(lambda: UnixConnection(str(socket), TIMEOUT), passed_on)


def probe(socket: Path, url: str) -> dict[str, Any]:
    """Return what the runtime of an instance says; nothing where it does not know the URL, or does not answer."""
    connection = UnixConnection(str(socket), TIMEOUT)
    try:
        connection.request("GET", url, headers={"Host": "localhost", "Connection": "close"})
        response = connection.getresponse()
        said = object_in(response.read(MOST_BYTES))
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return said if response.status == http.HTTPStatus.OK and said is not None else {}


# --- judging


def judge(new: Path, former: Path | None) -> list[str]:
    """Return why the release that listens at `new` must not serve; nothing where it may."""
    said = probe(new, "/-/probe/site")
    if not said:
        return ["app.health.pages: the new instance does not say which pages there are"]
    site = Site.read(said)
    visitor = Visitor(site, ask_instance(new), files=True)
    faults = [fault for page in site.pages for fault in visitor.look(page)]
    statuses: dict[str, int] = {}
    if faults and former is not None:
        said = probe(former, "/-/probe/site")
        serving = Visitor(Site.read(said) if said else site, ask_instance(former), files=bool(said))
        known = {fault.key for page in dict.fromkeys(f.page for f in faults) for fault in serving.look(page)}
        statuses = serving.statuses
        faults = [fault for fault in faults if fault.key not in known]
    return [line for fault in faults for line in _told(fault, new, statuses)]


def _told(fault: Fault, new: Path, statuses: dict[str, int]) -> Iterator[str]:
    serving = f"; the serving release answers {statuses[fault.page]}" if fault.page in statuses else ""
    yield f"app.health.pages: {fault.text}{serving}"
    if fault.kind == "error":
        failure = probe(new, f"/-/probe/failure?path={quote(_path(fault.url), safe='/')}").get("failure", "")
        yield from (f"    {line}" for line in str(failure).splitlines())
    if fault.hint:
        yield f"    {fault.hint}"


def serving_socket(sockets: Path, but: str) -> Path | None:
    """Return the socket of a living process that holds a name, and is of another release than `but`."""
    for directory in sorted(path for path in sockets.iterdir() if path.is_dir()) if sockets.is_dir() else ():
        name = InstanceLink(sockets, directory.name)
        holder = name.holder()
        if holder is not None and holder.partition(".")[0] != but and name.alive(holder):
            return name.socket(holder)
    return None


def main(arguments: list[str] | None = None) -> int:
    """Judge a release by its socket; print why it must not serve."""
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.gate", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where an instance of the release listens")
    parser.add_argument("--former", type=Path, help="where one of the release that serves does")
    options = parser.parse_args(arguments)
    lines = judge(options.socket, options.former)
    print("\n".join(lines), end="")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
