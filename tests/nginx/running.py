"""A running nginx with a rendered configuration, in front of instances that answer what they were sent.

Everything lives in a short directory of its own below /tmp (a unix socket's path has at most 107 bytes) and listens on
the loopback address alone. What is stopped is what was started here.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from cluster.acme.account import thumbprint_of
from cluster.acme.kept import Store, new_key
from cluster.config import parse_config
from cluster.endpoints import Endpoint
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.render.paths import NginxPaths
from cluster.render.users import users_file
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.tls.certificates import certificate_of, names_of
from cluster.topology import build_topology
from tests.certificates import authority
from tests.nginx_versions import CACHE, SUITES, Nginx, NginxUnavailable, fetch, installed_nginx, nginx_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Seconds that any one answer, start or reload may take.
PATIENCE = 15.0

#: Seconds that `closing` exists before a reload, as where the cluster runs.
CLOSING_SECONDS = 2.0

#: Seconds that it stays after the new configuration answers. nginx starts the new workers and lets the old ones go only
#: a tenth of a second later (ngx_master_process_cycle): until then they accept connections, and would keep them.
SETTLING_SECONDS = 0.5

#: A text that is worth compressing.
TEXT = "cluster " * 1000

JSON = "application/json"

Values = dict[str, Any]

#: Signs the certificates of sites with `self_signed`.
AUTHORITY = authority()

#: By which an authority of ACME knows the stack.
ACCOUNT = new_key()
THUMBPRINT = thumbprint_of(ACCOUNT)
#: For whom sites with `auth_basic` ask, and what a browser sends for each.
PASSWORDS = {"ann": "a password: of ann's", "zoe": "zoe's password"}
ANN, ZOE = ("Basic " + base64.b64encode(f"{name}:{word}".encode()).decode() for name, word in PASSWORDS.items())


def _width(name: str) -> list[pytest.MarkDecorator]:
    return [] if name == "installed" else [pytest.mark.wide]


def versions() -> list[Any]:
    """The parameters of a test for every nginx; one that can't be had here is a skip that says why."""
    here = installed_nginx()
    missing = [] if here else [("installed", "nginx is not installed")]
    for suite in SUITES:
        if not (CACHE / suite).is_dir():
            missing.append((suite, f"the nginx of {suite} is not here; `python -m tests.nginx_versions` fetches it"))
            continue
        try:
            fetch(suite)
        except NginxUnavailable as error:
            missing.append((suite, f"the nginx of {suite} does not run here: {error}"))
    return [
        *(
            # Those beside the machine's own are `make test-all`'s.
            pytest.param(nginx, id=".".join(map(str, nginx.version)), marks=[] if nginx == here else [pytest.mark.wide])
            for nginx in nginx_versions()
        ),
        *(
            pytest.param(None, id=name, marks=[pytest.mark.skip(reason=reason), *_width(name)])
            for name, reason in missing
        ),
    ]


def stack(
    servers: int | Sequence[object] = 2,
    *,
    upstream: Mapping[str, Any] | None = None,
    **site: Any,
) -> Values:
    """A stack's values: the least there may be, and what is given."""
    return {
        "platform": "local",
        "app": {"project": "./example", "settings": "example.settings"},
        "upstream": {"servers": servers, **(upstream or {})},
        "site": {"server_names": ["cluster", "localhost"], **site},
    }


class Below(dict[str, Endpoint]):
    """The endpoints of any instances below a directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def __missing__(self, instance: str) -> Endpoint:
        return Endpoint(path=f"{self.directory}/{instance}/http.sock")


def paths_in(directory: Path) -> NginxPaths:
    return NginxPaths(
        user="root" if os.geteuid() == 0 else None,
        instances=Below(directory / "s"),
        static=str(directory / "static"),
        shared=str(directory / "shared"),
        logs=str(directory / "logs"),
        temp=str(directory / "temp"),
        pid=str(directory / "nginx.pid"),
        internal=str(directory / "internal.sock"),
        closing=str(directory / "closing"),
        maintenance=str(directory / "maintenance"),
        acme=str(directory / "acme"),
        users=str(directory / "users"),
        listen_address="127.0.0.1",
        listen_address_ipv6="[::1]",
    )


def render(values: Values, paths: NginxPaths, version: tuple[int, int, int]) -> NginxConfig:
    config = parse_config(values)
    certificate = certificate_of(config, Path(), AUTHORITY, dt.datetime.now(dt.UTC))
    users = users_file(config, json.dumps(PASSWORDS))
    return render_nginx(build_topology(config), paths, version, certificate, users)


def write(config: NginxConfig, directory: Path) -> Path:
    """Write a configuration's files and links; return the path of its nginx.conf."""
    for path, text in {**config.files, **config.private}.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        # Another file, as platforms make one: of the same one, written in the same second, nginx from 1.27.4 on keeps
        # the former certificate (ssl_object_cache_inheritable).
        new = (directory / path).with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(directory / path)
    for path, target in config.links.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).unlink(missing_ok=True)
        (directory / path).symlink_to(target)
    return directory / "nginx.conf"


