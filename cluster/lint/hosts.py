"""Lints of hosts that are reached by SSH."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cluster.config.hosts import Role
from cluster.config.models import DatabaseEngine, SessionEngine
from cluster.lint.rule import ERROR, WARNING, Remark, Rule, numbered_servers
from cluster.placement import place
from cluster.source import shared_paths
from cluster.tls.certificates import is_address
from cluster.topology import build_topology

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks
    from cluster.placement import Placement

#: What sqlite's files are called.
SQLITE = (".sqlite3", ".sqlite", ".db")

#: Paths that a unit says without a quote.
PLAIN = re.compile(r"[A-Za-z0-9._/-]+")

#: Sessions that instances on several hosts find, wherever they were begun.
OF_ALL_HOSTS = (SessionEngine.DB, SessionEngine.SIGNED_COOKIES, SessionEngine.PROJECT)


def _hosts_named(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.platform.traits.hosts and not config.hosts:
        yield Remark("hosts", f"Platform {config.platform} runs on hosts, and none is named.", "Name one.")
    if config.hosts and not config.platform.traits.hosts:
        yield Remark("hosts", f"Platform {config.platform} runs on no hosts of its own.", "Take them out.")
    for path, server in numbered_servers(config):
        if server.host is not None and not config.platform.traits.hosts:
            yield Remark(f"{path}.host", f"Platform {config.platform} runs on no hosts of its own.", "Take it out.")


def _hosts_fit(config: ClusterConfig, _facts: Facts) -> Remarks:
    if not config.hosts or not config.platform.traits.hosts:
        return
    yield from _hosts_told_apart(config)
    for role in (Role.APP, Role.NGINX):
        if all(role not in host.roles for host in config.hosts):
            yield Remark("hosts", f"No host has the role {role}.", "Give it to one.")
    app = [host.name for host in config.hosts if Role.APP in host.roles]
    for path, server in numbered_servers(config):
        if server.host is not None and server.host not in app:
            why = f"{server.host} is no host with the role app."
            yield Remark(f"{path}.host", why, f"Name one of those: {', '.join(app) or 'there is none'}.")


def _hosts_told_apart(config: ClusterConfig) -> Remarks:
    """See that no host is taken for another one, by whoever asks for it."""
    names: set[str] = set()
    others: set[str] = set()
    doors: set[tuple[str, int, str | None]] = set()
    for number, host in enumerate(config.hosts):
        door = (host.address, host.port, None if host.jump is None else host.jump.address)
        for key, told, seen in (("name", host.name, names), ("address", door, doors)):
            if told in seen:
                why = f"{getattr(host, key)} is said of two hosts."
                yield Remark(f"hosts[{number}].{key}", why, "Name each host once.")
        if host.between in others and door not in doors:
            why = f"{host.between} is the address by which the others reach two hosts."
            key = "address" if host.internal is None else "internal"
            yield Remark(f"hosts[{number}].{key}", why, "Say the `internal` address of each.")
        names.add(host.name)
        doors.add(door)
        others.add(host.between)
    jumps = {f"{host.name}-jump" for host in config.hosts if host.jump is not None}
    for number, host in enumerate(config.hosts):
        if host.name in jumps:
            why = f"ssh calls the jump host of {host.name.removesuffix('-jump')} so."
            yield Remark(f"hosts[{number}].name", why, "Call it otherwise.")


def _placed(config: ClusterConfig, facts: Facts) -> Placement | None:
    """Return where services run; None on one host, or where the hosts can't be what they should."""
    if not config.platform.traits.hosts or len(config.hosts) < 2 or any(_hosts_fit(config, facts)):  # noqa: PLR2004
        return None
    return place(build_topology(config))


def _hosts_used(config: ClusterConfig, facts: Facts) -> Remarks:
    placement = _placed(config, facts)
    if placement is None:
        return
    used = set(placement.host_of.values())
    for number, host in enumerate(config.hosts):
        if Role.APP in host.roles and host.name not in used:
            why = f"No instance runs on {host.name}."
            yield Remark(f"hosts[{number}].roles", why, "Let more instances run, or take the role app from it.")


