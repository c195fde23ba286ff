"""Proves with real requests that a cluster does what its stack file says. The same on every platform.

What a platform must bring is in `Endpoints`: those of nginx's internal socket, to each instance's own, and to the site.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import os
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx

from cluster.answers import BoundedTransport
from cluster.asking import SENSELESS, TIMEOUT
from cluster.checks import Check
from cluster.config.models import Method
from cluster.config.site import is_of
from cluster.config.snippets import own_directives
from cluster.endpoints import Endpoint
from cluster.render.maintenance import LOCATION
from cluster.tls.verify import Connection, Https
from cluster.topology import Topology, exact_shares, percent, site_host, site_url
from cluster_runtime.gate import Site, Visitor, asker
from cluster_runtime.unfollowed import printable
from cluster_runtime.untrusted_json import object_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

#: Requests to measure shares with: this many rounds of the sum of weights, within these bounds.
ROUNDS, FEWEST, FEWEST_BY_CHANCE, MOST = 2, 20, 200, 3000

#: How often the shares are measured again where other traffic may have come between.
ATTEMPTS = 3

#: What a share may differ from its weight's where nginx's method is not exact, in standard deviations.
DEVIATIONS = 4

SERVER_ERROR = 500

#: This machine, by IPv4 and by IPv6.
LOOPBACK, LOOPBACK_IPV6 = "127.0.0.1", "::1"

#: Why a page is answered with 503, where nginx keeps visitors out.
MAINTAINED = "the site is in maintenance"


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a cluster is reached from here.

    internal: where nginx passes probes to the instances.
    instances: each instance's own, by name.
    site: where the site answers.
    release: the release that should serve.
    intruders: tells what listens though it must not (a line each).
    counted_twice: the instances whose requests pass the same nginx once more.
    authority: signs the site's certificate, PEM; empty where that is a public one, or there is none.
    ways: where the site's ports are reached from here, by these, where that is not at the site itself.
    """

    internal: Endpoint
    instances: Mapping[str, Endpoint]
    site: Endpoint
    release: str
    intruders: Callable[[], list[str]]
    counted_twice: Collection[str] = ()
    authority: str = ""
    ways: Mapping[int, Endpoint] = field(default_factory=dict)


class Ways:
    """The ways to a cluster, and a connection to each endpoint that is kept: a new one may be a process there."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._clients: dict[Endpoint, httpx.Client] = {}

    def client(self, endpoint: Endpoint) -> httpx.Client:
        """Return what asks there: any host of a URL is it."""
        if endpoint not in self._clients:
            transport = BoundedTransport(endpoint)
            self._clients[endpoint] = httpx.Client(transport=transport, timeout=TIMEOUT, trust_env=False)
        return self._clients[endpoint]

    def instance(self, name: str) -> httpx.Client:
        """Return what asks an instance by its own socket."""
        return self.client(self.endpoints.instances[name])

    def internal(self) -> httpx.Client:
        """Return what asks through nginx's internal socket."""
        return self.client(self.endpoints.internal)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()


def verify(topology: Topology, endpoints: Endpoints) -> list[Check]:
    """Check everything; the first failure does not stop the rest."""
    # Who listens is asked of the machines, and takes its time, while the cluster is asked over its own sockets.
    with contextlib.closing(Ways(endpoints)) as ways, ThreadPoolExecutor(max_workers=1) as aside:
        listening = aside.submit(_checks, _closed, topology, ways)
        parts = (_site, _tls, _instances, _shares, _sessions)
        return [check for part in parts for check in _checks(part, topology, ways)] + listening.result()


def _checks(part: Callable[[Topology, Ways], Iterable[Check]], topology: Topology, ways: Ways) -> list[Check]:
    """Return the checks of a part; one that says why, where it could not look."""
    try:
        return list(part(topology, ways))
    except (httpx.HTTPError, http.client.HTTPException, OSError, *SENSELESS) as error:
        name, found = part.__name__.lstrip("_"), f"{type(error).__name__}: {error}"
        return [Check(name=name, ok=False, expected="an answer", found=found)]


def _said_of_site(topology: Topology, ways: Ways) -> Site:
    """Return what an instance says of the site; where none says it, what the stack file does."""
    for name in topology.names:
        said = _said(ways, name)
        if said:
            return Site.read(said)
    return Site(site=site_url(topology.config).rstrip("/"), hosts=(site_host(topology.config),))


def _said(ways: Ways, name: str) -> dict[str, Any] | None:
    try:
        response = ways.instance(name).get("http://localhost/-/probe/site")
    except httpx.HTTPError:
        return None
    return object_in(response.content) if response.status_code == httpx.codes.OK else None


