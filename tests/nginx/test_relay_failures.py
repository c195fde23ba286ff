"""Hosts and instances that go away: who is asked then, what is lost, and what is never done twice."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.nginx.relayed import ADDRESSES, Hosts, Seen, on, until, values_of, whole
from tests.nginx.running import PATIENCE, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.nginx_versions import Nginx

#: Requests of each method that are counted.
MANY = 150


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


def mixed(one: str, other: str, count: int) -> list[str]:
    """Return so many of each in no order: else each instance would be asked by one of them."""
    found = [one, other] * count
    random.Random(20261127).shuffle(found)
    return found


def asked(hosts: Hosts, count: int = MANY) -> Counter[str]:
    """Ask by turns with GET and POST; return how many of each had which status, and that each POST came once."""
    hosts.forget()
    found: Counter[str] = Counter()
    for number, method in enumerate(mixed("GET", "POST", count)):
        found[f"{method} {hosts.status(f'/n{number}', method, b'x' if method == 'POST' else b'')}"] += 1
    posts = Counter(one.line for one in hosts.seen if one.line.startswith("POST"))
    assert not [line for line, times in posts.items() if times > 1], "sent twice"
    print(f"{hosts.nginx}: {dict(found)}")
    return found


def all_well(count: int = MANY) -> dict[str, int]:
    return {"GET 200": count, "POST 200": count}


def two_hosts(nginx: Nginx, *, edit: Callable[[str, str], str] = lambda _path, text: text, **site: Any) -> Hosts:
    return Hosts(nginx, values_of(["web1", "web2", "edge"], on("web1", "web1", "web2", "web2"), **site), edit)


def test_an_instance_that_is_gone_costs_nothing(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        hosts.instances["app1"].die()
        assert asked(hosts) == all_well()
        assert {one.instance for one in hosts.seen} == {"app2", "app3", "app4"}
        # Its own host's others have its share, and not another host.
        counts = Counter(one.instance for one in hosts.seen)
        assert counts["app2"] > 1.5 * max(counts["app3"], counts["app4"])


def test_another_host_that_is_down_is_not_asked_for_an_instance_that_is_gone(nginx: Nginx) -> None:
    """Its own host has another one; nginx's backups have no order but their weights."""
    with two_hosts(nginx) as hosts:
        hosts.each["web2"].stop()
        hosts.instances["app1"].die()
        assert asked(hosts, 2 * MANY) == all_well(2 * MANY)
        assert {one.instance for one in hosts.seen} == {"app2"}


def test_with_a_small_weight_it_is_asked_now_and_then(nginx: Nginx) -> None:
    """What the test above would see."""
    edit = edited("weight=1000000", "weight=100")
    with two_hosts(nginx, edit=edit) as hosts:
        hosts.each["web2"].stop()
        hosts.instances["app1"].die()
        assert asked(hosts, 2 * MANY) != all_well(2 * MANY)


