"""A PostgreSQL cluster of the stack's own, of the distribution's packages, and who of the network gets to it.

It asks for a password by TLS (SCRAM), knows no other users than the stack's, and the kernel lets nobody in but the
hosts that run instances. Other clusters on the host stay what they are.

A user owns the database, and logs in nowhere; others, one for each password that is good, log in and are that one from
then on (`alter role … set role`): so a password is changed while nobody waits, and all that is made is the owner's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from platforms.remote.host import guarding
from platforms.remote.host.guarding import reaches
from platforms.remote.host.installing import install
from platforms.remote.host.running import HostError, certificates_in, done_by, is_active, output, put, run

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: Whose server it is, as the distribution has it.
USER = "postgres"

#: Of the distribution's: keeps a package from making a cluster that nobody asked for.
NO_MAIN = "etc/postgresql-common/createcluster.d/django-cluster.conf"

#: Says on the host what was made.
TOLD = "database.json"

#: Seconds that a server has to take connections: it may have to recover.
READY_WITHIN = 120.0

SHOWN, OWN = 0o644, 0o640

#: An address that the host does not have yet when the server starts is one at which nobody gets to it until the next.
AFTER_NETWORK = """# Made by django-cluster.
[Unit]
Wants=network-online.target
After=network-online.target
"""


def make(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Let the database be as it should; HostError where it can't.

    wanted: `owner` (as `setting_up.claim`), `port`, `listen` (addresses), `allowed` (addresses of hosts that run
    instances; none: this host alone), `certificate`, `key`, `user` and `database` (the owner and what it owns),
    `logins` (users who are it), and `verifiers`, their passwords by their names as PostgreSQL keeps them.
    """
    from platforms.remote.host.setting_up import claim  # noqa: PLC0415 - who only looks makes nothing

    claim(places, wanted["owner"])
    if shutil.which("pg_createcluster") is None:
        put(places.root / NO_MAIN, "create_main_cluster = false\n")
        install("postgresql")
    cluster = _Cluster(places)
    _check_port(cluster, wanted["port"])
    before = _told(places)
    # What still serves on a host that is to have no instances any more asks until `shut_out`.
    left = [one for one in [*before["allowed"], *before["left"]] if one not in wanted["allowed"]]
    told = {key: wanted[key] for key in ("port", "listen", "allowed", "user", "database")}
    told |= {"digest": digest(wanted), "left": sorted({*left})}
    restart = cluster.create(wanted["port"])
    restart |= cluster.configure(wanted, told)
    _guard(places, told)
    cluster.start(wanted, restart=restart)
    cluster.make_database(wanted)
    # What serves may have logged in as the owner, as it was once, and does until `shut_out`.
    told |= {"owner_logs_in": cluster.owner_logs_in(wanted)}
    put(places.state / TOLD, json.dumps({**told, "version": cluster.version}))


def shut_out(places: HostPaths) -> None:
    """Let hosts get there no more that had instances before the last `make`, and have none now; nor the owner."""
    told = _told(places)
    cluster = _Cluster(places)
    if not cluster.there or not (told["left"] or told["owner_logs_in"]):
        return
    if told["owner_logs_in"]:
        cluster.said('alter role :"user" nologin password null', {"user": told["user"]})
    told |= {"left": [], "owner_logs_in": False}
    if cluster.admit(told) and cluster.active:
        run("systemctl", "reload", cluster.unit)
    _guard(places, told)
    put(places.state / TOLD, json.dumps(told))


def _told(places: HostPaths) -> dict[str, Any]:
    """Return what was made the last time: nothing of it is a secret."""
    found: dict[str, Any] = {"digest": "", "version": "", "port": 0, "listen": [], "allowed": [], "left": []}
    found |= {"owner_logs_in": False}
    with contextlib.suppress(OSError, ValueError):
        found |= json.loads((places.state / TOLD).read_text(encoding="utf-8"))
    return found


def digest(wanted: dict[str, Any]) -> str:
    """Return what tells one wish from another, with none of its secrets."""
    shown = {key: value for key, value in wanted.items() if key not in {"key", "verifiers", "owner"}}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _check_port(cluster: _Cluster, port: int) -> None:
    """Refuse a port that somebody else has."""
    if not cluster.active or cluster.port != str(port):
        guarding.check_port(port, "database.port")


#: The users who are the owner, by name; and whether nothing hangs on one of them but that.
_MEMBERS = (
    "select member.rolname from pg_auth_members join pg_roles member on member.oid = pg_auth_members.member "
    "join pg_roles owner on owner.oid = pg_auth_members.roleid where owner.rolname = :'user'"
)
_ALONE = (
    "select 1 where not exists (select 1 from pg_shdepend join pg_roles on pg_roles.oid = pg_shdepend.refobjid "
    "where pg_roles.rolname = :'login' and refclassid = 'pg_authid'::regclass)"
)


