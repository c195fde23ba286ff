"""Hosts of a stack as nginx processes on addresses of this machine, with instances that keep what they are sent.

Each host has a directory for its root, and in it what platform remote delivers. nginx is as a distribution ships it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cluster.config import parse_config
from cluster.render.internal import DIGEST_PLACE
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.tls.hosts_keys import HostsKeys
from cluster.topology import build_topology
from platforms.remote.host.paths import HostPaths
from platforms.remote.paths import nginx_config, relay_files, relay_ports, shown_files
from tests.nginx.running import (
    CLOSING_SECONDS,
    PATIENCE,
    SETTLING_SECONDS,
    Mortal,
    UnixConnection,
    ask,
    free_ports,
    let_go,
    wait,
)
from tests.nginx.test_shared import DISTRIBUTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cluster.topology import Topology
    from tests.nginx.running import Values
    from tests.nginx_versions import Nginx

#: Of which hosts make their certificates, and another stack's.
SECRET, OTHER_SECRET = "5e" * 32, "07" * 32
KEYS = HostsKeys(key=SECRET)

#: Where hosts are, by their names: what has instances, and what has visitors.
ADDRESSES = {
    "web1": "127.0.0.11",
    "web2": "127.0.0.12",
    "web3": "127.0.0.13",
    "edge": "127.0.0.21",
    "both": "127.0.0.31",
}
ROLES = {"edge": ["nginx"], "both": ["app", "nginx"]}


@dataclass(frozen=True)
class Seen:
    """A request as it came to an instance."""

    instance: str
    head: bytes
    length: int
    sha256: str

    @property
    def line(self) -> str:
        """Its first line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Its headers, in their order."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value) for name, found, value in (line.partition(": ") for line in lines) if found]

    def sent(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


def whole(status: str = "200 OK", *headers: str, body: bytes = b"") -> bytes:
    """Return a response with its length."""
    return (
        "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body
    )


class Instance(Mortal):
    """Stands in for an instance: answers by path, and keeps each request byte for byte."""

    def __init__(self, link: Path, name: str, answers: Mapping[str, Any]) -> None:
        self.name, self.answers, self.link = name, answers, link
        self.seen: list[Seen] = []
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        super().__init__(str(link), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


class _Handler(socketserver.StreamRequestHandler):
    server: Instance

    def handle(self) -> None:
        with self.server.lock:
            self.server.open.add(self.connection)
        try:
            with contextlib.suppress(OSError):
                while self._one():
                    pass
        finally:
            with self.server.lock:
                self.server.open.discard(self.connection)

    def _one(self) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return False
            head += line
        path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
        body = b"".join(self._body(head))
        seen = Seen(self.server.name, head, len(body), hashlib.sha256(body).hexdigest())
        with self.server.lock:
            self.server.seen.append(seen)
        answer = self.server.answers.get(path, whole("200 OK", f"X-Instance: {self.server.name}", body=b"hello"))
        if callable(answer):
            return bool(answer(self.connection, seen))
        if head.startswith(b"HEAD "):
            answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self.connection.sendall(answer)
        return b"\r\nconnection: close" not in answer.lower()

    def _body(self, head: bytes) -> Iterator[bytes]:
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if b"chunked" in lines.get(b"transfer-encoding", b""):
            while size := int(self.rfile.readline(), 16):
                yield self._exactly(size)
                self.rfile.readline()
            while self.rfile.readline() != b"\r\n":
                pass
        else:
            yield self._exactly(int(lines.get(b"content-length", 0)))

    def _exactly(self, size: int) -> bytes:
        found = self.rfile.read(size)
        if len(found) != size:
            raise ConnectionAbortedError
        return found


@dataclass
class Host:
    """A host's nginx, and what is delivered to it."""

    name: str
    places: HostPaths
    nginx: Nginx
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        places = self.places
        made = (places.logs, places.nginx / "sites-available", places.nginx / "sites-enabled", places.root / "temp")
        for path in (*made, places.nginx_run, places.sockets, places.static, places.maintenance.parent, places.shared):
            path.mkdir(parents=True, exist_ok=True)
        user = "user root;\n" if os.geteuid() == 0 else ""
        text = DISTRIBUTION.format(user=user, directory=places.root)
        text = text.replace(f"{places.root}/conf/sites-enabled", f"{places.nginx}/sites-enabled")
        (places.root / "logs").mkdir(exist_ok=True)
        (places.nginx / "nginx.conf").write_text(text)
        conf = str(places.nginx / "nginx.conf")
        self.command = [*self.nginx.command, "-p", str(places.root), "-e", "stderr", "-c", conf]

    def put(self, files: Mapping[str, str]) -> None:
        """Write files, of which those of sites are enabled."""
        for name, text in files.items():
            path = self.places.nginx / name
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.new")
            new.write_text(text)
            new.rename(path)
            link = self.places.nginx / "sites-enabled" / path.name
            if path.parent.name == "sites-available" and not link.is_symlink():
                link.symlink_to(f"../sites-available/{path.name}")

    def check(self) -> subprocess.CompletedProcess[str]:
        """Let nginx read it."""
        return subprocess.run([*self.command, "-t", "-q"], capture_output=True, text=True, check=False)

    def start(self) -> None:
        """Start nginx, and wait until it listens."""
        checked = self.check()
        assert checked.returncode == 0, checked.stderr
        self.process = subprocess.Popen([*self.command, "-g", "daemon off;"], stdin=subprocess.DEVNULL)
        internals = [
            internal
            for internal, site in (
                (self.places.internal, f"zz-{self.places.name}"),
                (self.places.relay_internal, self.places.relay_site.name),
            )
            if (self.places.nginx / "sites-enabled" / site).exists()
        ]
        until(lambda: all(told(one) for one in internals))

    def stop(self) -> None:
        """End it at once, as a host does that goes down."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None

    @property
    def error_log(self) -> str:
        return (self.places.root / "logs" / "error.log").read_text()


def told(internal: Path) -> str:
    """Return the digest that nginx tells; empty where it does not."""
    with contextlib.suppress(OSError), contextlib.closing(UnixConnection(str(internal))) as connection:
        return ask(connection, "/-/config").body.decode()
    return ""


def until(is_so: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def values_of(hosts: Sequence[str], servers: Sequence[Mapping[str, Any]], **site: Any) -> Values:
    """Return a stack's values on hosts."""
    return {
        "platform": "remote",
        "app": {"project": "./example", "settings": "example.settings"},
        "hosts": [
            {
                "name": name,
                "address": ADDRESSES[name],
                "internal": ADDRESSES[name],
                "host_key": "ssh-ed25519 AAAA",
                "roles": ROLES.get(name, ["app"]),
            }
            for name in hosts
        ],
        "upstream": {"servers": list(servers), "relay_port": free_ports(len(servers) + 1)},
        "site": {"server_names": ["shop.test"], "listen": free_ports(), **site},
    }


def on(*hosts: str) -> list[dict[str, Any]]:
    """Return instances app1, app2, … on these hosts."""
    return [{"name": f"app{number}", "host": host} for number, host in enumerate(hosts, 1)]


@dataclass
class Hosts:
    """Hosts with the stack of `values`, as a context manager. edit: changes a relay's or a site's text, by its path."""

    nginx: Nginx
    values: Values
    edit: Callable[[str, str], str] = lambda _path, text: text
    stack: str = "shop"
    keys: Mapping[str, HostsKeys] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    #: For answers that wait until a visitor has something.
    arrived: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Hosts:
        self.directory = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))
        self.directory.chmod(0o755)
        self.each = {
            host["name"]: Host(host["name"], HostPaths(self.stack, self.directory / host["name"]), self.nginx)
            for host in self.values["hosts"]
        }
        self.instances: dict[str, Instance] = {}
        try:
            self.deliver(self.values)
            for name in self.topology.names:
                self.begin(name)
            for host in self.each.values():
                host.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for host in self.each.values():
            host.stop()
        for instance in self.instances.values():
            instance.die()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def topology(self) -> Topology:
        return build_topology(parse_config(self.values))

    @property
    def port(self) -> int:
        """The site's."""
        return int(self.values["site"]["listen"])

    @property
    def relays(self) -> dict[str, int]:
        """The port of each instance where another host asks for it."""
        return relay_ports(self.topology)

    def place_of(self, instance: str) -> str:
        """Return the host of an instance."""
        return str(next(one["host"] for one in self.values["upstream"]["servers"] if one["name"] == instance))

    def begin(self, name: str) -> None:
        """Let an instance be there."""
        sockets = self.each[self.place_of(name)].places.sockets
        self.instances[name] = Instance(sockets / name / "http.sock", name, self.answers)

    def deliver(self, values: Values) -> None:
        """Write all files."""
        self.values, topology = values, build_topology(parse_config(values))
        for host in values["hosts"]:
            one, keys = self.each[host["name"]], self.keys.get(host["name"], KEYS)
            if "nginx" in host["roles"]:
                config = nginx_config(topology, one.places, one.name, self.nginx.version, keys=keys)
                one.put({name: self.edit(name, text) for name, text in config.files.items()})
                one.put(config.private)
            files = relay_files(topology, one.places, one.name, self.nginx.version)
            if files:
                digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()
                one.put({name: self.edit(name, text.replace(DIGEST_PLACE, digest)) for name, text in files.items()})
                one.put(shown_files(one.places, keys, one.name))

    def reload(self, host: str, *, politely: bool | None = None, settling: float = SETTLING_SECONDS) -> None:
        """Reload a host's nginx as the cluster does, and wait for its former workers to be no more asked."""
        one = self.each[host]
        if politely is None:
            politely = self.nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
        assert one.process is not None
        former = psutil.Process(one.process.pid).children()
        if politely:
            one.places.closing.touch()
            wait(CLOSING_SECONDS)
        one.process.send_signal(signal.SIGHUP)
        let_go(former)
        wait(settling)
        one.places.closing.unlink(missing_ok=True)

    @property
    def seen(self) -> list[Seen]:
        """All that instances were sent."""
        return [seen for instance in self.instances.values() for seen in instance.seen]

    def forget(self) -> None:
        """Forget what instances were sent."""
        for instance in self.instances.values():
            instance.seen.clear()

    def connect(self) -> socket.socket:
        """Return a visitor's connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), 4 * PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return all that comes until the connection ends; what the site's port is called is PORT."""
        with self.connect() as connection:
            connection.sendall(self.called(request))
            return self.rest(connection)

    def called(self, text: bytes) -> bytes:
        """Return a text with the site's port where it says PORT."""
        return text.replace(b"PORT", str(self.port).encode())

    def rest(self, connection: socket.socket) -> bytes:
        """Return all that comes until a connection ends."""
        found = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                found += data
        return self.as_port(bytes(found))

    def as_port(self, text: bytes) -> bytes:
        """Return a text with PORT where it has the site's port by itself: its digits may be in another number."""
        return re.sub(rb"(?<!\d)%d(?!\d)" % self.port, b"PORT", text)

    def status(self, path: str = "/", method: str = "GET", body: bytes = b"") -> int:
        """Return the status of an answer; 0 where none came."""
        found = self.raw(request(path, method, body))
        return int(found.split(b" ", 2)[1]) if found else 0


def request(path: str = "/", method: str = "GET", body: bytes = b"", *headers: str) -> bytes:
    """Return a request that ends its connection."""
    length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT") else []
    lines = [f"{method} {path} HTTP/1.1", "Host: shop.test:PORT", *length, "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
