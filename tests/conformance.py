"""What must hold on every platform, as one suite: the platform is a parameter.

A platform's test module makes a fixture `cluster` (a `ClusterUnderTest`) and inherits the classes.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from tests.clients import NO_TLS
from tests.jobs import until
from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.load import Counts

#: Requests that are counted before and after each change, beside those during it.
AROUND = 300


class Result(Protocol):
    """How a command of the tool ended."""

    @property
    def status(self) -> int: ...
    @property
    def output(self) -> str: ...


class ClusterUnderTest(Protocol):
    """A cluster of the example project with four instances, reached in ways that every platform has."""

    address: tuple[str, int]
    stack: dict[str, Any]

    def up(self) -> Result: ...
    def rollback(self) -> Result: ...
    def verify(self) -> Result: ...
    def edit_stack(self, change: Callable[[dict[str, Any]], object]) -> None: ...
    def edit_code(self, path: str, text: str) -> None: ...
    def release(self) -> str: ...
    def processes(self, instance: str) -> dict[str, int]: ...
    def kill(self, instance: str, sent: signal.Signals) -> None: ...
    def stop_worker(self, instance: str) -> int: ...
    def restart(self, instance: str) -> None: ...
    def wait_healthy(self) -> None: ...
    def nginx_workers(self) -> set[int]: ...
    def sabotaged(self, how: str) -> AbstractContextManager[None]: ...


def servers(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the stack's servers by name, to be changed in place."""
    return {server["name"]: server for server in stack["upstream"]["servers"]}


#: It imports while the release is made, and fails where an instance serves it: only the health gate sees that.
BROKEN_URLS = "import os\nif os.environ.get('CLUSTER_INSTANCE'):\n    raise RuntimeError('this release is broken')\n"

MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("visits", "0001_initial")]
    operations = [migrations.AddField("entry", "mood", models.CharField(max_length=20, default="", db_default=""))]
"""

MIGRATED_MODEL = """from django.db import models


class Entry(models.Model):
    text = models.CharField(max_length=200)
    created = models.DateTimeField(auto_now_add=True)
    mood = models.CharField(max_length=20, default="", db_default="")
