"""Where everything of a stack is on this machine: below `.cluster/<stack>/`."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cluster.release import DIGEST_LENGTH, RuntimePlaces
from cluster.render.nginx import NginxPlaces
from cluster_runtime.names import LONGEST_SOCKET_PATH

STATE = ".cluster"

#: The longest file of an instance's directory of sockets: a name, a slash, a release, and an ending.
LONGEST_NAME_IN_RUN = 32 + 1 + DIGEST_LENGTH + len(".json.new")


class PlaceError(Exception):
    """A directory can't be used; the text says why."""


@dataclass(frozen=True)
class Places:
    """The directories and files of one stack."""

    root: Path
    stack: str

    @property
    def state(self) -> Path:
        """All that a stack keeps."""
        return self.root / STATE / self.stack

    @property
    def run(self) -> Path:
        """Sockets and process ids; elsewhere, and short, where a socket's path would be too long for the kernel."""
        inside = self.state / "run"
        if len(os.fsencode(inside)) + 1 + LONGEST_NAME_IN_RUN <= LONGEST_SOCKET_PATH:
            return inside
        mark = hashlib.sha256(os.fsencode(self.state.resolve())).hexdigest()[:10]
        return Path(f"/tmp/cluster-{os.geteuid()}-{mark}")  # noqa: S108 - mode and owner are checked by make_run

    def make_run(self, uid: int, gid: int) -> None:
        """Make the run directory, 0700 of `uid`; PlaceError where somebody else's stands in its place."""
        run = self.run
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = run.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, os.geteuid()):
            raise PlaceError(f"{run}: belongs to somebody else; remove it")
        run.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(run, uid, gid)

    @property
    def lock(self) -> Path:
        """Held by the one `up` that runs."""
        return self.state / "lock"

    @property
    def releases(self) -> Path:
        """A directory a release."""
        return self.state / "releases"

    @property
    def environments(self) -> Path:
        """Python environments, by the digest of the requirements."""
        return self.state / "environments"

    @property
    def history(self) -> Path:
        """Which releases have served."""
        return self.state / "history.json"

    @property
    def logs(self) -> Path:
        """Logs of nginx, Supervisor and every instance."""
        return self.state / "logs"

    @property
    def data(self) -> Path:
        """The database and the sessions in files."""
        return self.state / "data"

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

    def memcached_socket(self, number: int) -> Path:
        """Where memcached node `number` (from 1) listens."""
        return self.run / f"memcached{number}.sock"

    def nginx_places(self, user: str | None) -> NginxPlaces:
        """Return what the nginx renderer needs."""
        return NginxPlaces(
            user=user,
            sockets=str(self.run),
            static=str(self.static),
            logs=str(self.logs),
            temp=str(self.temp),
            pid=str(self.nginx_pid),
            internal=str(self.nginx_socket),
            closing=str(self.closing),
        )

    def runtime_places(self, digest: str, static_url: str | None, memcached_nodes: int) -> RuntimePlaces:
        """Return what a release's configuration names."""
        release = self.releases / digest
        return RuntimePlaces(
            project=str(release / "project"),
            secrets=str(release / "secrets"),
            database=str(self.data / "db.sqlite3"),
            sessions=str(self.data / "sessions"),
            static_root=str(release / "public") + (static_url or "/static/").rstrip("/"),
            memcached=tuple(str(self.memcached_socket(number + 1)) for number in range(memcached_nodes)),
        )
