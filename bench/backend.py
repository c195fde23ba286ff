"""What stands around a measured proxy: the trivial backend behind it, and the processes whose CPU time counts."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = 1024
INSTANCES = 4
TICKS = os.sysconf("SC_CLK_TCK")

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Backend:
    """Where the four instances listen, each on a unix socket and on a TCP port."""

    sockets: Path
    ports: tuple[int, ...]

    def names(self) -> list[str]:
        return [f"app{number}" for number in range(1, INSTANCES + 1)]

    def socket(self, name: str) -> str:
        return f"unix:{self.sockets}/{name}/http.sock"


def user() -> str | None:
    """nginx's `user`: root's nginx would else change to one who can't enter the benchmark's directory."""
    return pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None


def nginx_config(directory: Path, http: str) -> str:
    """A plain nginx.conf around `http`, with all paths of its own: the machine's nginx is not touched."""
    paths = "".join(f"    {name}_temp_path {directory}/{name};\n" for name in TEMPORARY)
    user_directive = f"user {user()};\n" if user() else ""
    return f"""\
{user_directive}pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes auto;
events {{ worker_connections 4096; }}
http {{
{paths}{http}}}
"""


def free_ports(count: int) -> tuple[int, ...]:
    held = []
    try:
        for _ in range(count):
            taken = socket.socket()
            held.append(taken)
            taken.bind(("127.0.0.1", 0))
        return tuple(taken.getsockname()[1] for taken in held)
    finally:
        for taken in held:
            taken.close()


def backend_config(directory: Path, backend: Backend) -> str:
    """Four servers that answer 1 KB from memory; connections to them are kept as long as the proxy likes."""
    servers = "".join(
        f"""\
    server {{
        listen {backend.socket(name)};
        listen 127.0.0.1:{port};
        return 200 "{name}{"." * (BODY - len(name))}";
    }}
"""
        for name, port in zip(backend.names(), backend.ports, strict=True)
    )
    http = f"""\
    access_log off;
    default_type text/html;
    keepalive_requests 1000000000;
{servers}"""
    return nginx_config(directory, http)


@contextmanager
def process(command: list[str], log: Path) -> Iterator[int]:
    """Run a server in the foreground; yields its id, ends it by that id."""
    with log.open("ab") as output:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        time.sleep(0.1)
        if running.poll() is not None:
            raise RuntimeError(f"{Path(command[0]).name} does not start: {log.read_text()[-2000:]}")
        yield running.pid
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def cpu_seconds(parent: int) -> float:
    """User and system time of a process and of its children."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        # The name, in parentheses, may hold anything; after it come state, parent …, user and system time.
        fields = text.rpartition(")")[2].split()
        if parent in (pid, int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS
