"""A PostgreSQL that is made on a host of its own, and who gets to it; by the real engine."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.hosts import LoadOfAll, hosts_stand, reached_from
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.hosts import HostsStand

PORT = 5432

#: Asks for the database as whoever runs it has the right to, and says what came of it.
ASK = """
import sys
from django.db import connection
import psycopg
given = connection.get_connection_params()
given = {key: value for key, value in given.items() if key not in ("cursor_factory", "context", "prepare_threshold")}
for change in ({}, {"sslmode": "disable"}, {"hostaddr": given["hostaddr"], "host": "another"}, {"password": "x"}):
    try:
        with psycopg.connect(**{**given, **change}) as there:
            there.execute("set role none")  # who logged in sees how; the owner, who it is from then on, does not
            print("in", there.execute("select version from pg_stat_ssl where pid = pg_backend_pid()").fetchone()[0])
    except psycopg.OperationalError as error:
        print("out", str(error).replace(chr(10), " "))
"""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStand]:
    roles = {"web1": ("app",), "web2": ("app",), "edge1": ("nginx",), "db1": ("database",)}
    with hosts_stand(tmp_path_factory.mktemp("hosts"), roles, database={"engine": "postgres"}) as found:
        # Rules of somebody else's, which stay.
        found.all_hosts[3].run(
            "sh", "-c", "apt-get update -qq && apt-get install -y -qq nftables >/dev/null && nft add table inet theirs"
        )
        result = found.up()
        assert result.status == 0, result.output
        yield found


def test_the_database_is_asked_by_tls_and_by_a_password_alone(stand: HostsStand) -> None:
    result = stand.run("manage", stand.name, "--", "shell", "-c", ASK)
    assert result.status == 0, result.output
    said = [line for line in result.output.splitlines() if line.startswith(("in ", "out "))]
    assert [line.split()[0] for line in said] == ["in", "out", "out", "out"], said
    assert said[0] == "in TLSv1.3"
    assert "no encryption" in said[1]
    assert "does not match" in said[2]
    assert "password authentication failed" in said[3]


def test_hosts_that_run_instances_get_there_and_nobody_else(stand: HostsStand) -> None:
    address = stand.host_named("db1").address
    assert reached_from(stand.host_named("web1"), address, PORT)
    assert reached_from(stand.host_named("web2"), address, PORT)
    assert not reached_from(stand.host_named("edge1"), address, PORT)
    with pytest.raises(OSError):  # noqa: PT011 - it is refused, whatever the reason
        socket.create_connection((address, PORT), timeout=5).close()
    assert "theirs" in stand.host_named("db1").run("nft", "list", "tables")
    verified = stand.run("verify", stand.name)
    assert verified.status == 0, verified.output


def test_an_open_port_is_told_and_closed_again(stand: HostsStand) -> None:
    there = stand.host_named("db1")
    there.run("nft", "delete", "table", "inet", f"cluster_{stand.name}")
    status = json.loads(stand.run("status", stand.name, "--json").output)
    (database,) = [one for one in status["services"] if one["kind"] == "database"]
    assert database["message"] == "everybody on its network gets to its port"
    assert not status["ok"]
    verified = stand.run("verify", stand.name)
    assert verified.status == 1
    for who in ("edge1", "this machine"):
        assert f"{who} gets to the" in " ".join(verified.output.split()), verified.output
    result = stand.up()
    assert result.status == 0, result.output
    assert not reached_from(stand.host_named("edge1"), there.address, PORT)
    assert stand.status()["ok"]


def test_a_boot_leaves_nobody_in_and_all_data_there(stand: HostsStand) -> None:
    with LoadOfAll(stand, clients=6) as load:
        load.wait_for(100)
    there = stand.host_named("db1")
    count = "from visits.models import Entry; print('entries', Entry.objects.count())"
    before = stand.run("manage", stand.name, "--", "shell", "-c", count).output
    assert "entries" in before
    there.restart()
    there.until(lambda: reached_from(stand.host_named("web1"), there.address, PORT))
    assert not reached_from(stand.host_named("edge1"), there.address, PORT)
    assert stand.run("manage", stand.name, "--", "shell", "-c", count).output == before
    stand.wait_healthy()
    with LoadOfAll(stand, clients=6) as load:
        load.wait_for(100)
    assert not load.counts.failed


def test_the_password_is_nowhere_but_among_the_instances_secrets(stand: HostsStand) -> None:
    words = "from django.db import connection; print('password', connection.settings_dict['PASSWORD'])"
    output = stand.run("manage", stand.name, "--", "shell", "-c", words).output
    (password,) = [line.split()[1] for line in output.splitlines() if line.startswith("password ")]
    assert not files_with(stand.root / "state", password)
    assert password not in stand.file.read_text()
    for one in stand.all_hosts:
        script = (
            f"grep -rsl -e {password} /etc /run /var/log /var/lib/postgresql /root /home /tmp;"
            f"journalctl --no-pager | grep -l -e {password};"
            f"grep -sl -e {password} /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        )
        # Of the process that looks itself.
        found = [line for line in one.run("sh", "-c", script, check=False).split() if "/proc/" not in line]
        places = (f"/etc/cluster/{stand.name}/secrets/", f"/run/credentials/cluster-{stand.name}@")
        left = [line for line in found if not (line.startswith(places) and line.endswith("database_url"))]
        assert left == []
        assert bool(found) == ("app" in one.roles)
    modes = stand.host_named("web1").run(
        "sh", "-c", f"stat -c '%a %U' /etc/cluster/{stand.name}/secrets/*/database_url"
    )
    assert set(modes.splitlines()) == {"600 root"}


def test_what_it_holds_is_kept_until_it_is_to_be_deleted(stand: HostsStand) -> None:
    count = "from visits.models import Entry; print('entries', Entry.objects.count())"
    before = stand.run("manage", stand.name, "--", "shell", "-c", count).output
    assert stand.run("down", stand.name, "--yes").status == 0
    there = stand.host_named("db1")
    there.run("nft", "add", "table", "inet", "theirs")  # a boot has taken it
    assert not reached_from(stand.host_named("web1"), there.address, PORT)
    result = stand.up()
    assert result.status == 0, result.output
    assert stand.run("manage", stand.name, "--", "shell", "-c", count).output == before
    assert stand.run("down", stand.name, "--delete-data", "--yes").status == 0
    assert f"cluster_{stand.name}" not in there.run("pg_lsclusters")
    # Nor what the distribution's tool did not make, the key of its certificate among it.
    assert not there.run("sh", "-c", f"find / -xdev -name 'cluster_{stand.name}*' -not -path '/proc/*'", check=False)
    assert "theirs" in there.run("nft", "list", "tables")