def _database_host(config: ClusterConfig, _facts: Facts) -> Remarks:
    if not config.platform.traits.hosts:
        return
    made = config.makes_postgres
    numbers = [number for number, host in enumerate(config.hosts) if Role.DATABASE in host.roles]
    if made and len(numbers) != 1:
        why = f"database.engine is postgres, and {len(numbers) or 'no'} hosts have the role database."
        yield Remark("hosts", why, "Give it to one.")
    for number in numbers if not made else ():
        why = "No PostgreSQL is made: database.engine is not postgres."
        yield Remark(f"hosts[{number}].roles", why, "Take the role database out, or set database.engine.")
    apart = len(numbers) == 1 and any(
        Role.APP in host.roles and number not in numbers for number, host in enumerate(config.hosts)
    )
    for number, host in enumerate(config.hosts) if made and apart else ():
        if {Role.APP, Role.DATABASE} & set(host.roles) and (host.internal is None or not is_address(host.internal)):
            why = "A database is asked for on a network of the hosts' own, and by addresses that it knows."
            yield Remark(f"hosts[{number}].internal", why, "Say its address there.")


def _broker_host(config: ClusterConfig, _facts: Facts) -> Remarks:
    if not config.platform.traits.hosts:
        return
    numbers = [number for number, host in enumerate(config.hosts) if Role.BROKER in host.roles]
    if config.broker is None:
        for number in numbers:
            yield Remark(f"hosts[{number}].roles", "There is no broker.", "Take the role broker out, or say `broker`.")
        return
    if len(numbers) > 1:
        yield Remark("hosts", f"{len(numbers)} hosts have the role broker.", "Give it to one.")
    apart = len(numbers) == 1 and any(
        Role.APP in host.roles and number not in numbers for number, host in enumerate(config.hosts)
    )
    for number, host in enumerate(config.hosts):
        asks = apart and bool({Role.APP, Role.BROKER} & set(host.roles))
        named = host.internal is not None and not is_address(host.internal)
        if (asks and host.internal is None) or (named and (asks or number in numbers)):
            why = "A broker is asked for on a network of the hosts' own, and by addresses that it knows."
            yield Remark(f"hosts[{number}].internal", why, "Say its address there.")
    database = config.database.port if config.makes_postgres and config.database is not None else None
    for number in numbers:
        host = config.hosts[number]
        taken = [
            *(config.site.listeners if Role.NGINX in host.roles else ()),
            *([database] if Role.DATABASE in host.roles else []),
        ]
        if config.broker.port in taken:
            why = f"{host.name} has something else on port {config.broker.port}."
            yield Remark("broker.port", why, "Choose another one.")


def _of_one_host(config: ClusterConfig, _facts: Facts) -> Remarks:
    """Refuse what each host would have for itself, though all instances must have the same."""
    app = [host for host in config.hosts if Role.APP in host.roles]
    if not config.platform.traits.hosts or len(app) < 2:  # noqa: PLR2004 - one of each is the same for all
        return
    where = f"by instances on {len(app)} hosts"
    sessions = config.sessions
    for key in ("engine", "previous"):
        engine = getattr(sessions, key)
        if engine is not None and engine not in OF_ALL_HOSTS:
            why = f"Sessions of {engine} would not be found {where}: each host has its own."
            if engine is SessionEngine.FILE:
                why = f"Sessions in files would be found too late {where}, or lost: a filesystem that they share need "
                why += "not show every write to all of them at once."
            yield Remark(f"sessions.{key}", why, "Use db or signed_cookies.")
    if config.database is not None and config.database.engine is DatabaseEngine.SQLITE:
        why = f"An sqlite database can't be shared {where}: each would have one of its own."
        yield Remark("database.engine", why, "Use postgres, or external.")
    if config.broker is not None and not config.broker_is_asked_by_tls:
        why = f"The broker's socket can't be reached {where}."
        yield Remark("broker", why, "Give a host the role broker: then it is asked by TLS.")


def _uploads_of_all_hosts(config: ClusterConfig, _facts: Facts) -> Remarks:
    serving = [host for host in config.hosts if {Role.APP, Role.NGINX} & set(host.roles)]
    if not config.platform.traits.hosts or len(serving) < 2 or not shared_paths(config):  # noqa: PLR2004
        return
    if config.app.shared_filesystem is not None:
        return
    why = f"What the project writes ({', '.join(shared_paths(config))}) would be on the host that wrote it alone."
    remedy = "Name a filesystem that the hosts share (app.shared_filesystem), let it keep them elsewhere (an object "
    remedy += "store, by Django's STORAGES), or use one host."
    yield Remark("app.shared", why, remedy)


