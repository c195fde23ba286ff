"""Which host runs what: dealt out evenly, and the same each time."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.placement import Placement, place
from cluster.services import Kind
from cluster.topology import Topology, build_topology

Names = dict[str, str]


def topology_of(hosts: dict[str, list[str]], servers: Any, **more: Any) -> Topology:
    named = [
        {"name": name, "address": f"192.0.2.{number}", "host_key": "ssh-ed25519 AAAA", "roles": roles}
        for number, (name, roles) in enumerate(hosts.items(), 1)
    ]
    return build_topology(
        parse_config(
            {
                "platform": "remote",
                "app": {"project": "./example", "settings": "example.settings"},
                "hosts": named,
                "upstream": {"servers": servers},
                "site": {"server_names": ["shop.test"], "listen": 80},
                **more,
            }
        )
    )


def placed(hosts: dict[str, list[str]], servers: Any, **more: Any) -> Placement:
    return place(topology_of(hosts, servers, **more))


def apps(count: int) -> dict[str, list[str]]:
    return {**{f"web{number}": ["app"] for number in range(1, count + 1)}, "edge": ["nginx"]}


def where(placement: Placement) -> Names:
    return {name: host for name, host in placement.host_of.items() if name.startswith("app")}


def test_instances_are_dealt_out_in_turn() -> None:
    assert where(placed(apps(2), 5)) == {"app1": "web1", "app2": "web2", "app3": "web1", "app4": "web2", "app5": "web1"}


def test_dealing_is_even_and_the_same_each_time() -> None:
    for hosts in range(1, 6):
        for servers in range(1, 13):
            found = placed(apps(hosts), servers)
            counts = Counter(where(found).values())
            assert max(counts.values()) - min(counts.get(name, 0) for name in found.app) <= 1
            assert where(placed(apps(hosts), servers)) == where(found)


def test_one_more_instance_moves_none() -> None:
    for hosts in range(1, 5):
        for servers in range(1, 12):
            before, after = where(placed(apps(hosts), servers)), where(placed(apps(hosts), servers + 1))
            assert {name: after[name] for name in before} == before


def test_pinned_ones_stay_and_the_others_fill_up() -> None:
    servers = [{"name": "app1"}, {"name": "app2", "host": "web2"}, {"name": "app3", "host": "web2"}, {"name": "app4"}]
    found = where(placed(apps(2), servers))
    assert found == {"app1": "web1", "app2": "web2", "app3": "web2", "app4": "web1"}


def test_pinned_by_chance_they_stay_and_none_is_forgotten() -> None:
    chance = random.Random(7)
    for _ in range(200):
        hosts, count = chance.randint(1, 4), chance.randint(1, 10)
        servers: list[dict[str, Any]] = [{"name": f"app{number}"} for number in range(1, count + 1)]
        for server in servers:
            if chance.random() < 0.4:
                server["host"] = f"web{chance.randint(1, hosts)}"
        found = where(placed(apps(hosts), servers))
        assert sorted(found) == sorted(server["name"] for server in servers)
        assert all(found[server["name"]] == server["host"] for server in servers if "host" in server)
        assert set(found.values()) <= {f"web{number}" for number in range(1, hosts + 1)}


def test_pinned_where_they_were_another_host_moves_none() -> None:
    before = where(placed(apps(2), 4))
    pinned = [{"name": name, "host": host} for name, host in before.items()]
    assert where(placed(apps(3), [*pinned, {"name": "app5"}])) == {**before, "app5": "web3"}


def test_a_host_that_is_none_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="web9"):
        placed(apps(2), [{"name": "app1", "host": "web9"}])
    with pytest.raises(KeyError, match="edge"):
        placed(apps(2), [{"name": "app1", "host": "edge"}])


def test_workers_are_dealt_out_and_what_runs_once_is_on_the_first() -> None:
    topology = topology_of(
        apps(2),
        2,
        workers=[{"name": "jobs", "command": "python manage.py jobs", "count": 3}],
        schedule=[{"name": "nightly", "command": "python manage.py nightly", "at": "0 3 * * *"}],
    )
    placement = place(topology)
    workers = [one.name for one in topology.of_kind(Kind.WORKER)]
    assert [placement.host_of[name] for name in workers] == ["web1", "web2", "web1"]
    once = [one.name for one in topology.services if one.kind not in {Kind.INSTANCE, Kind.WORKER, Kind.NGINX}]
    assert once
    assert {placement.host_of[name] for name in once} == {placement.leader} == {"web1"}


def test_who_asks_whom() -> None:
    alone = placed({"web1": ["app", "nginx"]}, 2)
    assert (alone.is_spread, alone.hosts, alone.peers("web1")) == (False, ("web1",), ())
    spread = placed({"edge": ["nginx"], "web1": ["app"], "both": ["app", "nginx"]}, 3)
    assert spread.hosts == ("web1", "both", "edge")
    assert (spread.app, spread.nginx, spread.leader) == (("web1", "both"), ("edge", "both"), "web1")
    assert [spread.reaches_out(name) for name in spread.nginx] == [True, True]
    assert spread.peers("both") == ("web1",)
    assert spread.on("both", ["app1", "app2", "app3", "nobody"]) == ("app2",)
