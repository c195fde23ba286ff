"""What `up` and `rollback` would do to a stack on hosts: what was found there, and releases as the hosts keep them."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.models import HOSTS_KEY
from cluster.plan.judged import disabled_rules
from cluster.plan.nginx import OTHER_USERS, difference, in_order
from cluster.plan.planned import Planned
from cluster.release import ReleaseError, runtime_config
from cluster.render.snippets import HTTP, SERVER
from platforms.base import RELEASE_VARIABLE
from platforms.pulumi import planning
from platforms.pulumi.engine import PulumiError
from platforms.pulumi.planning import Sides, UnkeptError, begun, lasting_of
from platforms.pulumi.preview import Preview
from platforms.remote.address import shared
from platforms.remote.drift import drift
from platforms.remote.foreseen import foreseen
from platforms.remote.kept import NoReleaseError, changed_parts, fetched, history_of, wanted
from platforms.remote.looked import LOOKED_VARIABLE, handed, said_of_sessions
from platforms.remote.made import made_secrets, needs_hosts_key
from platforms.remote.nginx_check import HostChecker
from platforms.remote.paths import nginx_config, relay_files, runtime_paths
from platforms.remote.ssh import HostError
from platforms.remote.targets import target_of
from platforms.remote.told import Hosted, Told, steps_of_database, steps_of_nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cluster.lint import Facts
    from cluster.plan.nginx_check import Checker
    from cluster.plan.planned import Release
    from cluster.sessions import Lasting
    from cluster.stack.history import History
    from cluster.stack.opened import Stack
    from cluster.tls.certificates import Certificate
    from platforms.pulumi.engine import Changes, Pulumi
    from platforms.remote.address import Shared
    from platforms.remote.kept import Kept
    from platforms.remote.looked import Looked, Seen
    from platforms.remote.paths import RemotePaths
    from platforms.remote.ssh import Ssh


#: Said where PostgreSQL is told something else: only its host knows what of it needs another process.
UNKNOWN_DATABASE = "whether PostgreSQL is started again: requests that need it fail until it answers"


@dataclass(frozen=True)
class Site:
    """A stack on its hosts, as they were found.

    certificate: the site's, as far as it is known without secrets. environment: what the program is told beside the
    stack file.
    """

    stack: Stack
    paths: RemotePaths
    ssh: Ssh
    seen: Seen
    facts: Facts
    certificate: Certificate | None
    environment: Mapping[str, str]

    @cached_property
    def hosts(self) -> list[Hosted]:
        """The hosts, the first one first, on which is done what is done once."""
        placed = self.seen.placement.hosts
        return [
            self._hosted(self.seen.each[name])
            for name in (*placed, *(name for name in self.seen.each if name not in placed))
        ]

    def _hosted(self, looked: Looked) -> Hosted:
        topology, placement, host = self.seen.topology, self.seen.placement, looked.host
        visited = host in placement.nginx
        return Hosted(
            looked=looked,
            instances=placement.on(host, topology.names),
            beside=placement.services(host, topology.beside),
            daemons=placement.services(host, topology.daemons),
            rendered=nginx_config(topology, looked.places, host, looked.nginx, self.certificate) if visited else None,
            relay=relay_files(topology, looked.places, host, looked.nginx),
            shared=self.shared.get(host),
        )

    @cached_property
    def shared(self) -> dict[str, Shared]:
        """What each host is told that holds the site's address in turn with others."""
        return shared(self.seen.topology, self.seen.leader.places, self.seen)


def drifted(site: Site, believed: Preview) -> tuple[str, ...]:
    """Return what was changed by hand on the hosts, or is broken, in words. believed: what Pulumi's state has."""
    return tuple(dict.fromkeys(line for host in site.hosts for line in drift(host, believed)))


def plan(site: Site, pulumi: Callable[[], Pulumi]) -> Planned:
    """Return what would be done; it changes nothing. CommandError where that can't be known."""
    made_first = (HOSTS_KEY,) if needs_hosts_key(site.seen.topology) else ()
    resources = begun(site.stack, site.facts, pulumi, lambda _resources: ([], []), *made_first)
    if isinstance(resources, Planned):
        return resources
    try:
        preview, changes = _previewed(site, pulumi())
    except PulumiError as error:
        refused = tuple(filter(None, str(error).splitlines()))
        disabled = disabled_rules(site.stack.config)
        return Planned(stack=site.stack.name, changes=True, refused=refused, disabled=disabled)
    with tempfile.TemporaryDirectory() as aside:
        return Planning(site, preview, pulumi(), Path(aside), changes.unjudged).judged()


