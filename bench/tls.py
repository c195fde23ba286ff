"""https beside peers: requests, and handshakes, that a proxy does per second of its CPU time, in one run.

    PYTHONPATH=.:runtime python -m bench.tls [--caddy PATH]   # writes docs/benchmarks/tls.md and .json

All have one certificate of the curve P-256, the same four servers behind them, and a log line for each request; all are
up all the time, and are measured in turn, round by round. The tools wrk and haproxy are not installed by this, nor is
Caddy, which is left out without --caddy.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import os
import platform
import re
import socket
import ssl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.backend import BODY, INSTANCES, cpu_seconds, free_ports, process
from bench.proxy import (
    HAPROXY,
    HAPROXY_HEADERS,
    RESULTS,
    BenchmarkError,
    Measured,
    Subject,
    chosen_nginx,
    config_of,
    logs_of,
    surroundings,
    version_of,
    written,
)
from cluster.tls.authority import make_authority, root_of, signed
from cluster.tls.certificates import Certificate

if TYPE_CHECKING:
    from pathlib import Path

    from bench.backend import Backend
    from tests.nginx_versions import Nginx

COMMAND = "PYTHONPATH=.:runtime .venv/bin/python -m bench.tls --caddy PATH"

#: A name of the site that leads to this machine: wrk says in its handshake what it is told to ask.
NAME = "localhost"

#: What is measured.
KINDS = {
    "requests": "Requests on connections that are kept",
    "handshakes": "Whole handshakes by TLS 1.3, each with one request",
}

#: Clients that shake hands at a time: wrk resumes its sessions, and Python's client does as it is told.
SHAKING = 4

HEAD = """\
# https beside peers

Made by `{command}` on {day}; do not edit. Raw numbers: [tls.json](tls.json).

{tools}; {cores} cores, which other programs may have been using too.

- Four servers answer 1024 bytes from memory, each on a unix socket. All proxies have one certificate of P-256, pass on
  the client's address and scheme, and log each request.
- Requests: wrk, one thread, {connections} connections, TLS 1.2 as it speaks. Handshakes: {shaking} threads
  of Python's client, TLS 1.3, no session resumed. {rounds} rounds of {seconds} s each, in turn, after one to warm up. A
  failed request fails all.
- The figure is what was done over CPU seconds: user and system time of all the proxy's processes. The median of the
  rounds counts, and a ratio is to this project's config on the first nginx.
- Handshakes per second are those of a few clients that wait until the connection has ended, and no proxy's most.
- Each has its own defaults: haproxy and nginx OpenSSL's, Caddy Go's TLS; Caddy logs JSON. Caddy is made by
  `go install github.com/caddyserver/caddy/v2/cmd/caddy@latest`.
"""

CADDY = """\
{{
    admin off
    auto_https off
    persist_config off
    log {{
        output stderr
        level ERROR
    }}
}}
https://{name}:{port} {{
    bind 127.0.0.1
    tls {chain} {key}
    log {{
        output file {directory}/access.log {{
            roll_disabled
        }}
    }}
    reverse_proxy {servers} {{
        lb_policy round_robin
        header_up X-Real-IP {{remote_host}}
        header_up X-Forwarded-Port {port}
    }}
}}
"""


def ours(nginx: Nginx, base: Path, backend: Backend, certificate: Certificate) -> Subject:
    """Return this project's config."""
    plain, port = free_ports(2)
    directory = base / f"ours-{'.'.join(map(str, nginx.version))}"
    site: dict[str, object] = {"listen": plain, "tls": {"listen": port, "self_signed": True}}
    command = written(nginx, directory, config_of(nginx, directory, backend, site, certificate))
    return _subject(str(nginx), "this project's config", port, command, directory)


