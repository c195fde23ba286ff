"""A stack of the example project on several hosts: two that have visitors, two that run instances, and a database."""

from __future__ import annotations

import contextlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.e2e.remote import IMAGE, Host, RemoteStand
from tests.e2e.tools import docker
from tests.load import Load

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Network:
    """A network of hosts, which keep their addresses when they boot again."""

    def __init__(self) -> None:
        self.name = f"cluster-hosts-{os.getpid()}"
        self.begin = f"10.210.{os.getpid() % 256}"
        self.given = 10
        docker("network", "create", "--subnet", f"{self.begin}.0/24", self.name)

    def place(self) -> list[str]:
        """Return docker's words for another address."""
        self.given += 1
        return ["--network", self.name, "--ip", f"{self.begin}.{self.given}"]

    def close(self) -> None:
        docker("network", "rm", self.name)


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


class HostsStand(RemoteStand):
    """A stand on several hosts; visitors come to each that has nginx."""

    def __init__(self, network: Network, *hosts: Host, **more: Any) -> None:
        super().__init__(*hosts, **more)
        self.network = network

    @property
    def visited(self) -> list[Host]:
        """The hosts that have visitors."""
        return [host for host in self.all_hosts if "nginx" in host.roles]

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


class LoadOfAll(Load):
    """Clients of which each one asks another host."""

    def __init__(self, stand: HostsStand, **options: Any) -> None:
        self.addresses = [(host.address, stand.port) for host in stand.visited]
        super().__init__(self.addresses[0], **options)

    def connect(self, number: int) -> http.client.HTTPConnection:
        self.address = self.addresses[number % len(self.addresses)]
        return super().connect(number)


#: What each host does.
ROLES: dict[str, tuple[str, ...]] = {"web1": ("app", "nginx"), "web2": ("app",), "edge1": ("nginx",)}


@contextmanager
def hosts_stand(
    directory: Path, roles: Mapping[str, tuple[str, ...]] = ROLES, kind: type[Host] = Host, **more: Any
) -> Iterator[HostsStand]:
    """Make hosts and a stand on them; `more` are keys of the stack. Without a database of its own it gets one."""
    with contextlib.ExitStack() as there:
        network = there.enter_context(contextlib.closing(Network()))
        kept = {"database": {"engine": "external"}, **more}
        external = kept["database"]["engine"] == "external"
        store = there.enter_context(contextlib.closing(Store(directory, network.place()))) if external else None
        hosts = [
            there.enter_context(contextlib.closing(kind(directory, *one, network.place()))) for one in roles.items()
        ]
        stand = there.enter_context(contextlib.closing(HostsStand(network, *hosts, **kept)))
        if store is not None:
            stand.use(store)
        yield stand