#: What this process has drawn last, and perhaps does not listen on yet.
_drawn: deque[int] = deque(maxlen=200)


def free_ports(count: int = 1) -> int:
    """The first of `count` ports in a row that nobody listens on, at any address, nor is about to.

    Each worker of the tests has its own share of those below tests/local's, which are below those that the kernel gives
    to clients. None has 443 in it: gixy takes every address with these three digits for one of https.
    """
    share = 12_000 + 500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16)
    for _ in range(500):
        first = random.randrange(share, share + 500 - count)
        ports = range(first, first + count)
        if any("443" in str(port) or port in _drawn for port in ports):
            continue
        with contextlib.ExitStack() as taken:
            try:
                for port in ports:
                    taken.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            _drawn.extend(ports)
            return first
    raise AssertionError(f"no {count} free ports in a row")


def wait(seconds: float) -> None:
    """Wait in steps: a process that was not let run meanwhile has not let its clients ask either."""
    for _ in range(round(10 * seconds)):
        time.sleep(0.1)


def _accepts(worker: psutil.Process) -> bool:
    """Tell whether a worker of nginx still takes connections: one that does not calls itself shutting down."""
    with contextlib.suppress(psutil.Error):
        return worker.status() != psutil.STATUS_ZOMBIE and "shutting down" not in " ".join(worker.cmdline())
    return False


