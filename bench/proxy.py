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
import datetime as dt
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
from cluster.render.nginx import render_nginx
from cluster.render.paths import NginxPaths
from cluster.services import Kind
from cluster.topology import build_topology
from tests.nginx_versions import Nginx, installed_nginx, nginx_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.render.nginx import NginxConfig
    from cluster.tls.certificates import Certificate

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
    balance roundrobin
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
    nginx: Nginx, directory: Path, backend: Backend, port: int, edits: tuple[Edit, ...] = ()
) -> tuple[str, ...]:
    """Put this project's config of four instances into `directory`; returns the command that runs it.

    `edits` are pairs of a regular expression that must be found and its replacement.
    """
    return written(nginx, directory, config_of(nginx, directory, backend, {"listen": port}), edits)


def config_of(
    nginx: Nginx, directory: Path, backend: Backend, site: dict[str, object], certificate: Certificate | None = None
) -> NginxConfig:
    """Return this project's config of four instances, which lies in `directory`; site: more of the stack file's."""
    config = parse_config(
        {
            "platform": "local",
            "app": {"project": "./example", "settings": "example.settings"},
            "upstream": {"servers": INSTANCES},
            "site": {"server_names": [HOST, "localhost"], **site},
        }
    )
    for name in ("logs", "temp", "static", "sites-enabled", "sites-available"):
        (directory / name).mkdir(parents=True)
    topology = build_topology(config)
    paths = NginxPaths(
        user=user(),
        instances=topology.endpoints(lambda _kind: str(backend.sockets), Kind.INSTANCE),
        static=f"{directory}/static",
        shared=f"{directory}/shared",
        logs=f"{directory}/logs",
        temp=f"{directory}/temp",
        pid=f"{directory}/nginx.pid",
        internal=f"{directory}/internal.sock",
        closing=f"{directory}/closing",
        maintenance=f"{directory}/maintenance",
        acme=f"{directory}/acme",
        users=f"{directory}/users",
        listen_address="127.0.0.1",
    )
    return render_nginx(topology, paths, nginx.version, certificate)


def written(nginx: Nginx, directory: Path, config: NginxConfig, edits: tuple[Edit, ...] = ()) -> tuple[str, ...]:
    """Put a config into `directory`; returns the command that runs it. edits: as above."""
    files = {**config.files, **config.private}
    for pattern, replacement in edits:
        found = 0
        for path, text in files.items():
            files[path], count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
            found += count
        if not found:
            raise BenchmarkError(f"the rendered config of {nginx} has no {pattern!r}")
    for path, text in files.items():
        (directory / path).write_text(text)
    for path, target in config.links.items():
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


@dataclass(frozen=True, kw_only=True)
class Haproxy:
    """A set-up of haproxy; the best that was found is the plainest, with as many threads as there are cores."""

    name: str
    title: str
    sockets: bool = True
    headers: bool = False
    log: bool = False
    threads: int | None = None


