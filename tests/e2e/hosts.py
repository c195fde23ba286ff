"""A stack of the example project on several hosts: two that have visitors, two that run instances, and a database."""

from __future__ import annotations

import contextlib
import os
import secrets
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.e2e.remote import IMAGE, Host, Network, RemoteStand
from tests.e2e.tools import docker
from tests.load import Load

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


class Store(Host):
    """A host with PostgreSQL, which asks for a password; it is not the stack's."""

    image = f"{IMAGE}-store"
    text = f"FROM {IMAGE}\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql\n"

    def __init__(self, directory: Path, network: Sequence[str]) -> None:
        super().__init__(directory, "store", (), network)
        self.until(lambda: bool(self.psql("select 1", check=False)))
        self.password = secrets.token_hex(8)
        self.psql(f"create user shop with password '{self.password}'")
        self.psql("create database shop owner shop")
        self.psql("alter system set listen_addresses to '*'")
        (place,) = self.run("sh", "-c", "echo /etc/postgresql/*/main/pg_hba.conf").split()
        self.run("sh", "-c", f"echo 'host all all 0.0.0.0/0 scram-sha-256' >>{place}")
        self.run("systemctl", "restart", "postgresql.service")
        self.until(lambda: bool(self.psql("select 1", check=False)))

    def psql(self, words: str, *, check: bool = True) -> str:
        return self.run("runuser", "-u", "postgres", "--", "psql", "--tuples-only", "--command", words, check=check)

    @property
    def url(self) -> str:
        return f"postgres://shop:{self.password}@{self.address}/shop"


#: Where hosts have a filesystem that others have, too; and where a volume of the engine's is, which stands for it.
SHARED, VOLUME = "/mnt/shop", "/volume"


class SharingHost(Host):
    """A host that mounts a filesystem at boot, and lets somebody log in where it can't."""

    def __init__(self, directory: Path, name: str, roles: tuple[str, ...], network: Sequence[str], volume: str) -> None:
        super().__init__(directory, name, roles, [*network, "--volume", f"{volume}:{VOLUME}"])
        self.run("mkdir", SHARED)
        self.mounts_at_boot(VOLUME)
        self.run("mount", SHARED)

    def mounts_at_boot(self, what: str) -> None:
        """Let a boot mount something there."""
        self.run("sh", "-c", f"echo '{what} {SHARED} none bind,nofail 0 0' >/etc/fstab && systemctl daemon-reload")


def reached_from(there: Host, address: str, port: int) -> bool:
    """Tell whether something takes a connection at a port, asked from a host."""
    ask = f"import socket; socket.create_connection(({address!r}, {port}), timeout=5); print('in')"
    return there.run("python3", "-c", ask, check=False).strip() == "in"


class Volume:
    """What stands for a filesystem that hosts share."""

    def __init__(self, number: int = 0) -> None:
        self.name = docker("volume", "create", f"cluster-shared-{os.getpid()}-{number}")

    def close(self) -> None:
        docker("volume", "rm", "--force", self.name)


def sharing(volumes: Mapping[str, Volume]) -> dict[str, Callable[..., Host]]:
    """Return what makes hosts that have volumes, by their names."""
    return {name: partial(SharingHost, volume=volume.name) for name, volume in volumes.items()}


class HostsStand(RemoteStand):
    """A stand on several hosts; visitors come to each that has nginx."""

    def __init__(self, network: Network, *hosts: Host, **more: Any) -> None:
        super().__init__(*hosts, **more)
        self.network = network

    @property
    def visited(self) -> list[Host]:
        """The hosts that have visitors."""
        return [host for host in self.all_hosts if "nginx" in host.roles]

    def host_named(self, name: str) -> Host:
        """Return a host by its name."""
        return next(one for one in self.all_hosts if one.name == name)

    def add(self, host: Host) -> None:
        """Let a host be the stack's, too."""
        self.all_hosts.append(host)
        self.edit_stack(lambda stack: stack["hosts"].append(host.in_stack()))

    def use(self, store: Store) -> None:
        """Make the stack, and put the URL of its database where it is to be."""
        requirements = self.root / "example" / "requirements.txt"
        requirements.write_text(f"{requirements.read_text()}psycopg[binary]\n")
        for words in (
            ["stack", "init"],
            ["config", "set", "--secret", "cluster:database_url", store.url],
        ):
            done = self.pulumi(*words)
            assert done.returncode == 0, done.stdout


class LoadOfEach(Load):
    """Clients of which each one asks another address."""

    def __init__(self, *addresses: tuple[str, int], **options: Any) -> None:
        self.addresses = addresses
        super().__init__(addresses[0], **options)

    def connect(self, number: int) -> http.client.HTTPConnection:
        self.address = self.addresses[number % len(self.addresses)]
        return super().connect(number)


class LoadOfAll(LoadOfEach):
    """Clients of which each one asks another host."""

    def __init__(self, stand: HostsStand, **options: Any) -> None:
        super().__init__(*((host.address, stand.port) for host in stand.visited), **options)


#: What each host does.
ROLES: dict[str, tuple[str, ...]] = {"web1": ("app", "nginx"), "web2": ("app",), "edge1": ("nginx",)}


@contextmanager
def hosts_stand(
    directory: Path,
    roles: Mapping[str, tuple[str, ...]] = ROLES,
    kinds: Mapping[str, Callable[..., Host]] | None = None,
    stands: type[HostsStand] = HostsStand,
    **more: Any,
) -> Iterator[HostsStand]:
    """Make hosts and a stand on them; `more` are keys of the stack. Without a database of its own it gets one.

    kinds: of hosts that are more than a bare server, by their names. stands: of the stand.
    """
    with contextlib.ExitStack() as there:
        network = there.enter_context(contextlib.closing(Network()))
        kept = {"database": {"engine": "external"}, **more}
        external = kept["database"]["engine"] == "external"
        store = there.enter_context(contextlib.closing(Store(directory, network.place()))) if external else None
        hosts = [
            there.enter_context(
                contextlib.closing((kinds or {}).get(name, Host)(directory, name, does, network.place()))
            )
            for name, does in roles.items()
        ]
        stand = there.enter_context(contextlib.closing(stands(network, *hosts, **kept)))
        if store is not None:
            stand.use(store)
        yield stand
