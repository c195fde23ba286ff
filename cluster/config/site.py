"""The keys of `cluster:site`: nginx's server, as the internet meets it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from cluster.acme import CHALLENGES
from cluster.config.kinds import (
    DirectoryUrl,
    EmailText,
    HeaderName,
    HeaderValue,
    KeyId,
    LocationPath,
    Model,
    Network,
    PathPrefix,
    PathText,
    Port,
    Rate,
    Realm,
    RedirectSource,
    RedirectTarget,
    ServerName,
    SharedAddresses,
    SnippetText,
    text_enum,
)
from cluster.config.limits import Burst, Method, PasswordBurst, limit_refusals
from cluster.config.redirects import path_redirects, redirect_refusals
from cluster.config.refusing import KEY, Refusal, refuse
from cluster.config.snippets import own_locations, parsed, snippet_refusals
from cluster.config.units import Duration, Size
from cluster.endpoints import HTTPS
from cluster_runtime.checks import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Of Let's Encrypt (https://letsencrypt.org/docs/acme-protocol-updates/).
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"

#: Below this browsers' list of sites that are https alone takes none (https://hstspreload.org).
PRELOADED_SECONDS = 31_536_000

#: What a reload costs clients of HTTP/3, as docs/tls.md counts it.
HTTP3_LOSES = (
    "each reload of nginx loses requests that clients ask by HTTP/3 (40 of 6,727 over 21 reloads, docs/tls.md): "
    "set discard_http3_requests: true to accept that"
)

#: An IP address: no name ends with a label of digits alone, and none has a colon.
_ADDRESS = re.compile(r".*[:].*|(.*\.)?[0-9]+")


class CertificateFiles(Model):
    """A certificate that somebody else renews; paths from the repository's root."""

    certificate: PathText = Field(
        description="PEM: the site's certificate, and after it those of the authorities between it and a root."
    )
    key: PathText = Field(description="PEM: its private key, without a passphrase; read by `up`, and given to nginx.")


class Acme(Model):
    """A certificate by ACME, as Let's Encrypt gives them: ordered and renewed beside nginx, by HTTP-01."""

    email: EmailText | None = Field(None, description="Where the authority may write to, if it does.")
    directory: DirectoryUrl = Field(
        LETS_ENCRYPT,
        description="The authority's directory. Whoever names one, or takes the default, agrees to its terms.",
    )
    directory_ca: PathText | None = Field(
        None,
        description="PEM, a path from the repository's root: who signs the directory's own https; left out: the "
        "authorities that everybody knows.",
    )
    eab: KeyId | None = Field(
        None,
        description="For an authority that takes accounts of those alone whom it knows already (external account "
        "binding): the id of the key that it gave; the key itself is the secret acme_eab_key.",
    )


class Hsts(Model):
    """Strict-Transport-Security: browsers that were here once ask by https alone from then on."""

    max_age: Duration = Field(description="For how long; there is no way back before it is over.")
    include_subdomains: bool = Field(False, description="For all names below the site's too.")
    preload: bool = Field(False, description="Ask to be on the list that browsers bring along.")

    @model_validator(mode="after")
    def _preloadable(self) -> Self:
        if self.preload and not (self.include_subdomains and self.max_age.seconds >= PRELOADED_SECONDS):
            raise PydanticCustomError(
                "hsts", "preload needs include_subdomains and a max_age of a year, 365d (https://hstspreload.org)"
            )
        return self


class Tls(Model):
    """TLS: https on a port of its own, to which the plain one then sends every visitor."""

    listen: Port = Field(8443, description="The port of https.")
    self_signed: bool = Field(
        False,
        description="A certificate by an authority of the stack's own, which a browser is told to trust once: for "
        "development.",
    )
    public_port: Port | None = Field(
        None,
        description="The port by which clients reach https, where something forwards it to `listen`; plain http leads "
        "there. Default: 443 where forwarded_ports names it, else `listen`.",
    )
    files: CertificateFiles | None = Field(None, description="A certificate that somebody else renews.")
    acme: Acme | None = Field(None, description="A certificate by ACME, renewed by itself; {} is one by Let's Encrypt.")
    http2: bool = Field(True, description="Speak HTTP/2 with clients that can.")
    http3: bool = Field(
        False,
        description="Speak HTTP/3 with clients that can, by UDP on the same port, and tell them so (Alt-Svc): by an "
        "nginx from 1.26 on, built with it. Reloads lose requests of theirs: it needs discard_http3_requests.",
    )
    discard_http3_requests: bool = Field(
        False,
        description="Let each reload of nginx lose requests that are asked by HTTP/3, as nginx has no way to keep "
        "them; those by HTTP/1.1 and HTTP/2 are kept.",
    )
    hsts: Hsts | None = Field(None, description="Strict-Transport-Security; left out: what the project says.")

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        if [self.self_signed, self.files is not None, self.acme is not None].count(True) != 1:
            raise PydanticCustomError("certificate", "needs a certificate: one of self_signed: true, files and acme")
        return self

    @model_validator(mode="after")
    def _told_what_is_lost(self) -> Self:
        if self.http3 and not self.discard_http3_requests:
            refuse([Refusal(("http3",), HTTP3_LOSES, self.http3)])
        return self


