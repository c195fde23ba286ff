"""Who logs in to a PostgreSQL of a stack's own while its password is changed; by a real server."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.tls.hosts_keys import HostsKeys, password_of
from cluster.topology import build_topology
from platforms.remote import database
from platforms.remote.host import postgres
from platforms.remote.host.paths import HostPaths
from tests.local.postgres import USER, Postgres, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PLACES = HostPaths("shop")
OLD, NEW = "5e" * 32, "07" * 32

#: All that logs in are those that are the stack's owner.
ACCESS = f"local all {USER} trust\nlocal {PLACES.table} +{PLACES.table} scram-sha-256\n"

VALUES: dict[str, Any] = {
    "platform": "remote",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {"servers": 2},
    "database": {"engine": "postgres"},
    "site": {"server_names": ["shop.test"], "listen": 80},
    "hosts": [
        {"name": "web1", "address": "10.0.0.11", "host_key": "ssh-ed25519 AAAA", "roles": ["app", "nginx", "database"]}
    ],
}


class Server(Postgres):
    """A server whose administrator makes what `postgres.make_database` asks for."""

    def __init__(self) -> None:
        super().__init__()
        path = self.data / "pg_hba.conf"
        path.write_text(ACCESS)
        self._run("pg_ctl", "reload", "--pgdata", str(self.data))
        self.cluster = postgres._Cluster(PLACES)
        self.cluster.ask = self.ask  # type: ignore[method-assign]

    def psql(self, user: str, words: str, *, base: str, password: str = "") -> subprocess.CompletedProcess[str]:
        command = (
            "psql",
            "-X",
            "-q",
            "-t",
            "-A",
            "-h",
            str(self.root),
            "-U",
            user,
            "-d",
            base,
            "-v",
            "ON_ERROR_STOP=1",
        )
        environment = {**os.environ, "PGPASSWORD": password}
        return subprocess.run(command, input=words, env=environment, capture_output=True, text=True, check=False)

    def ask(self, words: str) -> Any:
        return self.psql(USER, words, base="postgres")

    def make(self, *keys: str) -> None:
        """Let the keys be the stack's, the one that instances use first."""
        wanted = database.wanted(
            build_topology(parse_config(VALUES)), PLACES, HostsKeys(key=keys[0], fallbacks=keys[1:]), "x"
        )
        self.cluster.make_database(wanted)

    def by(self, key: str, words: str) -> str | None:
        """Return what the database answers to an instance with a key; None where it lets that one not in."""
        login, password = database.login_of(PLACES, key), password_of(key, "database")
        done = self.psql(login, words, base=PLACES.table, password=password)
        assert done.returncode in (0, 2), done.stderr
        return done.stdout.strip() if done.returncode == 0 else None

    def logins(self) -> list[str]:
        said = self.ask(f"select rolname from pg_roles where rolname like '{PLACES.table}%' order by 1").stdout
        return str(said).split()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with contextlib.closing(Server()) as found:
        yield found


@pytest.fixture
def server(running: Server) -> Server:
    words = [f"drop database if exists {PLACES.table};", *(f"drop role {one};" for one in reversed(running.logins()))]
    for one in words:
        assert running.ask(one).returncode == 0
    return running


def test_whoever_logs_in_is_the_owner_and_makes_what_is_the_owner_s(server: Server) -> None:
    server.make(OLD)
    assert server.by(OLD, "select current_user, session_user") == f"{PLACES.table}|{database.login_of(PLACES, OLD)}"
    assert server.by(
        OLD, "create table visits (n int); select tableowner from pg_tables where tablename = 'visits'"
    ) == (PLACES.table)
    assert server.by(NEW, "select 1") is None
    assert server.psql(PLACES.table, "select 1", base=PLACES.table, password="x").returncode == 2
    assert (
        server.by(OLD, "select rolsuper or rolcreaterole or rolcreatedb from pg_roles where rolname = session_user")
        == "f"
    )


def test_two_are_good_while_a_key_is_changed_and_each_alters_what_the_other_has_made(server: Server) -> None:
    server.make(OLD)
    assert server.by(OLD, "create table visits (n int)") == ""
    server.make(OLD, NEW)
    assert server.by(NEW, "alter table visits add column m int; insert into visits values (1, 2)") == ""
    assert server.by(OLD, "alter table visits drop column m; select n from visits") == "1"
    server.make(NEW, OLD)
    assert server.by(OLD, "select n from visits") == "1"
    assert server.by(NEW, "create table more (n int)") == ""
    server.make(NEW)
    assert server.by(OLD, "select 1") is None, "the old one is good no more"
    assert server.by(NEW, "select tableowner from pg_tables where schemaname = 'public' group by 1") == PLACES.table
    assert server.logins() == [PLACES.table, database.login_of(PLACES, NEW)]


def test_a_key_that_comes_back_is_good_again(server: Server) -> None:
    for keys in ((OLD,), (NEW,), (OLD,), (OLD, NEW, OLD)):
        server.make(*keys)
    assert [server.by(key, "select 1") for key in (OLD, NEW)] == ["1", "1"]


def test_who_is_in_stays_in_and_what_somebody_has_granted_keeps_no_up_from_going_on(server: Server) -> None:
    server.make(OLD)
    login = database.login_of(PLACES, OLD)
    assert (
        server.psql(USER, f"create table theirs (n int); grant select on theirs to {login}", base="postgres").returncode
        == 0
    )
    assert server.by(OLD, "reset role; set role none; create temp table mine (n int)") == ""
    server.make(NEW)
    assert server.by(OLD, "select 1") is None
    assert login in server.logins(), "it holds a right, and logs in no more"
    assert server.psql(USER, "drop table theirs", base="postgres").returncode == 0
    server.make(NEW)
    assert login not in server.logins()


def test_a_stack_whose_owner_has_logged_in_itself_goes_on_until_it_is_let_go(server: Server) -> None:
    """As it was made once: its password is the old one's until what serves asks otherwise."""
    words = f"create role {PLACES.table} login password 'former'; "
    assert server.ask(words).returncode == 0
    assert server.ask(f"create database {PLACES.table} owner {PLACES.table}").returncode == 0
    former = {"base": PLACES.table, "password": "former"}
    assert server.psql(PLACES.table, "create table visits (n int)", **former).returncode == 0
    server.make(OLD)
    assert server.cluster.owner_logs_in({"user": PLACES.table})
    assert server.psql(PLACES.table, "insert into visits values (1)", **former).returncode == 0
    assert server.by(OLD, "alter table visits add column m int; select n from visits") == "1"
    server.cluster.said('alter role :"user" nologin password null', {"user": PLACES.table})
    assert not server.cluster.owner_logs_in({"user": PLACES.table})
    assert server.psql(PLACES.table, "select 1", **former).returncode == 2
    assert server.by(OLD, "select n from visits") == "1"
