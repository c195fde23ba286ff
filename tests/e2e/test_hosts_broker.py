"""A broker on a host of its own, workers on two others: who gets to it, and jobs of Celery's, each of them counted."""

from __future__ import annotations

import json
import secrets
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests import conformance
from tests.celery_jobs import VISIBILITY_TIMEOUT, mixed
from tests.conformance import AROUND
from tests.e2e.host_queues import JOURNAL, HostsQueue, write_journal
from tests.e2e.hosts import HostsStand, LoadOfAll, Store, hosts_stand, reached_from
from tests.e2e.remote import Host
from tests.jobs import Kind, asked_during, last_of_its_process, late_by, until
from tests.local.test_commands import assert_done
from tests.queues import HELD, PATIENCE, SHORT, WORKERS
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import Account

PORT = 6380

ROLES: dict[str, tuple[str, ...]] = {
    "web1": ("app", "nginx"),
    "web2": ("app",),
    "edge1": ("nginx",),
    "store1": ("database", "broker"),
}

#: Asks for the broker as the project does, and in ways that must not do.
ASK = """
import os
from kombu import Connection
given = os.environ["CLUSTER_BROKER_URL"]
password = given.partition("@")[0].rpartition(":")[2]
ways = (
    given,
    given.replace(password, "x"),
    given.replace(f":{password}@", ""),
    given.partition("?")[0].replace("rediss:", "redis:"),
    given.partition("ssl_ca_certs=")[0] + "ssl_ca_certs=/etc/ssl/certs/ca-certificates.crt",
)
for url in ways:
    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            connection.default_channel.client.ping()
        print("in")
    except Exception as error:
        print("out", type(error).__name__, str(error).replace(chr(10), " "))
"""


class StoreHost(Host):
    """A host that has PostgreSQL already, beside which the stack has a cluster of its own."""

    image, text = Store.image, Store.text


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStand]:
    workers = [
        {
            "name": "work",
            "command": "celery -A shop worker --concurrency 2 --loglevel INFO --without-gossip --without-mingle",
            "count": 2,
            "graceful_timeout": "1m",
        }
    ]
    more: dict[str, Any] = {
        "app": {"project": "./project", "settings": "shop.settings", "requirements": "requirements.txt"},
        "upstream": {"servers": 2},
        "database": {"engine": "postgres", "port": 5433},
        "workers": workers,
        "broker": {"engine": "valkey", "memory": "64m"},
        "site": {"server_names": ["localhost"], "static_url": "/static/"},
    }
    directory = tmp_path_factory.mktemp("hosts")
    with hosts_stand(directory, ROLES, {"store1": StoreHost}, case="shop", **more) as found:
        journal = JOURNAL.format(stack=found.name)
        found.edit_stack(lambda stack: stack["app"].update(environment={"JOURNAL": journal}))
        write_journal(found.project)
        with (found.project / "requirements.txt").open("a") as requirements:
            requirements.write("psycopg[binary]\n")
        result = found.up()
        assert result.status == 0, result.output
        yield found


@pytest.fixture
def queue(stand: HostsStand) -> HostsQueue:
    return HostsQueue(stand)


#: What Celery does by its own rules, where no kill has found a job under way.
BROKER_ENDS = ("the broker's process", "its unit", "its host", "its host at once")
RULES = {
    "ended as their worker stopped": last_of_its_process,
    "not acknowledged within visibility_timeout": late_by(VISIBILITY_TIMEOUT),
    "enqueued while the broker was away": asked_during(*BROKER_ENDS),
}


#: What `rotate-key` changes, by its words.
KEYS = ("secret_key", "hosts_key")

#: Seconds of a job that is not done when the broker is started again for another key.
AGES = 90.0


def visitors(stand: HostsStand) -> LoadOfAll:
    """Return clients of each host that has visitors; they have sessions."""
    return LoadOfAll(stand, host="localhost", clients=4, slow=0, posts=False)


def assert_nothing_lost(name: str, account: Account) -> None:
    print(f"{name}: {account.told(**RULES)}")
    assert account.lost == []
    assert [job for job in account.cut_off if not account.killed(job)] == [], "cut off, and by no kill"
    assert account.unexplained(*RULES.values()) == {}


def test_the_broker_is_asked_by_tls_and_by_a_password_alone(stand: HostsStand) -> None:
    result = stand.run("manage", stand.name, "--", "shell", "-c", ASK)
    assert result.status == 0, result.output
    said = [line for line in result.output.splitlines() if line.startswith(("in", "out "))]
    assert [line.split()[0] for line in said] == ["in", "out", "out", "out", "out"], said
    assert "no changes" in stand.up().output