def test_a_host_without_any_instance_lets_others_serve(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        hosts.instances["app1"].die()
        hosts.instances["app2"].die()
        assert asked(hosts) == all_well()
        assert {one.instance for one in hosts.seen} == {"app3", "app4"}


def edited(old: str, new: str) -> Callable[[str, str], str]:
    def edit(path: str, text: str) -> str:
        return text.replace(old, new) if "relay" in path else text

    return edit


def no_backups(path: str, text: str) -> str:
    if "/relay/" not in path:
        return text
    return "\n".join(line for line in text.splitlines() if " backup;" not in line) + "\n"


@pytest.mark.parametrize(
    "edit",
    [no_backups, edited("proxy_next_upstream error;", "proxy_next_upstream off;")],
    ids=["no backups", "no next"],
)
def test_without_what_is_for_it_posts_are_lost(nginx: Nginx, edit: Callable[[str, str], str]) -> None:
    with two_hosts(nginx, edit=edit) as hosts:
        hosts.instances["app1"].die()
        found = Counter(hosts.status("/x", "POST") for _ in range(8))
        print(f"{nginx}: {dict(found)}")
        assert found[502] > 0


def test_a_host_that_is_down_costs_nothing(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        hosts.each["web1"].stop()
        assert asked(hosts) == all_well()
        assert {one.instance for one in hosts.seen} == {"app3", "app4"}


@contextlib.contextmanager
def swallowing(address: str, ports: list[int]) -> Iterator[None]:
    """Let an address take no connection and refuse none: the queue of its listeners is full."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(0)
            for _ in range(3):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect((address, port))
        yield


def test_a_host_that_swallows_connections_is_passed_over(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        hosts.each["web1"].stop()
        first = hosts.values["upstream"]["relay_port"]
        with swallowing(ADDRESSES["web1"], list(range(first, first + 5))):
            seconds = []
            for method in mixed("GET", "POST", 20):
                began = time.monotonic()
                assert hosts.status("/x", method) == 200
                seconds.append(time.monotonic() - began)
            slow = sum(one > 0.2 for one in seconds)
            print(f"{nginx}: 0 of 40 failed, {slow} waited, {max(seconds):.2f} s at most")
            # Of each of its two instances two tries, and then none for two seconds: again if 40 take longer.
            assert 1 <= slow <= 4 * (1 + sum(seconds) / 2)
            assert sorted(seconds)[len(seconds) // 2] < 0.2
        hosts.each["web1"].start()
        until(lambda: hosts.status() == 200 and {"app1", "app2"} <= {one.instance for one in hosts.seen})


def test_with_everything_gone_it_says_so_soon_and_serves_again(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        for instance in list(hosts.instances.values()):
            instance.die()
        hosts.forget()
        began = time.monotonic()
        assert [hosts.status("/x", method) for method in ("GET", "POST") * 20] == [502] * 40
        print(f"{nginx}: 40 requests of nobody's in {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 20
        logs = [hosts.each[name].error_log for name in ("web1", "web2")]
        # No relay asks another one that asks it: of 40 requests none was tried more often than there are ways.
        assert sum(log.count("Connection refused") for log in logs) < 40 * 30
        for name in ("app1", "app2", "app3", "app4"):
            hosts.begin(name)
        began = time.monotonic()
        until(lambda: hosts.status() == 200)
        print(f"{nginx}: serves again after {time.monotonic() - began:.2f} s")
        until(lambda: hosts.status("/", "POST") == 200 and len({one.instance for one in hosts.seen}) == 4)


def closes(connection: socket.socket, _seen: Seen) -> bool:
    connection.shutdown(socket.SHUT_RDWR)
    return False


def test_a_worker_that_ends_in_the_middle_is_one_post_s_end_and_no_get_s(nginx: Nginx) -> None:
    def dies_in_app1(connection: socket.socket, seen: Seen) -> bool:
        if seen.instance == "app1":
            return closes(connection, seen)
        connection.sendall(whole("200 OK", body=b"x"))
        return True

    with two_hosts(nginx) as hosts:
        hosts.answers["/dies"] = dies_in_app1
        statuses = Counter((method, hosts.status("/dies", method)) for method in mixed("GET", "POST", 80))
        posts = Counter(one.instance for one in hosts.seen if one.line.startswith("POST"))
        print(f"{nginx}: {dict(statuses)}")
        assert statuses["GET", 200] == 80
        assert statuses["POST", 502] == posts["app1"] > 10
        assert posts.total() == 80, "sent twice"


def takes_its_time(connection: socket.socket, _seen: Seen) -> bool:
    """Answer nothing until whoever asks has given up."""
    connection.settimeout(PATIENCE)
    with contextlib.suppress(OSError):
        connection.recv(1)
    return False


def slow_ones(hosts: Hosts, path: str = "/slow", count: int = 16) -> Counter[int]:
    """Ask at once for what takes too long, and meanwhile and right afterwards for what does not."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        waiting = [pool.submit(hosts.status, f"{path}?{number}", "POST", b"x") for number in range(count)]
        assert asked(hosts, 40) == all_well(40)
        slow = Counter(one.result() for one in waiting)
    assert asked(hosts, 40) == all_well(40)
    return slow


def test_requests_that_take_too_long_keep_no_other_from_being_answered(nginx: Nginx) -> None:
    """Whoever could make some at a time would take the site away: two for each instance, and all are passed over."""
    with two_hosts(nginx, proxy_read_timeout="3s", locations=[{"path": "/long/", "proxy_read_timeout": "4s"}]) as hosts:
        hosts.answers |= {"/slow": takes_its_time, "/long/": takes_its_time, "/long": takes_its_time}
        assert slow_ones(hosts) == {504: 16}
        for path, least in (("/long/", 4.0), ("/long", 3.0), ("/slow", 3.0)):
            began = time.monotonic()
            assert hosts.status(path) == 504
            assert time.monotonic() - began >= least


def test_with_a_relay_that_waits_longer_they_do(nginx: Nginx) -> None:
    def patient(path: str, text: str) -> str:
        return text if "relay" not in path else re.sub(r"proxy_read_timeout \w+;", "proxy_read_timeout 1h;", text)

    with two_hosts(nginx, proxy_read_timeout="1s", edit=patient) as hosts:
        hosts.answers["/slow"] = takes_its_time
        with pytest.raises(AssertionError):
            slow_ones(hosts)


def test_a_host_that_comes_back_is_asked_again(nginx: Nginx) -> None:
    with two_hosts(nginx) as hosts:
        hosts.each["web1"].stop()
        assert asked(hosts, 20) == all_well(20)
        hosts.each["web1"].start()
        began = time.monotonic()
        until(lambda: hosts.status() == 200 and {"app1", "app2"} <= {one.instance for one in hosts.seen})
        print(f"{nginx}: asked again after {time.monotonic() - began:.2f} s")


def test_a_host_with_visitors_asks_its_own_instances_without_the_network(nginx: Nginx) -> None:
    with Hosts(nginx, values_of(["both", "web2"], on("both", "web2"))) as hosts:
        assert asked(hosts, 20) == all_well(20)
        assert {one.instance for one in hosts.seen} == {"app1", "app2"}
        hosts.each["web2"].stop()
        assert asked(hosts, 20) == all_well(20)
        assert {one.instance for one in hosts.seen} == {"app1"}
        hosts.each["web2"].start()
        hosts.instances["app1"].die()
        until(lambda: hosts.status() == 200)
        assert asked(hosts, 20) == all_well(20)
        assert {one.instance for one in hosts.seen} == {"app2"}
