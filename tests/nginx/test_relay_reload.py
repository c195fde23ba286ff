"""Reloads of hosts' nginx under counted load: of one that has visitors, and of one that passes on to instances."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.tls.hosts_keys import HostsKeys
from tests.clients import PAUSE, Clients
from tests.nginx.relayed import OTHER_SECRET, SECRET, Hosts, on, values_of
from tests.nginx.running import PATIENCE, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.nginx_versions import Nginx

CLIENTS, RELOADS = 12, 3

#: Without the care that a reload takes, so many must be enough to see what the care is for.
RELOADS_WITHOUT_CARE = 400

#: What a host closes is a connection of another host's nginx, which all clients share: it is seldom that one comes just
#: then, and clients at rest may need ten times as many reloads to meet it.
BUSY = 0.0


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


class Load(Clients):
    """Visitors that keep their connections and ask by turns with GET and POST; nothing is ever sent again."""

    def __init__(self, hosts: Hosts, pause: float = PAUSE) -> None:
        super().__init__(CLIENTS, 2 * PATIENCE, pause)
        self.hosts, self.requests = hosts, Counter[str]()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        return f"{len(self.failed)} of {self.requests.total():,} requests failed ({kinds})"

    def client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.hosts.port, timeout=PATIENCE)
        turn = number
        while not self.stopped.is_set():
            turn += 1
            # In no step with the instances' turns.
            method = ("GET", "POST", "POST", "GET", "POST")[turn % 5]
            failure = self.one(connection, method)
            with self.lock:
                self.requests[method] += 1
                if failure:
                    self.failed.append(f"{method}: {failure}")
            self.rest()
        connection.close()

    def one(self, connection: http.client.HTTPConnection, method: str) -> str | None:
        try:
            connection.request(method, "/", b"x" if method == "POST" else None, {"Host": "shop.test"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{type(error).__name__}: {error}"
        return None if response.status == 200 else str(response.status)


def two_hosts(nginx: Nginx, edit: Callable[[str, str], str] = lambda _path, text: text) -> Hosts:
    return Hosts(nginx, values_of(["web1", "web2", "edge"], on("web1", "web1", "web2", "web2")), edit=edit)


@pytest.mark.parametrize("host", ["web1", pytest.param("edge", marks=pytest.mark.wide)])
def test_no_request_is_lost_by_reloads(nginx: Nginx, host: str) -> None:
    with two_hosts(nginx) as hosts:
        with Load(hosts, BUSY) as load:
            for _ in range(RELOADS):
                time.sleep(0.3)
                hosts.reload(host)
            load.wait_until(lambda: load.requests.total() > 500)
        print(f"{nginx}: {RELOADS} reloads of {host}, {load}")
        assert load.failed == []
        assert load.requests.total() > 500


def test_a_relay_that_is_just_reloaded_loses_some(nginx: Nginx) -> None:
    """Before 1.27.4 as it is; later ones where they may close a connection at once."""

    def edit(_path: str, text: str) -> str:
        return text.replace("keepalive_min_timeout 5s;", "")

    with two_hosts(nginx, edit) as hosts:
        reloads = 0
        with Load(hosts, BUSY) as load:
            while not load.failed and reloads < RELOADS_WITHOUT_CARE:
                hosts.reload("web1", politely=False, settling=0.1)
                reloads += 1
        print(f"{nginx}: {reloads} reloads without care, {load}")
        assert load.failed


def test_a_port_that_is_another_instance_s_now_serves_who_was_not_told_yet(nginx: Nginx) -> None:
    """A stack file may name a new instance first: then each of the others has another port, some on another host."""
    servers = [{"name": name, "host": host} for name, host in (("app1", "web1"), ("app2", "web2"))]
    with Hosts(nginx, values_of(["web1", "web2", "edge"], servers)) as hosts:
        before = hosts.each["edge"].places.nginx / "sites-available" / f"zz-{hosts.each['edge'].places.name}"
        text = before.read_text()
        upstream = {**hosts.values["upstream"], "servers": [{"name": "app0", "host": "web2"}, *servers]}
        hosts.deliver({**hosts.values, "upstream": upstream})
        hosts.begin("app0")
        before.write_text(text)
        for name in ("web1", "web2"):
            assert hosts.each[name].check().returncode == 0, hosts.each[name].check().stderr
            hosts.reload(name, politely=False)
        found = Counter(hosts.status("/x", method) for method in ("GET", "POST", "POST", "GET", "POST") * 20)
        print(f"{nginx}: {dict(found)} while ports are others'")
        assert found == {200: 100}


@pytest.mark.parametrize("host", ["web1", "edge"])
def test_while_connections_are_closed_all_is_the_same(nginx: Nginx, host: str) -> None:
    with two_hosts(nginx) as hosts:
        hosts.each[host].places.closing.touch()
        assert {hosts.status("/a%2Fb", method) for method in ("GET", "POST", "POST", "GET", "POST") * 12} == {200}
        assert len(hosts.seen) == 60
        assert all(" /a%2Fb HTTP/1.1" in one.line for one in hosts.seen)
        hosts.instances["app1"].die()
        hosts.instances["app2"].die()
        assert {hosts.status("/x", method) for method in ("GET", "POST", "POST", "GET", "POST") * 12} == {200}


@pytest.mark.parametrize("recursive", [True, False])
def test_nobody_there_is_no_answer_while_connections_are_closed_either(nginx: Nginx, recursive: bool) -> None:
    """Else a host that has no instance just then would answer in the place of one that has."""

    def edit(path: str, text: str) -> str:
        alone = "\n".join(line for line in text.splitlines() if " backup;" not in line) if "/relay/" in path else text
        return alone if recursive else alone.replace("recursive_error_pages on;", "")

    with two_hosts(nginx, edit) as hosts:
        hosts.each["web1"].places.closing.touch()
        for name in ("app1", "app2"):
            hosts.instances[name].die()
        found = Counter(hosts.status() for _ in range(8))
        is_old = nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
        assert (found == {200: 8}) is (recursive or not is_old)
        with contextlib.suppress(FileNotFoundError):
            hosts.each["web1"].places.closing.unlink()


#: What hosts make their certificates of, step by step: both are believed before one is shown, and until none is.
CHANGED = [
    HostsKeys(key=SECRET, fallbacks=(OTHER_SECRET,)),
    HostsKeys(key=OTHER_SECRET, fallbacks=(SECRET,)),
    HostsKeys(key=OTHER_SECRET),
]


def changed(hosts: Hosts, steps: list[HostsKeys]) -> Load:
    """Let hosts have other keys, one host after another, and count what visitors get meanwhile, to the first loss."""
    with Load(hosts, 2 * PAUSE) as load:  # a wrong key fails each request, at whatever moment it comes
        for keys, host in itertools.product(steps, hosts.each):
            hosts.keys = {**hosts.keys, host: keys}
            hosts.deliver(hosts.values)
            hosts.reload(host)
            time.sleep(0.3)
            if load.failed:
                break
        load.wait_until(lambda: load.requests.total() > 500)
    return load


def test_hosts_come_to_know_each_other_by_another_key_and_lose_no_request(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        load = changed(hosts, CHANGED)
        print(f"{nginx}: another key in {len(CHANGED)} steps, {load}")
        assert load.failed == []
        assert load.requests.total() > 500


@pytest.mark.wide
@pytest.mark.parametrize("left_out", [0, 1], ids=["shown before it is believed", "believed no more while it is shown"])
def test_another_key_with_a_step_left_out_loses_requests(nginx: Nginx, left_out: int) -> None:
    """The saboteur: while hosts are told one after another."""
    with two_hosts(nginx) as hosts:
        load = changed(hosts, CHANGED[:left_out] + CHANGED[left_out + 1 :])
        print(f"{nginx}: another key without step {left_out + 1}, {load}")
        assert load.failed


def test_another_key_in_one_step_loses_requests(nginx: Nginx) -> None:
    """The saboteur."""
    with two_hosts(nginx) as hosts:
        load = changed(hosts, CHANGED[2:])
        print(f"{nginx}: another key in one step, {load}")
        assert load.failed
