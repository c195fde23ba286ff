"""A request that kills, on a whole cluster: it ends two workers of four, and nobody loads the project again."""

from __future__ import annotations

import contextlib

import httpx
import pytest

from tests.clients import NO_TLS
from tests.conformance import assert_up, wait_until
from tests.local.stand import Stand

DIE = """
import os

urlpatterns.append(path("die", lambda request: os._exit(1)))
"""

NAMES = ("app1", "app2", "app3", "app4")


def workers(stand: Stand) -> dict[str, set[int]]:
    return {name: {pid for what, pid in stand.processes(name).items() if " worker " in what and pid} for name in NAMES}


@pytest.mark.wide
def test_a_request_that_kills_ends_two_workers_of_four() -> None:
    with contextlib.closing(Stand(instances=len(NAMES))) as stand:
        stand.edit_code("example/urls.py", DIE)
        assert_up(stand)
        before, gunicorns = workers(stand), {name: stand.processes(name) for name in NAMES}
        base = "http://{}:{}".format(*stand.address)
        with httpx.Client(trust_env=False, verify=NO_TLS, headers={"Host": "cluster"}, timeout=60) as client:
            assert client.get(base + "/die").status_code == 502
            answered = [client.get(base + "/whoami").status_code for _ in range(40)]
        assert answered == [200] * 40
        after = workers(stand)
        assert sum(not before[name] & after[name] for name in NAMES) == 2
        wait_until(lambda: all(workers(stand).values()), "a worker in each")
        for name in NAMES:
            programs = [what for what in gunicorns[name] if " " not in what]
            assert [stand.processes(name)[what] for what in programs] == [gunicorns[name][what] for what in programs]
        logs = "".join(log.read_text() for log in stand.paths.logs.glob("app*.log"))
        assert logs.count("ended two workers") == 1
        assert "loads the project by itself" not in logs, "the example can be loaded before the fork"