def previewed(site: Site, pulumi: Pulumi) -> tuple[Planned, Changes]:
    """Let the engine preview, and tell what that is; PulumiError says what it refuses."""
    preview, changes = _previewed(site, pulumi)
    with tempfile.TemporaryDirectory() as aside:
        return Planning(site, preview, pulumi, Path(aside), changes.unjudged).told(), changes


def _previewed(site: Site, pulumi: Pulumi) -> tuple[Preview, Changes]:
    preview = Preview()
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "looked"
        path.write_text(handed(site.seen), encoding="utf-8")
        environment = {**site.environment, LOOKED_VARIABLE: str(path)}
        return preview, pulumi.preview(planning.taking(preview, pulumi), refresh=False, **environment)


class Planning(planning.Planning):
    """Tells what a preview is, with all that is known of it. aside: an empty directory for what hosts keep."""

    def __init__(
        self, site: Site, preview: Preview, pulumi: Pulumi, aside: Path, unjudged: tuple[str, ...] = ()
    ) -> None:
        super().__init__(site.stack, site.paths, preview, pulumi, site.facts)
        self.unjudged = unjudged
        self.site = site
        self.hosts = site.hosts
        self.aside = aside
        self.places = site.hosts[0].looked.places
        #: The former release that is to serve again.
        self.back = site.environment.get(RELEASE_VARIABLE)

    @property
    def serves(self) -> bool:
        """Whether nginx answers on a host, and some instance's name leads to a process."""
        seen = self.site.seen
        answers = any(seen.each[name].live.nginx is not None for name in seen.placement.nginx)
        return answers and any(seen.live.holders.values())

    @property
    def serving(self) -> str | None:
        """The release that every instance's name leads to; None where that is not one."""
        return self.site.seen.release

    def history(self) -> History:
        """Return which releases have served, and are kept on the hosts."""
        return history_of(self.paths, self.site.seen)

    def drift(self) -> tuple[str, ...]:
        """Return what was changed by hand, or is broken, in words."""
        return drifted(self.site, self.preview)

    def broken(self) -> bool:
        """Tell whether something of that is mended although the preview finds nothing to do: its steps mend it all."""
        return False

    def told_of(self, release: Release) -> Told:
        """Return what is done with units."""
        serves = release.after or release.before
        return Told(self.preview, self.topology, self.hosts, serves, serves=self.serves)

    def said(self) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions."""
        return self.site.seen.live.served(self.topology.names)

    def sessions(self) -> Mapping[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return said_of_sessions(self.site.ssh, self.site.seen.placement.nginx[0])

    def told(self) -> Planned:
        """Return the plan."""
        planned = super().told()
        again = [UNKNOWN_DATABASE] if steps_of_database(self.preview, "update") else []
        builds, unsure = self._builds(planned.release)
        first, rest = planned.steps[:1], planned.steps[1:]  # that there is another release
        return replace(planned, steps=(*first, *builds, *rest), unknown=(*planned.unknown, *unsure, *again))

    def _builds(self, release: Release) -> tuple[list[str], list[str]]:
        """Return which packages a host is to build for the wanted release, and what is not known of that."""
        if self.back is not None or release.after is None or release.after == release.before:
            return [], []
        return foreseen(self.topology, self.site.seen, self.stack.root, self.site.paths.wheels)

    # --- releases

    def secrets(self) -> dict[str, str]:
        """Return the secrets of the wanted release: the URLs of what is made on hosts among them."""
        found = self.pulumi.secrets(HOSTS_KEY)
        key = found.pop(HOSTS_KEY, "")
        return {**found, **(made_secrets(self.topology, self.places, key) if key else {})}

    def lasting(self, wanted: str, secrets: Mapping[str, str]) -> Lasting:
        """Return what sessions and data hang on in the wanted release."""
        if self.back is not None:
            return lasting_of(json.loads(self.site.ssh.run(self._keeper(wanted).host, "config", wanted)), secrets)
        runtime = runtime_config(self.config, runtime_paths(self.topology, self.places, wanted), wanted)
        return lasting_of(runtime, secrets)

    def sides(self, former: str, wanted: str, old: Mapping[str, str] | None, new: Mapping[str, str]) -> Sides:
        """Return both releases; UnkeptError where no host has the former one any more."""
        try:
            # Both on one host: on another one they may be for another Python.
            keeper = self._keeper(former, wanted)
            after = self._wanted(wanted, new, keeper)
            before = self._fetched(keeper, former, old or new, after.files)
        except (HostError, NoReleaseError, ReleaseError) as error:
            raise UnkeptError(str(error)) from error
        return Sides(old=before.side, new=after.side, parts=changed_parts(before, after))

    def _wanted(self, release: str, secrets: Mapping[str, str], beside: Looked) -> Kept:
        if self.back is not None:
            keeper = beside if release in beside.releases else self._keeper(release)
            return self._fetched(keeper, release, secrets, {})
        target = "-".join(target_of(dict(beside.machine)))
        return wanted(self.topology, self.places, self.stack.root, secrets, digest=release, target=target)

    def _fetched(self, keeper: Looked, release: str, secrets: Mapping[str, str], beside: Mapping[str, Path]) -> Kept:
        there = self.aside / release
        there.mkdir()

        def ask(release: str, known: Mapping[str, str]) -> dict[str, Any]:
            told = json.dumps(known)
            found: dict[str, Any] = json.loads(self.site.ssh.run(keeper.host, "release", release, told=told))
            return found

        return fetched(ask, release, self.config, secrets, there, beside=beside)

    def _keeper(self, release: str, other: str = "") -> Looked:
        """Return what a host says that keeps a release, and another one too if any has both; HostError for none."""
        found = [host.looked for host in self.hosts if release in host.looked.releases]
        if not found:
            raise HostError(f"release {release} is on no host any more")
        return next((one for one in found if other in one.releases), found[0])

    # --- nginx

    def nginx_lines(self) -> list[str]:
        """Return nginx's lines that go and come on the hosts, each once."""
        steps = steps_of_nginx(self.preview)
        if not steps or not self.serves:
            return []
        told = dict.fromkeys(self._lines_on(host, before) for host, before in self._before)
        found = [line for lines in told for line in lines]
        # What is none of its files is told in secret: who the site's users are, and a certificate's key.
        others = self.config.site.auth_basic is not None and not found and any("stdin" in one.changed for one in steps)
        return [OTHER_USERS] if others else found

    def nginx_files(self) -> list[tuple[Mapping[str, str], Mapping[str, str]]]:
        """Return the site's files on each host where nginx is told something, before and after."""
        return [(before, {} if host.rendered is None else host.rendered.files) for host, before in self._before]

    @cached_property
    def _before(self) -> list[tuple[Hosted, dict[str, str]]]:
        """The hosts where nginx is told something, each with the site's files that it has."""
        told = {step.part for step in steps_of_nginx(self.preview) if step.operation != "create"}
        there = [host for host in self.hosts if any(part.startswith(f"{host.looked.host}-") for part in told)]
        return [(host, json.loads(self.site.ssh.run(host.looked.host, "site-files"))) for host in there]

    @contextmanager
    def checkers(self) -> Iterator[Sequence[Checker]]:
        """Give the nginx of each host where the site's file is another one."""
        other = [one for one in self.hosts if one.rendered is not None and not one.looked.has_site(one.rendered)]
        yield [HostChecker(self.site.ssh, host.looked) for host in other]

    @staticmethod
    def _lines_on(host: Hosted, before: Mapping[str, str]) -> tuple[str, ...]:
        after = {**host.relay, **({} if host.rendered is None else host.rendered.files)}
        # Of what is there and not wanted any more a snippet is a part of a file that is.
        snippets = [path for path in before if path.endswith((HTTP, SERVER))]
        # What is done for other hosts comes and goes with instances, which are told.
        files = in_order({*snippets, *after} - ({*host.relay} - {*before}))
        digest = "" if host.rendered is None else host.rendered.digest
        return tuple(difference(lambda path: before.get(path, ""), after, digest, files))


__all__ = ["Planning", "Site", "drifted", "plan", "previewed"]
