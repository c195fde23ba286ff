"""What `cluster up` says of the engine's events, and of its failures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from platforms.docker.failures import build_output
from platforms.docker.scripts import script
from platforms.pulumi.engine import LOCKED, Changes, name_of
from platforms.pulumi.plain import plain
from platforms.pulumi.progress import COMMANDS, Progress, begun, ended
from platforms.pulumi.seen import Seen
from tests.unit.pulumi_mocks import stack_values

URN = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$"


COMPONENT = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts::web-app"


def step(kind: str, name: str, operation: str, **states: Any) -> dict[str, Any]:
    """Return a step of a part of the component web-app, as the engine tells it."""
    known = {key: {**(state or {}), "parent": COMPONENT} for key, state in {"new": {}, **states}.items()}
    return {"urn": f"{URN}{kind}::web-app-{name}", "op": operation, **known}


def former_step(kind: str, name: str, operation: str) -> dict[str, Any]:
    """Return a step of what was made before parts were called after their components."""
    return {"urn": f"{URN}{kind}::{name}", "op": operation, "old": {"parent": COMPONENT}}


IMAGE, CONTAINER, COMMAND = (
    "docker:index/image:Image",
    "docker:index/container:Container",
    "command:local:Command",
)


@pytest.mark.parametrize(
    ("kind", "name", "operation", "said"),
    [
        (IMAGE, "app-image", "update", ["building the image of the release"]),
        (IMAGE, "postgres-image", "create", ["building the image of postgres"]),
        (IMAGE, "app-image", "delete", []),
        (CONTAINER, "app1", "create-replacement", ["starting app1"]),
        (CONTAINER, "app1", "update", ["changing app1 in place"]),
        (CONTAINER, "app1", "delete-replaced", ["draining and removing the former app1"]),
        (CONTAINER, "app5", "delete", ["draining and removing app5"]),
        (CONTAINER, "app1", "same", []),
        (CONTAINER, "nginx", "delete-replaced", ["replacing nginx: connections are refused until the new one listens"]),
        (COMMAND, "prepare", "update", [COMMANDS["prepare"]]),
        (COMMAND, "app1-serve", "update", []),
        (COMMAND, "memcached2-restored", "update", ["waiting until memcached2 has its sessions again"]),
        (COMMAND, "memcached2-restored", "delete", []),
        (COMMAND, "nginx-ports", "create", []),
        (COMMAND, "database-data", "create", []),
        ("docker:index/volume:Volume", "sockets", "create", []),
    ],
)
def test_each_step_is_told_in_words_as_it_is_begun(kind: str, name: str, operation: str, said: list[str]) -> None:
    assert begun(step(kind, name, operation)) == said
    assert begun(former_step(kind, name, operation)) == said


def test_a_name_is_told_as_served_only_when_it_is() -> None:
    new = {"inputs": {"environment": {"INSTANCE": "app1", "RELEASE": "abc"}}}
    assert ended(step(COMMAND, "app1-serve", "update", new=new)) == ["app1 serves release abc"]
    assert ended(step(COMMAND, "app1-serve", "same", new=new)) == []
    told = {**step(COMMAND, "app1-serve", "update", new=new), "diffs": ["environment.SERVED"]}
    assert ended(told) == [], "static-current has let it, and it had the name already"
    assert ended({**told, "diffs": ["environment.SERVED", "environment.TURN"]}) == ["app1 serves release abc"]
    assert ended(step(COMMAND, "app1-serve", "delete", new=None)) == []


SERVERS = [{"name": "app1"}, {"name": "app2"}]


def taken(name: str, release: str = "abc", operation: str = "update") -> list[dict[str, Any]]:
    new = {"inputs": {"environment": {"INSTANCE": name, "RELEASE": release}}}
    return stepped(step(COMMAND, f"{name}-serve", operation, new=new))


def delivered(operation: str = "update") -> list[dict[str, Any]]:
    return stepped(step(COMMAND, "nginx-config", operation))


def stepped(taken: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"resourcePreEvent": {"metadata": taken}}, {"resOutputsEvent": {"metadata": taken}}]


def removed(name: str) -> list[dict[str, Any]]:
    return [{"resourcePreEvent": {"metadata": step(CONTAINER, name, "delete-replaced")}}]


SAME = [*taken("app1", operation="same"), *taken("app2", operation="same")]


@pytest.mark.parametrize(
    ("events", "served"),
    [
        ([*taken("app1"), *taken("app2"), *delivered("same"), *removed("app1")], ["abc"]),
        ([*SAME, *delivered()], ["abc"]),
        ([*SAME, *delivered("same")], []),
        ([*taken("app1"), *taken("app2"), *removed("app1")], []),
        ([*taken("app1"), *delivered("same")], []),
        ([*taken("app1", "abc"), *taken("app2", "abd"), *delivered()], []),
    ],
    ids=["a release", "a weight change", "no change", "nginx waits", "not all names", "two releases"],
)
def test_all_serve_once_nginx_has_its_configuration_and_only_removals_are_left(
    events: list[dict[str, Any]], served: list[str]
) -> None:
    found: list[str] = []
    beginnings: list[dict[str, Any]] = []
    topology = build_topology(parse_config(stack_values(upstream={"servers": SERVERS})))
    progress = Progress(topology, lambda _line: None, found.append, lambda: beginnings.append(event))
    for event in events:
        progress.take(event)
    assert found == served
    assert beginnings == events[:1]


def quoted(text: str) -> str:
    """Return a text as the provider's %q writes it: on one line."""
    return json.dumps(text, ensure_ascii=False)