#: What search engines read first.
ROBOTS = "/robots.txt"


class Robots(StrEnum):
    """What search engines are asked to do."""

    NONE = "none"


class Location(Model):
    """A path that the project answers otherwise than the rest of the site."""

    path: LocationPath = Field(
        description="The path alone, or all below it where it ends with /. Of several the longest that fits."
    )
    client_max_body_size: Size | None = Field(None, description="null: as the site's; 0: no limit.")
    proxy_read_timeout: Duration | None = Field(None, description="null: as the site's.")
    buffering: bool = Field(
        True,
        description="false: nginx passes a request's body and an answer on as they come, instead of taking in all of a "
        "body and what fits of an answer first. A slow client then holds a thread of an instance.",
    )
    limit: Rate | None = Field(
        None, description="How many requests one address may send here in a time, in place of site.limit; null: that."
    )
    burst: Burst = None
    limit_methods: Annotated[list[Annotated[Method, text_enum(Method)]], Field(max_length=10)] = Field(
        default_factory=list,
        description="What that limit counts: [POST] are the tries of a login, and not who looks at its page. Others "
        "count by site.limit. Default: all.",
    )
    auth_basic: bool = Field(
        True,
        description="false: nginx asks for no user here, where it does so for the site (site.auth_basic), and passes "
        "Authorization on: webhooks, an API with tokens.",
    )


def _http_snippet(text: str) -> str:
    refuse(snippet_refusals(text, "http"))
    return text


def _server_snippet(text: str) -> str:
    refuse(snippet_refusals(text, "server"))
    return text


class Snippets(Model):
    """nginx's own text, beside what is rendered."""

    http: Annotated[SnippetText, AfterValidator(_http_snippet)] | None = Field(
        None, description="In http, before the site: zones, maps, upstreams."
    )
    server: Annotated[SnippetText, AfterValidator(_server_snippet)] | None = Field(
        None, description="In the site's server, after all else."
    )


