"""A PostgreSQL cluster of the stack's own, of the distribution's packages, and who of the network gets to it.

It asks for a password by TLS (SCRAM), knows no other user than the stack's, and the kernel lets nobody in but the hosts
that run instances. Other clusters on the host stay what they are.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

from platforms.remote.host.installing import install
from platforms.remote.host.running import HostError, output, put, run
from platforms.remote.host.setting_up import claim

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.remote.host.places import Places

#: Whose server it is, as the distribution has it.
USER = "postgres"

#: Of the distribution's: keeps a package from making a cluster that nobody asked for.
NO_MAIN = "etc/postgresql-common/createcluster.d/django-cluster.conf"

#: Seconds that a server has to take connections: it may have to recover.
READY_WITHIN = 120.0

#: Seconds that a connection may take where somebody is to be let in, or kept out.
REACHED_WITHIN = 3.0

SHOWN, OWN = 0o644, 0o640


def make(places: Places, wanted: dict[str, Any]) -> None:
    """Let the database be as it should; HostError where it can't.

    wanted: `owner` (as `setting_up.claim`), `port`, `listen` (addresses), `allowed` (addresses of hosts that run
    instances; none: this host alone), `certificate`, `key`, `user`, `database`, and the `verifier` of its password, as
    PostgreSQL keeps it.
    """
    claim(places, wanted["owner"])
    if shutil.which("pg_createcluster") is None:
        put(places.root / NO_MAIN, "create_main_cluster = false\n")
        install("postgresql")
    cluster = _Cluster(places)
    _check_port(cluster, wanted["port"])
    restart = cluster.create(wanted["port"])
    restart |= cluster.configure(wanted)
    _guard(places, wanted)
    cluster.start(restart=restart)
    cluster.make_database(wanted)
    put(places.state / "database.json", json.dumps(_told(wanted)))


def _told(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what is looked at again: nothing of it is a secret."""
    return {"digest": digest(wanted), "port": wanted["port"], "guarded": bool(wanted["allowed"])}


def digest(wanted: dict[str, Any]) -> str:
    """Return what tells one wish from another, with none of its secrets."""
    shown = {key: value for key, value in wanted.items() if key not in {"key", "verifier", "owner"}}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _check_port(cluster: _Cluster, port: int) -> None:
    """Refuse a port that somebody else has."""
    if cluster.active:
        return
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise HostError(f"port {port} is taken: say another one in database.port ({error.strerror})") from None


