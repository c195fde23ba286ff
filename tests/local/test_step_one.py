"""One release of two instances under load, by their names: the smallest real thing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.handover import serve
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.unix_http import UnixConnection
from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

NGINX = """
daemon off; {user} worker_processes 2; error_log {run}/error.log; pid {run}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  upstream cluster {{
    zone cluster 64k;
    server unix:{run}/app1/http.sock; server unix:{run}/app2/http.sock;
    keepalive 32; keepalive_time 1s; keepalive_timeout 1s;
  }}
  server {{
    listen 127.0.0.1:{port}; server_name cluster;
    location / {{
      proxy_pass http://cluster; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


class Pair:
    """Two instances behind a real nginx."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.secrets = run / "secrets"
        self.secrets.mkdir()
        (self.secrets / "secret_key").write_text("k" * 50)
        conf = run / "nginx.conf"
        conf.write_text(NGINX.format(run=run, port=self.port, user="user root;" if os.geteuid() == 0 else ""))
        self.nginx = subprocess.Popen(["/usr/sbin/nginx", "-p", str(run), "-e", "stderr", "-c", str(conf)])

    def environment(self, release: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "runtime"),
            "CLUSTER_CONFIG": str(self.run / f"{release}-config.json"),
        }

    def prepare(self, release: str, **more: object) -> None:
        config = {
            **more,
            "release": release,
            "project": str(ROOT / "example"),
            "settings": "example.settings",
            "secrets": str(self.secrets),
            "hosts": ["cluster"],
            "database": {"engine": "sqlite", "path": str(self.run / "db.sqlite3")},
            "static_root": str(self.run / "static"),
        }
        (self.run / f"{release}-config.json").write_text(json.dumps(config))
        for command in (["migrate", "-v0"], ["collectstatic", "--noinput", "-v0"]):
            manage = [sys.executable, "-m", "cluster_runtime.manage", *command]
            subprocess.run(manage, env=self.environment(release), check=True)

    def start(self, instance: str, release: str) -> None:
        with (self.run / f"{instance}-{release}.log").open("wb") as log:
            self.processes[instance, release] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster_runtime.instance", "run", "--instance", instance),
                    *("--config", str(self.run / f"{release}-config.json"), "--sockets", str(self.run)),
                ],
                env=self.environment(release),
                stderr=log,
            )

    def wait(self, instance: str, release: str, state: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status = InstanceLink(self.run, instance).status(release)
            if status is not None and status["state"] == state:
                return
            time.sleep(0.05)
        pytest.fail(f"{instance} {release} is not {state}: {status}")

    def stop(self, instance: str, release: str, sent: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop((instance, release))
        process.send_signal(sent)
        assert process.wait(60) is not None

    def close(self) -> None:
        for process in [*self.processes.values(), self.nginx]:
            process.terminate()
        for process in [*self.processes.values(), self.nginx]:
            process.wait(60)


#: Requests that are counted before and after a change, beside those during it.
AROUND = 500


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    run = tmp_path_factory.mktemp("s")
    with contextlib.closing(Pair(run)) as found:
        found.prepare("one")
        for instance in ("app1", "app2"):
            found.start(instance, "one")
        for instance in ("app1", "app2"):
            found.wait(instance, "one", "serving")
        yield found


@pytest.mark.wide
def test_a_release_loses_no_request_and_no_session(pair: Pair) -> None:
    with Load(("127.0.0.1", pair.port)) as load:
        load.wait_for(AROUND)
        pair.prepare("two")
        for instance in ("app1", "app2"):
            pair.start(instance, "two")
        for instance in ("app1", "app2"):
            pair.wait(instance, "two", "ready")
        for instance in ("app1", "app2"):
            serve(pair.run, instance, "two")
        for instance in ("app1", "app2"):
            pair.stop(instance, "one")
        load.wait_for(AROUND)
    print(load.counts)
    assert load.counts.total > 1000
    assert load.counts.failed == []
    assert load.counts.lost == []
    assert {release for _instance, release in load.counts.by} == {"one", "two"}


@pytest.mark.wide
def test_stopping_in_place_without_giving_the_name_up_does_lose_requests(pair: Pair) -> None:
    with Load(("127.0.0.1", pair.port)) as load:
        load.wait_for(AROUND)
        assert load.counts.failed == []
        for instance in ("app1", "app2"):
            status = InstanceLink(pair.run, instance).status("one")
            assert status is not None
            gunicorn = status["gunicorn"]
            os.kill(gunicorn, signal.SIGTERM)
            pair.processes.pop((instance, "one")).wait(60)
            pair.start(instance, "one")
        for instance in ("app1", "app2"):
            pair.wait(instance, "one", "serving")
        load.wait_for(AROUND)
    print(load.counts)
    assert load.counts.failed, "the protocol was switched off, and the test did not notice"


@pytest.mark.parametrize(("drain", "answered"), [(3.0, True), (0.0, False)], ids=["with the wait", "without it"])
def test_only_the_wait_lets_a_request_over_a_connection_that_nginx_still_holds_be_answered(
    pair: Pair, drain: float, answered: bool
) -> None:
    pair.prepare("three", interface="asgi", drain=drain)
    pair.start("app1", "three")
    pair.wait("app1", "three", "ready")
    serve(pair.run, "app1", "three")
    pair.wait("app1", "three", "serving")
    connection = UnixConnection(str(InstanceLink(pair.run, "app1").socket("three")), timeout=10)
    assert whoami(connection)
    pair.processes["app1", "three"].send_signal(signal.SIGTERM)
    if answered:
        time.sleep(0.7)
    else:
        pair.processes["app1", "three"].wait(60)
    assert whoami(connection) is answered


def whoami(connection: UnixConnection) -> bool:
    """Ask over a kept connection, as nginx does; tell whether it was answered."""
    try:
        connection.request("GET", "/whoami", headers={"Host": "cluster", "X-Forwarded-For": "127.0.0.1"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    return response.status == 200
