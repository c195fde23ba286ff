"""What keeps the certificate of a host's nginx by ACME: its packages, its units, and what it is told.

Source of the units: systemd.exec(5), systemd.path(5), systemd.service(5).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import acme
from cluster.acme.kept import Said
from cluster.placement import place
from cluster.services import Kind
from cluster.tls.renewing import wanted
from platforms.remote.host.renewing import MAP, digest_of_start
from platforms.remote.looked import digests
from platforms.remote.ssh import host_files
from platforms.remote.targets import target_of
from platforms.remote.units import SANDBOX, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.services import Service
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Looked

PACKAGES = Path(acme.__file__).resolve().parent

#: What it is made of beside its own code, with hashes.
LOCK = PACKAGES / "requirements.lock"

#: What systemd gives it: the account's key, that which binds it, and who may sign for the directory.
ACCOUNT, BINDING, TRUSTED = "account.key", "eab.key", "ca.pem"

#: Seconds until nginx is told again of a certificate that it did not take.
LOAD_AGAIN = 60

#: Those of its units that are there as long as it is.
LASTING = ("renewer", "path")

#: Hexadecimal digits that tell what it is made of from what it was.
DIGEST_LENGTH = 16

#: What it has beyond an instance's sandbox.
_MORE = ("MemoryDenyWriteExecute=yes",)

#: Of what lets nginx load a certificate, in the place of lines of the sandbox: it asks nginx and systemd on their
#: sockets, and reads in a directory that is the renewer's.
_OTHERWISE = {
    "CapabilityBoundingSet=": ("CapabilityBoundingSet=CAP_DAC_READ_SEARCH",),
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": ("RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes"),
}


def code() -> dict[str, bytes]:
    """Return the code beside its packages, by its paths there: its own, and that of a host's commands."""
    own = {f"cluster/acme/{path.name}": path.read_bytes() for path in sorted(PACKAGES.glob("*.py"))}
    return {"cluster/__init__.py": (PACKAGES.parent / "__init__.py").read_bytes(), **own, **host_files()}


