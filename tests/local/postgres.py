"""A PostgreSQL of the tests' own on this machine, behind a socket, that can be restarted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.jobs import children, until
from tests.processes import lives

#: Where Debian has its programs, the newest version last.
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))

USER = "cluster"


def missing() -> str:
    """Return what is missing on this machine; empty where nothing is."""
    return "" if PROGRAMS else "PostgreSQL is not installed (apt-get install postgresql)"


class Postgres:
    """One server, reached through its socket only. PostgreSQL refuses to run as root: Debian's user runs it then."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pg"))
        self.root.chmod(0o755)
        self.data = self.root / "data"
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
            shutil.chown(self.data, "postgres", "postgres")
        self._run("initdb", "--pgdata", str(self.data), "--username", USER, "--auth", "trust", "--encoding", "UTF8")
        self.start()
        self._run("createdb", "--host", str(self.root), "--username", USER, USER)

    @property
    def url(self) -> str:
        """What the secret database_url holds."""
        return f"postgres://{USER}@{str(self.root).replace('/', '%2F')}/{USER}"

    def start(self) -> None:
        """Start the server; return when it answers."""
        program = str(PROGRAMS[-1])
        words = [program, "-D", str(self.data), "-k", str(self.root), "-c", "listen_addresses=", "-c", "fsync=off"]
        log = (self.root / "log").open("ab")
        self.process = subprocess.Popen([*self._user(), *words], stdout=log, stderr=log, cwd="/")
        log.close()
        deadline = time.monotonic() + 30
        while self._call("pg_isready", "--host", str(self.root)).returncode != 0:
            assert time.monotonic() < deadline, (self.root / "log").read_text()
            time.sleep(0.05)

    def restart(self, pause: float = 1.0) -> None:
        """Stop the server at once, whoever is connected; start it again after `pause` seconds."""
        self.stop()
        time.sleep(pause)
        self.start()

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--pgdata", str(self.data), "--mode", "fast")
        self.process.wait(30)

    def kill(self) -> None:
        """Kill the server's first process; return when those that it has started have ended by themselves."""
        others = children(self.process.pid)
        self.process.kill()
        self.process.wait(30)
        until(lambda: not any(map(lives, others)), 30)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.root)

    @staticmethod
    def _user() -> list[str]:
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return as_postgres if os.geteuid() == 0 else []

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = [*self._user(), str(PROGRAMS[-1].with_name(program)), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
