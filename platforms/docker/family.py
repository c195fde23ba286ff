"""Makes the resources of a component on Docker: its images, containers, volumes and commands."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from cluster.release import ReleaseError
from platforms.docker.bases import SERVES_ON, BaseError, base_of, context_as_of, ensure
from platforms.docker.container_paths import base_image, image_of, project_directory, sockets_of
from platforms.docker.containers import Mount, make_container
from platforms.docker.daemons import KEPT, build_arguments, daemon_spec, placement
from platforms.docker.engine import EngineError, image_repository
from platforms.docker.images import FILES, renewer_files, uv_version, write_context, write_renewer
from platforms.docker.paths import set_aside
from platforms.docker.releases import usable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.docker.bases import Base
    from platforms.docker.containers import Ports, Spec
    from platforms.docker.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Target:
    """The engine that a site's resources are made on.

    stack: the value of the label that all its containers have.
    work: where build contexts are written, from the program's directory. aside: where those are that are not there yet,
    in a preview that is to leave nothing; None: in `work`.
    pulling: held while a base is pulled. refused: why one can't be had. looked: the look at its images that has begun.
    """

    stack: str
    work: Path
    engine: Engine
    aside: Path | None = None
    pulling: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused: dict[str, str] = field(default_factory=dict)
    looked: Future[dict[str, str]] | None = None

    @cached_property
    def images(self) -> dict[str, str]:
        """The images that the engine has, by their names and tags; EngineError where it is away."""
        return self.engine.images_of(self.stack) if self.looked is None else self.looked.result()

    def context(self, place: Path) -> Path:
        """Return where the build context of `place` is to be written."""
        return place if self.aside is None or place.exists() else set_aside(self.aside, place)

    def release_context(self, release: str) -> Path:
        """Return where the build context of a release is, or is to be written."""
        place = self.work / release
        if place.exists() and not usable(self.engine, self.stack, place):
            if self.aside is None:
                shutil.rmtree(place)
            else:
                place = set_aside(self.aside, place)
        return self.context(place)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Makes the resources of one component, which are its children and are called after it.

    former: whether a stack may have them by their names of before, when each was called as its part alone.
    """

    target: Target
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

    def service_image(self, service: Service, config: ClusterConfig) -> pulumi.Output[str]:
        """Build the image of a service."""
        called = image_of(service)
        image, base = base_image(config, called), base_of(config, called, config.images.as_of)
        files, arguments = FILES / placement(service.kind).image, build_arguments(service)
        tag = hashlib.sha256((image if base is None else base.name(self.target.stack)).encode())
        tag.update("".join(f"{name}={value}\0" for name, value in sorted(arguments.items())).encode())
        for path in sorted(files.iterdir()):
            tag.update(path.read_bytes())
        return self._image(called, files, tag.hexdigest()[:12], {"BASE": image, **arguments}, base)

    def renewer_image(self, service: Service, config: ClusterConfig) -> pulumi.Output[str]:
        """Build the image of the renewer, whose files lie in several rooms; RunError where they can't be collected."""
        called = image_of(service)
        image, base = base_image(config, called), base_of(config, called, config.images.as_of)
        tag = hashlib.sha256((image if base is None else base.name(self.target.stack)).encode())
        for place, path in renewer_files().items():
            tag.update(f"{place}\0".encode() + path.read_bytes())
        digest = tag.hexdigest()[:12]
        context = self.target.context(self.target.work.parent / called / digest)
        try:
            write_renewer(context)
        except OSError as error:
            raise pulumi.RunError(f"{error.filename or context}: {error.strerror}; free some room") from error
        return self._image(called, context, digest, {"BASE": image}, base)

    def release_image(self, topology: Topology, spec: ReleaseSpec) -> pulumi.Output[str]:
        """Build the image of a release; RunError where its context can't be written."""
        context = self.target.release_context(spec.digest)
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
        return self._image("app", context, spec.digest, arguments, base)

    def _image(
        self,
        service: str,
        context: Path,
        tag: str,
        arguments: dict[str, str],
        base: Base | None,
    ) -> pulumi.Output[str]:
        """Let the engine build an image. `base`: on what, where that is a base as of a time."""
        where, part = os.path.relpath(context), f"{service}-image"
        more: list[pulumi.ResourceOptions] = []
        if base is not None:
            arguments = {**arguments, "BASE": base.name(self.target.stack)}
            pulled = self._pulled(self.name(f"{service}-base"), base)
            hooks = pulumi.ResourceHookBinding(before_create=[pulled], before_update=[pulled])
            more = [pulumi.ResourceOptions(hooks=hooks)]
        name = f"{image_repository(self.target.stack, service)}:{tag}"
        image = docker.Image(
            self.name(part),
            image_name=name,
            build=docker.DockerBuildArgs(
                context=where,
                dockerfile=f"{where}/Dockerfile",
                args=arguments,
                builder_version=docker.BuilderVersion.BUILDER_BUILD_KIT,
            ),
            skip_push=True,
            opts=self.opts(part, *more),
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
            return self.target.images.get(name)
        return None

    def _pulled(self, name: str, base: Base) -> pulumi.ResourceHook:
        """Return what is done before an image is built: the engine has its base as of that time, or pulls it now.

        name: the hook's, another one than any other's of the program.

        So does any machine from which `up` is said, and an engine whose images were cleared away.
        """

        async def pull(_arguments: pulumi.ResourceHookArgs) -> None:
            async with (
                self.target.pulling
            ):  # several images are built on one base: what failed for one is not tried again
                if base.image not in self.target.refused:
                    try:
                        said = await asyncio.to_thread(ensure, self.target.engine, self.target.stack, base)
                    except BaseError as error:
                        self.target.refused[base.image] = f"{error}; {SERVES_ON}"
                    else:
                        if said:
                            pulumi.log.warn(said)
                        return
                raise BaseError(self.target.refused[base.image])

        return pulumi.ResourceHook(name, pull)

    def container(  # noqa: PLR0913 - what every container needs
        self,
        part: str,
        spec: Spec,
        *,
        image: pulumi.Input[str],
        mounts: Sequence[Mount],
        network: pulumi.Input[str] | None,
        after: Sequence[pulumi.Resource] = (),
        alone: bool = False,
        awaited: bool = True,
    ) -> docker.Container:
        """Make a container.

        alone: there is one of its role at a time (a port, a data directory, a socket).
        awaited: it is made once it is healthy; else once it is started.
        """
        more = [pulumi.ResourceOptions(depends_on=list(after))]
        if alone:
            hooks = pulumi.ResourceHookBinding(before_create=[self._lone(self.name(f"{part}-alone"), spec)])
            more.append(pulumi.ResourceOptions(hooks=hooks))
        return make_container(
            self.name(part),
            spec,
            stack=self.target.stack,
            image=image,
            mounts=mounts,
            network=network,
            opts=self.opts(part, *more),
            replace_first=alone,
            awaited=awaited,
        )

    def _lone(self, name: str, spec: Spec) -> pulumi.ResourceHook:
        """Return what is done before a container is made that must be the only one of its role.

        name: the hook's, another one than any other's of the program.

        The one that it replaces has gone by then: whatever else there is was left by a killed run, and no state knows
        it. It would keep the port; and two databases on the same data would ruin them.
        """

        def remove_others(arguments: pulumi.ResourceHookArgs) -> None:
            volumes = {volume.get("volumeName") for volume in (arguments.new_inputs or {}).get("volumes", ())}
            for container in self.target.engine.mounting(self.target.stack, volumes, spec.role):
                pulumi.log.info(f"removing {container['Name'].lstrip('/')}: a killed run left it")
                self.target.engine.remove(container["Id"], grace=spec.grace)

        return pulumi.ResourceHook(name, remove_others)

    def service(  # noqa: PLR0913 - what is peculiar to one
        self,
        service: Service,
        *,
        image: pulumi.Input[str],
        mounts: Sequence[Mount],
        network: pulumi.Input[str] | None = None,
        after: Sequence[pulumi.Resource] = (),
        ports: Sequence[Ports] = (),
        alias: str = "",
        words: Sequence[str] = (),
    ) -> docker.Container:
        """Run a service that has none of the project's code, in place of the former one: two would have one socket.

        words: after those of its own.
        """
        spec = daemon_spec(service)
        spec = replace(spec, ports=tuple(ports), alias=alias, command=(*spec.command, *words))
        return self.container(service.name, spec, image=image, mounts=mounts, network=network, after=after, alone=True)

    def sockets(self, service: Service) -> Mount:
        """Make the volume of the sockets of a kind of service."""
        return Mount(volume=self.volume(placement(service.kind).sockets).name, path=sockets_of(service.kind))

    def kept(self, service: Service) -> Mount:
        """Make the volume of what a kind of service keeps."""
        return Mount(volume=self.volume(service.kind.value, protect=True).name, path=KEPT)

    def command(  # noqa: PLR0913 - what every command needs
        self,
        part: str,
        create: str,
        *,
        environment: Mapping[str, pulumi.Input[str]],
        after: Sequence[pulumi.Resource] = (),
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
    ) -> local.Command:
        """Make a command, which runs on this machine; `create` is its text."""
        return local.Command(
            self.name(part),
            create=create,
            stdin=stdin,
            environment=self._environment(environment),
            logging=logging,
            add_previous_output_in_env=False,
            opts=self.opts(part, pulumi.ResourceOptions(depends_on=list(after))),
        )

    def _environment(self, values: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[str]]:
        return {**self.target.engine.environment(), "STACK": self.target.stack, **values}
