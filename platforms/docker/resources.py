"""The five operations on Docker: `store`, `database`, `prepare`, `instances`, `site`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from cluster.config.models import DatabaseEngine, Replacement, SessionEngine
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, version_in_image
from cluster.services import Kind, instance_grace
from cluster.source import shared_paths, shared_place
from cluster.topology import batches
from platforms import base
from platforms.docker import scripts
from platforms.docker.container_paths import (
    DATA,
    DATABASE_SECRETS,
    MAINTENANCE,
    NGINX_HOME,
    RUN,
    SECRETS,
    SESSION_FILES,
    SHARED,
    STATIC,
    base_image,
    nginx_config,
    project_directory,
    sockets_of,
)
from platforms.docker.containers import UDP, Mount, Ports
from platforms.docker.delivery import delivered_files, delivery
from platforms.docker.family import Family
from platforms.docker.images import runnable
from platforms.docker.made import Instances, MadeDatabase, MadeOthers, Prepared, Store
from platforms.docker.renewer import start_renewer
from platforms.docker.scripts import Variable
from platforms.docker.specs import instance_spec, service_spec
from platforms.pulumi.made import ours
from platforms.pulumi.preparing import release_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.config.models import ClusterConfig
    from cluster.config.site import Site
    from cluster.release import ReleaseSpec
    from cluster.services import Service
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.docker.family import Target
    from platforms.pulumi.live import Live

#: Only one task of a stack runs at a time: that of an `up` that was killed may still be at it.
TASK_LOCK = f"{STATIC}/lock"


@dataclass(frozen=True, kw_only=True)
class Docker:
    """One site on one engine.

    secrets: the stack's secrets, a JSON object; a secret output.
    live: what runs, as found when the program began.
    certificate: the site's, with its key. users: what nginx reads of the site's users, hashes among it.
    account: the site's account by ACME, where its certificate comes so.
    former: whether the stack may have been made before its resources were called after their components.
    """

    target: Target
    live: Live
    secrets: pulumi.Output[str]
    certificate: Certificate | None = None
    users: str = field(default="", repr=False)
    account: Account | None = None
    former: bool = False

    def _family(self, component: str, opts: pulumi.ResourceOptions) -> Family:
        return Family(target=self.target, component=component, child=opts, former=self.former)

    # --- store

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Make what keeps sessions: memcached nodes without any network and their sockets' volume, and one of files."""
        own, config = self._family(name, opts), topology.config
        sessions = config.sessions
        # There whatever the engine is: it outlives the stack's being down, and what is protected can't come and go.
        files = own.volume("session-files", protect=True)
        kept: tuple[Mount, ...] = ()
        if SessionEngine.FILE in (sessions.engine, sessions.previous):
            kept = (Mount(volume=files.name, path=SESSION_FILES),)
        if not topology.memcached_nodes:
            return Store(nodes=pulumi.Output.from_input([]), mounts=kept, ready=())
        nodes = topology.of_kind(Kind.MEMCACHED)
        sockets, image = own.sockets(nodes[0]), own.service_image(nodes[0], config)
        containers: list[pulumi.Resource] = []
        # Without a database the nodes are started one after another: each is filled from the other before that goes.
        # Before the first too, all must have what they should: an `up` that was killed may have left one half filled.
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous) and len(nodes) > 1
        before: list[pulumi.Resource] = []
        if alone:
            size = str(int(sessions.memcached.memory))
            asked: dict[str, pulumi.Input[str]] = {"NODE": "memcached", "IMAGE": image, "SIZE": size}
            before = [own.command("memcached-restored", scripts.script("restore.sh"), environment=asked)]
        for node in nodes:
            container = own.service(node, image=image, mounts=(sockets,), after=before)
            containers.append(container)
            if alone:
                restored = own.command(
                    f"{node.name}-restored", scripts.script("restore.sh"), environment={"NODE": container.id}
                )
                before = [restored]
        reached = topology.endpoints(sockets_of, Kind.MEMCACHED).values()
        return Store(
            nodes=pulumi.Output.from_input([str(endpoint) for endpoint in reached]),
            mounts=(*kept, sockets),
            ready=tuple(containers),
        )

    # --- database

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> MadeDatabase:
        """Make the database: PostgreSQL without any network, or the volume of an sqlite file."""
        own = self._family(name, opts)
        config = topology.config
        engine = None if config.database is None else config.database.engine
        if engine is DatabaseEngine.POSTGRES:
            (service,) = topology.of_kind(Kind.DATABASE)
            return self._postgres(service, config, own)
        if engine is DatabaseEngine.SQLITE:
            data = own.volume("data", protect=True)
            return MadeDatabase(mounts=(Mount(volume=data.name, path=DATA),), secret_links={}, ready=())
        return MadeDatabase(mounts=(), secret_links={}, ready=())

    def _postgres(self, service: Service, config: ClusterConfig, own: Family) -> MadeDatabase:
        image = own.service_image(service, config)
        data = own.kept(service)
        sockets, secrets = own.sockets(service), own.volume("database-secrets")
        password = own.command(
            "database-password",
            scripts.script("database-password.sh"),
            environment={"IMAGE": image, "SECRETS": secrets.name},
        )
        # Said while the former one still runs: an image that can't read the data must not take its place.
        readable = own.command(
            "database-data",
            scripts.script("database-data.sh"),
            environment={"IMAGE": image, "DATA": data.volume or ""},
        )
        read = Mount(volume=secrets.name, path=DATABASE_SECRETS, read_only=True)
        container = own.service(service, image=image, mounts=(data, sockets, read), after=[password, readable])
        # Whoever connects needs to write nothing there: only PostgreSQL itself says which socket is its own.
        return MadeDatabase(
            mounts=(replace(sockets, read_only=True), read),
            secret_links={"database_url": f"{DATABASE_SECRETS}/url"},
            ready=(container,),
        )

    # --- prepare

    def prepare(  # noqa: PLR0913, PLR0917 - what is asked of a platform
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Build the release, put its secrets in place, collect its static files and migrate the database."""
        store, made = ours(Store, store), ours(MadeDatabase, made)
        own, app = self._family(name, opts), topology.config.app
        image = own.release_image(topology, spec)
        network = docker.Network(
            own.name("outgoing"),
            driver="bridge",
            # Nobody on it reaches anybody else on it: it is for going out.
            options={"com.docker.network.bridge.enable_icc": "false"},
            opts=own.opts("outgoing"),
        )
        secrets, static = own.volume("secrets"), own.volume("static")
        project = () if app.read_only else (Mount(volume=None, path=project_directory(topology.config)),)
        shared = own.volume("shared", protect=True)
        seeded = self._seed(topology, spec, image, shared.name, own)
        kept = Mount(volume=shared.name, path=SHARED)
        others = self._others(topology, own)
        reached = (*store.mounts, *made.mounts, *others.mounts)
        mounts = (*reached, kept, Mount(volume=secrets.name, path=SECRETS, read_only=True), *project)
        sockets = own.volume("sockets")
        # Only here are secrets written: whoever serves reads them.
        volumes = (
            *(mount for mount in mounts if mount.path != SECRETS),
            Mount(volume=secrets.name, path=SECRETS),
            Mount(volume=static.name, path=STATIC),
            Mount(volume=sockets.name, path=RUN, read_only=True),
        )
        words = [
            *release_words(topology, lock=TASK_LOCK, sockets=RUN),
            *(word for name, path in made.secret_links.items() for word in ("--link", f"{name}={path}")),
        ]
        prepared = own.command(
            "prepare",
            scripts.script("task.sh", *words),
            stdin=self.secrets,
            environment={
                "IMAGE": image,
                "NETWORK": network.name,
                "MEMORY": str(int(app.memory)),
                "VOLUMES": _volume_words(volumes),
            },
            after=(*store.ready, *made.ready, *others.ready, *seeded),
            logging=local.Logging.NONE,
        )
        # A project's static storage may read its own manifest there.
        seen = (*mounts, Mount(volume=static.name, path=STATIC, read_only=True))
        return Prepared(
            image=image,
            mounts=seen,
            static=static.name,
            shared=shared.name,
            sockets=sockets.name,
            network=network.name,
            services=runnable(self.target.release_context(spec.digest)),
            ready=(prepared,),
        )

    def _others(self, topology: Topology, own: Family) -> MadeOthers:
        """Make what else the instances may use, each without any network: the broker of the workers' jobs."""
        mounts: list[Mount] = []
        containers: list[docker.Container] = []
        for service in topology.services:
            if service.daemon is None or service.kind is Kind.MEMCACHED:
                continue
            image = own.service_image(service, topology.config)
            data = (own.kept(service),) if service.kept else ()
            sockets = own.sockets(service)
            containers.append(own.service(service, image=image, mounts=(*data, sockets)))
            mounts.append(replace(sockets, read_only=True))
        return MadeOthers(mounts=tuple(mounts), ready=tuple(containers))

    def _seed(
        self,
        topology: Topology,
        spec: ReleaseSpec,
        image: pulumi.Input[str],
        volume: pulumi.Input[str],
        own: Family,
    ) -> list[pulumi.Resource]:
        """Make what the project writes, where it is not there yet, of what the project holds there."""
        shared = shared_paths(topology.config)
        if not shared:
            return []
        where = os.path.relpath(spec.source.project)
        words = [word for path in shared for word in (path, shared_place(path))]
        asked: dict[str, pulumi.Input[str]] = {"IMAGE": image, "VOLUME": volume, "SHARED": SHARED, "PROJECT": where}
        return [own.command("shared-made", scripts.script("shared.sh", *words), environment=asked)]

    # --- instances

    def instances(
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        prepared: base.Prepared,
        opts: pulumi.ResourceOptions,
    ) -> Instances:
        """Start the release's instances beside those that serve; once a batch is healthy it takes its names."""
        prepared, own = ours(Prepared, prepared), self._family(name, opts)
        mounts = (*prepared.mounts, Mount(volume=prepared.sockets, path=RUN))
        alone = isinstance(topology.config.app.rollout.batch, int)
        before: tuple[pulumi.Resource, ...] = prepared.ready
        shown: local.Command | None = None
        served: list[local.Command] = []
        for batch in batches(topology.names, topology.config.app):
            containers = {
                instance: own.container(
                    instance,
                    instance_spec(topology, spec.digest, instance),
                    image=prepared.image,
                    mounts=mounts,
                    network=prepared.network,
                    after=before,
                )
                for instance in batch
            }
            healthy: tuple[pulumi.Resource, ...] = tuple(containers.values())
            if shown is None:
                # They would take jobs of a release that does not get healthy.
                beside = self._beside(topology, spec.digest, prepared, Replacement.BESIDE, own, healthy)
                healthy = (*healthy, *beside)
                shown = self._show_static(topology, spec.digest, prepared, own, healthy)
            taken = [
                self._serve(
                    *(topology, spec.digest, instance, container, own, (*healthy, shown)),
                    sockets=prepared.sockets,
                    alone=alone,
                )
                for instance, container in containers.items()
            ]
            served += taken
            before = (*prepared.ready, *taken) if alone else prepared.ready
        last = self._beside(topology, spec.digest, prepared, Replacement.ALONE, own, served)
        return Instances(
            release=pulumi.Output.all(*(command.stdout for command in served)).apply(lambda _: spec.digest),
            sockets=prepared.sockets,
            static=prepared.static,
            shared=prepared.shared,
            ready=(*served, *last),
        )

    def _beside(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        topology: Topology,
        release: str,
        prepared: Prepared,
        replacement: Replacement,
        own: Family,
        after: Sequence[pulumi.Resource],
    ) -> list[docker.Container]:
        """Start the workers and schedules that are replaced so; each has its own program's state for its health."""
        for service in topology.beside:
            if service.replacement is replacement and service.kind not in prepared.services:
                pulumi.log.warn(f"{service.name}: release {release} was made before the stack had it, and can't run it")
        return [
            own.container(
                service.name,
                service_spec(topology, service, release),
                image=prepared.image,
                mounts=(*prepared.mounts, Mount(volume=prepared.sockets, path=RUN)),
                network=prepared.network,
                after=after,
                alone=replacement is Replacement.ALONE,
            )
            for service in topology.beside
            if service.replacement is replacement and service.kind in prepared.services
        ]

    def _show_static(
        self,
        topology: Topology,
        release: str,
        prepared: Prepared,
        own: Family,
        after: Sequence[pulumi.Resource],
    ) -> local.Command:
        return own.command(
            "static-current",
            scripts.script("task.sh", "--lock", TASK_LOCK, "show", "--static", STATIC, "--turn", Variable("TURN")),
            environment={
                "IMAGE": prepared.image,
                "TURN": str(self.live.next_static_generation(release)),
                "NETWORK": "none",
                "MEMORY": str(int(topology.config.app.memory)),
                "VOLUMES": _volume_words(
                    (
                        *(mount for mount in prepared.mounts if mount.path != STATIC),
                        Mount(volume=prepared.static, path=STATIC),
                    )
                ),
            },
            after=after,
        )

    def _serve(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        topology: Topology,
        release: str,
        instance: str,
        container: docker.Container,
        own: Family,
        after: Sequence[pulumi.Resource],
        *,
        sockets: pulumi.Input[str],
        alone: bool,
    ) -> local.Command:
        generation = container.id.apply(
            lambda found: str(self.live.next_generation(instance, f"{release}.{found[:12]}"))
        )
        environment: dict[str, pulumi.Input[str]] = {
            "CONTAINER": container.id,
            "INSTANCE": instance,
            "RELEASE": release,
            "TURN": generation,
            "ALONE": "yes" if alone else "no",
            "GRACE": str(int(instance_grace(topology.config.app.graceful_timeout.seconds))),
            "WAIT": str(int(topology.config.app.health.start_timeout.seconds)),
            "SOCKETS": sockets,
        }
        return own.command(f"{instance}-serve", scripts.script("serve.sh"), environment=environment, after=after)

    # --- site

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances; its configuration is checked, swapped and reloaded once."""
        instances, own = ours(Instances, instances), self._family(name, opts)
        config = topology.config
        network = docker.Network(own.name("site"), driver="bridge", opts=own.opts("site"))
        # What visitors are told in place of the site stays while the stack is down.
        home, maintenance = own.volume("nginx"), own.volume("maintenance", protect=True)
        lone = [Ports(port=i.port, ip="127.0.0.1") for i in topology.instances if i.port is not None]
        (service,) = topology.of_kind(Kind.NGINX)
        image = own.service_image(service, config)
        ports = (*_published(config.site), *lone)
        renewer, kept = start_renewer(topology, network.name, own, self.account)
        # Said while the former one still listens elsewhere.
        free = own.command(
            "nginx-ports",
            scripts.script("ports.sh"),
            environment={
                "IMAGE": image,
                "NGINX_HOME": home.name,
                "PORTS": " ".join(map(str, ports)),
            },
        )
        nginx = own.service(
            service,
            image=image,
            mounts=(
                Mount(volume=instances.sockets, path=RUN, read_only=True),
                Mount(volume=instances.static, path=STATIC, read_only=True),
                Mount(volume=instances.shared, path=SHARED, read_only=True),
                Mount(volume=home.name, path=NGINX_HOME),
                Mount(volume=maintenance.name, path=MAINTENANCE),
                *(replace(mount, read_only=True) for mount in kept),
            ),
            network=network.name,
            after=[free, *renewer],
            ports=ports,
            alias=service.name if renewer else "",
        )
        version = version_in_image(base_image(config, "nginx"))
        rendered = nginx_config(topology, self.certificate, self.users)
        # Of each its own, so that a preview tells which is another.
        private = {"PRIVATE": delivered_files(rendered.private), "USERS": rendered.users}
        delivered = own.command(
            "nginx-config",
            scripts.script("deliver.sh"),
            stdin=delivery(rendered),
            environment={
                "NGINX": nginx.id,
                "DIGEST": rendered.digest,
                "POLITE": "no" if version >= KEEPALIVE_MIN_TIMEOUT_SINCE else "yes",
                "TURN": str(self.live.next_nginx_generation(rendered.digest)),
                **{name: pulumi.Output.secret(text) for name, text in private.items() if text},
            },
            after=instances.ready,
        )
        return base.Site(digest=delivered.stdout.apply(lambda _: rendered.digest))


def _published(site: Site) -> list[Ports]:
    """Return the ports by which visitors come."""
    by_udp = [Ports(port=site.tls.listen, protocol=UDP)] if site.tls is not None and site.tls.http3 else []
    return [*(Ports(port=port) for port in site.listeners), *by_udp]


def _volume_words(mounts: Sequence[Mount]) -> pulumi.Output[str]:
    """Return volumes as words for `docker run --volume`."""
    modes = [(mount.path, ":ro" if mount.read_only else "") for mount in mounts]

    def words(names: Sequence[str]) -> str:
        pairs = zip(names, modes, strict=True)
        return " ".join(f"{name}:{path}{mode}" if name else path for name, (path, mode) in pairs)

    return pulumi.Output.all(*(mount.volume or "" for mount in mounts)).apply(words)