def _shared_filesystem(config: ClusterConfig, _facts: Facts) -> Remarks:
    path, key = config.app.shared_filesystem, "app.shared_filesystem"
    if path is None:
        return
    if not config.platform.traits.hosts:
        yield Remark(key, f"Platform {config.platform} runs on no hosts of its own.", "Take it out.")
    if not shared_paths(config):
        yield Remark(key, "Nothing of the project is kept there.", "Name what it writes in app.shared, or take it out.")
    for shared in shared_paths(config):
        if PurePosixPath(shared).suffix in SQLITE:
            why = f"{shared} is an sqlite database, and on a filesystem of several hosts it loses what is written."
            yield Remark("app.shared", why, "Use postgres, or external, and keep no other databases in files.")
        if not PLAIN.fullmatch(shared):
            why = f"{shared} can't be told to systemd, as a path on {path}."
            yield Remark("app.shared", why, "Use letters, digits and . _ - alone.")


def _relay_ports(config: ClusterConfig, facts: Facts) -> Remarks:
    placement, first = _placed(config, facts), config.upstream.relay_port
    last = first + len(config.upstream.servers)
    taken = [port for port in config.site.listeners if first <= port <= last]
    if taken and placement is not None and placement.is_spread:
        why = f"Hosts ask each other for instances by the ports {first} to {last}, and the site has {taken[0]}."
        yield Remark("upstream.relay_port", why, "Choose another one.")


def _hung_host(config: ClusterConfig, facts: Facts) -> Remarks:
    placement, timeout = _placed(config, facts), config.site.proxy_read_timeout
    if placement is None or len(placement.app) < 2:  # noqa: PLR2004 - without it there is no other one
        return
    if placement.is_spread and timeout.seconds > 10:  # noqa: PLR2004 - what visitors bear
        why = f"A host that hangs, and is not down, keeps the requests that it has for {timeout}."
        yield Remark("site.proxy_read_timeout", why, "Say the time of the slowest page; site.locations takes its own.")


def _not_on_hosts(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.platform.traits.services:
        return
    if not config.app.read_only:
        why = f"On platform {config.platform} a release is root's own, and no instance writes into it."
        yield Remark("app.read_only", why, "Name what the project writes in app.shared.")
    for number, server in enumerate(config.upstream.servers):
        if "-" in server.name:
            why = f"The unit of {server.name} could not be told from that of another instance's release."
            yield Remark(f"upstream.servers[{number}].name", why, "Use _ in place of -.")


HOST_RULES = (
    Rule("hosts-missing", ERROR, "Platform remote has hosts, and no other platform has.", _hosts_named),
    Rule("hosts-roles", ERROR, "Hosts are named once, and each role is some host's.", _hosts_fit),
    Rule("hosts-idle", ERROR, "A host is to run instances, and none is left for it.", _hosts_used),
    Rule("hosts-database", ERROR, "One host has the database that is made, at an address of its own.", _database_host),
    Rule("hosts-broker", ERROR, "One host has the broker that others ask, at an address of its own.", _broker_host),
    Rule("hosts-apart", ERROR, "What each host would have for itself, and all instances must share.", _of_one_host),
    Rule("hosts-uploads", ERROR, "What the project writes is on one host alone.", _uploads_of_all_hosts),
    Rule("hosts-filesystem", ERROR, "What can't be kept on a filesystem that hosts share.", _shared_filesystem),
    Rule("hosts-ports", ERROR, "A port of the site's is one by which hosts ask each other.", _relay_ports),
    Rule("hosts-hang", WARNING, "A host that hangs keeps its requests long.", _hung_host),
    Rule("hosts-services", ERROR, "What platform remote can't run yet.", _not_on_hosts),
)


def hosts_fit(config: ClusterConfig, facts: Facts) -> bool:
    """Tell whether a stack names hosts, and they can be what it says: before that none of them is looked at."""
    named = config.platform.traits.hosts and bool(config.hosts)
    return named and not any(rule.severity is ERROR and any(rule.check(config, facts)) for rule in HOST_RULES)