def _site(topology: Topology, ways: Ways) -> Iterator[Check]:
    """Look at the site as a visitor does, through nginx."""
    site = _said_of_site(topology, ways)
    there = ways.endpoints.site
    maintained = _is_maintained(ways)
    if maintained:
        yield Check(name="maintenance", ok=None, expected="off", found="on: visitors get 503 in place of the site")

    https = _https(topology, ways)

    def connect() -> http.client.HTTPConnection:
        proxied = topology.config.site.proxy_protocol
        if https is not None:
            return Connection(https.there, https.name, proxied=proxied)
        return Connection(ways.endpoints.ways.get(there.port) or there, None, proxied=proxied)

    asks = topology.config.site.auth_basic is not None and not maintained
    if asks:
        yield _asks_for_a_user(topology, site, connect)

    visitor = Visitor(site, asker(connect, lambda _url: {}), files=False)
    for page in () if asks else site.pages or ("/",):  # what keeps no release back is still what a visitor sees
        https_elsewhere = https is None and topology.config.site.scheme_is_told
        unavailable = MAINTAINED if maintained else "the project says so by itself"
        yield from _page(visitor, page, unavailable, https=https_elsewhere)
    if site.websocket is not None and not maintained:
        yield _websocket(connect, site.site, site.websocket)
    if topology.config.site.ipv6 and there.host == LOOPBACK:
        yield by_ipv6(topology, site, there)
    statuses = {"": _health(connect(), urllib.parse.urlsplit(site.site).netloc)}
    for port in [instance.port for instance in topology.instances] if there.host == LOOPBACK else []:
        if port is not None:
            at = Endpoint(host=LOOPBACK, port=port)
            statuses[f", {at} "] = _health(Connection(at, None, proxied=False), str(at))
    yield Check(
        name="the runtime's pages are not public",
        ok=set(statuses.values()) == {httpx.codes.NOT_FOUND},
        expected="404",
        found=f"GET /-/health {''.join(f'{where}{status}' for where, status in statuses.items())}",
    )


def _health(connection: http.client.HTTPConnection, host: str) -> int:
    """Ask for what is the runtime's, and none of the public's."""
    with contextlib.closing(connection):
        connection.request("GET", "/-/health", headers={"Host": host})
        return connection.getresponse().status


def _asks_for_a_user(topology: Topology, site: Site, connect: Callable[[], http.client.HTTPConnection]) -> Check:
    """See that whoever names no user gets nothing; what is behind that the release was asked for before it served."""
    exempt = {location.path for location in topology.config.site.locations if not location.auth_basic}
    static = [f"{topology.config.site.static_url}x"] if topology.config.site.static_url else []
    found = []
    for path in [page for page in (*(site.pages or ("/",)), *static) if not any(is_of(page, path) for path in exempt)]:
        with contextlib.closing(connect()) as connection:
            connection.request("GET", path, headers={"Host": urllib.parse.urlsplit(site.site).netloc})
            answer = connection.getresponse()
            asked = (answer.headers["WWW-Authenticate"] or "").startswith("Basic ")
            led = answer.status == httpx.codes.PERMANENT_REDIRECT
            found.append((path, answer.status, led or (answer.status == httpx.codes.UNAUTHORIZED and asked)))
    satisfied = own_directives(topology.config.site.snippets.server, "satisfy")  # by the client's address, say
    return Check(
        name="nginx asks for a user",
        ok=all(ok for _, _, ok in found) or (None if satisfied else False),
        expected="401",
        found=", ".join(f"GET {path} {status}" for path, status, _ in found),
    )