class _Cluster:
    """The stack's cluster of databases, as the distribution's tools know it."""

    def __init__(self, places: HostPaths) -> None:
        self.places = places
        self.name = places.table
        self.etc = places.root / "etc" / "postgresql"

    @property
    def version(self) -> str:
        """Of the cluster that is there; of the newest server that is installed where none is."""
        there = [path.parent.name for path in self.etc.glob(f"*/{self.name}")]
        if there:  # of two, pg_upgradecluster has made the newer of the older
            return max(there, key=int)
        servers = sorted((self.places.root / "usr/lib/postgresql").glob("*/bin/postgres"))
        if not servers:
            raise HostError("no PostgreSQL server is installed, though its tools are: apt-get install postgresql")
        return max((path.parent.parent.name for path in servers), key=int)

    @property
    def there(self) -> bool:
        return any(self.etc.glob(f"*/{self.name}"))

    @property
    def directory(self) -> Path:
        """Of its configuration."""
        return self.etc / self.version / self.name

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def port(self) -> str:
        """By which its socket is called; empty where that was never said."""
        there = self.settings

        def found() -> str:
            text = there.read_text(encoding="utf-8")
            return next((line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("port =")), "")

        return str(done_by(USER, found, f"{there} can't be read")) if there.is_file() else ""

    @property
    def settings(self) -> Path:
        """What the server is told besides what the distribution does."""
        return self.directory / "conf.d" / "django-cluster.conf"

    @property
    def dropin(self) -> Path:
        """What its unit is told besides."""
        return self.places.unit.parent / f"{self.unit}.d" / "django-cluster.conf"

    @property
    def active(self) -> bool:
        return self.there and is_active(self.unit)

    def create(self, port: int) -> bool:
        """Make it where it is not there; tell whether it was made."""
        if self.there:
            _own(self.directory / "start.conf", "auto\n", SHOWN)
            return False
        run(
            *("pg_createcluster", self.version, self.name, "--port", str(port), "--start-conf", "auto", "--"),
            *("--auth-local", "peer", "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            problem="the database can't be made",
        )
        return True

    def configure(self, wanted: dict[str, Any], told: dict[str, Any]) -> bool:
        """Write its configuration; tell whether it must be started anew for that."""
        if put(self.dropin, AFTER_NETWORK):
            run("systemctl", "daemon-reload")
        where = self.directory
        listen = ", ".join(["localhost", *wanted["listen"]])
        settings = [
            "# Made by django-cluster.",
            f"port = {wanted['port']}",
            f"listen_addresses = '{listen}'",
            "password_encryption = 'scram-sha-256'",
            "ssl = on",
            f"ssl_cert_file = '{where}/server.pem'",
            f"ssl_key_file = '{where}/server.key'",
            "ssl_min_protocol_version = 'TLSv1.2'",
        ]
        restart = _own(self.settings, "\n".join(settings) + "\n", SHOWN)
        reload = _own(where / "server.pem", wanted["certificate"], SHOWN)
        reload |= _own(where / "server.key", wanted["key"], 0o600)
        reload |= self.admit(told)
        if reload and not restart and self.active:
            run("systemctl", "reload", self.unit)
        return restart

    def admit(self, told: dict[str, Any]) -> bool:
        """Say who gets in; tell whether that is somebody else than before."""
        hosts = [f"{address}/{128 if ':' in address else 32}" for address in _admitted(told)]
        who = f"{told['database']} +{told['user']}"  # whoever is a member of that one
        access = [
            "# Made by django-cluster: nobody else gets in.",
            f"local all {USER} peer",
            *(f"hostssl {who} {host} scram-sha-256" for host in (*hosts, "127.0.0.1/32", "::1/128")),
        ]
        return _own(self.directory / "pg_hba.conf", "\n".join(access) + "\n", OWN)

    def start(self, wanted: dict[str, Any], *, restart: bool) -> None:
        """Let it run; a running one is started anew only where it must."""
        if restart or not self.active or not _listens(wanted):
            run("systemctl", "restart", self.unit, problem="the database can't be started")
        deadline = time.monotonic() + READY_WITHIN
        while self.ask("select 1").returncode != 0:
            if time.monotonic() > deadline:
                log = self.places.root / "var/log/postgresql" / f"postgresql-{self.version}-{self.name}.log"
                last = output("runuser", "-u", USER, "--", "tail", "--lines", "5", str(log)).stdout.strip()
                raise HostError(f"the database takes no connections within {READY_WITHIN:g} s:\n{last}")
            time.sleep(0.1)

    def make_database(self, wanted: dict[str, Any]) -> None:
        """Make its users and its database where they are not there, and let passwords be the stack's."""
        given = {key: wanted[key] for key in ("user", "database")}
        if not self.said("select 1 from pg_roles where rolname = :'user'", given):
            self.said('create role :"user" nologin', given)
        for login in wanted["logins"]:
            self._let_in({**given, "login": login, "verifier": wanted["verifiers"][login]})
        if not self.said("select 1 from pg_database where datname = :'database'", given):
            self.said('create database :"database" owner :"user"', given)
        for login in self.said(_MEMBERS, given).split():
            if login not in wanted["logins"] and login.startswith(f"{wanted['user']}_"):
                self._keep_out({**given, "login": login})

    def _let_in(self, given: dict[str, str]) -> None:
        """Let a user log in, and be the owner."""
        if not self.said("select 1 from pg_roles where rolname = :'login'", given):
            self.said('create role :"login"', given)
        now = self.said("select rolpassword from pg_authid where rolname = :'login' and rolcanlogin", given)
        if now != given["verifier"]:
            self.said('grant :"user" to :"login"', given)
            self.said("alter role :\"login\" set role to :'user'", given)
            self.said("alter role :\"login\" login password :'verifier'", given)

    def _keep_out(self, given: dict[str, str]) -> None:
        """Let a user log in no more. Who is in stays; what somebody has granted to that user keeps it there."""
        self.said('alter role :"login" nologin password null', given)
        self.said('\\connect :"database"\nreassign owned by :"login" to :"user"', given)
        if self.said(_ALONE, given):
            self.said('drop role :"login"', given)

    def owner_logs_in(self, wanted: dict[str, Any]) -> bool:
        """Tell whether the owner logs in itself, as it did once."""
        given = {"user": wanted["user"]}
        return bool(self.said("select 1 from pg_roles where rolname = :'user' and rolcanlogin", given))

    def ask(self, words: str) -> Any:
        psql = ("psql", "-X", "-q", "-t", "-A", "-p", self.port, "-v", "ON_ERROR_STOP=1")
        command = ("runuser", "-u", USER, "--", *psql)
        return output(*command, input=words, cwd="/")

    def said(self, words: str, given: dict[str, str]) -> str:
        """Return what the server answers; HostError has its words alone. given: psql's variables."""
        done = self.ask("".join(f"\\set {name} '{value}'\n" for name, value in given.items()) + words)
        if done.returncode != 0:
            raise HostError(f"the database refuses: {done.stderr.strip().splitlines()[0] if done.stderr else '?'}")
        return str(done.stdout).strip()


def _listens(told: dict[str, Any]) -> bool:
    """Tell whether it takes connections where it should: an address that a boot made too late is left out by it."""
    return all(reaches(address, told["port"]) for address in told["listen"])


def _own(path: Path, text: str, mode: int) -> bool:
    """Put a file of the server's in place, as its user, whose directory that is; tell whether it says something new."""
    return bool(done_by(USER, lambda: put(path, text, mode), f"{path} can't be written by {USER}"))


# --- who gets there


def _admitted(told: dict[str, Any]) -> list[str]:
    return [*told["allowed"], *told["left"]]


def _is_guarded(told: dict[str, Any]) -> bool:
    """Tell whether the network gets to the port at all."""
    return bool(_admitted(told) or told["listen"])


def _guard(places: HostPaths, told: dict[str, Any]) -> None:
    """Let nobody of the network get to the port but hosts that run instances; other rules stay as they are."""
    if _is_guarded(told):
        guarding.guard(places.database_guard, told["port"], _admitted(told))
    else:
        guarding.unguard(places.database_guard)


# --- looking, and letting go


def found(places: HostPaths) -> dict[str, Any] | None:
    """Return what is to be said of the database: None where there never was one."""
    cluster = _Cluster(places)
    if not cluster.there:
        return None
    told = _told(places)
    return {
        "digest": told["digest"] if told["version"] == cluster.version else "",
        "active": cluster.active and _listens(told),
        "safe": not _is_guarded(told) or guarding.holds(places.database_guard),
        "left": told["left"],
        "shown": next(iter(done_by(USER, partial(certificates_in, cluster.directory / "server.pem"), "")), ""),
        "owner_logs_in": told["owner_logs_in"],
        "version": cluster.version,
    }


def stop(places: HostPaths) -> None:
    """Stop the database, and let no boot start it; what it holds stays."""
    cluster = _Cluster(places)
    if not cluster.there:
        return
    output("systemctl", "stop", cluster.unit)
    _own(cluster.directory / "start.conf", "manual\n", SHOWN)
    (places.state / TOLD).unlink(missing_ok=True)
    guarding.unguard(places.database_guard)


def drop(places: HostPaths) -> None:
    """Remove the database, and what it holds; each version of it that is there."""
    cluster = _Cluster(places)
    while cluster.there:
        directory = cluster.directory
        shutil.rmtree(cluster.dropin.parent, ignore_errors=True)
        run("pg_dropcluster", cluster.version, cluster.name, "--stop", problem="the database can't be removed")
        # It leaves files that it did not make, a key among them; and would then not be made again.
        done_by(USER, partial(_remove, directory), f"{directory} can't be removed")


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
