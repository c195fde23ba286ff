"""What is made where there can be only one: PostgreSQL, nginx, its port. Killed, replaced under load, refused."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conformance import assert_nothing_lost, wait_until
from tests.e2e.stand import DockerStand, docker_port, kill_while_creating, made_image
from tests.e2e.test_bad_input import changed, harmless
from tests.e2e.test_engine import changes
from tests.e2e.tools import BASE, docker
from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

AROUND = 300

#: Seconds after which nginx must answer again when another has taken its place.
LONGEST = 15.0

#: Seconds in which nothing fails, between two outages.
APART = 2.0

#: How a request fails where nobody listens, or where who listened has just gone.
REFUSED = re.compile(r"ConnectionRefusedError|ConnectionResetError|BrokenPipeError|RemoteDisconnected")

NGINX = "cluster-test/nginx:1.26"
NGINX_DOCKERFILE = f"""
FROM {BASE}
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends nginx >/dev/null
RUN touch /another
"""

POSTGRES = "cluster-test/postgres:99"
POSTGRES_DOCKERFILE = f"""
FROM {BASE}
RUN mkdir -p /usr/lib/postgresql/99/bin && cd /usr/lib/postgresql/99/bin \\
    && printf '#!/bin/sh\\necho "postgres (PostgreSQL) 99.1"\\n' >postgres && chmod 0755 postgres \\
    && cp postgres initdb && cp postgres pg_isready && cp postgres psql
"""

#: The first process of a container that serves is the instance; the other instances get healthy.
BROKEN_AS_APP2 = """
with open("/proc/1/cmdline") as command:
    words = command.read().split("\\0")
if "cluster_runtime.instance" in words and "app2" in words:
    raise RuntimeError("broken as app2")