def by_ipv6(topology: Topology, site: Site, there: Endpoint) -> Check:
    """Ask for what nginx answers itself: that of the runtime's, which is not public, or the way to https."""
    name, expected = "the site answers by IPv6", "404, or 308 to https"
    there = Endpoint(host=LOOPBACK_IPV6, port=there.port)
    connection = Connection(there, None, proxied=topology.config.site.proxy_protocol)
    try:
        connection.request("GET", "/-/health", headers={"Host": urllib.parse.urlsplit(site.site).netloc})
        status = connection.getresponse().status
    except OSError as error:
        # What can't even begin says nothing of nginx: a machine without this address.
        ok = None if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} else False
        return Check(name=name, ok=ok, expected=expected, found=f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    ok = status in {httpx.codes.NOT_FOUND, httpx.codes.PERMANENT_REDIRECT}
    return Check(name=name, ok=ok, expected=expected, found=f"GET /-/health {status}")


def _https(topology: Topology, ways: Ways) -> Https | None:
    tls, there = topology.config.site.tls, ways.endpoints
    if tls is None:
        return None
    authority = there.authority if tls.self_signed else ""
    return Https(topology=topology, tls=tls, host=there.site.host, authority=authority, ways=there.ways)


def _tls(topology: Topology, ways: Ways) -> Iterator[Check]:
    https = _https(topology, ways)
    if https is not None:
        yield from https.checks()


def _is_maintained(ways: Ways) -> bool:
    """Tell whether nginx keeps visitors out; it says so on its own socket, with a digest of how."""
    answer = ways.internal().get(f"http://localhost{LOCATION}", headers={"Host": "internal"})
    return answer.status_code == httpx.codes.OK and bool(answer.text)


def _page(visitor: Visitor, page: str, unavailable: str, *, https: bool) -> Iterator[Check]:
    """Look at a page.

    unavailable: why it may be answered with 503. https: a proxy before nginx ends TLS, and what is asked here is plain.
    """
    faults = visitor.look(page)
    status = visitor.statuses.get(page)
    name, expected = f"page {page}", "an answer below 500, with its files"
    if https and [fault.kind for fault in faults] == ["loop"]:
        yield Check(name=name, ok=None, expected=expected, found="the project leads to https, which a proxy answers")
    elif faults:
        for fault in faults:
            yield Check(name=name, ok=False, expected=expected, found=f"{fault.text}. {fault.hint}".removesuffix(". "))
    elif status == httpx.codes.SERVICE_UNAVAILABLE:
        yield Check(name=name, ok=None, expected=expected, found=f"GET {page} {status}: {unavailable}")
    else:
        yield Check(name=name, ok=True, expected=expected, found=f"GET {page} {status}")


def _websocket(connect: Callable[[], http.client.HTTPConnection], site: str, path: str) -> Check:
    """Ask for a websocket of the project's: it is accepted, or refused by the project itself (who is not logged in)."""
    headers = {
        "Host": urllib.parse.urlsplit(site).netloc,
        "Origin": site,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    name, expected = f"websocket {path}", "101, or the project's own refusal"
    connection = connect()
    try:
        connection.request("GET", path, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Check(name=name, ok=False, expected=expected, found=f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    ok = status in {httpx.codes.SWITCHING_PROTOCOLS, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
    return Check(name=name, ok=ok, expected=expected, found=str(status))


def _instances(topology: Topology, ways: Ways) -> Iterator[Check]:
    for name in topology.names:
        found = f"release {ways.endpoints.release}"
        try:
            answer = ways.instance(name).get("http://localhost/-/probe").raise_for_status().json()
            ok = (answer["instance"], answer["release"]) == (name, ways.endpoints.release)
            found = f"{answer['instance']}, release {answer['release']}"
        except (httpx.HTTPError, *SENSELESS) as error:
            ok, found = False, f"{type(error).__name__}: {error}"
        yield Check(name=f"{name} answers", ok=ok, expected=f"{name}, release {ways.endpoints.release}", found=found)


# --- shares


def _shares(topology: Topology, ways: Ways) -> list[Check]:
    method = topology.config.upstream.method
    weights = sum(i.server.weight for i in topology.instances if i.share)
    fewest = FEWEST if exact_shares(topology.config) else FEWEST_BY_CHANCE
    requests = min(max(ROUNDS * weights, -(-fewest // weights) * weights), MOST)
    checks: list[Check] = []
    for _attempt in range(ATTEMPTS):
        # With others' requests between ours only chance decides, and it takes more of them to tell.
        before = _requests_so_far(ways)
        counts = _count(ways, requests, method)
        # The look before is counted as well. More than that, and others' requests have come between ours.
        twice = sum(counts.get(name, 0) for name in ways.endpoints.counted_twice)
        alone = _requests_so_far(ways) - before == requests + 1 + twice
        checks = [_share_check(topology, name, counts, requests, alone=alone) for name in topology.names]
        if all(check.ok is not False for check in checks) and (alone or requests >= FEWEST_BY_CHANCE):
            break  # among others' requests the same number again would tell no more
        requests = max(requests, FEWEST_BY_CHANCE)
    return checks if all(check.ok is not False for check in checks) else _excused(topology, checks)


def _excused(topology: Topology, checks: list[Check]) -> list[Check]:
    """Judge no share where nginx may be passing a server over: after `max_fails` failures, for `fail_timeout`."""
    passing = [i.name for i in topology.instances if i.share and i.server.max_fails]
    if not passing:
        return checks
    why = f"; nginx passes {' or '.join(passing)} over for a while after failures (max_fails)"
    return [replace(check, ok=None, found=check.found + why) if check.ok is False else check for check in checks]


def _count(ways: Ways, requests: int, method: Method) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number in range(requests):
        headers = {"Host": "internal"}
        url = "http://localhost/-/probe"
        if method is Method.IP_HASH:
            headers["X-Probe-Address"] = _address(number)
        if method is Method.HASH:
            url += f"?{number}"
        answer = ways.internal().get(url, headers=headers).raise_for_status().json()
        counts[answer["instance"]] = counts.get(answer["instance"], 0) + 1
    return counts


def _address(number: int) -> str:
    """Return one of many client addresses, with nothing regular in it that nginx's hash could make something of."""
    network = hashlib.sha256(str(number).encode()).digest()
    return f"10.{network[0]}.{network[1]}.1"


def _requests_so_far(ways: Ways) -> int:
    """Return how many requests nginx has served (stub_status), this one included."""
    answer = ways.internal().get("http://localhost/-/connections", headers={"Host": "internal"}).raise_for_status()
    return int(answer.text.splitlines()[2].split()[2])


def _share_check(topology: Topology, name: str, counts: dict[str, int], requests: int, *, alone: bool) -> Check:
    """Compare one instance's share with its weight's.

    Round robin is exact while nobody else uses the site. Others' requests between ours come in a rhythm of their own,
    and what is left for ours promises no share; nor does a hash, which follows its keys, nor random.
    """
    share = topology.instance(name).share
    method = topology.config.upstream.method
    count = counts.get(name, 0)
    wanted = float(share) * requests
    within_chance = abs(count - wanted) <= DEVIATIONS * max(1.0, (wanted * (1 - float(share))) ** 0.5)
    ok: bool | None
    if not share:
        ok = count == 0
    elif method in (Method.HASH, Method.RANDOM) or not (alone or method is Method.IP_HASH):
        ok = count > 0 or None
    elif exact_shares(topology.config):
        ok = abs(count - wanted) <= 1
    else:
        ok = within_chance
    others = "" if alone else ", others used the site meanwhile"
    return Check(
        name=f"share of {name}",
        ok=ok,
        expected=f"{percent(share)} ({wanted:.0f} of {requests})",
        found=f"{100 * count / requests:.3g} % ({count}{others})",
    )


# --- sessions


def _sessions(topology: Topology, ways: Ways) -> Iterator[Check]:
    """Let one session be served by every instance in turn, and see that each finds what the one before it stored."""
    names = topology.names
    expected = f"counted by {len(names)} instances"
    answer = _session(ways, names[0], "create=1")
    if answer.get("status") == httpx.codes.NOT_IMPLEMENTED:
        yield Check(
            name="a session on every instance", ok=None, expected=expected, found="the project uses no sessions"
        )
        return
    problem = ""
    for number, name in enumerate(names, start=1):
        if "session" not in answer:
            problem = str(answer.get("error", answer))
            break
        answer = _session(ways, name, f"write={urllib.parse.quote(answer['session'], safe='')}")
        if answer.get("counter") != number + 1:
            problem = f"{name} found {answer.get('counter', answer.get('error'))}, not what was stored before"
            break
    if not problem:
        _session(ways, names[-1], f"delete={urllib.parse.quote(answer['session'], safe='')}")
    found = problem or f"counted by {len(names)} instances ({topology.config.sessions.engine})"
    yield Check(name="a session on every instance", ok=not problem, expected=expected, found=found)


def _session(ways: Ways, instance: str, query: str) -> dict[str, Any]:
    url = f"http://localhost/-/probe/session?{query}"
    response = ways.instance(instance).get(url, headers={"X-Forwarded-Proto": "https"})
    if response.status_code >= SERVER_ERROR and response.status_code != httpx.codes.NOT_IMPLEMENTED:
        said = (object_in(response.content) or {}).get("error", response.status_code)
        return {"error": f"{instance} answered with {printable(str(said))}"}
    answer: dict[str, Any] = response.json()
    return {**answer, "status": response.status_code}


def _closed(_topology: Topology, ways: Ways) -> Iterator[Check]:
    found = ways.endpoints.intruders()
    yield Check(
        name="nothing but nginx listens on a port",
        ok=not found,
        expected="no other listening socket",
        found="; ".join(found) or "none",
    )
