"""Requests that a proxy passes on per second of its CPU time, against peers, and how long rendering takes.

    PYTHONPATH=.:runtime python -m bench.proxy              # writes docs/benchmarks/proxy.md, .json and .svg
    PYTHONPATH=.:runtime python -m bench.proxy --variants   # what each part of the rendered config costs; prints only

wrk keeps its connections over loopback; all proxies are up all the time and are measured in turn, round by round. What
counts is the CPU time of all the proxy's processes, so that other load on the machine matters little. The tools wrk and
haproxy are not installed by this.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.backend import BODY, INSTANCES, Backend, backend_config, cpu_seconds, free_ports, nginx_config, process, user
from bench.plot import Bar, bar_chart
from cluster.config import load_stack, parse_config
from cluster.render.nginx import NginxPlaces, render_nginx
from cluster.topology import build_topology
from tests.nginx_versions import Nginx, installed_nginx, nginx_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks"
COMMAND = "PYTHONPATH=.:runtime .venv/bin/python -m bench.proxy"
HOST = "cluster"

#: The targets, as ratios of medians; of rendering, seconds.
TARGET_OVER_TUTORIAL = 4.0
TARGET_RENDERING = 0.3
RENDERED_SIZES = (4, 100, 1000)

#: Since here nginx keeps connections to an upstream by default, and the tutorial's config is another one.
UPSTREAM_KEEPALIVE_BY_DEFAULT = (1, 29, 7)

#: As Debian's nginx.conf has it around a site, and as tutorials write the site.
TUTORIAL = """\
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/octet-stream;
    access_log {directory}/access.log;
    gzip on;
    upstream cluster {{
{servers}    }}
    server {{
        listen 127.0.0.1:{port};
        server_name cluster;
        location / {{
{protocol}            proxy_pass http://cluster;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
"""

#: What was nginx's default until 1.29.6, said aloud.
HTTP_1_0 = """\
            proxy_http_version 1.0;
            proxy_set_header Connection close;
"""

BY_ITSELF = """\
    access_log off;
    default_type text/html;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port};
        return 200 "{body}";
    }}
"""

HAPROXY = """\
global
    nbthread {threads}
    maxconn 4096
{global_log}defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 75s
    option http-keep-alive
    http-reuse always
{log}frontend site
    bind 127.0.0.1:{port}
    default_backend cluster
backend cluster
    balance {balance}
{headers}{servers}"""

#: The headers that the rendered config passes on.
HAPROXY_HEADERS = """\
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Real-IP %[src]
    http-request del-header Forwarded
    http-request del-header X-Forwarded-Server
    http-request del-header X-Forwarded-Protocol
    http-request del-header X-Forwarded-Ssl
    http-request del-header Proxy
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A proxy to measure: `tool` runs `command`; `group` names what it is compared within."""

    name: str
    title: str
    tool: str
    group: str
    port: int
    command: tuple[str, ...]
    directory: Path
    #: The lines of access log that a request writes: seen to be so before the measuring.
    logs: bool = False


@dataclass
class Measured:
    """What the rounds gave: requests, CPU seconds and wall seconds of each."""

    requests: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def per_cpu_second(self) -> list[float]:
        return [requests / cpu for requests, cpu in zip(self.requests, self.cpu, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.per_cpu_second)


class BenchmarkError(Exception):
    """The benchmark can't say anything; the message says why, in one line."""


Edit = tuple[str, str]


def rendered(
    nginx: Nginx, directory: Path, backend: Backend, port: int, edits: tuple[Edit, ...] = (), *, access_log: bool = True
) -> tuple[str, ...]:
    """Put this project's config of four instances into `directory`; returns the command that runs it.

    `edits` are pairs of a regular expression that must be found and its replacement.
    """
    config = parse_config(
        {
            "platform": "local",
            "app": {"project": "./example", "settings": "example.settings"},
            "upstream": {"servers": INSTANCES},
            "site": {"server_names": [HOST, "localhost"], "listen": port, "access_log": access_log},
        }
    )
    for name in ("logs", "temp", "static", "sites-enabled", "sites-available"):
        (directory / name).mkdir(parents=True)
    places = NginxPlaces(
        user=user(),
        sockets=str(backend.sockets),
        static=f"{directory}/static",
        logs=f"{directory}/logs",
        temp=f"{directory}/temp",
        pid=f"{directory}/nginx.pid",
        internal=f"{directory}/internal.sock",
        closing=f"{directory}/closing",
        listen_address="127.0.0.1",
    )
    result = render_nginx(build_topology(config), places, nginx.version)
    files = dict(result.files)
    for pattern, replacement in edits:
        found = 0
        for path, text in files.items():
            files[path], count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
            found += count
        if not found:
            raise BenchmarkError(f"the rendered config of {nginx} has no {pattern!r}")
    for path, text in files.items():
        (directory / path).write_text(text)
    for path, target in result.links.items():
        (directory / path).symlink_to(target)
    return nginx_command(nginx, directory)


def nginx_command(nginx: Nginx, directory: Path) -> tuple[str, ...]:
    return (
        *nginx.command,
        *("-e", "stderr", "-p", str(directory), "-c", f"{directory}/nginx.conf", "-g", "daemon off;"),
    )


def plain_nginx(nginx: Nginx, directory: Path, http_block: str) -> tuple[str, ...]:
    directory.mkdir()
    (directory / "nginx.conf").write_text(nginx_config(directory, http_block))
    return nginx_command(nginx, directory)


def tutorial(nginx: Nginx, directory: Path, backend: Backend, port: int, protocol: str) -> tuple[str, ...]:
    servers = "".join(f"        server 127.0.0.1:{server};\n" for server in backend.ports)
    text = TUTORIAL.format(directory=directory, servers=servers, port=port, protocol=protocol)
    return plain_nginx(nginx, directory, text)


def haproxy(
    directory: Path,
    backend: Backend,
    port: int,
    *,
    sockets: bool = True,
    headers: bool = False,
    log: bool = False,
    threads: int | None = None,
    balance: str = "roundrobin",
) -> tuple[str, ...]:
    directory.mkdir()
    addresses = [
        f"unix@{backend.socket(name).removeprefix('unix:')}" if sockets else f"127.0.0.1:{server}"
        for name, server in zip(backend.names(), backend.ports, strict=True)
    ]
    text = HAPROXY.format(
        threads=threads or os.cpu_count(),
        # To the file that is its standard output: haproxy itself knows no files, and a syslog daemon would cost more.
        global_log="    log stdout format raw local0\n" if log else "",
        log="    log global\n    option httplog\n" if log else "",
        port=port,
        balance=balance,
        headers=HAPROXY_HEADERS if headers else "",
        servers="".join(
            f"    server {name} {address}\n" for name, address in zip(backend.names(), addresses, strict=True)
        ),
    )
    (directory / "haproxy.cfg").write_text(text)
    return ("haproxy", "-db", "-f", f"{directory}/haproxy.cfg")


def nginx_subjects(nginx: Nginx, base: Path, backend: Backend) -> list[Subject]:
    """The rendered config, the tutorial's and the ceiling with one nginx."""
    tool = str(nginx)
    label = ".".join(map(str, nginx.version))
    a, b, plain, ceiling = free_ports(4)

    def subject(name: str, title: str, port: int, command: tuple[str, ...], *, logs: bool) -> Subject:
        place = base / f"{label}-{name}"
        return Subject(
            name=f"{name} {label}",
            title=title,
            tool=tool,
            group=tool,
            port=port,
            command=command,
            directory=place,
            logs=logs,
        )

    subjects = [
        subject(
            "rendered",
            "this project's config, access log included",
            a,
            rendered(nginx, base / f"{label}-rendered", backend, a),
            logs=True,
        ),
        subject(
            "tutorial",
            "the tutorial's plain config, HTTP/1.0 to the servers",
            b,
            tutorial(nginx, base / f"{label}-tutorial", backend, b, HTTP_1_0),
            logs=True,
        ),
    ]
    if nginx.version >= UPSTREAM_KEEPALIVE_BY_DEFAULT:
        subjects.append(
            subject(
                "plain",
                "the same plain config with this nginx's own defaults",
                plain,
                tutorial(nginx, base / f"{label}-plain", backend, plain, ""),
                logs=True,
            )
        )
    by_itself = BY_ITSELF.format(port=ceiling, body="." * BODY)
    subjects.append(
        subject(
            "itself",
            "nginx answering by itself, no log (ceiling)",
            ceiling,
            plain_nginx(nginx, base / f"{label}-itself", by_itself),
            logs=False,
        )
    )
    return subjects


def haproxy_subjects(base: Path, backend: Backend, version: str) -> list[Subject]:
    """The best that haproxy can, and then what it costs to do the rendered config's work as well."""
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("unix", "reuse always, unix sockets, no headers, no log", {}),
        ("unix one thread", "the same, one thread", {"threads": 1}),
        ("tcp", "reuse always, TCP, no headers, no log", {"sockets": False}),
        ("unix headers", "unix sockets, the same headers as ours, no log", {"headers": True}),
        ("unix headers log", "unix sockets, the same headers as ours, log", {"headers": True, "log": True}),
    ]
    subjects = []
    for (name, title, options), port in zip(variants, free_ports(len(variants)), strict=True):
        directory = base / f"haproxy-{name.replace(' ', '-')}"
        subjects.append(
            Subject(
                name=f"haproxy {name}",
                title=title,
                tool=f"haproxy {version}",
                group="haproxy",
                port=port,
                command=haproxy(directory, backend, port, **options),
                directory=directory,
                logs=bool(options.get("log")),
            )
        )
    return subjects


