"""What runs of a stack, as one description a process."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import StackFileError, parse_config
from cluster.endpoints import Endpoint
from cluster.release import runtime_requirements, variables
from cluster.services import DRAIN_SECONDS, GRACE_MARGIN, Kind, asked_by, refused_without
from cluster.topology import Topology, build_topology
from tests.unit.pulumi_mocks import stack_values

MAIL = {"name": "mail", "command": "celery -A shop worker -Q 'a b'", "count": 2, "graceful_timeout": "5m"}
DIGEST = {"name": "digest", "command": "manage.py send_digest", "at": "0 6 * * *"}


def topology(**keys: Any) -> Topology:
    return build_topology(parse_config(stack_values(**keys)))


def test_all_that_runs_is_named_once() -> None:
    found = topology(
        workers=[MAIL],
        schedule=[DIGEST],
        broker={"engine": "valkey"},
        sessions={"engine": "cached_db"},
        database={"engine": "postgres"},
        upstream={"servers": 2},
    )
    assert [(service.kind.value, service.name) for service in found.services] == [
        ("instance", "app1"),
        ("instance", "app2"),
        ("worker", "mail1"),
        ("worker", "mail2"),
        ("schedule", "digest"),
        ("memcached", "memcached1"),
        ("memcached", "memcached2"),
        ("database", "postgres"),
        ("broker", "broker"),
        ("nginx", "nginx"),
    ]
    assert [service.name for service in found.beside] == ["mail1", "mail2", "digest"]
    assert [str(service.endpoint) for service in found.of_kind(Kind.NGINX, Kind.BROKER)] == ["broker.sock", ":8090"]


def test_a_stack_without_them_runs_what_it_did() -> None:
    found = topology(upstream={"servers": 1}, sessions={"engine": "db"}, database={"engine": "sqlite"})
    assert [service.name for service in found.services] == ["app1", "nginx"]
    (instance,) = found.of_kind(Kind.INSTANCE)
    assert instance.grace == DRAIN_SECONDS + 30 + GRACE_MARGIN


def test_a_worker_is_told_its_command_word_by_word() -> None:
    service = topology(workers=[MAIL]).beside[0]
    words = service.words("0123456789ab", "/r/config.json", "/run", container=True)
    assert words[:4] == ("-P", "-m", "cluster_runtime.service", "worker")
    assert words[words.index("--") + 1 :] == ("celery", "-A", "shop", "worker", "-Q", "a b")
    assert words[words.index("--graceful-timeout") + 1] == "300"
    assert "--container" in words
    assert service.grace == 300 + GRACE_MARGIN


@pytest.mark.parametrize("change", [{"command": "celery -A shop worker"}, {"graceful_timeout": "1m"}, {"memory": "1g"}])
def test_another_command_or_limit_makes_another_generation_of_the_same_release(change: dict[str, Any]) -> None:
    before, after = (topology(workers=[{**MAIL, **more}]).beside[0] for more in ({}, change))
    assert before.generation("0123456789ab") != after.generation("0123456789ab")
    assert after.generation("0123456789ab").startswith("0123456789ab.")


def test_one_worker_more_leaves_the_others_as_they_are() -> None:
    two, three = (topology(workers=[{**MAIL, "count": count}]).beside for count in (2, 3))
    assert [one.generation("r") for one in two] == [one.generation("r") for one in three[:2]]


BROKER = {"broker": Endpoint(path="/run/broker.sock")}


def test_the_project_is_told_where_its_broker_is() -> None:
    config = parse_config(stack_values(broker={"engine": "valkey"}))
    assert variables(build_topology(config), BROKER) == {
        "CLUSTER_BROKER_URL": "redis+socket:///run/broker.sock",
        "CLUSTER_BROKER_SOCKET": "/run/broker.sock",
    }
    assert not variables(build_topology(parse_config(stack_values())), BROKER)


def test_a_release_whose_jobs_would_go_nowhere_does_not_serve_again() -> None:
    with_it, without = (parse_config(stack_values(**keys)) for keys in ({"broker": {"engine": "valkey"}}, {}))
    runtime = {"environment": variables(build_topology(with_it), BROKER)}
    assert "release r1 puts its jobs into the broker" in str(refused_without(without, "r1", runtime))
    assert refused_without(with_it, "r1", runtime) is None
    assert refused_without(without, "r1", {}) is None


def test_only_a_stack_with_a_schedule_needs_what_reads_its_times() -> None:
    with_it, without = (runtime_requirements(parse_config(stack_values(schedule=one))) for one in ([DIGEST], []))
    assert set(with_it) - set(without) == {"cronsim>=2.6"}


def test_a_process_is_asked_for_by_its_workers_name() -> None:
    assert asked_by("mail11") == ["mail11", "mail1", "mail"]
    assert asked_by("digest") == ["digest"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"schedule": [{**DIGEST, "at": "0 6 * *"}]}, "schedule[0].at: must be cron's five fields"),
        ({"schedule": [{**DIGEST, "at": "0 25 * * *"}]}, "schedule[0].at: is not what cron reads"),
        ({"schedule": [{**DIGEST, "at": "0 0 30 2 *"}]}, "schedule[0].at: "),
        ({"workers": [{**MAIL, "command": "celery 'x"}]}, "workers[0].command: can't be split into words"),
        ({"workers": [{**MAIL, "command": "-A shop"}]}, "workers[0].command: must begin with the name of a program"),
        ({"workers": [{**MAIL, "count": 0}]}, "workers[0].count: must be at least 1"),
        ({"workers": [{**MAIL, "stop_signal": "KILL"}]}, "workers[0].stop_signal: must be one of TERM, INT"),
        ({"workers": [{**MAIL, "command": "'' x"}]}, "workers[0].command: must begin with the name of a program"),
        ({"workers": [{**MAIL, "command": "celery\rx"}]}, "workers[0].command: is not of the right form"),
        ({"workers": [{**MAIL, "name": "../x"}]}, "workers[0].name: is not of the right form"),
        ({"schedule": [{**DIGEST, "at": "0 6\r* * *"}]}, "schedule[0].at: is not of the right form"),
        ({"broker": {"engine": "valkey", "memory": "0"}}, "broker.memory: must be at least 8m"),
        ({"broker": {"engine": "rabbitmq"}}, "broker.engine: must be one of valkey"),
        ({"worker": [MAIL]}, "worker: unknown key; did you mean workers?"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(StackFileError) as error:
        parse_config(stack_values(**keys))
    assert problem in str(error.value)