def digest_of(looked: Looked) -> str:
    """Return what tells a renewer for a host's Python from any other."""
    digest = hashlib.sha256("\0".join(target_of(dict(looked.machine))).encode())
    for path, text in sorted({**code(), LOCK.name: LOCK.read_bytes()}.items()):
        digest.update(f"\0{path}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.hexdigest()[:DIGEST_LENGTH]


def variable(unit: str) -> str:
    """Return what says in a step's environment which text a unit has."""
    return f"UNIT_{unit.upper()}"


@dataclass(frozen=True, kw_only=True)
class Renewer:
    """What keeps a host's certificate. units, given: as `host.renewing.renew` has them."""

    digest: str
    units: Mapping[str, str]
    given: Mapping[str, str] = field(repr=False)

    def runs_on(self, looked: Looked) -> bool:
        """Tell whether a host was found to have it, as it should."""
        found = looked.renewal
        return (
            found.get("units") == self.digests
            and {*LASTING} <= {*found.get("active", ())} & {*found.get("enabled", ())}
            and found.get("started") == self.started
        )

    @property
    def digests(self) -> dict[str, str]:
        """A digest of each of its units."""
        return digests(self.units)

    @property
    def started(self) -> str:
        """What a host keeps of how it was started."""
        return digest_of_start(self.units, self.given)


def renewer_of(topology: Topology, places: HostPaths, looked: Looked, account: Account | None) -> Renewer | None:
    """Return what keeps the certificate of a host's nginx; None where the site's comes otherwise."""
    services = topology.of_kind(Kind.ACME)
    if not services or account is None or looked.host not in place(topology).nginx:
        return None
    texts = {ACCOUNT: account.key, BINDING: account.eab_key, TRUSTED: account.trusted}
    given = {name: f"{text.rstrip()}\n" for name, text in texts.items() if text}
    digest = digest_of(looked)
    units = {
        "renewer": _unit(services[0], topology, places, looked.host, digest, tuple(given)),
        "load": _load_unit(places, digest, polite=looked.polite),
        "path": _path_unit(places),
    }
    return Renewer(digest=digest, units=units, given=given)


def _unit(  # noqa: PLR0913, PLR0917 - what it is told
    service: Service, topology: Topology, places: HostPaths, host: str, digest: str, given: tuple[str, ...]
) -> str:
    config = topology.config
    unit, port = places.renewer_units["renewer"].name, config.site.listen
    credentials = f"/run/credentials/{unit}"
    told = wanted(
        config,
        account=f"{credentials}/{ACCOUNT}",
        eab_key=f"{credentials}/{BINDING}",
        trusted=f"{credentials}/{TRUSTED}",
        asked=("127.0.0.1", port),
        others=[(one.between, port) for one in config.hosts if one.name in place(topology).nginx and one.name != host],
    )
    assert told is not None  # noqa: S101 - there is a service of it
    return _text(
        f"Certificate by ACME of the Django cluster {places.stack}",
        [
            "[Service]",
            f"ExecStart={_python(places, digest)} -P -m cluster.acme {quoted(told.text)} {places.acme}",
            "Restart=always",
            "RestartSec=5",
            f"TimeoutStopSec={int(service.grace)}",
            f"MemoryMax={service.memory}",
            f"TasksMax={service.processes}",
            "DynamicUser=yes",
            f"StateDirectory={places.name}/{places.acme.name}",
            "StateDirectoryMode=0700",
            *(f"LoadCredential={name}:{places.account / name}" for name in given),
            *SANDBOX,
            *_MORE,
        ],
        boot=True,
    )


def _load_unit(places: HostPaths, digest: str, *, polite: bool) -> str:
    words = f"-P -m platforms.remote.host load {places.stack}{' polite' if polite else ''}"
    return _text(
        f"nginx loads the certificate of the Django cluster {places.stack}",
        [
            "[Service]",
            "Type=oneshot",
            f"ExecStart={_python(places, digest)} {words}",
            "Restart=on-failure",
            f"RestartSec={LOAD_AGAIN}",
            "MemoryMax=128M",
            "TasksMax=32",
            f"ReadWritePaths=-{places.nginx_run}",
            # Of the stacks' locks: after a boot it is not there yet, and it is not this unit's alone.
            f"RuntimeDirectory={places.lock.parent.name}",
            "RuntimeDirectoryMode=0755",
            "RuntimeDirectoryPreserve=yes",
            *(line for one in SANDBOX for line in _OTHERWISE.get(one, (one,))),
            *_MORE,
        ],
        boot=False,
    )


def _path_unit(places: HostPaths) -> str:
    lines = ["[Path]", f"PathChanged={places.acme / MAP}", f"Unit={places.renewer_units['load'].name}"]
    return _text(f"Looks for another certificate of the Django cluster {places.stack}", lines, boot=True)


def _python(places: HostPaths, digest: str) -> str:
    return f"{places.renewers / digest}/bin/python"


def _text(description: str, lines: list[str], *, boot: bool) -> str:
    network = ["After=network-online.target", "Wants=network-online.target"] if "DynamicUser=yes" in lines else []
    return "\n".join(
        [
            "# Made by django-cluster: what is changed here is put back by the next `cluster up`.",
            "[Unit]",
            f"Description={description}",
            *network,
            *(["StartLimitIntervalSec=0"] if "[Service]" in lines else []),
            "",
            *lines,
            *(["", "[Install]", "WantedBy=multi-user.target"] if boot else []),
            "",
        ]
    )


def said_of(found: Mapping[str, object]) -> tuple[Said, str | None]:
    """Return what a renewer says of itself, and which certificate nginx has read, as a host tells both."""
    told = found.get("told")
    return Said.of(found.get("said")), told if isinstance(told, str) else None
