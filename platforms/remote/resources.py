"""The five operations on hosts, each of which makes its steps there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platforms.pulumi.made import ours
from platforms.remote.instance_steps import Instances, InstanceSteps
from platforms.remote.release_steps import Prepared, ReleaseSteps
from platforms.remote.site_steps import SiteSteps
from platforms.remote.steps import SiteOnHosts
from platforms.remote.store_steps import MadeDatabase, Store, StoreSteps

if TYPE_CHECKING:
    import pulumi

    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from platforms import base


@dataclass(frozen=True, kw_only=True)
class Remote(SiteOnHosts):
    """What makes one site's resources on its hosts."""

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Set the hosts up, and start what keeps sessions or jobs on one of them."""
        return StoreSteps(site=self, name=name, topology=topology, opts=opts).store()

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> MadeDatabase:
        """Make the PostgreSQL that the stack file asks for; an sqlite file is made by who opens it."""
        return StoreSteps(site=self, name=name, topology=topology, opts=opts).database()

    def prepare(  # noqa: PLR0913, PLR0917 - what is asked of a platform
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Send the release to all hosts; on one of them collect its static files and migrate the database."""
        steps = ReleaseSteps(site=self, name=name, topology=topology, opts=opts, spec=spec)
        return steps.prepare(ours(Store, store), ours(MadeDatabase, made))

    def instances(
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        prepared: base.Prepared,
        opts: pulumi.ResourceOptions,
    ) -> Instances:
        """Start the release's instances beside those that serve; once a batch is healthy it takes its names."""
        steps = InstanceSteps(site=self, name=name, topology=topology, opts=opts, release=spec.digest)
        return steps.instances(ours(Prepared, prepared))

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances, and then let go of those that serve no more."""
        made = ours(Instances, instances)
        return SiteSteps(site=self, name=name, topology=topology, opts=opts, instances=made).nginx()


__all__ = ["Remote"]