def let_go(former: list[psutil.Process]) -> None:
    """Wait until former workers take no connections any more."""
    deadline = time.monotonic() + PATIENCE
    while any(map(_accepts, former)):
        assert time.monotonic() < deadline, f"former workers take connections still: {former}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Reply:
    """An answer that a client got."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    kept: bool

    @property
    def seen(self) -> dict[str, Any]:
        """What the instance says it was sent."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    def sent(self, name: str) -> list[str]:
        """The values of a header that the instance was sent."""
        return [value for key, value in self.seen["headers"] if key.lower() == name.lower()]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend
    # One packet an answer.
    wbufsize = 64 * 1024

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.open.add(self.connection)
            self.server.connections += 1
            self.number = self.server.connections

    def finish(self) -> None:
        with self.server.lock:
            self.server.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_args: object) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = self.requestline.split(" ")[1]  # as it came: self.path is tidied
        self.server.requests.append((self.command, path))
        url = urlsplit(self.path)
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.upgrade()
            return
        arguments = parse_qs(url.query)
        if url.path == "/slow":
            time.sleep(float(arguments["seconds"][0]))
        if url.path == "/text":
            self.reply(200, "text/plain", TEXT.encode())
            return
        seen = {
            "instance": self.server.name,
            "connection": self.number,
            "method": self.command,
            "path": path,
            "headers": self.headers.items(),
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        if "accel" in arguments:
            self.send_response_only(200)
            for name, value in (("X-Accel-Redirect", arguments["accel"][0]), ("Content-Disposition", "inline")):
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = json.dumps(seen).encode()
        given = arguments.get("header", [])
        if "cookie" in arguments:
            size = int(arguments["cookie"][0]) - len("sessionid=")
            given.append(f"Set-Cookie: sessionid={'x' * size}; HttpOnly; Path=/")
        if "head" in arguments:
            # So large are the status line and all headers then.
            fixed = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\nX-Filler: \r\n\r\n"
            given.append(f"X-Filler: {'x' * (int(arguments['head'][0]) - len(fixed))}")
        self.reply(int(arguments.get("status", ["200"])[0]), JSON, body, given)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer  # noqa: N815 - http.server's names

    def reply(self, status: int, media_type: str, body: bytes, given: Sequence[str] = ()) -> None:
        """Answer; given: further headers, each `Name: value`."""
        self.send_response_only(status)
        for header in given:
            self.send_header(*header.split(": ", 1))
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def upgrade(self) -> None:
        """Send back whatever comes."""
        self.send_response_only(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", self.headers.get("Connection", "").lower())
        self.end_headers()
        self.wfile.flush()
        while data := self.connection.recv(4096):
            self.connection.sendall(data)
        self.close_connection = True


class Mortal(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A stand-in for an instance, on a socket, that can end. open: its connections, which its handler keeps."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    thread: threading.Thread
    lock: threading.Lock
    open: set[socket.socket]

    def die(self) -> None:
        """End as a killed process does, and leave the name leading to a socket on which nobody answers."""
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join(PATIENCE)
        self.server_close()
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class Backend(Mortal):
    """The name that leads to a socket, and what was asked there."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self.link = directory / "http.sock"
        super().__init__(str(directory / "r1.sock"), _Handler)
        self.take_name()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def take_name(self) -> None:
        self.link.symlink_to("r1.sock")

    def give_name_up(self) -> None:
        self.link.unlink()


@dataclass
class Running:
    """nginx with the configuration of `values`, as a context manager.

    `edit` changes the text of each file after rendering: what a test sabotages. `sockets` is a directory in which real
    instances have their names, in place of the stand-ins.
    """

    nginx: Nginx
    values: Values
    edit: Callable[[str], str] = lambda text: text
    backends: dict[str, Backend] = field(default_factory=dict)
    sockets: Path | None = None

    def __enter__(self) -> Running:
        self.directory = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))
        self.directory.chmod(0o755)
        self.paths = paths_in(self.directory)
        if self.sockets is not None:
            self.paths = replace(self.paths, instances=Below(self.sockets))
        for name in ("logs", "temp", "static", "conf"):
            (self.directory / name).mkdir()
        servers = build_topology(parse_config(self.values)).names
        self.values["site"].setdefault("listen", free_ports())
        self.port: int = self.values["site"]["listen"]
        if (self.values["site"].get("tls") or {}).get("acme") is not None:
            Store(self.directory / "acme").prepare(names_of(parse_config(self.values)), THUMBPRINT)
        for name in servers if self.sockets is None else ():
            self.backends[name] = Backend(self.directory / "s" / name, name)
        self.config = self.put(self.values)
        conf = str(self.directory / "conf" / "nginx.conf")
        self.process = subprocess.Popen(
            [*self.nginx.command, "-p", str(self.directory), "-e", "stderr", "-c", conf, "-g", "daemon off;"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.wait_for_digest()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        for backend in self.backends.values():
            backend.die()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def requests(self) -> list[tuple[str, str]]:
        """What all instances were asked, as they saw it."""
        return [request for backend in self.backends.values() for request in backend.requests]

    @property
    def error_log(self) -> str:
        return (self.directory / "logs" / "error.log").read_text()

    def put(self, values: Values) -> NginxConfig:
        config = render(values, self.paths, self.nginx.version)
        edited = {path: self.edit(text) for path, text in config.files.items()}
        write(replace(config, files=edited), self.directory / "conf")
        if config.users:
            Path(self.paths.users).write_text(config.users)
        return config

    def live_digest(self) -> str:
        return self.internal("/-/config").body.decode()

    def wait_for_digest(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                if self.live_digest() == self.config.digest:
                    return
            if self.process.poll() is not None:
                raise AssertionError(f"nginx ended: {self.process.communicate()[1]}")
            assert time.monotonic() < deadline, f"nginx does not tell its digest: {self.error_log}"
            time.sleep(0.01)

    def reload(self, values: Values, *, politely: bool | None = None, settling: float = SETTLING_SECONDS) -> None:
        """Reload as the cluster does: before 1.27.4 clients' connections are closed first, response by response."""
        if politely is None:
            politely = self.nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE
        self.values = values
        self.config = self.put(values)
        closing = Path(self.paths.closing)
        former = psutil.Process(self.process.pid).children()
        if politely:
            closing.touch()
            wait(CLOSING_SECONDS)
        try:
            self.process.send_signal(signal.SIGHUP)
            self.wait_for_digest()
            if politely:
                let_go(former)  # where the digest is the same, a former one may have told it
                wait(settling)
        finally:
            closing.unlink(missing_ok=True)

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        host: str = "cluster",
        port: int | None = None,
        **headers: str,
    ) -> Reply:
        """One request on a connection of its own; `_` in a header's name stands for `-`."""
        with contextlib.closing(self.connect(port)) as connection:
            return ask(connection, path, method=method, body=body, host=host, **headers)

    def internal(self, path: str, *, host: str = "internal", **headers: str) -> Reply:
        """One GET on the internal socket."""
        with contextlib.closing(UnixConnection(self.paths.internal)) as connection:
            return ask(connection, path, method="GET", body=None, host=host, **headers)

    def connect(self, port: int | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)

    def open(self, port: int | None = None, address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), PATIENCE, (address, 0))

    def raw(self, request: bytes, *, port: int | None = None) -> Reply | None:
        """Send bytes as they are; None where nginx closed the connection without an answer."""
        with self.open(port) as connection:
            connection.sendall(request)
            return read_reply(connection, method=request.split(b" ", 1)[0].decode("latin-1"))


def read_reply(connection: socket.socket, method: str = "GET") -> Reply | None:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return None
    return Reply(response.status, response.headers, response.read(), kept=not response.will_close)


def ask(
    connection: http.client.HTTPConnection,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    host: str = "cluster",
    **headers: str,
) -> Reply:
    """One request on a connection that may be kept; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Host": host, **named})
    response = connection.getresponse()
    return Reply(response.status, response.headers, response.read(), kept=not response.will_close)