#: What can be taken out of the rendered config or put into it, to see what it costs; those of one nginx may be absent
#: in another.
VARIANTS: dict[str, tuple[Edit, ...]] = {}


def logs_of(subject: Subject) -> list[Path]:
    return [*subject.directory.rglob("*.log")]


def check(subject: Subject) -> None:
    """See that the proxy gives the backend's answer, from all instances, and logs where it should."""
    before = sum(log.stat().st_size for log in logs_of(subject))
    seen = set()
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=10)
    for _ in range(INSTANCES * 4):
        connection.request("GET", "/", headers={"Host": f"{HOST}:{subject.port}"})
        response = connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK or len(body) != BODY:
            raise BenchmarkError(f"{subject.name}: answers {response.status} with {len(body)} bytes")
        seen.add(body[:4])
    connection.close()
    if not subject.name.startswith("itself") and len(seen) != INSTANCES:
        raise BenchmarkError(f"{subject.name}: only {len(seen)} of {INSTANCES} instances answer")
    time.sleep(1.2)  # a buffered log is written within a second
    grown = sum(log.stat().st_size for log in logs_of(subject)) - before
    if bool(grown) != subject.logs:
        raise BenchmarkError(f"{subject.name}: its log grew by {grown} bytes")


def load(subject: Subject, seconds: float, connections: int) -> int:
    """Put load on the proxy; returns how many requests it answered. One that failed fails the benchmark."""
    url = f"http://127.0.0.1:{subject.port}/"
    host = f"Host: {HOST}:{subject.port}"
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-H", host, url],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    failed = re.search(r"(Non-2xx.*|Socket errors.*)", done.stdout)
    requests = re.search(r"(\d+) requests in", done.stdout)
    if failed or not requests:
        raise BenchmarkError(f"{subject.name}: {failed[0] if failed else done.stdout}")
    return int(requests[1])


