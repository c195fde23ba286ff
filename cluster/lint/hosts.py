"""Lints of the platform: its hosts and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import Platform, Role
from cluster.lint.rule import ERROR, NOTE, WARNING, Remark, Rule, numbered_servers

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Days after which a base is old.
OLDEST_BASE = 30


def _missing_roles(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Somewhere they must run.
    if config.platform is not Platform.REMOTE:
        return
    there = {role for host in config.hosts for role in host.roles}
    for role, what in ((Role.APP, "the instances"), (Role.NGINX, "nginx")):
        if role not in there:
            yield Remark(
                "hosts", f"No host has the role {role}, so {what} would run nowhere.", f"Give a host `{role}`."
            )


def _unknown_host(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A server's host is one of the file's, and takes instances.
    if config.platform is not Platform.REMOTE:
        return
    hosts = {host.name: host for host in config.hosts}
    for path, server in numbered_servers(config):
        if server.host is None:
            continue
        if server.host not in hosts:
            why = f"There is no host {server.host}."
            yield Remark(f"{path}.host", why, f"Use one of: {', '.join(hosts) or 'none yet; add it to hosts'}.")
        elif Role.APP not in hosts[server.host].roles:
            why = f"The host {server.host} has not the role app, so no instance runs there."
            yield Remark(f"{path}.host", why, f"Add app to the roles of {server.host}, or name another host.")


def _duplicate_hosts(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A server's `host` could mean either.
    seen: set[str] = set()
    for number, host in enumerate(config.hosts):
        if host.name in seen:
            why = f"The name {host.name} stands twice, and a server's `host` could mean either."
            yield Remark(f"hosts[{number}].name", why, "Give each host a name of its own.")
        seen.add(host.name)


def _hosts_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if config.platform is Platform.REMOTE:
        return
    remedy = "Remove it, or set platform to remote."
    if config.hosts:
        yield Remark("hosts", f"Platform {config.platform} uses no hosts.", remedy)
    for path, server in numbered_servers(config):
        if server.host is not None:
            yield Remark(f"{path}.host", f"Platform {config.platform} uses no hosts.", remedy)


def _images_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if "images" in config.model_fields_set and config.platform is not Platform.DOCKER:
        why = f"Platform {config.platform} runs no containers."
        yield Remark("images", why, "Remove it, or set platform to docker.")


def _old_base(config: ClusterConfig, facts: Facts) -> Remarks:
    # Debian and the makers of images put security updates into new ones.
    if config.platform is not Platform.DOCKER or facts.now is None:
        return
    remedy = f"Say `cluster up --pull {facts.stack or 'STACK'}`."
    as_of = config.images.as_of
    if as_of is not None:
        days = (facts.now - as_of).days
        if days > OLDEST_BASE:
            why = f"The images are as of {as_of.date()}, {days} days ago: security updates since then are not in them."
            yield Remark("images.as_of", why, remedy)
        return
    keys = {getattr(config.images, key): key for key in ("postgres", "memcached", "nginx", "app", "base")}
    for image, made in facts.bases.items():
        days = (facts.now - made).days
        if days > OLDEST_BASE:
            why = f"{image} was made {days} days ago: security updates since then are not in what is built on it."
            yield Remark(f"images.{keys[image]}", why, remedy)


HOST_RULES = (
    Rule("role-missing", ERROR, "No host has the role app, or nginx.", _missing_roles),
    Rule("host-unknown", ERROR, "A server's host is not there, or takes no instances.", _unknown_host),
    Rule("duplicate-host", ERROR, "Two hosts have the same name.", _duplicate_hosts),
    Rule("hosts-ignored", NOTE, "Hosts are for platform remote.", _hosts_ignored),
    Rule("base-old", WARNING, f"A base of platform docker is older than {OLDEST_BASE} days.", _old_base),
    Rule("images-ignored", NOTE, "Images are for platforms with containers.", _images_ignored),
)