def test_hosts_that_run_instances_get_there_and_nobody_else(stand: HostsStand) -> None:
    there = stand.host_named("store1")
    assert reached_from(stand.host_named("web1"), there.address, PORT)
    assert reached_from(stand.host_named("web2"), there.address, PORT)
    assert not reached_from(stand.host_named("edge1"), there.address, PORT)
    with pytest.raises(OSError):  # noqa: PT011 - it is refused, whatever the reason
        socket.create_connection((there.address, PORT), timeout=5).close()
    verified = stand.run("verify", stand.name, "--json")
    assert verified.status == 0, verified.output
    for name in ("web1", "web2"):
        assert f"instances on {name} get to the broker" in verified.output


def test_an_open_port_is_told_and_closed_again(stand: HostsStand) -> None:
    there = stand.host_named("store1")
    there.run("nft", "delete", "table", "inet", f"cluster_{stand.name}.broker")
    status = json.loads(stand.run("status", stand.name, "--json").output)
    (broker,) = [one for one in status["services"] if one["kind"] == "broker"]
    assert broker["message"] == "everybody on its network gets to its port"
    assert not status["ok"]
    verified = stand.run("verify", stand.name, "--json")
    assert verified.status == 1
    for who in ("edge1", "this machine"):
        assert f"{who} gets to the broker at {there.address}:{PORT}" in verified.output, verified.output
    drift = stand.run("status", stand.name, "--drift", "--json").output
    assert "everybody on its network gets to the port of the broker on store1" in drift
    result = stand.up()
    assert result.status == 0, result.output
    assert not reached_from(stand.host_named("edge1"), there.address, PORT)
    assert stand.status()["ok"]