def measure(subjects: list[Subject], rounds: int, seconds: float, connections: int) -> dict[str, Measured]:
    """Measure all in turn, round by round."""
    results = {subject.name: Measured() for subject in subjects}
    with contextlib.ExitStack() as running:
        pids = {
            subject.name: running.enter_context(process(list(subject.command), subject.directory / "output.log"))
            for subject in subjects
        }
        for subject in subjects:
            check(subject)
            load(subject, 1, connections)
        for number in range(1, rounds + 1):
            for subject in subjects:
                result = results[subject.name]
                cpu, began = cpu_seconds(pids[subject.name]), time.monotonic()
                result.requests.append(load(subject, seconds, connections))
                result.seconds.append(time.monotonic() - began)
                result.cpu.append(cpu_seconds(pids[subject.name]) - cpu)
                for log in logs_of(subject):
                    os.truncate(log, 0)
                print(f"{number}/{rounds} {subject.name:28} {result.per_cpu_second[-1]:9,.0f}", file=sys.stderr)
    return results


def version_of(*command: str) -> str:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = re.search(r"(?:version |debian/)(\d+(?:\.\d+)+)", done.stdout + done.stderr)
    return found[1] if found else "of an unknown version"


def missing_tools() -> list[str]:
    return [tool for tool in ("wrk", "haproxy") if shutil.which(tool) is None]


