"""The five operations on Docker: `store`, `database`, `prepare`, `instances`, `site`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from cluster.config.models import DatabaseEngine, Replacement, SessionEngine
from cluster.release import ReleaseError
from cluster.render.mime import compressed_endings
from cluster.render.nginx import (
    KEEPALIVE_MIN_TIMEOUT_SINCE,
    NginxConfig,
    version_in_image,
)
from cluster.services import Kind, instance_grace, valkey_words
from cluster.source import shared_paths, shared_place
from cluster.topology import batches
from cluster_runtime.service import SERVICES, WELL
from cluster_runtime.status import DRAINING, READY, SERVING
from cluster_runtime.status import DRAINING as INSTANCE_DRAINING
from platforms import base
from platforms.docker import scripts
from platforms.docker.bases import SERVES_ON, BaseError, base_of, context_as_of, ensure
from platforms.docker.containers import (
    APP_USER,
    BROKER_USER,
    MEGABYTE,
    MEMCACHED_USER,
    NGINX_USER,
    POSTGRES_USER,
    Health,
    Mount,
    Ports,
    Spec,
    make_container,
)
from platforms.docker.engine import INSTANCE_LABEL, RELEASE_LABEL, SERVICE_LABEL, EngineError, image_repository
from platforms.docker.images import FILES, runnable, uv_version, write_context
from platforms.docker.places import (
    BROKER,
    BROKER_SOCKET,
    DATA,
    DATABASE,
    DATABASE_SECRETS,
    NGINX_HOME,
    RUN,
    SECRETS,
    SESSION_FILES,
    SESSIONS,
    SHARED,
    STATIC,
    base_image,
    memcached_socket,
    nginx_config,
    project_directory,
)
from platforms.docker.scripts import Variable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.docker.bases import Base
    from platforms.docker.engine import Engine, Live

#: Seconds between two looks at a container's health. Each is a process that the engine starts.
HEALTH_SECONDS = 2

#: Seconds for which a look at an instance waits: for the first time that it is healthy, and then for the next look. So
#: nobody waits for an instance that has got ready, and there are fewer looks at one that is.
WATCH_SECONDS = 4

#: Only one task of a stack runs at a time: that of an `up` that was killed may still be at it.
TASK_LOCK = f"{STATIC}/lock"

#: States of an instance in which it is well.
INSTANCE_STATES = (READY, SERVING, INSTANCE_DRAINING)

#: Where the broker keeps what it has.
BROKER_DATA = "/var/lib/cluster"

#: Instances, of two releases, for which the limit of processes is made at least.
LEAST_TOGETHER = 32

#: Limits of what is not an instance: memory in bytes, processes.
NGINX_MEMORY, NGINX_PROCESSES = 512 * MEGABYTE, 256
POSTGRES_MEMORY, POSTGRES_PROCESSES = 1024 * MEGABYTE, 512
MEMCACHED_OVERHEAD, MEMCACHED_PROCESSES = 64 * MEGABYTE, 256
BROKER_PROCESSES = 256


@dataclass(frozen=True, kw_only=True)
class Store(base.Store):
    """What keeps sessions: beside the nodes' sockets, what an instance mounts for it, and what must be there first."""

    mounts: tuple[Mount, ...]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeDatabase(base.MadeDatabase):
    """The database that the platform made; `secret_links` are the secrets that it made for it, by their paths."""

    mounts: tuple[Mount, ...]
    secret_links: Mapping[str, str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeBroker:
    """The broker: what mounts its socket, and what must be there first."""

    mounts: tuple[Mount, ...]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Prepared(base.Prepared):
    """A release that is built and whose database is migrated: its image, and what its containers are given.

    services: the kinds of services that it can run; one that serves again may be older than they are.
    """

    image: pulumi.Output[str]
    mounts: tuple[Mount, ...]
    static: pulumi.Output[str]
    shared: pulumi.Output[str]
    sockets: pulumi.Output[str]
    network: pulumi.Output[str]
    services: frozenset[str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Instances(base.Instances):
    """Instances that hold their names: beside the release, the volumes that nginx needs of them."""

    sockets: pulumi.Output[str]
    static: pulumi.Output[str]
    shared: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]


Made = TypeVar("Made", bound="base.Store | base.MadeDatabase | base.Prepared | base.Instances")


def _ours(kind: type[Made], made: object) -> Made:
    """Return what this platform made, with what is private to it; TypeError where another one made it."""
    if not isinstance(made, kind):
        raise TypeError(f"{type(made).__module__}.{type(made).__qualname__} is not what platform docker made")
    return made


@dataclass(frozen=True, kw_only=True)
class Family:
    """The resources of one component, which are its children and are called after it.

    former: whether a stack may have them by their names of before, when each was called as its part alone.
    """

    component: str
    child: pulumi.ResourceOptions
    former: bool

    def name(self, part: str) -> str:
        """Return what a part of the component is called among all resources of a program."""
        return f"{self.component}-{part}"

    def opts(self, part: str, *more: pulumi.ResourceOptions) -> pulumi.ResourceOptions:
        """Return a part's options, the later ones over the former."""
        aliases = [pulumi.Alias(name=part)] if self.former else []
        options = pulumi.ResourceOptions.merge(self.child, pulumi.ResourceOptions(aliases=aliases))
        for one in more:
            options = pulumi.ResourceOptions.merge(options, one)
        return options

    def volume(self, part: str, *, protect: bool = False) -> docker.Volume:
        """Make a volume. protect: it holds data, that nothing but `cluster down --delete-data` removes."""
        more = [pulumi.ResourceOptions(protect=True)] if protect else []
        return docker.Volume(self.name(part), opts=self.opts(part, *more))


@dataclass(frozen=True, kw_only=True)
class Docker:
    """One site on one engine.

    stack: the value of the label that all its containers have.
    work: where build contexts are written, from the program's directory.
    secrets: the stack's secrets, a JSON object; a secret output.
    live: what runs, as found when the program began.
    former: whether the stack may have been made before its resources were called after their components.
    pulling: held while a base is pulled. refused: why one can't be had.
    """

    stack: str
    work: Path
    engine: Engine
    live: Live
    secrets: pulumi.Output[str]
    former: bool = False
    pulling: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused: dict[str, str] = field(default_factory=dict)

    def _family(self, component: str, opts: pulumi.ResourceOptions) -> Family:
        return Family(component=component, child=opts, former=self.former)

    # --- store

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Make what keeps sessions: memcached nodes without any network and their sockets' volume, and one of files."""
        own = self._family(name, opts)
        sessions = topology.config.sessions
        # There whatever the engine is: it outlives the stack's being down, and what is protected can't come and go.
        files = own.volume("session-files", protect=True)
        kept: tuple[Mount, ...] = ()
        if SessionEngine.FILE in (sessions.engine, sessions.previous):
            kept = (Mount(volume=files.name, path=SESSION_FILES),)
        if not topology.memcached_nodes:
            return Store(nodes=pulumi.Output.from_input([]), mounts=kept, ready=())
        sockets = own.volume("sessions")
        image = self._service_image("memcached", topology.config, own)
        mount = Mount(volume=sockets.name, path=SESSIONS)
        size = int(topology.config.sessions.memcached.memory)
        nodes = tuple(memcached_socket(number) for number in range(1, topology.memcached_nodes + 1))
        containers: list[pulumi.Resource] = []
        # Without a database the nodes are started one after another: each is filled from the other before that goes.
        # Before the first too, all must have what they should: an `up` that was killed may have left one half filled.
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous) and len(nodes) > 1
        before: list[pulumi.Resource] = []
        if alone:
            asked: dict[str, pulumi.Input[str]] = {"NODE": "memcached", "IMAGE": image, "SIZE": str(size)}
            before = [self._command(own, "memcached-restored", scripts.script("restore.sh"), environment=asked)]
        for number, path in enumerate(nodes, start=1):
            spec = Spec(
                role=f"memcached{number}",
                user=MEMCACHED_USER,
                command=("memcached", "-s", path, "-a", "0770", "-m", str(max(1, size // MEGABYTE))),
                memory=size + MEMCACHED_OVERHEAD,
                processes=MEMCACHED_PROCESSES,
                grace=10,
                health=Health(test=("CMD", "test", "-S", path), interval=HEALTH_SECONDS, start_period=30),
            )
            # Two nodes on one socket would each hold sessions that the other does not know of.
            container = self._container(
                *(own, spec.role, spec), image=image, mounts=(mount,), network=None, after=before, alone=True
            )
            containers.append(container)
            if alone:
                restored = self._command(
                    own, f"{spec.role}-restored", scripts.script("restore.sh"), environment={"NODE": container.id}
                )
                before = [restored]
        return Store(nodes=pulumi.Output.from_input(list(nodes)), mounts=(*kept, mount), ready=tuple(containers))

    # --- database

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> MadeDatabase:
        """Make the database: PostgreSQL without any network, or the volume of an sqlite file."""
        own = self._family(name, opts)
        config = topology.config
        engine = None if config.database is None else config.database.engine
        if engine is DatabaseEngine.POSTGRES:
            return self._postgres(config, own)
        if engine is DatabaseEngine.SQLITE:
            data = own.volume("data", protect=True)
            return MadeDatabase(mounts=(Mount(volume=data.name, path=DATA),), secret_links={}, ready=())
        return MadeDatabase(mounts=(), secret_links={}, ready=())

    def _postgres(self, config: ClusterConfig, own: Family) -> MadeDatabase:
        image = self._service_image("postgres", config, own)
        data = own.volume("database", protect=True)
        sockets, secrets = own.volume("database-sockets"), own.volume("database-secrets")
        password = self._command(
            own,
            "database-password",
            scripts.script("database-password.sh"),
            environment={"IMAGE": image, "SECRETS": secrets.name},
        )
        # Said while the former one still runs: an image that can't read the data must not take its place.
        readable = self._command(
            own,
            "database-data",
            scripts.script("database-data.sh"),
            environment={"IMAGE": image, "DATA": data.name},
        )
        spec = Spec(
            role="postgres",
            user=POSTGRES_USER,
            command=("/usr/local/lib/cluster/start",),
            memory=POSTGRES_MEMORY,
            processes=POSTGRES_PROCESSES,
            grace=60,
            stop_signal="SIGINT",
            start_seconds=120,
            shared_memory=256,
            health=Health(
                test=("CMD", "pg_isready", "-q", "-h", DATABASE, "-U", "cluster", "-d", "cluster"),
                interval=HEALTH_SECONDS,
                start_period=120,
            ),
        )
        read = Mount(volume=secrets.name, path=DATABASE_SECRETS, read_only=True)
        sockets_mount = Mount(volume=sockets.name, path=DATABASE)
        container = self._container(
            *(own, "postgres", spec),
            image=image,
            mounts=(Mount(volume=data.name, path="/var/lib/cluster"), sockets_mount, read),
            network=None,
            after=[password, readable],
            alone=True,
        )
        # Whoever connects needs to write nothing there: only PostgreSQL itself says which socket is its own.
        return MadeDatabase(
            mounts=(replace(sockets_mount, read_only=True), read),
            secret_links={"database_url": f"{DATABASE_SECRETS}/url"},
            ready=(container,),
        )

    # --- prepare

    def prepare(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Build the release, put its secrets in place, collect its static files and migrate the database."""
        store, made = _ours(Store, store), _ours(MadeDatabase, made)
        own, app = self._family(name, opts), topology.config.app
        image = self._release_image(topology, spec, own)
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
        broker = self._broker(topology, own)
        reached = (*store.mounts, *made.mounts, *broker.mounts)
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
            *("--lock", TASK_LOCK, "release", "--instance", topology.names[0], "--sockets", RUN),
            *("--compress", ",".join(compressed_endings())),
            *([] if app.collectstatic else ["--no-collect"]),
            *([] if app.migrate else ["--no-migrate"]),
            *(["--migrate", ",".join(app.migrate)] if isinstance(app.migrate, list) else []),
            *(word for name, path in made.secret_links.items() for word in ("--link", f"{name}={path}")),
        ]
        prepared = self._command(
            own,
            "prepare",
            scripts.script("task.sh", *words),
            stdin=self.secrets,
            environment={
                "IMAGE": image,
                "NETWORK": network.name,
                "MEMORY": str(int(app.memory)),
                "VOLUMES": _volume_words(volumes),
            },
            after=(*store.ready, *made.ready, *broker.ready, *seeded),
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
            services=runnable(self.work / spec.digest),
            ready=(prepared,),
        )

    def _broker(self, topology: Topology, own: Family) -> MadeBroker:
        """Make the broker of the workers' jobs, without any network, where the stack file asks for one."""
        for service in topology.of_kind(Kind.BROKER):
            image = self._service_image("broker", topology.config, own)
            data = own.volume("broker", protect=True)
            sockets = Mount(volume=own.volume("broker-sockets").name, path=BROKER)
            container = self._container(
                *(own, service.name, broker_spec(service)),
                image=image,
                mounts=(Mount(volume=data.name, path=BROKER_DATA), sockets),
                network=None,
                alone=True,
            )
            return MadeBroker(mounts=(replace(sockets, read_only=True),), ready=(container,))
        return MadeBroker(mounts=(), ready=())

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
        return [self._command(own, "shared-made", scripts.script("shared.sh", *words), environment=asked)]

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
        prepared, own = _ours(Prepared, prepared), self._family(name, opts)
        mounts = (*prepared.mounts, Mount(volume=prepared.sockets, path=RUN))
        alone = isinstance(topology.config.app.rollout.batch, int)
        before: tuple[pulumi.Resource, ...] = prepared.ready
        shown: local.Command | None = None
        served: list[local.Command] = []
        for batch in batches(topology.names, topology.config.app):
            containers = {
                instance: self._container(
                    *(own, instance, instance_spec(topology, spec.digest, instance)),
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
            self._container(
                *(own, service.name, service_spec(topology, service, release)),
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
        return self._command(
            own,
            "static-current",
            scripts.script("task.sh", "--lock", TASK_LOCK, "show", "--static", STATIC, "--turn", Variable("TURN")),
            environment={
                "IMAGE": prepared.image,
                "TURN": str(self.live.next_static_turn(release)),
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
        turn = container.id.apply(lambda found: str(self.live.next_turn(instance, f"{release}.{found[:12]}")))
        environment: dict[str, pulumi.Input[str]] = {
            "CONTAINER": container.id,
            "INSTANCE": instance,
            "RELEASE": release,
            "TURN": turn,
            "ALONE": "yes" if alone else "no",
            "GRACE": str(int(instance_grace(topology.config.app.graceful_timeout.seconds))),
            "WAIT": str(int(topology.config.app.health.start_timeout.seconds)),
            "SOCKETS": sockets,
        }
        return self._command(own, f"{instance}-serve", scripts.script("serve.sh"), environment=environment, after=after)

    # --- site

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances; its configuration is checked, swapped and reloaded once."""
        instances, own = _ours(Instances, instances), self._family(name, opts)
        config = topology.config
        network = docker.Network(own.name("site"), driver="bridge", opts=own.opts("site"))
        home = own.volume("nginx")
        image = self._service_image("nginx", config, own)
        lone = [Ports(port=i.port, ip="127.0.0.1") for i in topology.instances if i.port is not None]
        spec = Spec(
            role="nginx",
            user=NGINX_USER,
            command=("/usr/local/lib/cluster/start",),
            memory=NGINX_MEMORY,
            processes=NGINX_PROCESSES,
            grace=60,
            stop_signal="SIGQUIT",
            ports=(Ports(port=config.site.listen), *lone),
        )
        # Said while the former one still listens elsewhere.
        free = self._command(
            own,
            "nginx-ports",
            scripts.script("ports.sh"),
            environment={
                "IMAGE": image,
                "NGINX_HOME": home.name,
                "PORTS": " ".join(f"{port.ip}:{port.port}" for port in spec.ports),
            },
        )
        nginx = self._container(
            *(own, "nginx", spec),
            image=image,
            mounts=(
                Mount(volume=instances.sockets, path=RUN, read_only=True),
                Mount(volume=instances.static, path=STATIC, read_only=True),
                Mount(volume=instances.shared, path=SHARED, read_only=True),
                Mount(volume=home.name, path=NGINX_HOME),
            ),
            network=network.name,
            after=[free],
            alone=True,
        )
        version = version_in_image(base_image(config, "nginx"))
        rendered = nginx_config(topology)
        delivered = self._command(
            own,
            "nginx-config",
            scripts.script("deliver.sh"),
            stdin=delivery(rendered),
            environment={
                "NGINX": nginx.id,
                "DIGEST": rendered.digest,
                "POLITE": "no" if version >= KEEPALIVE_MIN_TIMEOUT_SINCE else "yes",
                "TURN": str(self.live.next_nginx_turn(rendered.digest)),
            },
            after=instances.ready,
        )
        return base.Site(digest=delivered.stdout.apply(lambda _: rendered.digest))

    # --- parts

    def _service_image(self, service: str, config: ClusterConfig, own: Family) -> pulumi.Output[str]:
        image, base = base_image(config, service), base_of(config, service, config.images.as_of)
        tag = hashlib.sha256((image if base is None else base.name(self.stack)).encode())
        for path in sorted((FILES / service).iterdir()):
            tag.update(path.read_bytes())
        return self._image(service, FILES / service, tag.hexdigest()[:12], {"BASE": image}, base, own)

    def _release_image(self, topology: Topology, spec: ReleaseSpec, own: Family) -> pulumi.Output[str]:
        context = self.work / spec.digest
        try:
            write_context(context, topology, spec)
        except ReleaseError as error:
            raise pulumi.RunError(str(error)) from error
        except OSError as error:
            raise pulumi.RunError(f"{error.filename or context}: {error.strerror}; free some room") from error
        writable = {} if topology.config.app.read_only else {"WRITABLE": "yes"}
        arguments = {
            "BASE": base_image(topology.config, "app"),
            "UV_VERSION": uv_version(),
            "PROJECT": project_directory(topology.config),
            **writable,
        }
        base = base_of(topology.config, "app", context_as_of(context))
        return self._image("app", context, spec.digest, arguments, base, own)

    def _image(  # noqa: PLR0913, PLR0917 - what every image needs
        self,
        service: str,
        context: Path,
        tag: str,
        arguments: dict[str, str],
        base: Base | None,
        own: Family,
    ) -> pulumi.Output[str]:
        """Let the engine build an image. `base`: on what, where that is a base as of a time."""
        where, part = os.path.relpath(context), f"{service}-image"
        more: list[pulumi.ResourceOptions] = []
        if base is not None:
            arguments = {**arguments, "BASE": base.name(self.stack)}
            pulled = self._pulled(own.name(f"{service}-base"), base)
            hooks = pulumi.ResourceHookBinding(before_create=[pulled], before_update=[pulled])
            more = [pulumi.ResourceOptions(hooks=hooks)]
        name = f"{image_repository(self.stack, service)}:{tag}"
        image = docker.Image(
            own.name(part),
            image_name=name,
            build=docker.DockerBuildArgs(
                context=where,
                dockerfile=f"{where}/Dockerfile",
                args=arguments,
                builder_version=docker.BuilderVersion.BUILDER_BUILD_KIT,
            ),
            skip_push=True,
            opts=own.opts(part, *more),
        )
        known = self._known(name)
        return image.repo_digest if known is None else image.urn.apply(lambda _: known)

    def _known(self, name: str) -> str | None:
        """Return the image of a name in a preview, where the engine has it: the tag says all that it is made of.

        The provider builds it again where its context is in another directory, and does not know then what will come
        of it: a preview would replace every container of it.
        """
        if not pulumi.runtime.is_dry_run():
            return None
        with contextlib.suppress(EngineError):  # an engine that is away is told by what needs it
            return self.engine.image(name)
        return None

    def _pulled(self, name: str, base: Base) -> pulumi.ResourceHook:
        """Return what is done before an image is built: the engine has its base as of that time, or pulls it now.

        name: the hook's, another one than any other's of the program.

        So does any machine from which `up` is said, and an engine whose images were cleared away.
        """

        async def pull(_arguments: pulumi.ResourceHookArgs) -> None:
            async with self.pulling:  # several images are built on one base: what failed for one is not tried again
                if base.image not in self.refused:
                    try:
                        said = await asyncio.to_thread(ensure, self.engine, self.stack, base)
                    except BaseError as error:
                        self.refused[base.image] = f"{error}; {SERVES_ON}"
                    else:
                        if said:
                            pulumi.log.warn(said)
                        return
                raise BaseError(self.refused[base.image])

        return pulumi.ResourceHook(name, pull)

    def _container(  # noqa: PLR0913 - what every container needs
        self,
        own: Family,
        part: str,
        spec: Spec,
        *,
        image: pulumi.Input[str],
        mounts: Sequence[Mount],
        network: pulumi.Input[str] | None,
        after: Sequence[pulumi.Resource] = (),
        alone: bool = False,
    ) -> docker.Container:
        """Make a container. `alone`: there is one of its role at a time (a port, a data directory, a socket)."""
        more = [pulumi.ResourceOptions(depends_on=list(after))]
        if alone:
            hooks = pulumi.ResourceHookBinding(before_create=[self._lone(own.name(f"{part}-alone"), spec)])
            more.append(pulumi.ResourceOptions(hooks=hooks))
        return make_container(
            own.name(part),
            spec,
            stack=self.stack,
            image=image,
            mounts=mounts,
            network=network,
            opts=own.opts(part, *more),
            replace_first=alone,
        )

    def _lone(self, name: str, spec: Spec) -> pulumi.ResourceHook:
        """Return what is done before a container is made that must be the only one of its role.

        name: the hook's, another one than any other's of the program.

        The one that it replaces has gone by then: whatever else there is was left by a killed run, and no state knows
        it. It would keep the port; and two databases on the same data would ruin them.
        """

        def remove_others(arguments: pulumi.ResourceHookArgs) -> None:
            volumes = {volume.get("volumeName") for volume in (arguments.new_inputs or {}).get("volumes", ())}
            for container in self.engine.mounting(self.stack, volumes, spec.role):
                pulumi.log.info(f"removing {container['Name'].lstrip('/')}: a killed run left it")
                self.engine.remove(container["Id"], grace=spec.grace)

        return pulumi.ResourceHook(name, remove_others)

    def _command(  # noqa: PLR0913 - what every command needs
        self,
        own: Family,
        part: str,
        create: str,
        *,
        environment: Mapping[str, pulumi.Input[str]],
        after: Sequence[pulumi.Resource] = (),
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
    ) -> local.Command:
        return local.Command(
            own.name(part),
            create=create,
            stdin=stdin,
            environment=self._environment(environment),
            logging=logging,
            add_previous_output_in_env=False,
            opts=own.opts(part, pulumi.ResourceOptions(depends_on=list(after))),
        )

    def _environment(self, values: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[str]]:
        return {**self.engine.environment(), "STACK": self.stack, **values}


def instance_spec(topology: Topology, release: str, name: str) -> Spec:
    """Return what is peculiar to the container of an instance."""
    app = topology.config.app
    run = ("python", "-P", "-m", "cluster_runtime.instance", "run", "--container", "--instance", name)
    status = f"{RUN}/{name}/{release}.$HOSTNAME.json"
    start = int(app.health.start_timeout.seconds)
    return Spec(
        role="instance",
        user=APP_USER,
        command=(*run, "--config", "/srv/config.json", "--sockets", RUN),
        memory=int(app.memory),
        processes=app.processes * _together(len(topology.names)),
        grace=int(instance_grace(app.graceful_timeout.seconds)),
        health=Health(test=("CMD-SHELL", watch(status)), interval=1, start_period=start, timeout=WATCH_SECONDS + 5),
        start_seconds=start,
        labels={INSTANCE_LABEL: name, RELEASE_LABEL: release},
    )


def service_spec(topology: Topology, service: Service, release: str) -> Spec:
    """Return what is peculiar to the container of a worker or a schedule."""
    status = f"{RUN}/{SERVICES}/{service.name}/{service.generation(release)}.$HOSTNAME.json"
    test = watch(status, *WELL, DRAINING, tell=True)
    start = int(service.start_seconds)
    return Spec(
        role=service.name,
        user=APP_USER,
        command=("python", *service.words(release, "/srv/config.json", RUN, container=True)),
        memory=service.memory,
        # The instances' processes are the same user's.
        processes=max(service.processes, topology.config.app.processes)
        * _together(len(topology.names) + len(topology.beside)),
        grace=int(service.grace),
        health=Health(test=("CMD-SHELL", test), interval=1, start_period=start, timeout=WATCH_SECONDS + 5),
        start_seconds=start,
        labels={SERVICE_LABEL: service.kind.value, RELEASE_LABEL: release},
    )


def broker_spec(service: Service) -> Spec:
    """Return what is peculiar to the container of the broker."""
    ask = f'[ "$(valkey-cli -s {BROKER_SOCKET} ping)" = PONG ]'
    return Spec(
        role=service.kind.value,
        user=BROKER_USER,
        command=("valkey-server", *valkey_words(service, BROKER_SOCKET, BROKER_DATA)),
        # While it writes its file anew, each of its pages may be there twice.
        memory=2 * service.memory + MEMCACHED_OVERHEAD,
        processes=BROKER_PROCESSES,
        grace=int(service.grace),
        start_seconds=120,
        health=Health(test=("CMD-SHELL", ask), interval=HEALTH_SECONDS, start_period=120),
    )


def watch(status: str, *states: str, tell: bool = False) -> str:
    """Return the shell's words that look at a process by its status file, which costs no start of Python.

    states: those in which it is well; an instance's where none are named. tell: print what it says of itself, which the
    engine keeps of its last look.
    """
    told = f"cat {status} 2>/dev/null; " if tell else ""
    ready = f"""grep -qsE '"state": "({"|".join(states or INSTANCE_STATES)})"' {status}"""
    seen = "/tmp/healthy"  # noqa: S108 - the container's own
    tries = WATCH_SECONDS * 10
    return (
        f"if [ -e {seen} ]; then sleep {WATCH_SECONDS}; {told}{ready}; exit; fi; tries={tries}; "
        f"until {ready}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.1; done; {told}: >{seen}"
    )


def _together(instances: int) -> int:
    """Return for how many instances a limit of processes must be enough.

    The kernel counts a user's processes in all containers together, those of two releases. A power of two, so that one
    instance more does not make all others anew.
    """
    return max(LEAST_TOGETHER, 1 << (2 * instances - 1).bit_length())


def container_digest(topology: Topology) -> str:
    """Return a digest of how the instances' containers are made: another way makes another release."""
    specs = [instance_spec(topology, "", name).fingerprint() for name in topology.names[:1]]
    return hashlib.sha256(json.dumps(specs).encode()).hexdigest()


def delivery(config: NginxConfig) -> str:
    """Return a configuration as `nginx/deliver` reads it: each file after a line with its name, then the links."""
    files = "".join(f"# file {path}\n{text}" for path, text in sorted(config.files.items()))
    return files + "".join(f"# link {path} {target}\n" for path, target in sorted(config.links.items()))


def _volume_words(mounts: Sequence[Mount]) -> pulumi.Output[str]:
    """Return volumes as words for `docker run --volume`."""
    modes = [(mount.path, ":ro" if mount.read_only else "") for mount in mounts]

    def words(names: Sequence[str]) -> str:
        pairs = zip(names, modes, strict=True)
        return " ".join(f"{name}:{path}{mode}" if name else path for name, (path, mode) in pairs)

    return pulumi.Output.all(*(mount.volume or "" for mount in mounts)).apply(words)
