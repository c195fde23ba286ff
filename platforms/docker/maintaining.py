"""Maintenance of a site on Docker: kept in a volume of nginx's own, which outlives the stack's being down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cluster.errors import CommandError
from cluster.maintenance import KEPT_MAINTENANCE, Maintained, Maintenance, told_trouble
from cluster.render.maintenance import digest_of, render_maintenance
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, version_in_image
from platforms.docker.container_paths import MAINTENANCE, base_image
from platforms.docker.engine import ROLE_LABEL, STACK_LABEL, EngineError, image_repository
from platforms.pulumi.engine import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.docker.stack import DockerStack

PROGRAM = "/usr/local/lib/cluster/maintain"

#: What the program prints where nginx does not run, and where its configuration knows of no maintenance.
AWAY, UNKNOWING = "-", "?"

#: What is said where what is kept can't be read.
HURT = f"what is kept of maintenance ({MAINTENANCE} in nginx's container) can't be read"

#: Seconds that it may take: another one's reload is waited for, and its own.
SECONDS = 90.0


class NothingKeeps(CommandError):  # noqa: N818 - what it is
    """The stack was never up, or by a version of this tool that knew of no maintenance; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is of a site's maintenance.

    told: the digest of what nginx keeps visitors out by, empty for nothing; None where it does not run.
    hurt: whether what is kept can't be read: then nobody knows what is wanted, and nginx goes on as it does.
    """

    told: str | None
    kept: Maintenance | None
    hurt: bool = False

    @property
    def trouble(self) -> str | None:
        """What nginx does that is not what is kept, as after a command that was killed; `up` mends it."""
        if self.hurt or self.told in (None, digest_of(self.kept)):
            return None
        return told_trouble(self.kept)


class Maintaining:
    """Turns a site's maintenance on and off.

    resources: returns those of the stack's state, which is asked only where no container of nginx's runs.
    """

    def __init__(self, docker: DockerStack, resources: Callable[[], list[dict[str, object]]]) -> None:
        self.docker = docker
        self.resources = resources

    def find(self) -> Found:
        """Look what there is; EngineError where that can't be looked at."""
        try:
            return self._run()
        except NothingKeeps:
            return Found(told=None, kept=None)

    def maintain(self, wanted: Maintenance | None) -> Maintained:
        """Let the site be in maintenance, or no longer; on failure it is as it was, and the error says why."""
        found = self._run()
        if found.kept == wanted and not found.hurt and not found.trouble:
            return Maintained(changed=False, in_force=found.told is not None)
        version = version_in_image(base_image(self.docker.topology.config, "nginx"))
        words = ["no" if version >= KEEPALIVE_MIN_TIMEOUT_SINCE else "yes"]
        if wanted is not None:
            file = render_maintenance(wanted)
            words += [file.digest, json.dumps(asdict(wanted)), file.text]
        return Maintained(changed=True, in_force=self._run(*words).told is not None)

    def _run(self, *words: str) -> Found:
        """Run the program where what is kept is; NothingKeeps where there is nothing."""
        running = self.docker.engine.containers(self.docker.label, "nginx")
        engine = self.docker.engine
        name = self.docker.stack.name
        before = f"nginx of stack {name} was made before sites could be in maintenance; `cluster up {name}` first"
        try:
            if running:
                said = engine.execute(running[0], PROGRAM, *words, timeout=SECONDS)
            else:
                said = engine.run(*self._beside(), PROGRAM, *words, timeout=SECONDS)
        except EngineError as error:
            if "no such file" in str(error):
                raise NothingKeeps(before) from error
            raise
        told, _line, kept = said.partition("\n")
        if told == UNKNOWING:
            raise NothingKeeps(before)
        live = None if told == AWAY else told
        try:
            return Found(told=live, kept=KEPT_MAINTENANCE.validate_json(kept) if kept else None)
        except ValidationError:
            return Found(told=live, kept=None, hurt=True)

    def _beside(self) -> list[str]:
        """Return how the program runs while nginx does not: in a container of its own, with the volume alone."""
        name = self.docker.stack.name
        volumes = [one["id"] for one in self.resources() if name_of(str(one["urn"])) == ("Volume", "nginx-maintenance")]
        images = self.docker.engine.run("images", "--quiet", image_repository(self.docker.label, "nginx")).split()
        if not volumes or not images:
            raise NothingKeeps(f"nothing of stack {name} is there that could keep it; `cluster up {name}` first")
        return [
            *("run", "--rm", "--network", "none", "--read-only"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--log-driver", "none"),
            *("--attach", "stdout", "--attach", "stderr", "--volume", f"{volumes[0]}:{MAINTENANCE}"),
            *("--label", f"{STACK_LABEL}={self.docker.label}", "--label", f"{ROLE_LABEL}=task", images[0]),
        ]
