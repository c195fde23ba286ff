"""Many requests at once after a reload, when hosts keep no connection to each other: how many are lost.

`python -m tests.nginx.burst 256 --connect 1s` asks that many at once after each of some reloads, of two hosts with two
instances each and one with visitors, all on this machine; by turns with GET and POST. --connect: how long a host may
take to accept a connection, where that is not what the product says.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import time
from collections import Counter

from cluster.render.between import CONNECT_TIMEOUT
from tests.nginx.relayed import Hosts, on, request, values_of
from tests.nginx.running import PATIENCE
from tests.nginx_versions import installed_nginx

RELOADS = 6

#: Seconds after a reload: a host that could not be asked counts as down for so long.
REST = 2.5


def burst(hosts: Hosts, count: int, method: str) -> tuple[Counter[str], float]:
    """Ask `count` times at once, by connections that are there; return how many had which status, and the seconds."""
    asked = hosts.called(request("/", method))
    found: Counter[str] = Counter()
    with contextlib.ExitStack() as ending:
        waiting = ending.enter_context(selectors.DefaultSelector())
        clients = [ending.enter_context(hosts.connect()) for _ in range(count)]
        began = time.monotonic()
        for client in clients:
            client.sendall(asked)
            waiting.register(client, selectors.EVENT_READ, client)
        while waiting.get_map() and time.monotonic() - began < PATIENCE:
            for key, _events in waiting.select(1):
                waiting.unregister(key.fileobj)
                with contextlib.suppress(ConnectionResetError):
                    found[key.data.recv(64).split(b" ", 2)[1].decode()] += 1  # of the status line
    found["no answer"] += count - found.total()
    return +found, time.monotonic() - began


def main() -> None:
    """Say what became of the requests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--connect", default=CONNECT_TIMEOUT)
    options = parser.parse_args()
    told = f"proxy_connect_timeout {options.connect};"

    def edit(_path: str, text: str) -> str:
        return text.replace(f"proxy_connect_timeout {CONNECT_TIMEOUT};", told)

    nginx, found, slowest = installed_nginx(), Counter[str](), 0.0
    assert nginx is not None, "no nginx is installed"
    with Hosts(nginx, values_of(["web1", "web2", "edge"], on("web1", "web1", "web2", "web2")), edit) as hosts:
        for number in range(RELOADS):
            hosts.reload("edge")
            time.sleep(REST)
            statuses, seconds = burst(hosts, options.count, ("GET", "POST")[number % 2])
            found += statuses
            slowest = max(slowest, seconds)
    lost = found.total() - found["200"]
    words = f"{lost} of {found.total():,} requests failed, the slowest {options.count} took {slowest:.2f} s"
    print(f"{nginx}, {options.count} at once after each of {RELOADS} reloads, {options.connect}: {words}")


if __name__ == "__main__":
    main()