def test_the_password_is_nowhere_but_among_secrets(stand: HostsStand) -> None:
    words = "import os; print('url', os.environ['CLUSTER_BROKER_URL'])"
    output = stand.run("manage", stand.name, "--", "shell", "-c", words).output
    (url,) = [line.split()[1] for line in output.splitlines() if line.startswith("url ")]
    password = url.partition("@")[0].rpartition(":")[2]
    assert len(password) == 64
    assert not files_with(stand.root / "state", password)
    assert password not in stand.file.read_text()
    for one in stand.all_hosts:
        script = (
            f"grep -rsl -e {password} /etc /run /var/log /var/lib /srv /root /home /tmp;"
            f"journalctl --no-pager | grep -l -e {password};"
            f"grep -sl -e {password} /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        )
        # Of the process that looks itself.
        found = [line for line in one.run("sh", "-c", script, check=False).split() if "/proc/" not in line]
        places = (f"/etc/cluster/{stand.name}/secrets/", f"/run/credentials/cluster-{stand.name}")
        assert [line for line in found if not (line.startswith(places) and line.endswith("broker_url"))] == []
        assert bool(found) == ("app" in one.roles)
    there = stand.host_named("store1")
    modes = there.run(
        "sh", "-c", f"stat -c '%a %U' /etc/cluster/{stand.name}/broker /etc/cluster/{stand.name}/broker/*"
    )
    assert set(modes.splitlines()) == {"700 root", "600 root"}


def test_no_job_is_lost_by_a_release_and_a_way_back(queue: HostsQueue) -> None:
    with queue.customers(mixed("late", "early", every=40)) as customers:
        queue.release()
        customers.wait_for(100)
        queue.roll_back()
        customers.wait_for(100)
    assert_nothing_lost("a release and a way back", queue.drained())


def test_no_job_is_lost_by_what_is_killed_and_started_again(queue: HostsQueue) -> None:
    with queue.customers(mixed("late", every=40)) as customers:
        queue.kill_command("late")
        customers.wait_for(100)
        for what, end in zip(BROKER_ENDS, ("kill", "restart", "boot", "crash"), strict=True):
            queue.without_broker(what, Kind("late", HELD), end)
            customers.wait_for(100)
    assert_nothing_lost("kills, the broker and its host", queue.drained())


@pytest.mark.parametrize("words", [(), ("--hosts",)], ids=["secret_key", "hosts_key"])
def test_another_key_loses_no_request_no_session_and_no_job(queue: HostsQueue, words: tuple[str, ...]) -> None:
    stand, name = queue.hosts, f"rotate-key {' '.join(words)}".strip()
    before = {key: stand.kept_secret(key) for key in KEYS}
    with (
        queue.broker_starts("its unit"),
        # Few of them are handed over at a time: one that is just then is in nobody's books (docs/workers.md).
        queue.customers(mixed("late", "early", every=4), clients=3, pause=0.5) as customers,
        visitors(stand) as load,
    ):
        customers.wait_for(30)
        assert_done(stand.run("rotate-key", stand.name, *words, timeout=900))
        if not words:
            stand.end_waiting_of_rotation()
            assert_done(stand.run("rotate-key", stand.name, timeout=900))
        customers.wait_for(30)
    assert_nothing_lost(name, queue.drained())
    print(f"{name}: {load.counts}")
    conformance.assert_nothing_lost(load.counts)
    assert {release for _instance, release in load.counts.by} > {stand.release()}, "there was another release"
    assert bool(queue.kills) == bool(words), "the broker shows a certificate of hosts_key, and knows its password"
    assert [key for key in KEYS if stand.kept_secret(key) != before[key]] == ["hosts_key" if words else "secret_key"]
    assert "no changes" in assert_done(stand.up())
    assert_done(stand.run("verify", stand.name))


def test_other_keys_in_one_step_lose_requests_and_sessions(queue: HostsQueue) -> None:
    """The saboteurs of the requests and the sessions."""
    stand = queue.hosts
    stand.keep_secret("secret_key", secrets.token_hex(32))
    stand.edit_stack(lambda stack: stack["sessions"].update(discard=True))  # else `up` refuses
    with visitors(stand) as load:
        load.wait_for(AROUND)
        assert_done(stand.up())
        load.wait_for(AROUND)
    print(f"another secret_key in one step: {load.counts}")
    assert load.counts.lost
    stand.edit_stack(lambda stack: stack["sessions"].pop("discard"))
    stand.keep_secret("hosts_key", secrets.token_hex(32))
    with stand.sabotaged("key_in_one_step"), visitors(stand) as load:
        load.wait_for(AROUND)
        assert_done(stand.up())
        load.wait_for(AROUND)
    print(f"another hosts_key in one step: {load.counts}")
    assert load.counts.failed


def assert_waiting_jobs_are_lost(queue: HostsQueue, what: str) -> None:
    """See that some of those that waited are never begun. what: said before the counts."""
    queue.enqueue(1, Kind("late", SHORT))  # what waited before it would be begun before it
    until(lambda: queue.orders[-1].job in queue.journal.ended(), PATIENCE)
    account = queue.drained(2 * HELD)
    print(f"{what}: {account.told(**RULES)}")
    assert [job for job in account.lost if job not in account.runs]


def test_another_key_loses_what_waits_where_the_broker_keeps_nothing_on_disk(queue: HostsQueue) -> None:
    """The saboteur of the jobs."""
    stand = queue.hosts
    with stand.sabotaged("no_appendonly"):
        stand.edit_stack(lambda stack: stack["broker"].update(memory="65m"))
        assert_done(stand.up())
        queue.hold(queue.processes(*WORKERS), Kind("late", AGES))
        queue.enqueue(20, Kind("late", SHORT))
        assert_done(stand.run("rotate-key", stand.name, "--hosts", timeout=900))
        assert_waiting_jobs_are_lost(queue, "rotate-key --hosts without appendonly")
    stand.edit_stack(lambda stack: stack["broker"].update(memory="64m"))
    assert_done(stand.up())


def test_a_broker_that_keeps_nothing_on_disk_loses_what_waits(queue: HostsQueue) -> None:
    """The saboteur."""
    stand = queue.stand
    with stand.sabotaged("no_appendonly"):
        stand.edit_stack(lambda stack: stack["broker"].update(memory="65m"))
        result = stand.up()
        assert result.status == 0, result.output
        queue.without_broker("the broker's process", Kind("late", HELD), "kill", waiting=20)
        assert_waiting_jobs_are_lost(queue, "without appendonly")
    stand.edit_stack(lambda stack: stack["broker"].update(memory="64m"))
    result = stand.up()
    assert result.status == 0, result.output


def test_what_waits_is_kept_by_down_and_is_another_host_s_only_if_told(queue: HostsQueue) -> None:
    stand = queue.hosts
    queue.hold(queue.processes(*WORKERS), Kind("late", HELD))
    queue.enqueue(20, Kind("late", SHORT))
    assert stand.run("down", stand.name, "--yes").status == 0
    assert not reached_from(stand.host_named("web1"), stand.host_named("store1").address, PORT)
    roles = {"store1": ["database"], "web2": ["app", "broker"]}

    def move(stack: dict[str, Any]) -> None:
        for one in stack["hosts"]:
            one["roles"] = roles.get(one["name"], one["roles"])

    before = [dict(one) for one in stand.stack["hosts"]]
    stand.edit_stack(move)
    refused = stand.up()
    assert refused.status == 1
    assert "broker: store1 has jobs, and web2, where it is to be now, has none" in " ".join(refused.output.split())
    stand.edit_stack(lambda stack: stack.update(hosts=before))
    result = stand.up()
    assert result.status == 0, result.output
    assert_nothing_lost("down and up", queue.drained())
    stand.edit_stack(move)
    stand.edit_stack(lambda stack: stack["broker"].update(discard=True))
    result = stand.up()
    assert result.status == 0, result.output
    assert not reached_from(stand.host_named("web1"), stand.host_named("store1").address, PORT)
    queue.forget()
    queue.enqueue(20, Kind("late", SHORT))
    assert_nothing_lost("another host", queue.drained())
    assert stand.run("down", stand.name, "--delete-data", "--yes").status == 0
    for one in stand.all_hosts:
        # The file of a lock that nobody holds stays until the next boot.
        places = f"find /etc /var/lib /run /srv -xdev -name '*cluster-{stand.name}*' -not -name '*.lock'"
        left = one.run("sh", "-c", places, check=False)
        assert not left, (one.name, left)
