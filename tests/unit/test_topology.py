"""What a stack file means: shares, ports, hosts."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Server, parse_config
from cluster.topology import Topology, build_topology, exact_shares, percent, shares, uses_memcached


def topology(servers: object, **more: Any) -> Topology:
    site = {"server_names": ["cluster"], **more.pop("site", {})}
    upstream = {"servers": servers, **more.pop("upstream", {})}
    app = {"project": ".", "settings": "settings"}
    return build_topology(parse_config({"platform": "local", "app": app, "upstream": upstream, "site": site, **more}))


def shares_of(servers: list[dict[str, Any]]) -> list[Fraction]:
    named = [{"name": f"app{number}", **server} for number, server in enumerate(servers, start=1)]
    return [instance.share for instance in topology(named).instances]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([{}], [Fraction(1)]),
        ([{}, {}, {}], [Fraction(1, 3)] * 3),
        ([{"weight": 3}, {}, {}], [Fraction(3, 5), Fraction(1, 5), Fraction(1, 5)]),
        ([{"weight": 3}, {"backup": True}], [Fraction(1), Fraction(0)]),
        ([{"weight": 3}, {"weight": 9, "down": True}, {}], [Fraction(3, 4), Fraction(0), Fraction(1, 4)]),
        ([{"down": True, "backup": True}, {}], [Fraction(0), Fraction(1)]),
        ([{"down": True}, {"down": True}], [Fraction(0), Fraction(0)]),
        ([{"down": True}, {"backup": True}], [Fraction(0), Fraction(0)]),
    ],
)
def test_a_share_is_the_weight_over_the_weights_of_those_that_serve(
    servers: list[dict[str, Any]], expected: list[Fraction]
) -> None:
    assert shares_of(servers) == expected


SERVERS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "weight": st.integers(1, 65535),
            "down": st.booleans(),
            "backup": st.booleans(),
            "max_fails": st.integers(0, 9),
        },
    ),
    min_size=1,
    max_size=30,
)


@given(SERVERS)
def test_shares_are_exact_they_sum_up_to_one_or_to_nothing(servers: list[dict[str, Any]]) -> None:
    models = [Server(name=f"app{number}", **server) for number, server in enumerate(servers)]
    found = shares(models)
    serving = {model.name for model in models if not model.down and not model.backup}
    assert sum(found.values()) == (1 if serving else 0)
    assert {name for name, share in found.items() if share} == serving
    weights = {model.name: model.weight for model in models}
    for one in serving:
        for other in serving:
            assert found[one] * weights[other] == found[other] * weights[one]


def test_instances_keep_the_names_and_the_order_of_the_stack_file() -> None:
    built = topology([{"name": "zebra"}, {"name": "ant", "weight": 2}])
    assert built.names == ("zebra", "ant")
    assert built.instance("ant").server.weight == 2
    with pytest.raises(KeyError):
        built.instance("bee")


def test_ports_count_up_from_the_first_and_are_none_where_none_is_asked_for() -> None:
    assert [instance.port for instance in topology(3).instances] == [None] * 3
    ports = [instance.port for instance in topology(3, site={"instance_ports": 8000}).instances]
    assert ports == [8000, 8001, 8002]


@pytest.mark.parametrize(
    ("sessions", "nodes"),
    [
        ({}, 0),
        ({"engine": "file"}, 0),
        ({"engine": "cache"}, 2),
        ({"engine": "cached_db", "memcached": {"nodes": 3}}, 3),
        ({"engine": "db", "previous": "cache"}, 2),
        ({"engine": "db", "memcached": {"nodes": 3}}, 0),
    ],
)
def test_memcached_runs_while_sessions_are_or_were_kept_in_it(sessions: dict[str, Any], nodes: int) -> None:
    built = topology(2, sessions=sessions)
    assert built.memcached_nodes == nodes
    assert uses_memcached(built.config) == (nodes > 0)


def test_only_round_robin_gives_shares_exactly() -> None:
    exact = {
        method: exact_shares(topology(2, upstream={"method": method}).config)
        for method in ("round_robin", "least_conn", "ip_hash", "hash", "random")
    }
    assert [method for method, is_exact in exact.items() if is_exact] == ["round_robin"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Fraction(0), "0 %"),
        (Fraction(1), "100 %"),
        (Fraction(1, 3), "33.3 %"),
        (Fraction(1, 8), "12.5 %"),
        (Fraction(1, 1000), "0.1 %"),
        (Fraction(999, 1000), "99.9 %"),
    ],
)
def test_a_share_reads_as_a_person_writes_it(share: Fraction, text: str) -> None:
    assert percent(share) == text