def haproxy(base: Path, backend: Backend, certificate: Certificate) -> Subject:
    """Return haproxy with the same work, and as many threads as there are cores."""
    (port,) = free_ports(1)
    directory = base / "haproxy"
    directory.mkdir()
    (directory / "site.pem").write_text(certificate.chain + certificate.key)
    servers = "".join(f"    server {name} unix@{backend.socket(name)[5:]}\n" for name in backend.names())
    text = HAPROXY.format(
        threads=os.cpu_count(),
        global_log="    log stdout format raw local0\n",
        log="    log global\n    option httplog\n",
        port=f"{port} ssl crt {directory}/site.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2",
        headers=HAPROXY_HEADERS.replace("X-Forwarded-Proto http\n", "X-Forwarded-Proto https\n"),
        servers=servers,
    )
    (directory / "haproxy.cfg").write_text(text)
    command = ("haproxy", "-db", "-f", f"{directory}/haproxy.cfg")
    title = "reuse always, unix sockets, the same headers, log"
    return _subject(f"haproxy {version_of('haproxy', '-v')}", title, port, command, directory)


def caddy(program: str, base: Path, backend: Backend, certificate: Certificate) -> Subject:
    """Return Caddy as its documentation has a reverse proxy, with its own log."""
    (port,) = free_ports(1)
    directory = base / "caddy"
    directory.mkdir()
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_text(certificate.chain)
    key.write_text(certificate.key)
    servers = " ".join(f"unix/{backend.socket(name)[5:]}" for name in backend.names())
    text = CADDY.format(name=NAME, port=port, chain=chain, key=key, directory=directory, servers=servers)
    (directory / "Caddyfile").write_text(text)
    command = (program, "run", "--config", f"{directory}/Caddyfile", "--adapter", "caddyfile")
    said = subprocess.run([program, "build-info"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"caddyserver/caddy/v2\s+v(\S+)", said)
    tool = f"Caddy {found[1] if found else 'of an unknown version'}"
    return _subject(tool, "its own headers and log", port, command, directory)


def _subject(tool: str, title: str, port: int, command: tuple[str, ...], directory: Path) -> Subject:
    return Subject(
        name=tool, title=title, tool=tool, group=tool, port=port, command=command, directory=directory, logs=True
    )


def check(subject: Subject, authority: str) -> None:
    """See that a proxy shows the certificate, gives the backend's answer from all instances, and logs."""
    context, seen = ssl.create_default_context(cadata=authority), set()
    before = sum(log.stat().st_size for log in logs_of(subject))
    deadline = time.monotonic() + 10
    for _ in range(INSTANCES * 4):
        connection = http.client.HTTPSConnection(NAME, subject.port, timeout=10, context=context)
        while True:
            try:
                connection.connect()
                break
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != http.HTTPStatus.OK or len(body) != BODY:
            raise BenchmarkError(f"{subject.name}: answers {response.status} with {len(body)} bytes")
        seen.add(body[:4])
    if len(seen) != INSTANCES:
        raise BenchmarkError(f"{subject.name}: only {len(seen)} of {INSTANCES} instances answer")
    time.sleep(1.2)  # a buffered log is written within a second
    if sum(log.stat().st_size for log in logs_of(subject)) <= before:
        raise BenchmarkError(f"{subject.name}: logs nothing")


def shake(subject: Subject, authority: str, seconds: float) -> int:
    """Connect and ask once, over and over; return how often. One that fails, or resumes, fails the benchmark."""
    context = ssl.create_default_context(cadata=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    asked = f"GET / HTTP/1.1\r\nHost: {NAME}:{subject.port}\r\nConnection: close\r\n\r\n".encode()
    end = time.monotonic() + seconds

    def client(_number: int) -> int:
        count = 0
        while time.monotonic() < end:
            plain = socket.create_connection(("127.0.0.1", subject.port), timeout=10)
            with context.wrap_socket(plain, server_hostname=NAME) as connection:
                connection.sendall(asked)
                answer = b""
                while part := connection.recv(65536):
                    answer += part
            if connection.session_reused or not answer.startswith(b"HTTP/1.1 200 ") or len(answer) < BODY:
                raise BenchmarkError(f"{subject.name}: {answer[:100]!r}")
            count += 1
        return count

    with ThreadPoolExecutor(SHAKING) as clients:
        return sum(clients.map(client, range(SHAKING)))


def load(subject: Subject, seconds: float, connections: int) -> int:
    """Put load on a proxy; return how many requests it answered. One that failed fails the benchmark."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", f"https://{NAME}:{subject.port}/"]
    done = subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 30
    )
    failed = re.search(r"(Non-2xx.*|Socket errors.*)", done.stdout)
    requests = re.search(r"(\d+) requests in", done.stdout)
    if failed or not requests:
        raise BenchmarkError(f"{subject.name}: {failed[0] if failed else done.stdout}")
    return int(requests[1])


def measure(
    subjects: list[Subject], authority: str, rounds: int, seconds: float, connections: int
) -> dict[str, dict[str, Measured]]:
    """Measure all in turn, round by round; by kind and name."""
    results = {kind: {subject.name: Measured() for subject in subjects} for kind in KINDS}
    with ExitStack() as running:
        pids = {
            one.name: running.enter_context(process(list(one.command), one.directory / "output.log"))
            for one in subjects
        }
        for subject in subjects:
            check(subject, authority)
            load(subject, 1, connections)
            shake(subject, authority, 1)
        for number in range(1, rounds + 1):
            for kind, found in results.items():
                for subject in subjects:
                    result = found[subject.name]
                    cpu, began = cpu_seconds(pids[subject.name]), time.monotonic()
                    if kind == "requests":
                        result.requests.append(load(subject, seconds, connections))
                    else:
                        result.requests.append(shake(subject, authority, seconds))
                    result.seconds.append(time.monotonic() - began)
                    result.cpu.append(cpu_seconds(pids[subject.name]) - cpu)
                    for log in logs_of(subject):
                        os.truncate(log, 0)
                    line = f"{number}/{rounds} {kind:10} {subject.name:20} {result.per_cpu_second[-1]:9,.0f}"
                    print(line, file=sys.stderr)
    return results


def report(
    subjects: list[Subject], results: dict[str, dict[str, Measured]], rounds: int, seconds: float, connections: int
) -> str:
    """Return the document."""
    tools = ", ".join([*(one.tool for one in subjects), f"wrk {version_of('wrk', '-v')}"])
    lines = HEAD.format(
        command=COMMAND,
        day=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        tools=f"{tools}, Python {platform.python_version()}",
        cores=os.cpu_count(),
        connections=connections,
        shaking=SHAKING,
        rounds=rounds,
        seconds=f"{seconds:g}",
    ).splitlines()
    for kind, title in KINDS.items():
        found = results[kind]
        base = found[subjects[0].name].median
        lines += [
            "",
            f"## {title}",
            "| | proxy | per CPU second, median | least to greatest | ratio | per second |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for subject in subjects:
            one = found[subject.name]
            rates = one.per_cpu_second
            wall = statistics.median(n / s for n, s in zip(one.requests, one.seconds, strict=True))
            lines.append(
                f"| {subject.tool} | {subject.title} | {one.median:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} "
                f"| {one.median / base:.2f} | {wall:,.0f} |"
            )
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caddy", help="Caddy's program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    now = dt.datetime.now(dt.UTC)
    authority = make_authority("bench", now)
    chain, key = signed(authority, [NAME, "cluster"], now)
    certificate = Certificate(label="bench", chain=chain, key=key)
    with surroundings() as (base, backend):
        subjects = [ours(nginx, base, backend, certificate) for nginx in chosen_nginx()]
        subjects.append(haproxy(base, backend, certificate))
        if options.caddy:
            subjects.append(caddy(options.caddy, base, backend, certificate))
        results = measure(subjects, root_of(authority), options.rounds, options.seconds, options.connections)
    text = report(subjects, results, options.rounds, options.seconds, options.connections)
    raw = {
        kind: {name: {**vars(one), "per_cpu_second": one.per_cpu_second} for name, one in found.items()}
        for kind, found in results.items()
    }
    (RESULTS / "tls.md").write_text(text, encoding="utf-8")
    (RESULTS / "tls.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
