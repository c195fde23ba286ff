"""The bases of a stack's images as of a time (`images.as_of`): pulled then or later, with their distribution's updates.

Such a base is an image of its own on the engine, made once for each time, and the images of the stack are built on it.
So nothing of what is built without `images.as_of` changes, all images get the same updates, and a release that is built
again is built on the base that it had.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config.units import moment_text, parse_moment
from cluster.errors import ClusterError
from cluster.services import Kind
from platforms.docker.container_paths import base_image, image_of
from platforms.docker.engine import EngineError, image_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.config.models import ClusterConfig
    from cluster.topology import Topology
    from platforms.docker.engine import Engine

BUILD = Path(__file__).resolve().parent / "base"

#: Seconds that a pull, or the updates of a base, may take.
PULL_SECONDS = 1800.0

#: Seconds that the engine may take to say when a base was made: a lint is not worth more.
AGE_SECONDS = 5.0

#: What the build says where no updates can be had. It prints these words only then: its own text has them in two parts.
NO_UPDATES = "cluster: the distribution's updates can't be had"

#: Added to a BaseError where it ends an `up`.
SERVES_ON = "what served still serves"

#: The file of a release's build context that says as of when its base is; without it, it is the base itself.
AS_OF = "as-of"

#: Images of before this were made with a time that says nothing, as reproducible builds are.
FIRST_YEAR = 2000


class BaseError(ClusterError):
    """A base can't be had as of the time that is asked for; the text, of one line, says which and why."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """An image that others are built on, as of a time. key: the stack file's that names it."""

    key: str
    image: str
    as_of: dt.datetime

    def name(self, stack: str) -> str:
        """Return what it is called on an engine, for the stack of that label."""
        digest = hashlib.sha256(f"{self.image}\0{moment_text(self.as_of)}\0".encode())
        digest.update((BUILD / "Dockerfile").read_bytes())
        return f"{image_repository(stack, 'base')}:{digest.hexdigest()[:12]}"


def base_of(config: ClusterConfig, service: str, as_of: dt.datetime | None) -> Base | None:
    """Return what the image of a service is built on as of a time; None without a time: on its base itself."""
    if as_of is None:
        return None
    return Base(key=base_key(config, service), image=base_image(config, service), as_of=as_of)


def context_as_of(context: Path) -> dt.datetime | None:
    """Return as of when the base of a release is, by its build context: a former release is built on what it had."""
    path = context / AS_OF
    return parse_moment(path.read_text(encoding="utf-8")) if path.exists() else None


def base_key(config: ClusterConfig, image: str) -> str:
    """Return the key of the stack file that names the base of an image."""
    return f"images.{image if getattr(config.images, image, None) else 'base'}"


def services(topology: Topology) -> list[str]:
    """Return the services of a stack that have an image of their own."""
    own = [service for service in topology.services if not service.is_of_release and service.kind is not Kind.INSTANCE]
    return ["app", *dict.fromkeys(image_of(service) for service in own)]


def bases(topology: Topology, as_of: dt.datetime) -> list[Base]:
    """Return what a stack's images are built on as of a time, each once."""
    found = [base_of(topology.config, service, as_of) for service in services(topology)]
    return list({base.image: base for base in found if base is not None}.values())


def ensure(engine: Engine, stack: str, base: Base, tell: Callable[[str], None] = lambda _line: None) -> str | None:
    """See that the engine has a base as of its time; return what is to be said of it, None where all is well.

    BaseError where it can't be pulled, or its updates fail.
    """
    if engine.image(base.name(stack)) is not None:
        return None
    tell(f"pulling {base.image}")
    try:
        engine.run("pull", "--quiet", base.image, timeout=PULL_SECONDS)
    except EngineError as error:
        raise BaseError(f"{base.key}: {base.image} can't be pulled for images.as_of: {_line(error)}") from error
    tell(f"bringing {base.image} up to date")
    arguments = {"BASE": base.image, "AS_OF": moment_text(base.as_of)}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    # No label: each container of an image has the labels of its base, and would look as if it were the stack's.
    words += ["--no-cache", "--tag", base.name(stack), str(BUILD)]
    try:
        said = engine.said("build", *words, timeout=PULL_SECONDS)
    except EngineError as error:
        raise BaseError(f"{base.key}: {base.image} can't be brought up to date: {_line(error)}") from error
    if NO_UPDATES not in said:
        return None
    return f"{base.key}: {base.image} is as it was pulled: its distribution's updates can't be had from here"


def _line(error: EngineError) -> str:
    """Return the last line that says something: what is before it is how far it got."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("docker: ").removeprefix("Error response from daemon: ") if lines else "no reason"


def forget(engine: Engine, stack: str, kept: Iterable[Base]) -> None:
    """Remove the stack's bases but those of `kept`; what can't be removed stays."""
    names = {base.name(stack) for base in kept}
    with contextlib.suppress(EngineError):
        repository = image_repository(stack, "base")
        for name in (f"{repository}:{tag}" for tag in engine.tags(repository)):
            if name not in names:
                with contextlib.suppress(EngineError):
                    engine.run("rmi", name)


def ages(engine: Engine, topology: Topology) -> dict[str, dt.datetime]:
    """Return when the bases of a stack were made, by their names: of those that the engine has, and says so."""
    images = list(dict.fromkeys(base_image(topology.config, service) for service in services(topology)))
    found: dict[str, dt.datetime] = {}
    for image, made in engine.creation_times(images, AGE_SECONDS).items():
        try:
            # Its fraction of a second and its zone don't matter to a lint that counts days.
            moment = dt.datetime.fromisoformat(made[:19]).replace(tzinfo=dt.UTC)
        except ValueError:
            continue
        if moment.year >= FIRST_YEAR:
            found[image] = moment
    return found