def haproxy(directory: Path, backend: Backend, port: int, setup: Haproxy) -> tuple[str, ...]:
    directory.mkdir()
    addresses = [
        f"unix@{backend.socket(name).removeprefix('unix:')}" if setup.sockets else f"127.0.0.1:{server}"
        for name, server in zip(backend.names(), backend.ports, strict=True)
    ]
    text = HAPROXY.format(
        threads=setup.threads or os.cpu_count(),
        # To the file that is its standard output: haproxy itself knows no files, and a syslog daemon would cost more.
        global_log="    log stdout format raw local0\n" if setup.log else "",
        log="    log global\n    option httplog\n" if setup.log else "",
        port=port,
        headers=HAPROXY_HEADERS if setup.headers else "",
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
    setups = [
        Haproxy(name="unix", title="reuse always, unix sockets, no headers, no log"),
        Haproxy(name="unix one thread", title="the same, one thread", threads=1),
        Haproxy(name="tcp", title="reuse always, TCP, no headers, no log", sockets=False),
        Haproxy(name="unix headers", title="unix sockets, the same headers as ours, no log", headers=True),
        Haproxy(name="unix headers log", title="unix sockets, the same headers as ours, log", headers=True, log=True),
    ]
    subjects = []
    for setup, port in zip(setups, free_ports(len(setups)), strict=True):
        directory = base / f"haproxy-{setup.name.replace(' ', '-')}"
        subjects.append(
            Subject(
                name=f"haproxy {setup.name}",
                title=setup.title,
                tool=f"haproxy {version}",
                group="haproxy",
                port=port,
                command=haproxy(directory, backend, port, setup),
                directory=directory,
                logs=setup.log,
            )
        )
    return subjects


_NO_CLOSING: Edit = (r" *error_page 418 = @closing;\n\s*if .*\{\n.*\n\s*\}\n", "")
_NO_LOG: Edit = (r"access_log .*buffer.*;", "access_log off;")
_NO_PORT_MAP: Edit = (r"\$host\$cluster_port", "$http_host")
_NO_EMPTY_HEADERS: Edit = (r"^ *proxy_set_header \S+ ''?;\n", "")

#: What is taken out of the rendered config or changed in it, to see what it costs. What a config hasn't got is skipped.
VARIANTS: dict[str, tuple[Edit, ...]] = {
    "as rendered": (),
    "without `if (-f closing)`": (_NO_CLOSING,),
    "without the access log": (_NO_LOG,),
    "access log without upstream variables": ((r' \$request_time "\$upstream_addr".*;', "';"),),
    "$http_host in place of the map of the port": (_NO_PORT_MAP,),
    "without the map of the upgrade": (
        (r"Connection \$cluster_connection", "Connection ''"),
        (r"Upgrade \$http_upgrade", "Upgrade ''"),
    ),
    "without emptied headers": (_NO_EMPTY_HEADERS,),
    "without any proxy_set_header but Connection": ((r"^ *proxy_set_header (?!Connection).*\n", ""),),
    "request_pool_size 8k": ((r"tcp_nopush on;", "tcp_nopush on; request_pool_size 8k;"),),
    "gzip off": ((r"gzip on;", "gzip off;"),),
    "without charset": ((r"^ *charset utf-8;\n", ""),),
    "without zone": ((r"^ *zone .*\n", ""),),
    "proxy_buffering off": ((r"^proxy_http_version", "proxy_buffering off;\nproxy_http_version"),),
    "worker_processes 1": ((r"worker_processes auto", "worker_processes 1"),),
    "upstream keepalive 256": ((r"^( *)keepalive \d+;", r"\1keepalive 256;"),),
    "all of the costly parts out": (
        _NO_CLOSING,
        _NO_LOG,
        _NO_PORT_MAP,
        (r"^ *proxy_set_header (?!Connection).*\n", ""),
        (r"gzip on;", "gzip off;"),
        (r"^ *charset utf-8;\n", ""),
    ),
}


def variant_subjects(nginx: Nginx, base: Path, backend: Backend) -> list[Subject]:
    subjects = []
    for number, (name, edits) in enumerate(VARIANTS.items()):
        directory = base / f"variant-{number}"
        (port,) = free_ports(1)
        try:
            command = rendered(nginx, directory, backend, port, edits)
        except BenchmarkError as error:
            print(f"skipped: {name}: {error}", file=sys.stderr)
            continue
        subjects.append(
            Subject(
                name=name,
                title=name,
                tool=str(nginx),
                group=str(nginx),
                port=port,
                command=command,
                directory=directory,
                logs=_NO_LOG not in edits,
            )
        )
    return subjects


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
    version = chosen_nginx()[-1].version
    taken: dict[str, dict[str, list[float] | str]] = {}
    for instances in RENDERED_SIZES:
        values = stack_values(instances)
        config = parse_config(values)
        topology = build_topology(config)
        paths = NginxPaths(
            user=None,
            instances=topology.endpoints(lambda _kind: "/run/cluster/sockets", Kind.INSTANCE),
            static="/srv/static",
            shared="/srv/shared",
            logs="/var/log/cluster",
            temp="/run/cluster/temp",
            pid="/run/cluster/nginx.pid",
            internal="/run/cluster/internal.sock",
            closing="/run/cluster/closing",
            maintenance="/run/cluster/maintenance",
            acme="/run/cluster/acme",
            users="/run/cluster/users",
        )
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            root = Path(name)
            write_stack(root, instances)
            taken[str(instances)] = {
                "values to nginx text": timed(
                    lambda values=values, paths=paths: render_nginx(  # type: ignore[misc]
                        build_topology(parse_config(values)), paths, version
                    ),
                    5,
                ),
                "of that: parse_config": timed(lambda values=values: parse_config(values), 5),  # type: ignore[misc]
                "of that: render_nginx": timed(
                    lambda topology=topology, paths=paths: render_nginx(topology, paths, version),  # type: ignore[misc]
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


def spread(values: list[float], text: str = "{:,.0f}") -> str:
    return f"{text.format(min(values))} to {text.format(max(values))}"


def baseline(subjects: list[Subject]) -> Subject:
    """The tutorial's config with the machine's nginx, to which all ratios are."""
    return next(subject for subject in subjects if subject.name.startswith("tutorial"))


def proxy_table(subjects: list[Subject], results: dict[str, Measured]) -> list[str]:
    base = results[baseline(subjects).name].median
    lines = [
        "| | proxy | requests per CPU second, median | least to greatest | ratio | requests per second |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for subject in subjects:
        result = results[subject.name]
        per_second = statistics.median(
            requests / seconds for requests, seconds in zip(result.requests, result.seconds, strict=True)
        )
        lines.append(
            f"| {subject.tool} | {subject.title} | {result.median:,.0f} | {spread(result.per_cpu_second)} "
            f"| {result.median / base:.2f} | {per_second:,.0f} |"
        )
    return lines


def verdicts(subjects: list[Subject], results: dict[str, Measured]) -> list[str]:
    """What was aimed at and whether it was reached, as ratios of medians."""
    base = results[baseline(subjects).name].median
    peers = [subject for subject in subjects if subject.group == "haproxy"]
    lines = []
    for subject in subjects:
        if not subject.name.startswith("rendered"):
            continue
        own = results[subject.name].median
        reached = "reached" if own >= TARGET_OVER_TUTORIAL * base else "missed"
        lines.append(
            f"- {subject.tool}: {own / base:.2f} times the tutorial; target {TARGET_OVER_TUTORIAL:g}: {reached}."
        )
        for which, group in (
            ("the best haproxy", peers),
            ("the best haproxy that logs", [peer for peer in peers if peer.logs]),
        ):
            if group:
                best = max(group, key=lambda peer: results[peer.name].median)
                ratio = own / results[best.name].median
                state = "reached" if ratio > 1 else "missed"
                lines.append(f"- {subject.tool}: {ratio:.2f} times {which} ({best.title}); target 1: {state}.")
    return lines


def rendering_table(taken: dict[str, dict[str, list[float] | str]]) -> list[str]:
    steps = list(next(iter(taken.values())))
    lines = [
        "| | " + " | ".join(f"{int(size):,} instances" for size in taken) + " |",
        "|---|" + "---:|" * len(taken),
    ]
    for step in steps:
        cells = []
        for size in taken:
            values = taken[size][step]
            cells.append(
                values if isinstance(values, str) else f"{min(values):.3f} s ({statistics.median(values):.3f} s)"
            )
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return lines


def report(
    subjects: list[Subject],
    measured: dict[int, dict[str, Measured]],
    taken: dict[str, dict[str, list[float] | str]],
    facts: dict[str, Any],
) -> str:
    lines = [
        "# The proxy's cost, and the renderer's",
        "",
        f"Made by `{facts['command']}` on {facts['date']}; do not edit. Raw numbers: [proxy.json](proxy.json).",
        "",
        f"{', '.join(facts['versions'])}; {facts['cores']} cores, which other programs may have been using too.",
        *(["", *(f"Left out: {note}" for note in facts["left_out"])] if facts["left_out"] else []),
        "",
        "![Requests per CPU second of the proxy](proxy.svg)",
        "",
        "## How it is measured",
        f"- Four servers answer {BODY} bytes from memory (an nginx with `return 200`, the same for all), each on a",
        "  unix socket and a TCP port. This project's config is what `render_nginx` gives for four instances.",
        "- wrk, one thread, keeps its connections over loopback. In every round each proxy is loaded in turn:",
        f"  {facts['rounds']} rounds of {facts['seconds']} s each, after one to warm up. A failed request fails all.",
        "- The figure is requests over CPU seconds: user and system time of all the proxy's processes, from",
        "  /proc/PID/stat before and after. wrk's and the servers' time is not in it. The median of the rounds counts.",
        "- Before the measuring, each proxy was seen to answer from all four servers, and to write its log or none.",
        f"- A ratio is to the tutorial's config on {baseline(subjects).tool}.",
        "- wrk's requests carry no Accept-Encoding: nothing is compressed by anyone.",
        "- haproxy logs to a file that is its standard output: one write a request, as it knows no buffered file.",
        "- In front of a real Django page the proxy is a small part of the cost: pages get faster by far less.",
        "",
    ]
    for connections, results in measured.items():
        lines += [f"## {connections} client connections", *proxy_table(subjects, results), ""]
        lines += [*verdicts(subjects, results), ""]
    largest = str(RENDERED_SIZES[-1])
    lines += [
        "## Rendering",
        "The least and, in parentheses, the median of five runs in a process that has all imported, and of three",
        "runs of the command. The targets are compared with the least: other load only ever makes a run longer.",
        "",
        *rendering_table(taken),
        "",
    ]
    for step in ("values to nginx text", "the command `cluster render`"):
        values = taken[largest][step]
        if not isinstance(values, str):
            state = "reached" if min(values) <= TARGET_RENDERING else "missed"
            lines.append(
                f"- {step}, {RENDERED_SIZES[-1]:,} instances: {min(values):.3f} s; "
                f"target {TARGET_RENDERING:g} s: {state}."
            )
    return "\n".join(lines) + "\n"


def chart(subjects: list[Subject], results: dict[str, Measured], connections: int) -> str:
    base = results[baseline(subjects).name].median
    labels = {"rendered": "this project", "tutorial": "tutorial", "plain": "plain, own defaults", "itself": "by itself"}
    bars = []
    for subject in subjects:
        result = results[subject.name]
        kind, _, rest = subject.name.partition(" ")
        label = subject.name if kind == "haproxy" else f"{labels[kind]}, nginx {rest}"
        colour = {"rendered": "ours", "itself": "ceiling"}.get(kind, "peer")
        note = f"{result.median:,.0f}  ({result.median / base:.2f})"
        bars.append(
            Bar(label, result.median, min(result.per_cpu_second), max(result.per_cpu_second), colour, note),
        )
    return bar_chart(
        "Requests per CPU second of the proxy",
        f"{connections} client connections; in parentheses the ratio to the tutorial; black: least to greatest",
        "requests per CPU second: more is better",
        bars,
    )


def run_variants(rounds: int, seconds: float, connections: int) -> None:
    for nginx in chosen_nginx():
        with surroundings() as (base, backend):
            subjects = variant_subjects(nginx, base, backend)
            results = measure(subjects, rounds, seconds, connections)
        own = results["as rendered"].per_cpu_second
        print(f"\n{nginx}, {connections} connections: requests per CPU second: median, median of each round's ratio,")
        print("ratio of the best rounds (other load only ever makes a round worse), least to greatest")
        for name, result in results.items():
            ratio = statistics.median(value / base for value, base in zip(result.per_cpu_second, own, strict=True))
            best = max(result.per_cpu_second) / max(own)
            print(f"{name:46} {result.median:9,.0f} {ratio:6.3f} {best:6.3f}   {spread(result.per_cpu_second)}")


def run_all(rounds: int, seconds: float, loads: list[int]) -> None:
    versions = [str(nginx) for nginx in chosen_nginx()]
    left_out = []
    with surroundings() as (base, backend):
        subjects = [subject for nginx in chosen_nginx() for subject in nginx_subjects(nginx, base, backend)]
        if shutil.which("haproxy"):
            version = version_of("haproxy", "-v")
            versions.append(f"haproxy {version}")
            subjects += haproxy_subjects(base, backend, version)
        else:
            left_out.append("haproxy (apt-get install haproxy)")
            print(f"left out: {left_out[-1]}", file=sys.stderr)
        measured = {connections: measure(subjects, rounds, seconds, connections) for connections in loads}
    taken = rendering()
    facts = {
        "command": COMMAND,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "versions": [*versions, f"wrk {version_of('wrk', '-v')}", f"Python {platform.python_version()}"],
        "cores": os.cpu_count(),
        "rounds": rounds,
        "seconds": seconds,
        "left_out": left_out,
    }
    text = report(subjects, measured, taken, facts)
    raw = {
        **facts,
        "proxies": [
            {
                "name": subject.name,
                "tool": subject.tool,
                "title": subject.title,
                "access_log": subject.logs,
                "by_connections": {
                    str(connections): {
                        "requests": results[subject.name].requests,
                        "cpu_seconds": [round(value, 2) for value in results[subject.name].cpu],
                        "seconds": [round(value, 3) for value in results[subject.name].seconds],
                    }
                    for connections, results in measured.items()
                },
            }
            for subject in subjects
        ],
        "rendering_seconds": {
            size: {
                step: values if isinstance(values, str) else [round(value, 4) for value in values]
                for step, values in steps.items()
            }
            for size, steps in taken.items()
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "proxy.md").write_text(text)
    (RESULTS / "proxy.json").write_text(json.dumps(raw, indent=1) + "\n")
    (RESULTS / "proxy.svg").write_text(chart(subjects, measured[loads[0]], loads[0]))
    print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each proxy and round")
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[32, 128], help="of the clients; several: one after another"
    )
    parser.add_argument("--variants", action="store_true", help="measure what each part of the rendered config costs")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk", file=sys.stderr)
        return 1
    try:
        if options.variants:
            run_variants(options.rounds, options.seconds, options.connections[0])
        else:
            run_all(options.rounds, options.seconds, options.connections)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
