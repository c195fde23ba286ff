"""What systemd is told: a unit's template for all instances, which directories there are, what nginx's unit needs.

Source: systemd.exec(5), systemd.service(5), tmpfiles.d(5).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.services import PACKAGED, instance_grace
from cluster_runtime.secret_files import CREDENTIAL
from platforms.remote.host.credentials import loaded
from platforms.remote.host.filesystem import TOKEN
from platforms.remote.host.paths import NGINX_USER
from platforms.remote.paths import kept_there, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.config.models import ClusterConfig
    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths

#: What keeps an instance from whatever is not its own. nginx reaches its sockets by their directory's group.
SANDBOX = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    # Without the first gunicorn can't make its socket, without the second it can't be nice.
    "SystemCallFilter=@chown setpriority",
    "UMask=0027",
)

#: Seconds within which a process has to say that it lives, once it is ready.
WATCHDOG = 30

#: Seconds beyond start_timeout until systemd gives a start up: the process says before that why it is not healthy.
START_MARGIN = 15


def instance_unit(topology: Topology, places: HostPaths) -> str:
    """Return the template of the instances' units; an instance of it is called `app1-<release>`."""
    app = topology.config.app
    own = f"{places.releases}/$r"
    run = (
        f'r="${{1##*-}}"; i="${{1%-*}}"; PYTHONPATH={own}/runtime exec {own}/environment/bin/python '
        f'-P -m cluster_runtime.instance run --instance "$i" --config {own}/config.json --sockets {places.sockets}'
    )
    unit = _Unit(
        places=places,
        run=run,
        called="%i",
        start=app.health.start_timeout.seconds + START_MARGIN,
        grace=instance_grace(app.graceful_timeout.seconds),
        memory=int(app.memory),
        processes=app.processes,
        filesystem=_filesystem(topology.config, places),
    )
    return unit.text()


def service_unit(service: Service, topology: Topology, places: HostPaths) -> str:
    """Return the template of the units of a service that runs the project's code beside the instances.

    An instance of it is called as its generation, which begins with the release.
    """
    own = f"{places.releases}/$r"
    words = [
        f'"{word}"' if "$r" in word else shlex.quote(word)
        for word in service.words("$r", f"{own}/config.json", str(places.sockets))
    ]
    python = f"{own}/environment/bin/python {' '.join(words)}"
    run = f'r="${{1%%.*}}"; PYTHONPATH={own}/runtime exec {python}'
    return replace(_unit_of(service, places, run), filesystem=_filesystem(topology.config, places)).text()


def daemon_unit(service: Service, places: HostPaths) -> str:
    """Return the unit of a program of the distribution's, which listens for the instances' user alone."""
    assert service.daemon is not None  # noqa: S101 - whoever asks has one
    data = places.kept_by(service.kind.value)
    given = f"/run/credentials/{places.daemon(service.name).name}/{CREDENTIAL}_"
    words = service.daemon.words(socket=socket_of(service, places), mode="0700", data=str(data), given=given)
    named = " || ".join(f"command -v {name}" for name in PACKAGED[service.kind].names)
    run = f'p=$({named}) && exec "$p" {shlex.join(words)}'
    given = str(places.broker_given) if service.daemon.is_given else ""
    unit = _unit_of(service, places, run)
    return replace(unit, of_release=False, own=(f"-{data}",), given=given).text()


def _unit_of(service: Service, places: HostPaths, run: str) -> _Unit:
    """Return the unit of a service, or its template, as of a program of a release."""
    return _Unit(
        places=places,
        run=run,
        called=service.name,
        start=service.start_seconds,
        grace=service.grace,
        memory=service.memory,
        processes=service.processes,
    )


