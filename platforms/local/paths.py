"""Where everything of a stack is on this machine: below `.cluster/<stack>/`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.kept import make_way
from cluster.release import DIGEST_LENGTH, RuntimePaths
from cluster.render.paths import NginxPaths
from cluster.services import Kind
from cluster.source import TREE, project_place
from cluster.stack.paths import PYTHONS, StackPaths
from cluster_runtime import unfollowed
from cluster_runtime.attempts import FILE as BEGUN
from cluster_runtime.clearing import CLEARED
from cluster_runtime.instance_link import LONGEST_SOCKET_PATH, SERVICES, InstanceLink
from cluster_runtime.sessions.ended import ENDED
from cluster_runtime.sessions.nodes import NODE_RESTORE, NODE_STATE, NODES_STATE
from platforms.local.written import SERVED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.endpoints import Endpoint
    from cluster.machine.owner import Owner
    from cluster.services import Service
    from cluster.topology import Topology

#: The longest file of an instance's directory of sockets: a name, a slash, a release, and an ending.
LONGEST_NAME_IN_RUN = 32 + 1 + DIGEST_LENGTH + len(".json.new")


@dataclass(frozen=True)
class LocalPaths(StackPaths):
    """The directories and files of one stack on this machine."""

    @property
    def run(self) -> Path:
        """Sockets and process ids; elsewhere, and short, where a socket's path would be too long for the kernel."""
        inside = self.state / "run"
        if len(os.fsencode(inside)) + 1 + LONGEST_NAME_IN_RUN <= LONGEST_SOCKET_PATH:
            return inside
        mark = hashlib.sha256(os.fsencode(self.state.resolve())).hexdigest()[:10]
        return Path(f"/tmp/cluster-{os.geteuid()}-{mark}")  # noqa: S108 - mode and owner are checked by hold

    def make_run(self, owner: Owner, services: Iterable[Service]) -> None:
        """Make the run directory, and in it what is the services' own: the instances' too.

        Only who says `up` writes in it: whoever could, could put another Supervisor's socket there, or a link where
        nginx, which begins as root, writes its process id. PathError where something else stands in its place.
        """
        self.run.parent.mkdir(parents=True, exist_ok=True)
        owner.hold(self.run, 0o750 if owner.changed else 0o700)
        self._forget_forged()
        owner.hold(self.run / SERVICES, 0o750 if owner.changed else 0o700)
        own = [
            service for service in services if service.daemon or service.is_of_release or service.kind is Kind.INSTANCE
        ]
        for name in (ENDED, *dict.fromkeys(map(self._own, own))):
            owner.make(self.run / name)
        for name in (CLEARED, BEGUN):
            owner.make_file(self.run / name)
        for path in self.run.glob(f"{Kind.MEMCACHED}*.sock"):
            self._adopt_memcached(path, owner)

    def _own(self, service: Service) -> str:
        """Return what is a service's own in the run directory; instances pass over what begins with a dot."""
        if service.kind is Kind.INSTANCE:
            return service.name
        return f"{SERVICES}/{service.name}" if service.is_of_release else f".{service.kind}"

    def _forget_forged(self) -> None:
        """Remove what was put in place of what root makes, while the directory was still another user's."""
        kinds = {
            self.supervisor_socket: stat.S_ISSOCK,
            self.nginx_socket: stat.S_ISSOCK,
            self.supervisor_pid: stat.S_ISREG,
            self.nginx_pid: stat.S_ISREG,
            self.closing: stat.S_ISREG,
        }
        for path, is_kind in kinds.items():
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISDIR(found.st_mode):
                    make_way(path, stat.S_IFREG)
                elif not is_kind(found.st_mode) or found.st_uid != os.geteuid():
                    path.unlink()

    def _adopt_memcached(self, path: Path, owner: Owner) -> None:
        """Let a node that a former version started, in the run directory itself, be found where it is now."""
        if stat.S_ISSOCK(path.lstat().st_mode):
            inside = self.sockets_of(Kind.MEMCACHED) / path.name
            owner.make(inside.parent)
            inside.unlink(missing_ok=True)
            os.link(path, inside, follow_symlinks=False)
            unfollowed.link(path, os.path.relpath(inside, self.run))

    def make_memcached(self, owner: Owner, node: Service) -> None:
        """Let a memcached node be found, and what instances tell each other of it be written beside that."""
        path = self.run / self.listens(node).name
        owner.make(self.listens(node).parent)  # a release that serves again may have more nodes than the stack file
        if not path.is_symlink():
            unfollowed.link(path, os.path.relpath(self.listens(node), self.run))
        for file in (NODE_STATE, NODE_RESTORE):
            owner.make_file(path.with_name(path.name + file))
        owner.make_file(path.with_name(NODES_STATE))

    def forget_memcached(self, name: str) -> None:
        """Remove what is left of a node that has ended."""
        for path in (*self.run.glob(f"{name}.sock*"), self.sockets_of(Kind.MEMCACHED) / f"{name}.sock"):
            path.unlink(missing_ok=True)

    @property
    def releases(self) -> Path:
        """A directory a release."""
        return self.state / "releases"

    @property
    def environments(self) -> Path:
        """Python environments, by the digest of the requirements."""
        return self.state / "environments"

    @property
    def pythons(self) -> Path:
        """Interpreters that uv brought."""
        return self.root / PYTHONS

    @property
    def logs(self) -> Path:
        """Logs of nginx, Supervisor and every instance."""
        return self.state / "logs"

    @property
    def data(self) -> Path:
        """The database and the sessions in files."""
        return self.state / "data"

    @property
    def database(self) -> Path:
        """The database of `engine: sqlite`."""
        return self.data / "db.sqlite3"

    @property
    def shared(self) -> Path:
        """What the project writes, one for all instances and releases."""
        return self.state / "shared"

    @property
    def kept(self) -> Path:
        """What projects wrote into releases that are gone."""
        return self.state / "kept"

    @property
    def secrets(self) -> Path:
        """The stack's secrets, a file each, 0600."""
        return self.state / "secrets"

    @property
    def static(self) -> Path:
        """`current` and `previous` lead to the static files of the two last releases."""
        return self.state / "static"

    @property
    def nginx(self) -> Path:
        """Rendered configurations by their digest; `current` leads to the one in place."""
        return self.state / "nginx"

    @property
    def maintenance(self) -> Path:
        """Without its endings: what is kept of maintenance (.json), and the file that nginx reads (.map)."""
        return self.state / "maintenance"

    @property
    def acme(self) -> Path:
        """What a renewer keeps: the site's certificate by ACME, and its key."""
        return self.state / "acme"

    @property
    def users(self) -> Path:
        """The users for whom nginx asks, by hashes of their passwords: what its workers read with each request."""
        return self.state / "users"

    @property
    def temp(self) -> Path:
        """nginx's temporary files."""
        return self.state / "temp"

    @property
    def supervisor(self) -> Path:
        """Supervisor's configuration; `programs` holds a file a program."""
        return self.state / "supervisor"

    @property
    def supervisor_socket(self) -> Path:
        """Where Supervisor listens."""
        return self.run / "supervisor.sock"

    @property
    def supervisor_pid(self) -> Path:
        """The process id of Supervisor."""
        return self.run / "supervisord.pid"

    @property
    def nginx_socket(self) -> Path:
        """Where nginx tells its config's digest."""
        return self.run / "nginx.sock"

    @property
    def nginx_pid(self) -> Path:
        """The process id of nginx's master."""
        return self.run / "nginx.pid"

    @property
    def closing(self) -> Path:
        """While it exists, an old nginx closes clients' connections after each response."""
        return self.run / "nginx.closing"

    def sockets_of(self, kind: Kind) -> Path:
        """Where the sockets of services of a kind are made: the instances' each in a directory of its own there."""
        return self.run if kind is Kind.INSTANCE else self.run / f".{kind}"

    def listens(self, service: Service) -> Path:
        """Where a service makes its socket: in a directory of its own user's."""
        assert service.endpoint is not None  # noqa: S101 - whoever asks has one that listens
        return Path(service.endpoint.below(str(self.sockets_of(service.kind))).path)

    def kept_by(self, kind: Kind) -> Path:
        """Where services of a kind keep what must outlive them."""
        return self.data / kind

    def endpoints(self, topology: Topology) -> dict[str, Endpoint]:
        """Return where the instances answer, by name."""
        return topology.endpoints(self._found_at, Kind.INSTANCE)

    def _found_at(self, kind: Kind) -> str:
        """Where others find the sockets of a kind: links to the memcached nodes', the same for all releases."""
        return str(self.run if kind is Kind.MEMCACHED else self.sockets_of(kind))

    @property
    def schedules(self) -> Path:
        """What is known of schedules' runs."""
        return self.data / "schedules"

    def nginx_paths(self, topology: Topology, user: str | None) -> NginxPaths:
        """Return what the nginx renderer needs."""
        return NginxPaths(
            user=user,
            instances=self.endpoints(topology),
            static=str(self.static),
            shared=str(self.shared),
            logs=str(self.logs),
            temp=str(self.temp),
            pid=str(self.nginx_pid),
            internal=str(self.nginx_socket),
            closing=str(self.closing),
            maintenance=str(self.maintenance),
            acme=str(self.acme),
            users=str(self.users),
        )

    def runtime_paths(self, topology: Topology, digest: str) -> RuntimePaths:
        """Return what a release's configuration names."""
        release = self.releases / digest
        static_url = topology.config.site.static_url or "/static/"
        return RuntimePaths(
            project=str(release / project_place(topology.config)),
            tree=str(release / TREE),
            databases=str(self.data / "databases"),
            secrets=str(release / "secrets"),
            database=str(self.database),
            sessions=str(self.data / "sessions"),
            static_root=str(release / "public") + static_url.rstrip("/"),
            packages=str(release / "packages"),
            endpoints=topology.endpoints(self._found_at),
            schedules=str(self.schedules),
        )

    def served(self) -> tuple[list[str], str | None]:
        """Return the releases that have left the mark of it, the latest last, and the one that holds names."""
        marks = {path.parent.name: path for path in self.releases.glob(f"*/{SERVED}")}
        served = sorted(marks, key=lambda release: marks[release].stat().st_mtime)
        holders = [name.holder() for name in self.names()]
        return served, next((one for one in holders if one in served), served[-1] if served else None)

    def names(self) -> list[InstanceLink]:
        """Return the names of all instances that have a directory, whether the stack file knows them or not."""
        if not self.run.is_dir():
            return []
        return [
            InstanceLink(self.run, path.name)
            for path in sorted(self.run.iterdir())
            if path.is_dir() and path.name[0] != "."
        ]