class Site(Model):
    """nginx's server."""

    server_names: Annotated[list[ServerName], Field(min_length=1)] = Field(
        description="nginx's server_name and Django's ALLOWED_HOSTS; the first is the site's own."
    )
    listen: Port = Field(8080, description="The port of plain http.")
    ipv6: bool = Field(
        False,
        description="Listen on these ports by IPv6 too ([::], which nginx refuses on a machine whose kernel has none). "
        "All addresses of one /64, which is a client's own network, count as one address.",
    )
    address: SharedAddresses | None = Field(
        None,
        description="The address that visitors come to where several hosts have the role nginx: one of them holds it, "
        "and another one takes it when that one or its nginx dies (keepalived). One of IPv4, one of IPv6, or both, "
        "without a prefix: each host is on its network already. null: the site's names lead to each host.",
    )
    tls: Tls | None = Field(None, description="https; left out: plain http alone.")
    forwarded_ports: Annotated[list[Port], Field(max_length=100)] = Field(
        default_factory=list,
        description="Other ports by which clients reach the site, where something forwards them. A request whose Host "
        "names a port that is none of the site's is answered with 400.",
    )
    trusted_proxies: list[Network] = Field(
        default_factory=list,
        description="Load balancers and CDNs before nginx, by their addresses or networks: the client's address and "
        "scheme are what they say (X-Forwarded-For, X-Forwarded-Proto), and nobody else is believed.",
    )
    proxy_protocol: bool = Field(
        False,
        description="What is before nginx says the client's address by the PROXY protocol, on every connection; it is "
        "believed where it is a trusted proxy, and nobody is served without it.",
    )
    instance_ports: Port | None = Field(
        None,
        description="The first instance alone answers on 127.0.0.1 at this port, the second on the next, and so on.",
    )
    client_max_body_size: Size = Field(Size.parse("1m"), description="nginx's own default; 0: no limit.")
    proxy_read_timeout: Duration = Field(
        Duration.parse("60s"), description="nginx's: how long an instance may be silent within a response."
    )
    connections_per_address: int = Field(
        1024,
        ge=0,
        le=65535,
        description="How many requests one address may have at a time (HTTP/1: connections that are in a request, "
        "WebSockets among them); more are answered with 429. The default is an office of a thousand people behind one "
        "address with a WebSocket each. 0: no limit, which a site behind a proxy needs that is none of "
        "trusted_proxies, as all its visitors come from few addresses.",
    )
    limit: Rate | None = Field(
        None,
        description="How many requests one address may send in a second (10r/s) or a minute (30r/m), files that nginx "
        "serves aside; more are answered with 429. null: any number.",
    )
    burst: Burst = None
    access_log: bool = Field(True, description="Write logs/access.log.")
    static_url: PathPrefix | None = Field(
        "/static/",
        description="The project's STATIC_URL, served by nginx itself; null: nginx serves no static files.",
    )
    redirects: Annotated[dict[RedirectSource, RedirectTarget], Field(max_length=500)] = Field(
        default_factory=dict,
        description="Names and paths that lead elsewhere, with status 308: a host name to one of server_names; a path, "
        "or all below it where it ends with /, to a path or to another site. What follows and the query are kept.",
    )

    locations: Annotated[list[Location], Field(max_length=100)] = Field(
        default_factory=list, description="Paths with sizes, times and limits of their own."
    )
    snippets: Snippets = Field(
        default_factory=lambda: Snippets(http=None, server=None),
        description="nginx's own text, for what has no key.",
    )
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=100)] = Field(
        default_factory=dict,
        description="Headers of every answer, errors among them, but where the project's own answer has that header "
        "already.",
    )
    robots: Annotated[Robots, text_enum(Robots)] | None = Field(
        None,
        description="none: search engines are asked to keep away, by the header X-Robots-Tag of every answer and by "
        "/robots.txt; null: what the project says.",
    )

    auth_basic: Realm | None = Field(
        None,
        description="nginx's: the realm, as browsers show it. Each visitor is asked for a user and a password, which "
        "the secret auth_basic_users names; Authorization is not passed on to the project then. null: nobody is asked.",
    )
    auth_basic_limit: Rate | None = Field(
        None,
        description="How many requests with a password one address may send in a time, right or wrong, before nginx "
        "looks at it; more are answered with 429. null: any number.",
    )
    auth_basic_burst: PasswordBurst = None

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.tls is not None and self.tls.listen == self.listen:
            raise PydanticCustomError("ports", "tls.listen and listen are both {port}", {"port": self.listen})
        return self

    @model_validator(mode="after")
    def _somebody_speaks_it(self) -> Self:
        if self.proxy_protocol and not self.trusted_proxies:
            raise PydanticCustomError("proxies", "proxy_protocol needs trusted_proxies: who else would be believed?")
        if self.proxy_protocol and self.http3:
            refuse([Refusal(("tls", "http3"), "nginx takes no PROXY protocol by QUIC (site.proxy_protocol)", True)])
        return self

    @property
    def scheme_is_told(self) -> bool:
        """Whether a proxy before nginx tells a client's scheme; by the PROXY protocol it tells none."""
        return bool(self.trusted_proxies) and not self.proxy_protocol

    @property
    def acme(self) -> Acme | None:
        """How the site's certificate comes by ACME; None where it comes otherwise, or there is none."""
        return self.tls.acme if self.tls is not None else None

    @property
    def http3(self) -> bool:
        """Whether nginx speaks HTTP/3 with clients."""
        return self.tls is not None and self.tls.http3

    @property
    def https_port(self) -> int | None:
        """The port by which clients reach https; None where the site has none."""
        if self.tls is None:
            return None
        return self.tls.public_port or (HTTPS if HTTPS in self.forwarded_ports else self.tls.listen)

    @property
    def listeners(self) -> dict[int, str]:
        """The ports on which the site answers, each with its key: the plain one, and that of https."""
        return {self.listen: "site.listen", **({self.tls.listen: "site.tls.listen"} if self.tls else {})}

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        static = {self.static_url: "where nginx serves static files (site.static_url)"} if self.static_url else {}
        robots = {ROBOTS: "where nginx answers itself (site.robots)"} if self.robots else {}
        refuse(
            [
                *redirect_refusals(self.redirects, self.server_names),
                *_header_refusals(self),
                *_location_refusals(self),
                *limit_refusals(self),
                *_user_refusals(self),
                *_snippet_refusals(self),
                *_acme_refusals(self),
                *path_refusals(self, static | robots),
            ]
        )
        return self


