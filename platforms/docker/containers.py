"""How containers are made here: hardened, autonamed, beside the one that they replace.

Sources: https://www.pulumi.com/registry/packages/docker/api-docs/container/ . What is left unset there and filled in by
the engine would show as a change for ever, so it is set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import pulumi
import pulumi_docker as docker

from platforms.docker.engine import ROLE_LABEL, STACK_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The users of the containers, each another; all in one group, which is what lets them reach each other's sockets.
APP_USER, NGINX_USER, POSTGRES_USER, MEMCACHED_USER, BROKER_USER, OTHER_USER = range(10001, 10007)
GROUP = APP_USER

#: json-file's own options: the disk is not filled by a log.
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}

#: Open files of a container, soft and hard: what nginx asks for as worker_rlimit_nofile.
OPEN_FILES = 16384

MEGABYTE = 1024**2

#: Seconds, beyond those that a container may take to start, after which nobody waits for it any more.
MARGIN = 30

#: The least that the engine takes as a limit, megabytes.
LEAST_MEMORY = 6


def go_duration(seconds: int) -> str:
    """Return a duration as the engine tells it back (Go's Duration.String), which must not differ: 60 is 1m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume in a container; None: one of its own, with what the image has there, gone with the container."""

    volume: pulumi.Input[str] | None
    path: str
    read_only: bool = False

    def args(self) -> docker.ContainerVolumeArgs:
        """Return what the provider takes."""
        return docker.ContainerVolumeArgs(volume_name=self.volume, container_path=self.path, read_only=self.read_only)


@dataclass(frozen=True, kw_only=True)
class Health:
    """A container's health check; it must cost next to nothing, since it runs for ever. Seconds."""

    test: tuple[str, ...]
    interval: int
    start_period: int
    retries: int = 3
    timeout: int = 5

    def args(self) -> docker.ContainerHealthcheckArgs:
        """Return what the provider takes."""
        return docker.ContainerHealthcheckArgs(
            tests=list(self.test),
            interval=go_duration(self.interval),
            timeout=go_duration(self.timeout),
            start_period=go_duration(self.start_period),
            retries=self.retries,
        )


#: Seconds between two looks at what is well. Each look is a process that the engine starts: a tenth of a second of a
#: processor.
WATCH_SECONDS = 9


def watching(ready: str, start_period: int, *, told: str = "", seconds: int = WATCH_SECONDS) -> Health:
    """Return a look that waits: for the first time that a container is well, and then for the next look.

    So nobody waits for one that has got ready, and there are fewer looks at one that is. ready: the shell's words that
    tell whether it is, at next to no cost. told: those that print what the engine is to keep of the look.
    """
    seen, tries = "/tmp/healthy", seconds * 4  # noqa: S108 - the container's own
    test = (
        f"if [ -e {seen} ]; then sleep {seconds}; {told}{ready} || exit 1; exit 0; fi; tries={tries}; "
        f"until {ready}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.25; done; {told}: >{seen}"
    )
    return Health(test=("CMD-SHELL", test), interval=1, start_period=start_period, timeout=seconds + 5)


#: What a port is published by.
TCP, UDP = "tcp", "udp"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A port that the engine publishes: the same inside; `ip` empty for every address. protocol: tcp or udp."""

    port: int
    ip: str = "0.0.0.0"  # noqa: S104 - the site is for everybody
    protocol: str = TCP

    def __str__(self) -> str:
        """Return it as a script is told it: TCP goes without saying."""
        return f"{self.ip}:{self.port}" + ("" if self.protocol == TCP else f"/{self.protocol}")

    def args(self) -> docker.ContainerPortArgs:
        """Return what the provider takes."""
        return docker.ContainerPortArgs(internal=self.port, external=self.port, ip=self.ip, protocol=self.protocol)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is peculiar to one container.

    memory: limit in bytes. processes: limit of all processes of its user. grace: seconds between SIGTERM and SIGKILL.
    network: the network's name; None for no network at all. alias: what others on it call the container by.
    known_by: the health check by which those are known that are there: for another one none of them is made again.
    """

    role: str
    user: int
    command: tuple[str, ...]
    memory: int
    processes: int
    grace: int
    health: Health | None = None
    stop_signal: str = "SIGTERM"
    start_seconds: int = 60
    shared_memory: int = 64
    ports: tuple[Ports, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    alias: str = ""
    known_by: Health | None = None

    def fingerprint(self) -> str:
        """Return a digest of all of it: the provider alone would not notice another health check."""
        told = asdict(self)
        told["health"] = told.pop("known_by") or told["health"]
        if not self.alias:  # as those are told that had none
            del told["alias"]
        for port in told["ports"]:
            if port["protocol"] == TCP:
                del port["protocol"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def make_container(  # noqa: PLR0913 - what every container needs
    name: str,
    spec: Spec,
    *,
    stack: str,
    image: pulumi.Input[str],
    mounts: Sequence[Mount],
    network: pulumi.Input[str] | None,
    opts: pulumi.ResourceOptions,
    replace_first: bool = False,
    awaited: bool = True,
) -> docker.Container:
    """Register a container. `replace_first`: the old one goes before the new one comes (a port, a data directory).

    awaited: it is made once it is healthy (the provider looks once a second); else once it is started.
    """
    memory = max(LEAST_MEMORY, spec.memory // MEGABYTE)
    options = pulumi.ResourceOptions(delete_before_replace=replace_first, ignore_changes=ignored(spec))
    return docker.Container(
        name,
        image=image,
        command=list(spec.command),
        user=f"{spec.user}:{GROUP}",
        read_only=True,
        tmpfs={"/tmp": "rw,nosuid,nodev,size=256m"},  # noqa: S108 - the container's own
        capabilities=docker.ContainerCapabilitiesArgs(drops=["ALL"]),
        security_opts=["no-new-privileges:true"],
        memory=memory,
        memory_swap=memory,  # no swap beyond it
        shm_size=spec.shared_memory,
        ulimits=_limits(spec),
        ipc_mode="private",
        network_mode="none" if network is None else "bridge",
        networks_advanced=_networks(spec, network),
        ports=[port.args() for port in spec.ports],
        volumes=[mount.args() for mount in mounts],
        log_driver="json-file",
        log_opts=LOG_OPTIONS,
        restart="unless-stopped",
        must_run=True,
        wait=awaited and spec.health is not None,
        wait_timeout=spec.start_seconds + MARGIN,
        healthcheck=None if spec.health is None else spec.health.args(),
        stop_signal=spec.stop_signal,
        stop_timeout=spec.grace,
        destroy_grace_seconds=spec.grace,
        labels=_labels(spec, stack),
        opts=pulumi.ResourceOptions.merge(opts, options),
    )


def ignored(spec: Spec) -> list[str]:
    """Return what the engine tells back in a form of its own, or changes itself, and what nothing is made again for."""
    return ["networkDatas"] if spec.known_by is None else ["networkDatas", "healthcheck"]


def _labels(spec: Spec, stack: str) -> list[docker.ContainerLabelArgs]:
    labels = {STACK_LABEL: stack, ROLE_LABEL: spec.role, "django-cluster.spec": spec.fingerprint(), **spec.labels}
    return [docker.ContainerLabelArgs(label=label, value=value) for label, value in sorted(labels.items())]


def _limits(spec: Spec) -> list[docker.ContainerUlimitArgs]:
    return [
        docker.ContainerUlimitArgs(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
        docker.ContainerUlimitArgs(name="nproc", soft=spec.processes, hard=spec.processes),
    ]


def _networks(spec: Spec, network: pulumi.Input[str] | None) -> list[docker.ContainerNetworksAdvancedArgs]:
    if network is None:
        return []
    return [docker.ContainerNetworksAdvancedArgs(name=network, aliases=[spec.alias] if spec.alias else None)]
