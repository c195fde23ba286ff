"""The five operations on Docker: `store`, `database`, `prepare`, `instances`, `site`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from cluster.config.models import DatabaseEngine, SessionEngine
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, version_in_image
from cluster.services import Kind
from cluster.source import shared_paths, shared_place
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
from platforms.docker.serving import Serving
from platforms.docker.task import TASK_LOCK, task
from platforms.pulumi.made import ours
from platforms.pulumi.preparing import release_words

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.services import Service
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.docker.family import Target
    from platforms.pulumi.live import Live


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
        network = _outgoing(own)
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
        links = (word for name, path in made.secret_links.items() for word in ("--link", f"{name}={path}"))
        prepared = own.command(
            "prepare",
            scripts.script("task.sh", *release_words(topology, lock=TASK_LOCK, sockets=RUN), *links),
            stdin=self.secrets,
            environment=task(topology, image, network.name, volumes),
            after=(*store.ready, *made.ready, *others.ready, *seeded),
            logging=local.Logging.NONE,
        )
        return Prepared(
            image=image,
            # A project's static storage may read its own manifest there.
            mounts=(*mounts, Mount(volume=static.name, path=STATIC, read_only=True)),
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
        made, own = ours(Prepared, prepared), self._family(name, opts)
        return Serving(topology=topology, release=spec.digest, prepared=made, live=self.live, own=own).instances()

    # --- site

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances; its configuration is checked, swapped and reloaded once."""
        instances, own = ours(Instances, instances), self._family(name, opts)
        nginx = self._nginx(topology, instances, own)
        version = version_in_image(base_image(topology.config, "nginx"))
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

    def _nginx(self, topology: Topology, instances: Instances, own: Family) -> docker.Container:
        """Make nginx's container, and beside it what keeps its certificate."""
        network = docker.Network(own.name("site"), driver="bridge", opts=own.opts("site"))
        # What visitors are told in place of the site stays while the stack is down.
        home, maintenance = own.volume("nginx"), own.volume("maintenance", protect=True)
        (service,) = topology.of_kind(Kind.NGINX)
        image = own.service_image(service, topology.config)
        ports = _published(topology)
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
        return own.service(
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


def _outgoing(own: Family) -> docker.Network:
    """Make the network by which instances ask for what is elsewhere."""
    return docker.Network(
        own.name("outgoing"),
        driver="bridge",
        # Nobody on it reaches anybody else on it: it is for going out.
        options={"com.docker.network.bridge.enable_icc": "false"},
        opts=own.opts("outgoing"),
    )


def _published(topology: Topology) -> tuple[Ports, ...]:
    """Return the ports by which visitors come, and those at which an instance answers alone."""
    site = topology.config.site
    by_udp = [Ports(port=site.tls.listen, protocol=UDP)] if site.tls is not None and site.tls.http3 else []
    lone = [Ports(port=one.port, ip="127.0.0.1") for one in topology.instances if one.port is not None]
    return (*(Ports(port=port) for port in site.listeners), *by_udp, *lone)