def socket_of(service: Service, places: HostPaths) -> str:
    """Return where a program of the distribution's listens."""
    assert service.endpoint is not None  # noqa: S101 - as above
    return str(service.endpoint.below(str(places.sockets_of(service.kind.value))))


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """A template whose units run a shell's words, in which $1 is what a unit is called.

    start, grace: seconds. memory: bytes. of_release: whether it is a release's program, which tells systemd that it is
    ready, and that it lives, and is given the release's secrets. own: what it alone writes to.
    filesystem: where that is which the project writes, if hosts share it. given: the directory of what another program
    is given.
    """

    places: HostPaths
    run: str
    called: str
    start: float
    grace: float
    memory: int
    processes: int
    of_release: bool = True
    own: tuple[str, ...] = ()
    filesystem: Filesystem | None = None
    given: str = ""

    def text(self) -> str:
        """Return it as its file has it."""
        return "\n".join(
            [
                "# Made by django-cluster: what is changed here is put back by the next `cluster up`.",
                "[Unit]",
                f"Description={self.called} of the Django cluster {self.places.stack}",
                f"After=network-online.target{'' if self.filesystem is None else ' remote-fs.target'}",
                "Wants=network-online.target",
                "StartLimitIntervalSec=0",
                "",
                "[Service]",
                *self._process(),
                "# sandbox",
                *self._sandbox(),
                "# end",
                "",
                "[Install]",
                "WantedBy=multi-user.target",
                "",
            ]
        )

    def _process(self) -> list[str]:
        """Return how it is started, watched, limited and stopped."""
        return [
            *(("Type=notify", "NotifyAccess=main", loaded(f"{self.places.given}/%i")) if self.of_release else ()),
            *((loaded(self.given),) if self.given else ()),
            *(() if self.filesystem is None else (self.filesystem.check(self.places),)),
            f"ExecStart=/bin/sh -c {quoted(self.run)} sh %i",
            "Restart=always",
            "RestartSec=1",
            f"TimeoutStartSec={int(self.start)}",
            f"TimeoutStopSec={int(self.grace)}",
            *((f"WatchdogSec={WATCHDOG}",) if self.of_release else ()),
            "KillMode=mixed",
            "SyslogIdentifier=%p@%i",
            f"MemoryMax={self.memory}",
            f"TasksMax={self.processes}",
        ]

    def _sandbox(self) -> list[str]:
        """Return as whom it runs, and what it may."""
        places = self.places
        writable = (places.sockets, *self.own, places.shared, places.data, places.sessions, places.home)
        return [
            f"User={places.name}",
            f"Group={places.name}",
            f"Environment=HOME={places.home}",
            f"ReadWritePaths={' '.join(map(str, writable))}",
            *(() if self.filesystem is None else self.filesystem.binds(places)),
            *SANDBOX,
        ]


@dataclass(frozen=True)
class Filesystem:
    """One that hosts share. path: where it is mounted. own: the stack's directory there; shared: those in that one."""

    path: str
    own: str
    shared: Sequence[str]

    def binds(self, places: HostPaths) -> list[str]:
        """Return what gives a unit what is there, where a release looks for it; one that has it loses it no more."""
        pairs = [f"{self.own}/{name}:{places.shared / name}" for name in self.shared]
        return [f"BindPaths={pair.replace('%', '%%')}" for pair in pairs]

    def check(self, places: HostPaths) -> str:
        """Return what keeps a unit from starting where it is not mounted; once it is, systemd's next try succeeds.

        Not RequiresMountsFor=: after a mount that failed at boot, nothing would start the unit. As the stack's user,
        since root may be nobody there.
        """
        is_mounted = f'[ "$(stat -L -c %d {self.path})" != "$(stat -c %d /)" ]'
        is_it = f"setpriv --reuid={places.name} --regid={places.name} --clear-groups"
        is_it += f" cmp -s {self.own}/{TOKEN} {places.token}"
        otherwise = f'{{ echo "{self.path} is not the filesystem that the hosts of the stack share" >&2; exit 1; }}'
        return f"ExecStartPre=+/bin/sh -c {quoted(f'{is_mounted} && {is_it} || {otherwise}')}"


def _filesystem(config: ClusterConfig, places: HostPaths) -> Filesystem | None:
    path = config.app.shared_filesystem
    return None if path is None else Filesystem(path, written(config, places), kept_there(config))


def quoted(word: str) -> str:
    """Return a word as systemd reads it in a command.

    `%` and `$` are its own, which gives a program one of each for two; so are quotes and backslashes.
    """
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("%", "%%").replace("$", "$$")
    return f"'{escaped}'"


def nginx_unit(places: HostPaths) -> str:
    """Return what the stack adds to nginx's unit: an nginx that was killed leaves its sockets in its own way."""
    return "\n".join(
        [
            "# Made by django-cluster.",
            "[Service]",
            # Before its own, which looks whether nginx would start.
            f"ExecStartPre=-/bin/sh -c 'rm -f {places.nginx_run}/*.sock {places.closing}'",
            "",
        ]
    )


def tmpfiles(topology: Topology, places: HostPaths) -> str:
    """Return which directories are made at boot. What is made in the instances' is nginx's to reach, by its group."""
    daemons = {service.kind.value: service for service in topology.services if service.daemon is not None}
    return "\n".join(
        [
            "# Made by django-cluster.",
            f"d {places.sockets} 2750 {places.name} {NGINX_USER} -",
            # nginx lets everybody connect to its sockets: who may, this says.
            f"d {places.nginx_run} 0750 root {NGINX_USER} -",
            *(f"d {places.sockets_of(kind)} 0700 {places.name} {places.name} -" for kind in daemons),
            *(
                f"d {places.kept_by(kind)} 0700 {places.name} {places.name} -"
                for kind, service in daemons.items()
                if service.kept
            ),
            "",
        ]
    )
