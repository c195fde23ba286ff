"""Why an `up` on Docker failed, in words."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from cluster.errors import tells_of_no_room
from cluster_runtime.prepare import mask
from platforms.docker.bases import SERVES_ON
from platforms.docker.container_paths import DATABASE_SECRETS, base_image
from platforms.docker.engine import INSTANCE_LABEL, ROLE_LABEL, EngineError
from platforms.pulumi.engine import Pulumi, PulumiError, name_of
from platforms.pulumi.made import SHOW
from platforms.pulumi.progress import COMMAND, CONTAINER, IMAGE, SERVE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from platforms.docker.stack import DockerStack

#: Lines of an unhealthy container's log that a failed `up` repeats.
LOG_LINES = 20


#: Where PostgreSQL's container reads its password.
PASSWORD_FILE = f"{DATABASE_SECRETS}/password"


#: What Pulumi says of a resource that it must not delete, in a preview and when it comes to it.
PROTECTED = re.compile(
    r'resource "(?P<urn>urn:[^"]+)" cannot be deleted\s+because it is protected'
    "|as it is currently marked for protection"
)


#: What an engine says of an image that it can't get.
UNREACHABLE = re.compile(r"failed to do request|pull access denied|failed to resolve|manifest unknown|not found: not f")


#: What host/task.sh says of an instance that did not get healthy, or is not any more as it is to take its name.
UNHEALTHY = re.compile(r"([\w-]+): release (?:\w+ did not get healthy within|\w+\.\w+ (?:is|does not listen))")


#: What BuildKit and the provider say of a build that is none of its output.
BUILD_FRAME = re.compile(
    r"digest: |\[|Building your image|To ensure you are|Starting Docker build|error: executor|\s*$"
)


#: A port in what the engine says of one that it can't publish.
PORT = re.compile(
    r"(?:Bind for|bind host port|for|bind host port for|tcp4?|tcp6?|udp4?|udp6?) \S*?:(?P<port>\d+)(?=[:/ ])"
)


def explain(docker: DockerStack, error: PulumiError, pulumi: Pulumi) -> str:
    """Return what went wrong, with the last lines of the log of a container that did not get healthy."""
    words = [str(error)]
    if "port is already allocated" in str(error) or "address already in use" in str(error):
        words = [_port_in_use(docker, str(error))]
    words += _of_protected(docker, error)
    for urn in error.failed:
        kind, name = name_of(urn)
        if kind == CONTAINER:
            words += _last_log(docker, name, pulumi)
        if kind == COMMAND and name.endswith(SERVE):
            words += _last_log(docker, name.removesuffix(SERVE), pulumi)
        if kind == COMMAND and name.endswith(SHOW):
            for instance in dict.fromkeys(UNHEALTHY.findall(str(error))):
                words += _last_log(docker, instance, pulumi)
        if kind == IMAGE and SERVES_ON not in str(error):
            service = name.removesuffix("-image").rpartition("-")[2]
            base = base_image(docker.stack.config, service)
            if UNREACHABLE.search(str(error)):
                words.insert(0, f"images: {base}, the base of {service}, can't be had: name another in cluster:images")
            else:
                what = "the release" if service == "app" else service
                words = [f"the image of {what} can't be built:", *build_output(error.remarks.get(urn, ())), *words]
    if tells_of_no_room(str(error)):
        words.append("The disk is full; free some room and run it again (docker system df says what takes it).")
    told = SERVES_ON in str(error)
    serves = "What served still serves; the" if not told and _serves(docker) else "The"
    words.append(f"{serves} next `cluster up` goes on from here.")
    return "\n".join(words)


def refused_by(docker: DockerStack, error: PulumiError) -> list[str]:
    """Return why the engine refuses a change before it is begun, a line each."""
    volumes = [name_of(found["urn"])[1] for found in PROTECTED.finditer(str(error)) if found["urn"]]
    if volumes:
        return [f"{', '.join(dict.fromkeys(volumes))} is protected", *_of_protected(docker, error)]
    return [*filter(None, str(error).splitlines()), *_of_protected(docker, error)]


def _of_protected(docker: DockerStack, error: PulumiError) -> list[str]:
    if PROTECTED.search(str(error)) is None:
        return []
    words = (
        "It holds data that the stack file no longer asks for. To keep them, put back what it asked for; to drop "
        f"them: pulumi state unprotect URN --stack {docker.stack.name}"
    )
    return [words]


def _port_in_use(docker: DockerStack, words: str) -> str:
    site = docker.stack.config.site
    found = PORT.search(words)
    port = int(found["port"]) if found else site.listen
    key = site.listeners.get(port, "site.instance_ports")
    return f"{key}: port {port} is in use by another program; choose another, or stop that one"


def _serves(docker: DockerStack) -> bool:
    """Tell whether nginx answers, and some instance's name leads to a process."""
    with contextlib.suppress(EngineError):
        live = docker.observe().live
        return live.nginx is not None and any(live.holders.values())
    return False


def build_output(remarks: Iterable[str]) -> list[str]:
    """Return the last lines of what a build's programs printed; BuildKit's own frame around them is left out."""
    lines = [line for remark in remarks for line in remark.splitlines() if not BUILD_FRAME.match(line)]
    return [f"    {line}" for line in lines[-LOG_LINES:]]


def _last_log(docker: DockerStack, name: str, pulumi: Pulumi) -> list[str]:
    """Return the last lines of the log of the container that is a resource of that name, `<component>-<its own>`."""
    found: dict[str, str] = {}
    for container in docker.observe().containers:
        labels = container["Config"]["Labels"]
        called = labels.get(INSTANCE_LABEL) or labels.get(ROLE_LABEL, "")
        found.setdefault(called, container["Id"])  # the newest is the first
    for called in sorted(found, key=len, reverse=True):
        if f"-{name}".endswith(f"-{called}"):
            done = docker.engine.output("logs", "--tail", str(LOG_LINES), found[called])
            text = mask(done, {**pulumi.secrets(), **_made_secrets(docker)})
            return [f"The last lines of {called}'s log:", *(f"    {line}" for line in text.splitlines())]
    return []


def _made_secrets(docker: DockerStack) -> dict[str, str]:
    """Return the secrets that the platform made and keeps on the engine alone: the database's password."""
    for container in docker.engine.containers(docker.label, "postgres"):
        with contextlib.suppress(EngineError):
            return {"the database's password": docker.engine.execute(container, "cat", PASSWORD_FILE).strip()}
    return {}