def test_a_failed_command_is_told_by_what_it_printed_alone() -> None:
    words = (
        "<{%reset%}>1 error occurred:\n\t* updating urn:pulumi:dev::p::cluster:index:AppHosts$command:local:Command"
        f"::migrate: exit status 1: running {quoted(script('task.sh', '--lock', '/srv/static/lock', 'a b'))}:\n"
        "app.migrate: migrate failed in release abc\n    RuntimeError: no\n<{%reset%}>"
    )
    assert plain(words) == "migrate: app.migrate: migrate failed in release abc\n    RuntimeError: no"


def test_a_lock_tells_who_holds_it() -> None:
    found = LOCKED.search("  file:///x/lock.json: created by root@host-1 (pid 123) at 2026-11-24T10:00:00Z")
    assert found is not None
    assert (found["host"], found["pid"]) == ("host-1", "123")


def test_only_what_is_not_the_same_counts_as_a_change() -> None:
    assert Changes(counts={"same": 12}).none
    assert Changes(counts={"same": 12, "update": 0}).none
    assert not Changes(counts={"same": 12, "update": 1}).none


def test_a_resource_is_known_by_the_last_word_of_its_type_and_its_name() -> None:
    assert name_of(f"{URN}{CONTAINER}::app1") == ("Container", "app1")


def test_of_a_failed_build_only_what_its_programs_printed_is_told() -> None:
    remarks = [
        "Building your image for linux/amd64 architecture.\nTo ensure you are building for the right one",
        "digest: sha256:32ba\n[packages 7/7] RUN install-packages",
        "error: No solution found when resolving dependencies\n  cause: no-such-package was not found",
        "digest: sha256:34c5\n[packages 7/7] RUN\nerror: executor failed running [/bin/sh]",
    ]
    assert build_output(remarks) == [
        "    error: No solution found when resolving dependencies",
        "      cause: no-such-package was not found",
    ]


def test_of_a_program_that_has_said_why_pulumi_s_own_words_are_left_out() -> None:
    seen = Seen(lambda _event: None)
    for message in (
        "web1: sudo asks for a password",
        "an unhandled error occurred: program exited with non-zero exit code: 1",
        "update failed",
    ):
        seen.take({"diagnosticEvent": {"severity": "error", "message": f"error: {message}"}})
    assert seen.problem() == "web1: sudo asks for a password"