"""


class Loaded:
    """What is asked of a cluster while it changes."""

    def load(self, cluster: ClusterUnderTest, **options: Any) -> Load:
        """Return clients of the cluster."""
        return Load(cluster.address, **options)


class Changes(Loaded):
    """No change of the stack or the code loses a request or a session."""

    #: Requests that are counted over all changes.
    least = 20_000

    def test_no_change_loses_a_request_or_a_session(self, cluster: ClusterUnderTest) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            for change in (
                self.weight,
                self.drain,
                self.backup,
                self.instance_added,
                self.instance_removed,
                self.release,
                self.failed_release,
                self.roll_back,
                self.migration,
                self.one_at_a_time,
            ):
                before = load.snapshot()
                began = time.monotonic()
                change(cluster)
                load.wait_for(AROUND)
                counts = load.snapshot().since(before)
                print(f"{change.__name__}: {counts} in {time.monotonic() - began:.1f} s")
                assert_nothing_lost(counts)
            load.wait_for(max(0, self.least - load.counts.total), timeout=1200)
        print(f"all changes: {load.counts}")
        assert load.counts.total >= self.least
        assert_nothing_lost(load.counts)

    def weight(self, cluster: ClusterUnderTest) -> None:
        before = {name: cluster.processes(name) for name in servers(cluster.stack)}
        cluster.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert_up(cluster)
        after = {name: cluster.processes(name) for name in servers(cluster.stack)}
        assert after == before, "a weight change touched a process of the app"

    def drain(self, cluster: ClusterUnderTest) -> None:
        before = cluster.processes("app3")
        cluster.edit_stack(lambda stack: servers(stack)["app3"].update(down=True))
        assert_up(cluster)
        assert cluster.processes("app3") == before, "a drained instance keeps running"
        cluster.edit_stack(lambda stack: servers(stack)["app3"].pop("down"))
        assert_up(cluster)

    def backup(self, cluster: ClusterUnderTest) -> None:
        cluster.edit_stack(lambda stack: servers(stack)["app2"].update(backup=True))
        assert_up(cluster)
        cluster.edit_stack(lambda stack: servers(stack)["app2"].pop("backup"))
        assert_up(cluster)

    def instance_added(self, cluster: ClusterUnderTest) -> None:
        cluster.edit_stack(lambda stack: stack["upstream"]["servers"].append({"name": "app5"}))
        assert_up(cluster)
        assert cluster.processes("app5")

    def instance_removed(self, cluster: ClusterUnderTest) -> None:
        cluster.edit_stack(lambda stack: stack["upstream"]["servers"].pop())
        assert_up(cluster)
        assert not cluster.processes("app5"), "a removed instance still runs"

    def release(self, cluster: ClusterUnderTest) -> None:
        nginx, before = cluster.nginx_workers(), cluster.release()
        cluster.edit_code("visits/apps.py", "# another release\n")
        assert_up(cluster)
        assert cluster.release() != before
        assert cluster.nginx_workers() == nginx, "a release touched nginx"

    def failed_release(self, cluster: ClusterUnderTest) -> None:
        before = {name: cluster.processes(name) for name in servers(cluster.stack)}
        serving = cluster.release()
        cluster.edit_code("example/urls.py", BROKEN_URLS)
        result = cluster.up()
        assert result.status != 0
        assert "this release is broken" in result.output
        assert cluster.release() == serving
        after = {name: cluster.processes(name) for name in servers(cluster.stack)}
        assert after == before, "a failed release touched what serves"
        cluster.edit_code("example/urls.py", "")
        assert_up(cluster)

    def roll_back(self, cluster: ClusterUnderTest) -> None:
        before = cluster.release()
        result = cluster.rollback()
        assert result.status == 0, result.output
        assert cluster.release() != before
        assert_up(cluster)
        assert cluster.release() == before

    def migration(self, cluster: ClusterUnderTest) -> None:
        cluster.edit_code("visits/migrations/0002_mood.py", MIGRATION)
        cluster.edit_code("visits/models.py", MIGRATED_MODEL)
        assert_up(cluster)

    def one_at_a_time(self, cluster: ClusterUnderTest) -> None:
        cluster.edit_stack(lambda stack: stack["app"].update(rollout={"batch": 1}))
        cluster.edit_code("visits/apps.py", "# one at a time\n")
        assert_up(cluster)
        cluster.edit_stack(lambda stack: stack["app"].pop("rollout"))

    def test_without_changes_up_says_so_and_touches_nothing(self, cluster: ClusterUnderTest) -> None:
        assert_up(cluster)
        before = {name: cluster.processes(name) for name in servers(cluster.stack)}
        nginx = cluster.nginx_workers()
        result = cluster.up()
        assert (result.status, "no changes" in result.output) == (0, True), result.output
        assert {name: cluster.processes(name) for name in servers(cluster.stack)} == before
        assert cluster.nginx_workers() == nginx

    def test_a_configuration_that_nginx_refuses_is_never_in_place(self, cluster: ClusterUnderTest) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            # What the lints accept, nginx accepts: only a renderer with a mistake gets so far.
            cluster.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
            with cluster.sabotaged("broken_rendering"):
                result = cluster.up()
            assert result.status != 0
            assert 'unknown directive "no_such_directive"' in result.output, "nginx's own message is missing"
            cluster.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
            result = cluster.up()
            assert (result.status, "no changes" in result.output) == (0, True), result.output
            load.wait_for(AROUND)
        assert_nothing_lost(load.counts)


class Saboteurs(Loaded):
    """With a part of the protocol switched off the same load loses requests: the zeros above mean something."""

    @pytest.mark.parametrize(
        ("how", "path", "text"),
        [("no_health_gate", "example/urls.py", BROKEN_URLS), ("no_drain", "visits/apps.py", "# no drain\n")],
        ids=["no_health_gate", "no_drain"],
    )
    def test_a_release_without_it_loses_requests(
        self, cluster: ClusterUnderTest, how: str, path: str, text: str
    ) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            assert load.counts.failed == []
            with cluster.sabotaged(how):
                cluster.edit_code(path, text)
                cluster.up()
            with contextlib.suppress(AssertionError):
                wait_until(lambda: bool(load.snapshot().failed), "a request was lost", seconds=3)
        print(f"{how}: {load.counts}")
        assert load.counts.failed, f"{how} was not noticed"
        if text is BROKEN_URLS:  # the other release may stay
            cluster.edit_code(path, "")
        assert_up(cluster)

    def test_killed_instances_without_the_retry_rule_fail_gets(self, cluster: ClusterUnderTest) -> None:
        with cluster.sabotaged("no_retry"):
            cluster.up()
            with self.load(cluster, posts=False) as load:
                load.wait_for(AROUND)
                cluster.kill("app1", signal.SIGKILL)
                load.wait_for(AROUND)
        print(f"no_retry: {load.counts}")
        assert load.counts.failures("GET"), "nobody noticed that nginx did not try another instance"
        assert_up(cluster)
        cluster.wait_healthy()


class Faults(Loaded):
    """What a fault of an instance may cost: no GET, and of POSTs only those that it already had."""

    @pytest.mark.wide
    def test_each_instance_killed_in_turn_costs_no_get(self, cluster: ClusterUnderTest) -> None:
        names = list(servers(cluster.stack))
        with self.load(cluster) as load:
            for name in names:
                load.wait_for(AROUND)
                cluster.kill(name, signal.SIGKILL)
                load.wait_for(AROUND)
                cluster.wait_healthy()
        print(f"killed {', '.join(names)} in turn: {load.counts}")
        self.assert_only_posts_in_flight(load.counts, kills=len(names))

    def test_with_three_of_four_killed_at_once_the_site_works(self, cluster: ClusterUnderTest) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            for name in ("app1", "app2", "app3"):
                cluster.kill(name, signal.SIGKILL)
            load.wait_for(AROUND)
            cluster.wait_healthy()
            load.wait_for(AROUND)
        print(f"killed three of four: {load.counts}")
        self.assert_only_posts_in_flight(load.counts, kills=3)

    def test_a_hung_worker_is_killed_and_its_gets_are_answered_by_another(self, cluster: ClusterUnderTest) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            began = time.monotonic()
            worker = cluster.stop_worker("app1")
            while worker in cluster.processes("app1").values():
                assert time.monotonic() - began < 30, "a hung worker was not killed"
                time.sleep(0.1)
            hung = time.monotonic() - began
            load.wait_for(AROUND)
            cluster.wait_healthy()
        print(f"a worker of app1 stopped, killed after {hung:.1f} s: {load.counts}")
        self.assert_only_posts_in_flight(load.counts, kills=1)

    def test_an_instance_with_all_threads_busy_is_not_restarted(self, cluster: ClusterUnderTest) -> None:
        before = {name: cluster.processes(name) for name in servers(cluster.stack)}
        with self.load(cluster, clients=16, slow=16, slow_seconds=10.0) as load:
            time.sleep(1)
        print(f"all threads busy for ten seconds and more: {load.counts}")
        assert load.counts.failed == []
        assert {name: cluster.processes(name) for name in servers(cluster.stack)} == before

    def test_a_plain_restart_of_one_instance_loses_nothing(self, cluster: ClusterUnderTest) -> None:
        with self.load(cluster) as load:
            load.wait_for(AROUND)
            before = cluster.processes("app1")
            cluster.restart("app1")
            cluster.wait_healthy()
            load.wait_for(AROUND)
        print(f"app1 restarted: {load.counts}")
        assert cluster.processes("app1") != before
        assert_nothing_lost(load.counts)

    @staticmethod
    def assert_only_posts_in_flight(counts: Counts, kills: int) -> None:
        assert counts.failures("GET") == 0, counts.failed[:5]
        assert counts.failures("slow") == 0, counts.failed[:5]
        assert counts.lost == []
        # An instance can hold no more POSTs, nor begun responses, than there are clients.
        assert counts.failures("POST") <= 9 * kills
        assert counts.cut <= 12 * kills


class Answers:
    """What the site answers, and to whom."""

    def test_verify_passes(self, cluster: ClusterUnderTest) -> None:
        result = cluster.verify()
        assert result.status == 0, result.output

    def test_the_runtime_is_not_public_and_headers_are_not_forged(self, cluster: ClusterUnderTest) -> None:
        base = "http://{}:{}".format(*cluster.address)
        with httpx.Client(trust_env=False, verify=NO_TLS, headers={"Host": "cluster"}) as client:
            for path in ("/-/health", "/-/probe", "//-/probe", "/%2d/probe", "/static/../-/probe"):
                assert client.get(base + path).status_code in (400, 404), path
            answer = client.get(base + "/whoami", headers={"X-Forwarded-Host": "evil.example"})
            assert answer.status_code == 200, "a forged host reached Django"

    def test_a_form_can_be_posted_with_its_origin(self, cluster: ClusterUnderTest) -> None:
        base = "http://{}:{}".format(*cluster.address)
        with httpx.Client(trust_env=False, verify=NO_TLS, headers={"Host": f"cluster:{cluster.address[1]}"}) as client:
            client.get(base + "/form")
            token = client.cookies["csrftoken"]
            headers = {"Origin": f"http://cluster:{cluster.address[1]}"}
            answer = client.post(base + "/form", data={"csrfmiddlewaretoken": token, "text": "x"}, headers=headers)
            assert answer.status_code == 200, answer.text

    def test_an_error_of_the_project_is_its_own_500(self, cluster: ClusterUnderTest) -> None:
        base = "http://{}:{}".format(*cluster.address)
        with httpx.Client(trust_env=False, verify=NO_TLS, headers={"Host": "cluster"}) as client:
            assert client.get(base + "/boom").status_code == 500
            assert client.get(base + "/whoami").status_code == 200

    def test_login_through_the_admin_holds_on_every_instance(self, cluster: ClusterUnderTest) -> None:
        base = "http://{}:{}".format(*cluster.address)
        self.make_superuser(cluster)
        with httpx.Client(
            trust_env=False, verify=NO_TLS, headers={"Host": "cluster"}, follow_redirects=False
        ) as client:
            client.get(base + "/admin/login/")
            form = {"username": "admin", "password": "a long enough one", "next": "/admin/"}
            form["csrfmiddlewaretoken"] = client.cookies["csrftoken"]
            assert client.post(base + "/admin/login/", data=form).status_code == 302
            for _ in range(20):
                assert client.get(base + "/admin/").status_code == 200, "logged out"

    def make_superuser(self, cluster: ClusterUnderTest) -> None:
        raise NotImplementedError


def assert_nothing_lost(counts: Counts) -> None:
    assert counts.failed == []
    assert counts.lost == []
    assert (counts.repeated, counts.cut) == (0, 0)


def assert_up(cluster: ClusterUnderTest) -> None:
    result = cluster.up()
    assert result.status == 0, result.output


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0, *, pause: float = 0.05) -> None:
    """Return when something holds. pause: seconds between two looks."""
    until(condition, seconds, lambda: what, pause=pause)