def _header_refusals(site: Site) -> Iterator[Refusal]:
    seen: dict[str, str] = {"x-robots-tag": "site.robots"} if site.robots else {}
    seen |= {"alt-svc": "site.tls.http3"} if site.http3 else {}
    for name in site.headers:
        if name.lower() in seen:
            yield Refusal(("headers", name, KEY), f"is said by {seen[name.lower()]} already", name)
        seen.setdefault(name.lower(), name)


def _acme_refusals(site: Site) -> Iterator[Refusal]:
    """Yield the names that no authority can look at by HTTP-01."""
    if site.acme is None:
        return
    by_redirect = [name for name in site.redirects if not name.startswith("/")]
    listed = [(("server_names", number), name) for number, name in enumerate(site.server_names)]
    for at, name in [*listed, *((("redirects", name, KEY), name) for name in by_redirect)]:
        problem = None
        if name == "_":
            problem = "is any name, and acme gives certificates for those that it is told"
        elif name.startswith((".", "*")):
            problem = (
                "is a wildcard, which authorities give by DNS-01 alone, and acme here asks by HTTP-01: name each, or "
                "give a certificate by site.tls.files"
            )
        elif _ADDRESS.fullmatch(name):
            problem = "is an address, and acme gives certificates for names: give one by site.tls.files"
        if problem is not None:
            yield Refusal(at, problem, name)
    for number, location in enumerate(site.locations):
        if location.path.startswith(CHALLENGES):
            yield Refusal(("locations", number, "path"), "is the authority's (site.tls.acme)", location.path)


def _location_refusals(site: Site) -> Iterator[Refusal]:
    seen: set[str] = set()
    for number, location in enumerate(site.locations):
        path = location.path
        problem = None
        if path == "/":
            problem = "is the whole site: say this in cluster:site itself"
        elif path in seen:
            problem = "stands here twice"
        elif path.startswith(PREFIX):
            problem = "is the runtime's and never public"
        elif "//" in path or {".", ".."} & set(path.split("/")):
            problem = "nginx resolves //, . and .. before it looks for a path, so this one never matches"
        elif leads := next((one.source for one in path_redirects(site.redirects) if one.covers(path)), None):
            problem = f"is redirected already, by {leads} of site.redirects"
        if problem is not None:
            yield Refusal(("locations", number, "path"), problem, path)
        seen.add(path)


def _snippet_refusals(site: Site) -> Iterator[Refusal]:
    own = {one.path.rstrip("/") for one in site.locations}
    for line, modifier, path in own_locations(site.snippets.server or ""):
        if path == "/" and modifier in ("", "^~"):
            yield _taken_location(line, path, "which passes on to the instances what has no other location")
        elif path.startswith("/") and path.rstrip("/") in own:
            yield _taken_location(line, path, "which is one of site.locations")


def _user_refusals(site: Site) -> Iterator[Refusal]:
    if site.auth_basic is None:
        for number, location in enumerate(site.locations):
            if not location.auth_basic:
                message = "is without what the site has not: site.auth_basic asks nobody"
                yield Refusal(("locations", number, "auth_basic"), message, location.auth_basic)
        return
    for directive in parsed(site.snippets.server or "")[0]:
        if directive["directive"] in {"auth_basic", "auth_basic_user_file"}:
            message = f"line {directive['line']}: {directive['directive']} is said by site.auth_basic already"
            yield Refusal(("snippets", "server"), message, " ".join(directive["args"]))


def _taken_location(line: int, path: str, what: str) -> Refusal:
    return Refusal(("snippets", "server"), f"line {line}: the location {path} is there already, {what}", path)


def path_refusals(site: Site, taken: Mapping[str, str]) -> Iterator[Refusal]:
    """Yield what a site says of paths of which nginx does something else. taken: these, each with what that is."""
    for path, what in taken.items():
        for one in path_redirects(site.redirects):
            if one.covers(path) or is_of(one.source, path):
                message = f"would take {_named(path)}, {what}"
                yield Refusal(("redirects", one.source, KEY), message, one.source)
        for number, location in enumerate(site.locations):
            if is_of(location.path, path) or location.path == f"{path}/":
                yield Refusal(("locations", number, "path"), f"would take {_named(path)}, {what}", location.path)
        for line, _modifier, other in own_locations(site.snippets.server or ""):
            if other == path:
                yield _taken_location(line, path, what)


def is_of(path: str, taken: str) -> bool:
    """Tell whether a path is taken: by itself, or below one that ends with /."""
    return path.startswith(taken) if taken.endswith("/") else path == taken


def _named(taken: str) -> str:
    return f"what is below {taken}" if taken.endswith("/") else taken