def chosen_nginx() -> list[Nginx]:
    """The machine's nginx first, then the newest of those at hand."""
    versions = nginx_versions()
    installed = installed_nginx()
    if not versions:
        raise BenchmarkError("no nginx: apt-get install nginx")
    first = installed or versions[0]
    return [first, *([versions[-1]] if versions[-1] != first else [])]


@contextlib.contextmanager
def surroundings() -> Iterator[tuple[Path, Backend]]:
    """A short directory (a unix socket's path has at most 107 bytes) and the running backend."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        base = Path(name)
        backend = Backend(sockets=base / "s", ports=free_ports(INSTANCES))
        for instance in backend.names():
            (backend.sockets / instance).mkdir(parents=True)
        directory = base / "backend"
        command = plain_backend(directory, backend)
        with process(list(command), directory / "output.log"):
            yield base, backend


def plain_backend(directory: Path, backend: Backend) -> tuple[str, ...]:
    nginx = chosen_nginx()[0]
    directory.mkdir()
    (directory / "nginx.conf").write_text(backend_config(directory, backend))
    return nginx_command(nginx, directory)


def stack_values(instances: int) -> dict[str, Any]:
    """A stack file's values with every server spelled out."""
    return {
        "platform": "local",
        "app": {"project": "./example", "settings": "example.settings"},
        "upstream": {
            "servers": [{"name": f"app{number}", "weight": 1 + number % 5} for number in range(1, instances + 1)]
        },
        "sessions": {"engine": "cached_db"},
        "site": {"server_names": [HOST, "localhost"]},
    }


def write_stack(root: Path, instances: int) -> None:
    (root / "stacks").mkdir(exist_ok=True)
    values = {f"cluster:{key}": value for key, value in stack_values(instances).items()}
    (root / "stacks" / "Pulumi.bench.yaml").write_text(yaml.safe_dump({"config": values}, sort_keys=False))


def timed(action: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return taken


def rendering() -> dict[str, dict[str, list[float] | str]]:
    """Seconds that it takes to render, by step and number of instances."""
    places = NginxPlaces(
        user=None,
        sockets="/run/cluster/sockets",
        static="/srv/static",
        logs="/var/log/cluster",
        temp="/run/cluster/temp",
        pid="/run/cluster/nginx.pid",
        internal="/run/cluster/internal.sock",
        closing="/run/cluster/closing",
    )
    version = chosen_nginx()[-1].version
    taken: dict[str, dict[str, list[float] | str]] = {}
    for instances in RENDERED_SIZES:
        values = stack_values(instances)
        config = parse_config(values)
        topology = build_topology(config)
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            root = Path(name)
            write_stack(root, instances)
            taken[str(instances)] = {
                "values to nginx text": timed(
                    lambda values=values: render_nginx(build_topology(parse_config(values)), places, version),  # type: ignore[misc]
                    5,
                ),
                "of that: parse_config": timed(lambda values=values: parse_config(values), 5),  # type: ignore[misc]
                "of that: render_nginx": timed(
                    lambda topology=topology: render_nginx(topology, places, version),  # type: ignore[misc]
                    5,
                ),
                "reading the stack file (load_stack)": timed(lambda root=root: load_stack(root, "bench"), 5),  # type: ignore[misc]
                "the command `cluster render`": command_rendering(root),
            }
    return taken


def command_rendering(root: Path) -> list[float] | str:
    """The command as a person runs it: Python's own start and all imports included."""
    if not (ROOT / "cluster" / "__main__.py").exists():
        return "not yet there"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    command = [sys.executable, "-m", "cluster", "render", "bench"]

    def run() -> None:
        subprocess.run(command, check=True, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True)

    try:
        run()  # compiles what is not yet compiled
        return timed(run, 3)
    except subprocess.CalledProcessError as error:
        return f"fails with exit status {error.returncode}"