class _Cluster:
    """The stack's cluster of databases, as the distribution's tools know it."""

    def __init__(self, places: Places) -> None:
        self.places = places
        # systemd would take a - in its name for a directory.
        self.name = places.name.replace("-", "_")
        self.etc = places.root / "etc" / "postgresql"

    @property
    def version(self) -> str:
        """Of the cluster that is there; of the newest server that is installed where none is."""
        there = sorted(path.parent.name for path in self.etc.glob(f"*/{self.name}"))
        if there:
            return there[0]
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
    def active(self) -> bool:
        return self.there and output("systemctl", "is-active", self.unit).stdout.strip() == "active"

    def create(self, port: int) -> bool:
        """Make it where it is not there; tell whether it was made."""
        if self.there:
            (self.directory / "start.conf").write_text("auto\n", encoding="ascii")
            return False
        run(
            *("pg_createcluster", self.version, self.name, "--port", str(port), "--start-conf", "auto", "--"),
            *("--auth-local", "peer", "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            problem="the database can't be made",
        )
        return True

    def configure(self, wanted: dict[str, Any]) -> bool:
        """Write its configuration; tell whether it must be started anew for that."""
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
        hosts = [f"{address}/{128 if ':' in address else 32}" for address in wanted["allowed"]]
        who = f"{wanted['database']} {wanted['user']}"
        access = [
            "# Made by django-cluster: nobody else gets in.",
            f"local all {USER} peer",
            *(f"hostssl {who} {host} scram-sha-256" for host in (*hosts, "127.0.0.1/32", "::1/128")),
        ]
        restart = _own(where / "conf.d" / "django-cluster.conf", "\n".join(settings) + "\n", SHOWN)
        reload = _own(where / "server.pem", wanted["certificate"], SHOWN)
        reload |= _own(where / "server.key", wanted["key"], 0o600)
        reload |= _own(where / "pg_hba.conf", "\n".join(access) + "\n", OWN)
        if reload and not restart and self.active:
            run("systemctl", "reload", self.unit)
        return restart

    def start(self, *, restart: bool) -> None:
        """Let it run; a running one is started anew only where it must."""
        if restart or not self.active:
            run("systemctl", "restart", self.unit, problem="the database can't be started")
        deadline = time.monotonic() + READY_WITHIN
        while self.ask("select 1").returncode != 0:
            if time.monotonic() > deadline:
                log = self.places.root / "var/log/postgresql" / f"postgresql-{self.version}-{self.name}.log"
                last = output("tail", "--lines", "5", str(log)).stdout.strip()
                raise HostError(f"the database takes no connections within {READY_WITHIN:g} s:\n{last}")
            time.sleep(0.1)

    def make_database(self, wanted: dict[str, Any]) -> None:
        """Make its user and its database where they are not there, and let the password be the stack's."""
        given = {key: wanted[key] for key in ("user", "database", "verifier")}
        if not self.said("select 1 from pg_roles where rolname = :'user'", given):
            self.said('create role :"user" login', given)
        if self.said("select rolpassword from pg_authid where rolname = :'user'", given) != given["verifier"]:
            self.said("alter role :\"user\" password :'verifier'", given)
        if not self.said("select 1 from pg_database where datname = :'database'", given):
            self.said('create database :"database" owner :"user"', given)

    def ask(self, words: str) -> Any:
        port = _port_of(self.directory)
        command = ("runuser", "-u", USER, "--", "psql", "-X", "-q", "-t", "-A", "-p", port, "-v", "ON_ERROR_STOP=1")
        return output(*command, input=words, cwd="/")

    def said(self, words: str, given: dict[str, str]) -> str:
        """Return what the server answers; HostError has its words alone. given: psql's variables."""
        done = self.ask("".join(f"\\set {name} '{value}'\n" for name, value in given.items()) + words)
        if done.returncode != 0:
            raise HostError(f"the database refuses: {done.stderr.strip().splitlines()[0] if done.stderr else '?'}")
        return str(done.stdout).strip()


def _port_of(directory: Path) -> str:
    """Return the port by which a cluster's socket is called."""
    text = (directory / "conf.d" / "django-cluster.conf").read_text(encoding="utf-8")
    return next(line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("port ="))


def _own(path: Path, text: str, mode: int) -> bool:
    """Put a file of the server's in place, which it reads; tell whether it says something else than before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = put(path, text, mode)
    os.chown(path, pwd.getpwnam(USER).pw_uid, grp.getgrnam(USER).gr_gid)
    return changed


# --- who gets there


def _guard(places: Places, wanted: dict[str, Any]) -> None:
    """Let nobody of the network get to the port but hosts that run instances; other rules stay as they are."""
    if not wanted["allowed"]:
        _unguard(places)
        return
    if shutil.which("nft") is None:
        install("nftables")
    changed = put(places.guard, _rules(places, wanted["port"], wanted["allowed"]))
    changed |= put(places.guard_unit, _guard_unit(places))
    if changed:
        run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--quiet", places.guard_unit.name)
    if changed or not guarded(places):
        run("systemctl", "restart", places.guard_unit.name, problem="the port of the database can't be guarded")


def _rules(places: Places, port: int, allowed: list[str]) -> str:
    """Return nft's rules. They replace those of before at once: there is no moment without them."""
    table = f"inet {places.table}"
    four = ", ".join(address for address in allowed if ":" not in address)
    six = ", ".join(address for address in allowed if ":" in address)
    return "\n".join(
        [
            f"table {table}",
            f"delete table {table}",
            f"table {table} {{",
            "    chain input {",
            "        type filter hook input priority -10; policy accept;",
            f"        tcp dport != {port} accept",
            '        iifname "lo" accept',
            *([f"        ip saddr {{ {four} }} accept"] if four else []),
            *([f"        ip6 saddr {{ {six} }} accept"] if six else []),
            "        reject with tcp reset",
            "    }",
            "}",
            "",
        ]
    )


def _guard_unit(places: Places) -> str:
    return "\n".join(
        [
            "# Made by django-cluster.",
            "[Unit]",
            f"Description=Who gets to the database of the Django cluster {places.stack}",
            "DefaultDependencies=no",
            "Before=network-pre.target shutdown.target",
            "Wants=network-pre.target",
            "Conflicts=shutdown.target",
            "After=local-fs.target nftables.service",
            # A restart of the distribution's rules takes all others away.
            "PartOf=nftables.service",
            "",
            "[Service]",
            "Type=oneshot",
            "RemainAfterExit=yes",
            f"ExecStart=/usr/sbin/nft -f {places.guard}",
            f"ExecReload=/usr/sbin/nft -f {places.guard}",
            "",
            "[Install]",
            "WantedBy=sysinit.target",
            "",
        ]
    )


def guarded(places: Places) -> bool:
    """Tell whether the kernel has the rules."""
    return shutil.which("nft") is not None and output("nft", "list", "table", "inet", places.table).returncode == 0


def _unguard(places: Places) -> None:
    if places.guard_unit.exists():
        output("systemctl", "disable", "--now", "--quiet", places.guard_unit.name)
        places.guard_unit.unlink()
        places.guard.unlink(missing_ok=True)
        output("nft", "delete", "table", "inet", places.table)


# --- looking, and letting go


def found(places: Places) -> dict[str, Any] | None:
    """Return what is to be said of the database: None where there never was one."""
    cluster = _Cluster(places)
    if not cluster.there:
        return None
    told: dict[str, Any] = {"digest": "", "port": 0, "guarded": False}
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((places.state / "database.json").read_text(encoding="utf-8"))
    return {
        "digest": told["digest"],
        "active": cluster.active,
        "safe": not told["guarded"] or guarded(places),
        "version": cluster.version,
    }


def stop(places: Places) -> None:
    """Stop the database, and let no boot start it; what it holds stays."""
    cluster = _Cluster(places)
    if not cluster.there:
        return
    output("systemctl", "stop", cluster.unit)
    (cluster.directory / "start.conf").write_text("manual\n", encoding="ascii")
    (places.state / "database.json").unlink(missing_ok=True)
    _unguard(places)


def drop(places: Places) -> None:
    """Remove the database, and what it holds."""
    cluster = _Cluster(places)
    if cluster.there:
        run("pg_dropcluster", cluster.version, cluster.name, "--stop", problem="the database can't be removed")


def reaches(address: str, port: int) -> bool:
    """Tell whether something takes a connection."""
    try:
        with socket.create_connection((address, port), timeout=REACHED_WITHIN):
            return True
    except OSError:
        return False
