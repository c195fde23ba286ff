"""A site beside others on an nginx that is not ours alone: theirs stays what it is, and ours does what it does alone.

The foreign sites are such as people write them: each relies on nginx's defaults somewhere that the site's file, put
into `http` as it is for an nginx of our own, would change for them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crossplane
import psutil
import pytest

from cluster.config import parse_config
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.render.shared import Place, render_shared
from cluster.topology import build_topology
from tests.nginx.running import PATIENCE, Backend, UnixConnection, ask, free_ports, paths_in, stack, versions, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx.running import Reply, Values
    from tests.nginx_versions import Nginx

#: As Debian ships it, but for where it is.
DISTRIBUTION = """\
{user}worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/logs/error.log;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    types {{ text/html html; text/plain txt; }}
    default_type application/octet-stream;
    ssl_protocols TLSv1.2 TLSv1.3;
    access_log {directory}/logs/access.log;
    gzip on;
    client_body_temp_path {directory}/temp/b;
    proxy_temp_path {directory}/temp/p;
    fastcgi_temp_path {directory}/temp/f;
    uwsgi_temp_path {directory}/temp/u;
    scgi_temp_path {directory}/temp/s;
    include {directory}/conf/sites-enabled/*;
}}
"""

FOREIGN = {
    # Headers of its own, one place for files, the default of its port.
    "blog": """\
limit_req_zone $binary_remote_addr zone=rate:1m rate=100r/s;
upstream cluster {{ server 127.0.0.1:{upstream}; }}
server {{
    listen 127.0.0.1:{port} default_server;
    server_name blog.test;
    location / {{ limit_req zone=rate burst=100; proxy_pass http://cluster; proxy_set_header X-Blog yes; }}
    location /files/ {{ root {directory}/www; }}
}}
""",
    # Nothing but nginx's defaults.
    "plain": """\
server {{
    listen 127.0.0.1:{port};
    server_name plain.test;
    location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
}}
""",
    # A variable that a site's file of ours has too, were it not called after the stack.
    "maps": """\
map $http_upgrade $cluster_connection {{ default close; "" "close"; }}
server {{
    listen 127.0.0.1:{port};
    server_name maps.test;
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_set_header X-Said $cluster_connection; }}
}}
""",
}


class _Upstream(ThreadingHTTPServer):
    """Keeps each request as it came, byte for byte but for what differs by chance."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: _Upstream

    def handle_one_request(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                self.close_connection = True
                return
            head += line
        self.server.seen.append(head)
        body = b"x" * 3000
        self.wfile.write(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nX-Own: 1\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        self.wfile.write(body)
        self.close_connection = True


class Shared:
    """An nginx with three foreign sites, into which sites' files of ours are put."""

    def __init__(self, nginx: Nginx) -> None:
        self.nginx = nginx
        self.directory = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))
        self.directory.chmod(0o755)
        for name in ("logs", "temp", "static", "conf/sites-enabled", "conf/sites-available", "www/files"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "www/files/a.html").write_text("<p>" + "a" * 3000)
        self.port = free_ports()
        self.upstream = _Upstream()
        user = "user root;\n" if os.geteuid() == 0 else ""  # that it reaches what is below /tmp
        given = {"user": user, "port": self.port, "upstream": self.upstream.server_port, "directory": self.directory}
        self.conf = self.directory / "conf" / "nginx.conf"
        self.conf.write_text(DISTRIBUTION.format(**given))
        for name, text in FOREIGN.items():
            (self.directory / "conf/sites-enabled" / name).write_text(text.format(**given))
        self.command = [*nginx.command, "-p", str(self.directory), "-e", "stderr", "-c", str(self.conf)]
        self.backends: list[Backend] = []
        self.process = subprocess.Popen([*self.command, "-g", "daemon off;"], stdin=subprocess.DEVNULL)
        self.until(lambda: self.get("plain.test").status == 200)

    def until(self, is_so: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if is_so():
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.upstream.shutdown()
        self.upstream.server_close()
        for backend in self.backends:
            backend.die()
        shutil.rmtree(self.directory, ignore_errors=True)

    def get(self, host: str, path: str = "/", *, port: int | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            return ask(connection, path, method="GET", body=None, host=host, **headers)

    def render(self, name: str, values: Values) -> NginxConfig:
        """Return a stack's site, with sockets of its own."""
        place = Place(name=name, directory=str(self.directory / "conf" / name))
        paths = paths_in(self.directory / name)
        return render_shared(build_topology(parse_config(values)), paths, self.nginx.version, place)

    def put(self, name: str, values: Values) -> NginxConfig:
        """Put a stack's site in place and reload, once nginx has accepted it; its instances are there."""
        config = self.render(name, values)
        for directory in ("logs", "static", "temp"):
            (self.directory / name / directory).mkdir(parents=True, exist_ok=True)
        for instance in build_topology(parse_config(values)).names:
            self.backends.append(Backend(self.directory / name / "s" / instance, instance))
        write(config, self.directory / "conf")
        done = self.check()
        assert done.returncode == 0, done.stderr
        former = self.reload()
        internal = str(self.directory / name / "internal.sock")

        def told() -> bool:
            with contextlib.closing(UnixConnection(internal)) as connection:
                return ask(connection, "/-/config").body.decode() == config.digest

        self.until(told)
        self.until(lambda: not any(worker.is_running() for worker in former))
        return config

    def reload(self) -> list[psutil.Process]:
        """Reload; return the workers of before, which answer a moment longer."""
        former: list[psutil.Process] = psutil.Process(self.process.pid).children()
        self.process.send_signal(signal.SIGHUP)
        return former

    def check(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, "-t", "-q"], capture_output=True, text=True, check=False)

    def foreign(self) -> list[Any]:
        """What visitors of the foreign sites get, and what their upstream is sent, of all that could differ."""
        seen: list[Any] = []
        asked: list[tuple[str, str, dict[str, str]]] = [
            *((host, "/", {}) for host in ("blog.test", "plain.test", "maps.test", "nobody.test")),
            ("plain.test", "/?a=%2e", {"Upgrade": "websocket", "Connection": "upgrade"}),
            ("plain.test", "/", {"Accept-Encoding": "gzip", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4"}),
            ("blog.test", "/files/a.html", {"Accept-Encoding": "gzip"}),
            ("plain.test", "/-/health", {}),
        ]
        for host, path, headers in asked:
            self.upstream.seen.clear()
            reply = self.get(host, path, port=self.port, **headers)
            kept = [
                (name, value) for name, value in reply.headers.items() if name not in ("Date", "Last-Modified", "ETag")
            ]
            seen.append((host, path, reply.status, kept, reply.body, list(self.upstream.seen)))
        return seen


@pytest.fixture(params=versions())
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    found = Shared(request.param)
    try:
        yield found
    finally:
        found.close()


def site(**more: Any) -> Values:
    values = stack(2, listen=free_ports(), instance_ports=free_ports(2), limit="100r/s", **more)
    values["site"]["server_names"] = ["shop.test"]
    return values


def test_other_sites_answer_and_ask_as_before(shared: Shared) -> None:
    before = shared.foreign()
    assert sum(len(one[-1]) for one in before) == 7  # all but the file
    values = site()
    values["site"]["listen"] = shared.port
    shared.put("cluster-shop", values)
    assert shared.foreign() == before
    assert shared.get("shop.test").seen["instance"].startswith("app")


def test_a_site_for_an_nginx_of_our_own_would_change_them(shared: Shared) -> None:
    """What the test above would see: the same tree, not moved. Its names are given room, that it loads at all."""
    before = shared.foreign()
    config = parse_config(site())
    paths = paths_in(shared.directory / "own")
    for directory in ("logs", "static", "temp"):
        (shared.directory / "own" / directory).mkdir(parents=True, exist_ok=True)
    rendered = render_nginx(build_topology(config), paths, shared.nginx.version)
    text = rendered.files["sites-available/cluster"].replace("upstream cluster {", "upstream ours {")
    text = text.replace("zone cluster ", "zone ours ")
    (shared.directory / "conf/sites-enabled/zz-ours").write_text(text)
    assert shared.check().returncode == 0, shared.check().stderr
    former = shared.reload()
    shared.until((shared.directory / "own/internal.sock").exists)
    shared.until(lambda: not any(worker.is_running() for worker in former))
    after = shared.foreign()
    changed = [one[0] for one, other in zip(before, after, strict=True) if one != other]
    assert "plain.test" in changed
    assert b"Host: 127.0.0.1" in before[1][-1][0]
    assert b"Host: plain.test" in after[1][-1][0]


def test_two_stacks_lie_beside_each_other(shared: Shared) -> None:
    first, second = site(), site(redirects={"/old/": "/new/"})
    second["site"]["server_names"] = ["other.test"]
    first["site"]["listen"] = second["site"]["listen"] = free_ports()
    shared.put("cluster-shop", first)
    shared.put("cluster-other", second)
    port = first["site"]["listen"]
    assert shared.get(f"shop.test:{port}", port=port).sent("host") == [f"shop.test:{port}"]
    assert shared.get("other.test", "/old/a", port=port).status == 308
    assert shared.get("shop.test", "/old/a", port=port).status == 200
    # Each tells of itself alone.
    assert shared.get("shop.test", "/-/config", port=port).status == 404
    # One port of two stacks, both of which leave strangers to nobody.
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        shared.get("nobody.test", port=port)


def test_it_does_for_its_visitors_what_it_does_alone(shared: Shared) -> None:
    values = site(headers={"X-Frame-Options": "DENY"}, client_max_body_size="1k")
    shared.put("cluster-shop", values)
    port = values["site"]["listen"]
    (shared.directory / "cluster-shop/static/r/static").mkdir(parents=True)
    (shared.directory / "cluster-shop/static/r/static/a.css").write_text("a{}" + " " * 2000)
    (shared.directory / "cluster-shop/static/current").symlink_to("r")
    reply = shared.get("shop.test", "/static/a.css", port=port, Accept_Encoding="gzip")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/css")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert "nginx/" not in reply.headers["Server"]
    reply = shared.get("shop.test", "/a", port=port, X_Forwarded_For="6.6.6.6", Forwarded="for=6.6.6.6")
    assert reply.sent("x-forwarded-for") == ["127.0.0.1"]
    assert reply.sent("forwarded") == []
    assert reply.sent("x-cluster-request") != []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        assert ask(connection, "/", method="POST", body=b"x" * 2000, host="shop.test").status == 413
    own = shared.get("127.0.0.1", "/", port=values["site"]["instance_ports"] + 1)
    assert own.seen["instance"] == "app2"
    log = (shared.directory / "cluster-shop/logs/access.log").read_text
    shared.until(lambda: '"GET /a HTTP/1.1" 200' in log())
    assert "/static/a.css" not in (shared.directory / "logs/access.log").read_text()


def test_the_parsed_site_is_that_of_an_nginx_of_our_own(shared: Shared) -> None:
    """Directives that are every server's stand elsewhere; of all others each is there, called after the stack."""
    values = site(locations=[{"path": "/up/", "limit": "1r/s"}], headers={"X-Frame-Options": "DENY"})
    topology = build_topology(parse_config(values))
    paths = paths_in(shared.directory / "one")
    alone = render_nginx(topology, paths, shared.nginx.version).files["sites-available/cluster"]
    found = render_shared(topology, paths, shared.nginx.version, Place(name="cluster-shop", directory="/etc/x"))
    (text,) = found.files.values()
    assert "$cluster_" not in text
    assert "?<cluster_" not in text
    theirs, ours = _servers(shared, alone), _servers(shared, text)
    assert len(theirs) == len(ours) == 5
    variables = Place(name="cluster-shop", directory="").variables
    for their, our in zip(theirs, ours, strict=True):
        plain = json.dumps(our).replace(f"${variables}", "$cluster_").replace("cluster-shop", "cluster")
        named = {json.dumps(one) for one in json.loads(plain)}
        missing = [one for one in their if json.dumps(one) not in named and '"0000' not in json.dumps(one)]
        assert [one for one in missing if one["directive"] not in ("listen", "location")] == []
        assert len([one for one in our if one["directive"] == "location"]) == len(
            [one for one in their if one["directive"] == "location"]
        )


def _servers(shared: Shared, text: str) -> list[Any]:
    path = shared.directory / "parsed.conf"
    path.write_text(text)
    parsed = crossplane.parse(str(path), check_ctx=False, check_args=False)["config"][0]["parsed"]
    return [_bare(one["block"]) for one in parsed if one["directive"] == "server"]


def _bare(tree: list[Any]) -> list[Any]:
    return [
        {
            "directive": one["directive"],
            "args": one["args"],
            **({"block": _bare(one["block"])} if "block" in one else {}),
        }
        for one in tree
    ]