"""


@dataclass
class Outage:
    """From the first request that failed: when the last one did, and when one was answered again."""

    began: float
    refused: float
    answered: float = 0.0

    def __str__(self) -> str:
        return f"{self.refused - self.began:.1f} s, answered again after {self.answered - self.began:.1f} s"


class Outages(Load):
    """A load that knows for how long requests failed."""

    def __init__(self, address: tuple[str, int], clients: int = 12) -> None:
        super().__init__(address, clients=clients)
        self.outages: list[Outage] = []

    def __enter__(self) -> Outages:
        super().__enter__()
        return self

    def count(self, kind: str, failure: str | None, *, cut: bool = False) -> None:
        super().count(kind, failure, cut=cut)
        with self._lock:
            self._note(time.monotonic(), failed=failure is not None)
        if failure is not None:
            time.sleep(self.pause)  # who was refused does not come back at once

    def _note(self, when: float, *, failed: bool) -> None:
        last = self.outages[-1] if self.outages else None
        if failed:
            if last is None or (last.answered and when - last.refused > APART):
                self.outages.append(Outage(when, when))
            else:  # nothing was answered since, or it had begun before
                last.refused, last.answered = when, 0.0
        elif last is not None and not last.answered:
            last.answered = when

    def __str__(self) -> str:
        return f"refused for {', and for '.join(map(str, self.outages))}: {self.counts}"

    def assert_only_refused(self, outages: int) -> None:
        other = [line for line in self.counts.failed if not REFUSED.search(line)]
        assert other == []
        assert self.counts.lost == []
        assert self.counts.cut == 0
        assert 1 <= len(self.outages) <= outages
        assert all(0 < outage.answered - outage.began < LONGEST for outage in self.outages)


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    """A stack that was set up, and never was up."""
    with contextlib.closing(DockerStand(name="c")) as found:
        result = found.run("init", found.name)
        assert result.status == 0, result.output
        yield found


@pytest.fixture(scope="module")
def another_nginx() -> Iterator[str]:
    with made_image(NGINX, NGINX_DOCKERFILE):
        yield NGINX


@pytest.fixture
def serving(stand: DockerStand) -> DockerStand:
    result = stand.up()
    assert result.status == 0, result.output
    return stand


def cancel_and_plain_up(stand: DockerStand, role: str) -> None:
    """Go on from where a killed `up` was; what it left of `role` is removed."""
    (left,) = stand.containers(role, stopped=True)
    name = docker("inspect", "--format", "{{.Name}}", left).lstrip("/")
    assert stand.pulumi("cancel", "--yes").returncode == 0
    done = stand.pulumi("up", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert f"removing {name}: a killed run left it" in done.stdout, done.stdout
    assert left not in stand.containers(stopped=True)


def assert_converged(stand: DockerStand) -> None:
    for role in ("postgres", "nginx"):
        assert len(stand.containers(role, stopped=True)) == 1, f"not exactly one {role}"
    status = stand.status()
    assert status["ok"], status
    assert changes(stand) == {}
    assert "no changes" in stand.up().output


@pytest.mark.parametrize("role", ["postgres", "nginx"])
def test_a_first_up_killed_while_it_creates_one_is_mended_by_cancel_and_plain_up(stand: DockerStand, role: str) -> None:
    if stand.containers():
        result = stand.down()
        assert result.status == 0, result.output
    assert stand.containers(stopped=True) == []
    kill_while_creating(stand, role)
    cancel_and_plain_up(stand, role)
    assert_converged(stand)
    with Load(stand.address) as load:
        load.wait_for(AROUND)
    print(f"killed while creating the first {role}, then cancel and plain up: {load.counts}")
    assert_nothing_lost(load.counts)


def test_another_nginx_is_named_by_preview_and_refuses_connections_for_seconds_and_loses_no_session(
    serving: DockerStand, another_nginx: str
) -> None:
    nginx, instances = serving.containers("nginx"), serving.containers("instance")
    serving.edit_stack(lambda stack: stack.update(images={"nginx": another_nginx}))
    shown = serving.pulumi("preview")
    assert re.search(r"Container\s+nginx-nginx\s+(create )?replace", shown.stdout), shown.stdout
    planned = serving.run("plan", serving.name).output
    assert "nginx is replaced: connections are refused" in planned.splitlines()[0]
    with Outages(serving.address) as load:
        load.wait_for(AROUND)
        result = serving.up()
        load.wait_for(AROUND)
    assert result.status == 0, result.output
    assert result.output.startswith(planned)
    print(f"nginx replaced: {load}")
    load.assert_only_refused(outages=1)
    assert serving.containers("nginx") != nginx
    docker("exec", *serving.containers("nginx"), "test", "-e", "/another")
    assert serving.containers("instance") == instances, "another nginx touched an instance"
    assert_converged(serving)
    serving.edit_stack(lambda stack: stack.pop("images"))


def test_an_up_killed_while_it_replaces_nginx_is_mended_by_cancel_and_plain_up(
    serving: DockerStand, another_nginx: str
) -> None:
    serving.edit_stack(lambda stack: stack.update(images={"nginx": another_nginx}))
    with Outages(serving.address) as load:
        load.wait_for(AROUND)
        kill_while_creating(serving, "nginx")
        # It takes the configuration that it finds, and serves without Pulumi.
        wait_until(lambda: serving.nginx_digest() is not None, "nginx serves", LONGEST)
        load.wait_for(AROUND)
        cancel_and_plain_up(serving, "nginx")
        load.wait_for(AROUND)
    print(f"killed while replacing nginx, then cancel and plain up: {load}")
    load.assert_only_refused(outages=2)
    assert_converged(serving)
    serving.edit_stack(lambda stack: stack.pop("images"))


def test_a_port_that_another_program_holds_harms_nothing_and_a_free_one_works(serving: DockerStand) -> None:
    former = serving.port
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", docker_port()))
        taken.listen()
        port = taken.getsockname()[1]
        serving.edit_stack(lambda stack: stack["site"].update(listen=port))
        # A run that fails goes on with the release as far as it gets; the next one gets farther.
        for _ in range(2):
            harmless(serving, serving.up, f"site.listen: port {port} is in use")
    serving.edit_stack(lambda stack: stack["site"].update(listen=former))
    with Load(serving.address) as load:
        load.wait_for(AROUND)
        result = serving.up()
        load.wait_for(AROUND)
    print(f"back to the port that is ours: {load.counts}")
    assert result.status == 0, result.output
    assert_nothing_lost(load.counts)
    assert_converged(serving)
    free = docker_port()
    serving.edit_stack(lambda stack: stack["site"].update(listen=free))
    result = serving.up()
    assert result.status == 0, result.output
    serving.port, serving.address = free, ("127.0.0.1", free)
    assert_converged(serving)
    with Load(serving.address) as load:
        load.wait_for(AROUND)
    print(f"a free port: {load.counts}")
    assert_nothing_lost(load.counts)


def test_a_postgresql_that_cannot_read_the_data_is_refused_before_the_running_one_is_touched(
    serving: DockerStand,
) -> None:
    with made_image(POSTGRES, POSTGRES_DOCKERFILE):
        serving.edit_stack(lambda stack: stack.update(images={"postgres": POSTGRES}))
        harmless(serving, serving.up, "the data are of PostgreSQL", "this image has 99")
        serving.edit_stack(lambda stack: stack.pop("images"))
    before = serving.containers()
    with Load(serving.address) as load:
        load.wait_for(AROUND)
        result = serving.up()
        load.wait_for(AROUND)
    print(f"back to the PostgreSQL that can read them: {load.counts}")
    assert result.status == 0, result.output
    assert_nothing_lost(load.counts)
    assert serving.containers() == before
    assert_converged(serving)


def test_what_a_failed_release_started_does_not_run_on_and_never_takes_a_name(serving: DockerStand) -> None:
    release, holders = serving.release(), serving.holders()
    urls = serving.root / "example" / "example" / "urls.py"
    with changed(urls, urls.read_text() + BROKEN_AS_APP2), Load(serving.address) as load:
        load.wait_for(AROUND)
        result = serving.up()
        load.wait_for(AROUND)
        assert result.status != 0
        assert "broken as app2" in result.output, result.output
        assert "stopping app1" in result.output, "app1 of the failed release was healthy"
        running = {container[:12] for container in serving.containers("instance")}
        assert running == set(holders.values()), "not only what serves runs"
        # Somebody starts one of them by hand, and its name's holder is away for a while.
        started = never_served(serving, "app1", holders["app1"])
        docker("start", started)
        wait_until(lambda: health(started) == "healthy", "what never served is healthy")
        assert serving.holders() == holders
        docker("restart", "--time", "60", holders["app1"])
        wait_until(lambda: health(holders["app1"]) == "healthy", "what serves is healthy again")
        wait_until(lambda: serving.holders() == holders, "who served has its name again")
        load.wait_for(AROUND)
        assert serving.holders() == holders
        docker("stop", "--time", "60", started)
    print(f"a failed release, one of its instances started by hand: {load.counts}")
    assert_nothing_lost(load.counts)
    assert {found for _instance, found in load.counts.by} == {release}
    result = serving.up()
    assert result.status == 0, result.output
    assert len(serving.containers("instance", stopped=True)) == 4
    assert_converged(serving)


def never_served(stand: DockerStand, instance: str, holder: str) -> str:
    """Return the stopped container of an instance beside the one that holds its name."""
    found = json.loads(docker("inspect", *stand.containers("instance", stopped=True)))
    (other,) = (
        one["Id"]
        for one in found
        if one["Config"]["Labels"]["django-cluster.instance"] == instance and one["Id"][:12] != holder
    )
    return str(other)


def health(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container)
