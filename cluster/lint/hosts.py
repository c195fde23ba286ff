"""Lints of hosts that are reached by SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.hosts import Role
from cluster.lint.rule import ERROR, Remark, Rule
from cluster.services import Kind
from cluster.topology import build_topology

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: The key of the stack file that asks for a kind of service.
KEYS = {
    Kind.ACME: "site.tls.acme",
}


def _hosts_named(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.platform.traits.hosts and not config.hosts:
        yield Remark("hosts", f"Platform {config.platform} runs on hosts, and none is named.", "Name one.")
    if config.hosts and not config.platform.traits.hosts:
        yield Remark("hosts", f"Platform {config.platform} runs on no hosts of its own.", "Take them out.")


def _host_of_all(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Instances on another host than nginx's need a way there, and sessions that all hosts agree on.
    if len(config.hosts) > 1:
        why = f"A stack runs on one host so far, and {len(config.hosts)} are named."
        yield Remark("hosts", why, "Name one; several instances run on it.")
    for number, host in enumerate(config.hosts[:1]):
        missing = [role for role in Role if role not in host.roles]
        if missing:
            why = f"{host.name} is the only host, and is not to be {', '.join(missing)}."
            yield Remark(f"hosts[{number}].roles", why, "Give it both roles.")


def _not_on_hosts(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.platform.traits.services:
        return
    asked = {service.kind for service in build_topology(config).services}
    for kind, path in KEYS.items():
        if kind in asked:
            why = f"Platform {config.platform} runs no {kind} so far."
            yield Remark(path, why, "Leave it out, or use docker.")
    if not config.app.read_only:
        why = f"On platform {config.platform} a release is root's own, and no instance writes into it."
        yield Remark("app.read_only", why, "Name what the project writes in app.shared.")
    for number, server in enumerate(config.upstream.servers):
        if "-" in server.name:
            why = f"The unit of {server.name} could not be told from that of another instance's release."
            yield Remark(f"upstream.servers[{number}].name", why, "Use _ in place of -.")


HOST_RULES = (
    Rule("hosts-missing", ERROR, "Platform remote has hosts, and no other platform has.", _hosts_named),
    Rule("hosts-one", ERROR, "A stack runs on one host so far.", _host_of_all),
    Rule("hosts-services", ERROR, "What platform remote can't run yet.", _not_on_hosts),
)
