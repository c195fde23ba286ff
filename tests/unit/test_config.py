"""The stack file: what it takes, and the one line that each mistake gets."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from cli.reference import EXAMPLE
from cluster.config import Duration, Size, StackFileError, load_stack, parse_config
from cluster.config.document import DocumentError, parse_document
from cluster.config.load import MOST_PROBLEMS
from cluster.config.models import SECRET_KEYS, dump, keys_of

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
config:
  other:key: {ours: no}
  cluster:platform: docker
  cluster:app:
    project: ./example
    settings: example.settings
    application: example.wsgi:application
    interface: wsgi
    requirements: requirements.txt
    workers: 1
    threads: 4
    environment: {DEBUG_LEVEL: 3, GREETING: hello}
    health: {path: /-/health, interval: 1s, timeout: 2s, retries: 3, start_timeout: 60s}
    graceful_timeout: 30s
    rollout: {batch: all}
    memory: 512m
    processes: 256
    migrate: true
    collectstatic: true
  cluster:upstream:
    method: round_robin
    keepalive: 32
    servers:
      - {name: app1, weight: 3}
      - {name: app2, max_fails: 2, fail_timeout: 20s}
      - {name: app3, down: true}
      - {name: app4, backup: true}
  cluster:sessions:
    engine: cached_db
    memcached: {nodes: 2, memory: 64m}
    path: sessions
    previous: db
  cluster:database: {engine: postgres}
  cluster:site:
    server_names: [cluster, localhost]
    listen: 8080
    instance_ports: 8000
    client_max_body_size: 10m
    access_log: true
    limit: 50r/s
    burst: 100
    redirects: {www.example.org: cluster, /old/: /new/, /gone: "https://other.example/x"}
    headers: {X-Frame-Options: DENY, Content-Security-Policy: "default-src 'self'"}
    locations:
      - {path: /upload/, client_max_body_size: 1g, proxy_read_timeout: 10m, buffering: false, limit: 10r/s, burst: 20}
      - {path: /export}
    robots: none
    snippets:
      http: "map $arg_a $a { default x; }"
      server: |
        # one page
        location = /a { return 200 $a; }
  cluster:images: {base: debian:trixie-slim, nginx: "nginx:1.30"}
  cluster:secret_key: {secure: v1:abc}
  cluster:secret_key_fallbacks: {secure: v1:abc}
  cluster:database_url: {secure: v1:abc}
  cluster:secret_environment: {secure: v1:abc}
"""

SMALL: dict[str, Any] = {
    "platform": "local",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {"servers": [{"name": "app1"}, {"name": "app2"}]},
    "site": {"server_names": ["cluster"]},
}

KNOWN_IN_APP = (
    "project, settings, application, interface, requirements, python, workers, threads, preload, environment, health, "
    "graceful_timeout, rollout, memory, processes, read_only, migrate, collectstatic, "
    "release_commands, shared, shared_filesystem, include, media, protected_media"
)
UNIT_OF_TIME = "must be written as nginx writes it, for example 30s, 1m or 500ms"
UNIT_OF_SIZE = "must be written as nginx writes it, for example 512k, 10m or 1g"
NAME = "(lower-case letters, digits, - and _, beginning with a letter, 32 at most)"


MISTAKES: list[tuple[str, object, str]] = [
    # unknown keys
    ("sessoins", {}, "sessoins: unknown key; did you mean sessions?"),
    ("app.workres", 3, "app.workres: unknown key; did you mean workers?"),
    ("upstream.servers.1.wieght", 3, "upstream.servers[1].wieght: unknown key; did you mean weight?"),
    ("app.health.intervall", "1s", "app.health.intervall: unknown key; did you mean interval?"),
    ("app.zzz", 3, f"app.zzz: unknown key; known here: {KNOWN_IN_APP}"),
    ("database", {"engine": "sqlite", "x": 1}, "database.x: unknown key; known here: engine, replace, port, discard"),
    # keys that are no plain words
    ("app", {**SMALL["app"], "a.b": 1}, f'app["a.b"]: unknown key; known here: {KNOWN_IN_APP}'),
    ("app", {**SMALL["app"], "a\nb": 1}, f'app["a\\nb"]: unknown key; known here: {KNOWN_IN_APP}'),
    ("app", {**SMALL["app"], 1: 1}, 'app["1"]: a key must be text, got 1; write "1" in quotes'),
    ("app.environment", {True: "x"}, 'app.environment["true"]: a key must be text, got true; write "true" in quotes'),
    ("app.environment", {None: "x"}, 'app.environment["null"]: a key must be text; write it in quotes'),
    (
        "app.environment",
        {"a b": "x"},
        (
            "app.environment[\"a b\"]: is not of the right form, got 'a b' "
            "(letters, digits and _, not beginning with a digit)"
        ),
    ),
    *(
        (
            "app.shared_filesystem",
            path,
            (
                "app.shared_filesystem: must be a directory that all hosts can share, such as /mnt/shop, and not in "
                f"{own}, got '{path}'"
            ),
        )
        for path, own in {
            "/home/shop": "/home",
            "/mnt/../etc": "/etc",
            "/var/lib/cluster-shop/shared": "/var/lib/cluster",
        }.items()
    ),
    (
        "app.release_commands",
        ["compress 'a b"],
        "app.release_commands[0]: can't be split into words: No closing quotation, got \"compress 'a b\"",
    ),
    (
        "app.release_commands",
        ["  "],
        "app.release_commands[0]: must begin with the name of a management command, got '  '",
    ),
    # missing
    (
        "app",
        {"settings": "a"},
        "app.project: required: The directory that holds manage.py, from the repository's root.",
    ),
    (
        "upstream.servers",
        [{"weight": 1}],
        "upstream.servers[0].name: required: The instance's name; it outlives its releases.",
    ),
    ("upstream", {}, "upstream.servers: required: The instances; or just a number: 4 means app1 … app4."),
    (
        "database",
        {},
        "database.engine: required: sqlite, postgres (made by the platform), or external (database_url).",
    ),
    # ranges
    (
        "upstream.servers.1.weight",
        0,
        'upstream.servers[1].weight: must be at least 1, got 0 (to stop traffic use "down: true")',
    ),
    ("upstream.servers.1.weight", 65536, "upstream.servers[1].weight: must be at most 65535, got 65536"),
    ("upstream.servers.0.max_fails", -1, "upstream.servers[0].max_fails: must be at least 0, got -1"),
    ("upstream.servers", 0, "upstream.servers: must be a number from 1 to 1000, or a list, got 0"),
    ("upstream.servers", 1001, "upstream.servers: must be a number from 1 to 1000, or a list, got 1001"),
    ("upstream.servers", [], "upstream.servers: must have at least 1 entry, got []"),
    ("app.workers", 65, "app.workers: must be at most 64, got 65"),
    ("app.threads", 0, "app.threads: must be at least 1, got 0"),
    ("app.processes", 7, "app.processes: must be at least 8, got 7"),
    ("app.rollout.batch", 0, "app.rollout.batch: must be a number of instances from 1, or all, got 0"),
    ("app.rollout.batch", "some", "app.rollout.batch: must be a number of instances from 1, or all, got 'some'"),
    ("site.listen", 0, "site.listen: must be at least 1, got 0"),
    ("site.instance_ports", 65536, "site.instance_ports: must be at most 65535, got 65536"),
    ("site.server_names", [], "site.server_names: must have at least 1 entry, got []"),
    ("sessions.memcached.nodes", 33, "sessions.memcached.nodes: must be at most 32, got 33"),
    # kinds of values
    ("app", 3, "app: must be a mapping, got 3"),
    ("app.health", "/-/health", "app.health: must be a mapping, got '/-/health'"),
    ("app.environment", ["A=b"], "app.environment: must be a mapping, got ['A=b']"),
    ("app.workers", True, "app.workers: must be a whole number, got true"),
    ("app.workers", "2", "app.workers: must be a whole number, got '2'"),
    ("app.workers", 1.0, "app.workers: must be a whole number, got 1.0"),
    ("app.migrate", "yes", "app.migrate: must be true or false, or a list of aliases of DATABASES, got 'yes'"),
    ("app.project", None, "app.project: must be text, got null"),
    ("app.project", "", "app.project: must not be empty, got ''"),
    ("app.environment.LANG", False, 'app.environment.LANG: must be text, got false; write "false" in quotes'),
    ("app.requirements", "\ud800", "app.requirements.file: must be text, got '\\ud800'"),
    ("upstream.servers", "app1", "upstream.servers: must be a list, got 'app1'"),
    ("upstream.servers.0", "app1", "upstream.servers[0]: must be a mapping, got 'app1'"),
    ("site.server_names", "cluster", "site.server_names: must be a list, got 'cluster'"),
    # choices
    ("platform", "kubernetes", "platform: must be one of local, docker, remote, got 'kubernetes'"),
    ("app.interface", "cgi", "app.interface: must be one of wsgi, asgi, got 'cgi'"),
    (
        "upstream.method",
        "fair",
        "upstream.method: must be one of round_robin, least_conn, ip_hash, hash, random, got 'fair'",
    ),
    (
        "sessions.previous",
        3,
        "sessions.previous: must be one of db, cached_db, cache, file, signed_cookies, project, got 3",
    ),
    ("database.engine", "mysql", "database.engine: must be one of sqlite, postgres, external, got 'mysql'"),
    # units
    ("app.graceful_timeout", "30 seconds", f"app.graceful_timeout: {UNIT_OF_TIME}, got '30 seconds'"),
    ("app.graceful_timeout", "-1s", f"app.graceful_timeout: {UNIT_OF_TIME}, got '-1s'"),
    ("app.graceful_timeout", 1.5, f"app.graceful_timeout: {UNIT_OF_TIME}, got 1.5"),
    ("app.graceful_timeout", "٣s", f"app.graceful_timeout: {UNIT_OF_TIME}, got '٣s'"),
    ("app.graceful_timeout", "36501d", "app.graceful_timeout: must be at most 36500d, got '36501d'"),
    ("app.memory", "512MB", f"app.memory: {UNIT_OF_SIZE}, got '512MB'"),
    ("app.memory", "9" * 200, f"app.memory: {UNIT_OF_SIZE}, got '{'9' * 76}…"),
    ("app.memory", 10**30, f"app.memory: must be at most 1048576g, got {10**30}"),
    ("app.memory", 16**5000, "app.memory: must be at most 1048576g, got a number of thousands of digits"),
    # forms
    ("upstream.servers.0.name", "App1", f"upstream.servers[0].name: is not of the right form, got 'App1' {NAME}"),
    (
        "site.server_names",
        ["ok", "a b"],
        (
            "site.server_names[1]: is not of the right form, got 'a b' "
            "(a host name, *.example.com, .example.com, or _ for any)"
        ),
    ),
    (
        "app.application",
        "example.wsgi",
        (
            "app.application: is not of the right form, got 'example.wsgi' "
            "(module:callable, for example example.wsgi:application)"
        ),
    ),
    (
        "app.settings",
        "settings.py/",
        "app.settings: is not of the right form, got 'settings.py/' (a module, for example example.settings)",
    ),
    (
        "app.health.path",
        "health",
        "app.health.path: is not of the right form, got 'health' (a path that begins with /)",
    ),
    (
        "site.static_url",
        "static",
        (
            "site.static_url: is not of the right form, got 'static' "
            "(a path that begins and ends with /, for example /static/; null for none)"
        ),
    ),
    (
        "upstream.hash.key",
        "a;b",
        (
            "upstream.hash.key: is not of the right form, got 'a;b' "
            "(nginx's text and variables, for example $request_uri)"
        ),
    ),
    ("sessions.path", "a\nb", "sessions.path: is not of the right form, got 'a\\nb'"),
    # what comes when there is a platform that has it
    ("platform", "swarm", "platform: must be one of local, docker, remote, got 'swarm'"),
    (
        "upstream.servers.0.slow_start",
        "web1",
        (
            "upstream.servers[0].slow_start: unknown key; known here: name, weight, max_fails, fail_timeout, "
            "max_conns, backup, down, host"
        ),
    ),
    # secrets
    ("secret_key", 12345, "secret_key: must be text"),
    ("secret_environment", {"TOKEN": "hunter2"}, "secret_environment: must be text"),
    (
        "database",
        "postgres://user:hunter2@db/name",
        "database: must be a mapping, got 'postgres://…@db/name'",
    ),
]


def changed(path: str, value: object) -> dict[str, Any]:
    """Return SMALL with `value` at the dotted path; what is on the way is made."""
    values = copy.deepcopy(SMALL)
    here: Any = values
    *way, last = path.split(".")
    for step in way:
        here = here[int(step)] if isinstance(here, list) else here.setdefault(step, {})
    here[int(last) if isinstance(here, list) else last] = value
    return values


def problems_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(StackFileError) as raised:
        parse_config(values)
    return [str(problem) for problem in raised.value.problems]


def write(root: Path, text: str | bytes, stack: str = "dev") -> Path:
    path = root / "stacks" / f"Pulumi.{stack}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def message_of(root: Path, text: str | bytes) -> str:
    with pytest.raises(StackFileError) as raised:
        load_stack(write(root, text), "dev")
    return str(raised.value)


def test_the_complete_example_of_the_design_is_read_with_every_value(tmp_path: Path) -> None:
    config = load_stack(write(tmp_path, GOOD), "dev")
    plain = dump(config)
    asked = {
        key.removeprefix("cluster:"): value
        for key, value in yaml.safe_load(GOOD)["config"].items()
        if key.startswith("cluster:") and key.removeprefix("cluster:") not in SECRET_KEYS
    }
    asked["app"]["environment"]["DEBUG_LEVEL"] = "3"
    asked["app"]["health"]["start_timeout"] = "1m"  # as the shortest text
    asked["app"]["requirements"] = {"file": asked["app"]["requirements"]}
    assert contains(plain, asked), f"{asked} is not all in {plain}"


def contains(whole: object, part: object) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


def test_the_small_file_is_enough_and_the_rest_is_nginxs_and_djangos_default() -> None:
    config = parse_config(SMALL)
    server = config.upstream.servers[0]
    assert (server.weight, str(server.fail_timeout), server.max_conns) == (1, "10s", 0)
    assert (server.backup, server.down) == (False, False)
    assert (config.sessions.engine, config.upstream.method) == ("db", "round_robin")
    assert str(config.site.client_max_body_size) == "1m"
    assert config.database is None


def test_a_number_of_servers_means_app1_and_so_on() -> None:
    config = parse_config(changed("upstream.servers", 4))
    assert [server.name for server in config.upstream.servers] == ["app1", "app2", "app3", "app4"]
    assert config == parse_config(changed("upstream.servers", [{"name": f"app{number}"} for number in range(1, 5)]))


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_a_mistake_gets_one_line_with_its_path_what_was_found_and_what_is_allowed(
    path: str, value: object, message: str
) -> None:
    assert problems_of(changed(path, value)) == [message]


def test_all_problems_are_said_at_once_in_the_order_of_the_keys() -> None:
    values = {
        "platform": "moon",
        "app": {"project": "", "settings": "a b", "workers": 0},
        "upstream": {"servers": [{"name": "app1", "weight": 0}, {"nam": "app2"}]},
        "typo": 1,
    }
    assert [line.split(":")[0] for line in problems_of(values)] == [
        "platform",
        "app.project",
        "app.settings",
        "app.workers",
        "upstream.servers[0].weight",
        "upstream.servers[1].name",
        "upstream.servers[1].nam",
        "site",
        "typo",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config: required: the keys cluster:platform, cluster:app, …"),
        ("- a", "config: required: the keys cluster:platform, cluster:app, …"),
        ("config: 3", "config: required: the keys cluster:platform, cluster:app, …"),
        ("other: {}", "config: required: the keys cluster:platform, cluster:app, …"),
        ("config: [", "line 1, column 10: not valid YAML: expected the node content, but found '<stream end>'"),
        ("config:\n\tx: 3", "line 2, column 1: not valid YAML: found character '\\t' that cannot start any token"),
        ("config: {a: 1, a: 2}", "line 1, column 16: not valid YAML: the key 'a' stands twice"),
        ("config:\n  ? [a]\n  : 1", "line 2, column 5: not valid YAML: found unhashable key"),
        ("config:\n  a: \x00", "line 2, column 6: not valid YAML: the character '\\x00' is not allowed"),
        ("config: 2020-13-45", "config: required: the keys cluster:platform, cluster:app, …"),
        ("[" * 1500, "line 1, column 31: nested more than 30 levels deep"),
        ("a: !!bool x", "line 1, column 4: the tag !!bool is not read here; remove it"),
        ("a: &a [*a]", "line 1, column 8: *a is a part of itself"),
        ('a: "\\UFFFFFFFF"', "YAML: a value is not valid: Python int too large to convert to C int"),
        (b"\xff\xfe", "dev: can't be read: it is not UTF-8"),
    ],
)
def test_what_is_no_stack_file_gets_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message_of(tmp_path, text) == f"stacks/Pulumi.dev.yaml: {message}"


def bomb(kind: str, levels: int, width: int) -> str:
    """Return a file of which each level holds the one before `width` times."""
    lines = ["a0: &a0 {k: x}"]
    for level in range(1, levels):
        before = f"*a{level - 1}"
        holds = {
            "lists": f"[{', '.join([before] * width)}]",
            "mappings": f"{{{', '.join(f'k{number}: {before}' for number in range(width))}}}",
            "merges": f"{{<<: [{', '.join([before] * width)}]}}",
        }[kind]
        lines.append(f"a{level}: &a{level} {holds}")
    return "\n".join([*lines, f"config: {{cluster:app: {{environment: *a{levels - 1}}}}}"])


TOO_MUCH = {
    **{
        f"{kind}, {levels} levels of {width}": bomb(kind, levels, width)
        for kind in ("lists", "mappings", "merges")
        for levels, width in ((10, 10), (40, 2), (3000, 1))
    },
    "ten megabytes": "x" * 10_000_000,
    "brackets": "[" * 200_000,
    "braces": "{a: " * 60_000,
    "nested blocks": "\n".join(f"{' ' * level}a:" for level in range(600)),
    "thousands of keys": "".join(f"k{number}: 1\n" for number in range(20_000)),
    "thousands of keys of ours": "config:\n  cluster:app:\n" + "".join(f"    k{number}: 1\n" for number in range(4500)),
    "thousands of values": f"a: [{'x,' * 120_000}]",
    "a long text": f"a: {'x' * 250_000}",
    "a long number": f"a: {'9' * 250_000}",
    "a long base of sixty": f"a: {'1:' * 120_000}1",
    "a long name of an alias": f"a: *{'b' * 200_000}",
    "many lines": "a: |\n" + " x\n" * 80_000,
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_bomb_is_refused_at_once_in_a_few_short_lines(tmp_path: Path, text: str) -> None:
    took: list[float] = []
    while not took or (min(took) >= 1 and len(took) < 5):  # what others take of the processor is counted, too
        began = time.process_time()
        message = message_of(tmp_path, text)
        took.append(time.process_time() - began)
    assert min(took) < 1, f"of the processor: {took}"
    assert len(message.splitlines()) <= MOST_PROBLEMS + 1
    if "&" in text:
        assert "with every alias counted" in message or "levels deep" in message
    assert max(map(len, message.splitlines())) < 1000


def test_the_largest_cluster_fits(tmp_path: Path) -> None:
    servers = "".join(
        f"      - {{name: app{number}, weight: 3, max_fails: 2, fail_timeout: 20s}}\n" for number in range(1000)
    )
    text = re.sub(r"    servers:\n(      - .*\n)+", f"    servers:\n{servers}", GOOD)
    assert len(load_stack(write(tmp_path, text), "dev").upstream.servers) == 1000


#: Where a word is put, the words, and what is said of each.
WORDS: list[tuple[str, str, str]] = [
    *(
        (
            "environment: {{A: {}}}",
            word,
            f'app.environment.A: must be text, got {word}, {read}; write "{word}" in quotes',
        )
        for word, read in {
            "no": "which YAML 1.1 reads as false",
            "Y": "which YAML 1.1 reads as true",
            "On": "which YAML 1.1 reads as true",
            "True": "which YAML reads as true",
            "~": "which YAML reads as null",
            "010": "which YAML 1.1 reads as the number 8",
            "08": "which YAML 1.2 reads as the number 8",
            "1:30": "which YAML 1.1 reads as the number 90",
            "0x10": "which YAML 1.1 reads as the number 16",
            "0o10": "which YAML 1.2 reads as the number 8",
            "1_000": "which YAML 1.1 reads as the number 1000",
            "1e3": "which YAML 1.2 reads as the number 1000",
            "12e03": "which YAML 1.2 reads as the number 12000",
            "1.50": "which YAML 1.1 reads as the number 1.5",
            "+5": "which YAML 1.1 reads as the number 5",
            ".inf": "which YAML 1.1 reads as the number inf",
            "2020-01-02": "which YAML 1.1 reads as the date 2020-01-02",
            "2020-13-45": "which YAML 1.1 reads as a date or a number",
        }.items()
    ),
    (
        "environment: {{A: {}}}",
        "",
        'app.environment.A: must be text, got nothing, which YAML reads as null; write "" for an empty text',
    ),
    *(
        (
            "environment: {{{}: x}}",
            word,
            f'app.environment["{word}"]: a key must be text, got {word}, {read}; write "{word}" in quotes',
        )
        for word, read in {
            "on": "which YAML 1.1 reads as true",
            "N": "which YAML 1.1 reads as false",
            "~": "which YAML reads as null",
            "010": "which YAML 1.1 reads as the number 8",
            "5": "which YAML 1.1 reads as the number 5",
        }.items()
    ),
    (
        "python: {}",
        "3.10",
        'app.python: must be text, got 3.10, which YAML 1.1 reads as the number 3.1; write "3.10" in quotes',
    ),
    ("shared: [{}]", "no", 'app.shared[0]: must be text, got no, which YAML 1.1 reads as false; write "no" in quotes'),
    (
        "collectstatic: {}",
        "yes",
        "app.collectstatic: must be true or false, got yes, which YAML 1.1 reads as true; write true",
    ),
    (
        "collectstatic: {}",
        "n",
        "app.collectstatic: must be true or false, got n, which YAML 1.1 reads as false; write false",
    ),
    (
        "migrate: {}",
        "off",
        (
            "app.migrate: must be true or false, or a list of aliases of DATABASES, got off, "
            "which YAML 1.1 reads as false; write false"
        ),
    ),
    (
        "workers: {}",
        "010",
        (
            "app.workers: must be a whole number, got 010, "
            "which YAML 1.1 reads as the number 8; write 8, or 10 if that is meant"
        ),
    ),
    ("workers: {}", "08", "app.workers: must be a whole number, got 08, which YAML 1.2 reads as the number 8; write 8"),
    (
        "workers: {}",
        "4.0",
        "app.workers: must be a whole number, got 4.0, which YAML 1.1 reads as the number 4; write 4",
    ),
    (
        "workers: {}",
        "1e1",
        "app.workers: must be a whole number, got 1e1, which YAML 1.2 reads as the number 10; write 10",
    ),
    (
        "graceful_timeout: {}",
        "1:30",
        f"app.graceful_timeout: {UNIT_OF_TIME}, got 1:30, which YAML 1.1 reads as the number 90; write 90s",
    ),
    (
        "graceful_timeout: {}",
        "010",
        (
            f"app.graceful_timeout: {UNIT_OF_TIME}, got 010, "
            "which YAML 1.1 reads as the number 8; write 8s, or 10s if that is meant"
        ),
    ),
    (
        "memory: {}",
        "1_000",
        f"app.memory: {UNIT_OF_SIZE}, got 1_000, which YAML 1.1 reads as the number 1000; write 1000",
    ),
    ("media: {}", "no", "app.media: must be a mapping, got no, which YAML 1.1 reads as false (false for none)"),
]


@pytest.mark.parametrize(("where", "word", "message"), WORDS, ids=[message for _, _, message in WORDS])
def test_a_word_that_readers_of_yaml_take_differently_is_refused_as_it_was_written(
    tmp_path: Path, where: str, word: str, message: str
) -> None:
    def text(given: str) -> str:
        line = f"{where.format(given)}\n    settings: example"
        return EXAMPLE.replace("settings: example", line)

    assert message_of(tmp_path, text(word)) == f"stacks/Pulumi.dev.yaml: {message}"
    if word and "must be text" in message and "{{{}" not in where:
        load_stack(write(tmp_path, text(f'"{word}"').replace('"3.10"', '"3.11"')), "dev")


@pytest.mark.parametrize("word", ["no", "y", "~", "010", "1e3", "5", "true"])
def test_names_of_servers_and_sites_are_text(tmp_path: Path, word: str) -> None:
    for old, new, path in (
        ("servers: 4", f"servers: [{{name: {word}}}]", "upstream.servers[0].name"),
        ("[cluster, localhost]", f"[{word}]", "site.server_names[0]"),
    ):
        message = message_of(tmp_path, EXAMPLE.replace(old, new))
        assert message.startswith(f"stacks/Pulumi.dev.yaml: {path}: must be text, got {word}")
        assert message.endswith(f'; write "{word}" in quotes')


def test_what_is_not_ours_may_be_written_as_anybody_likes(tmp_path: Path) -> None:
    assert load_stack(write(tmp_path, EXAMPLE.replace("config:", "config:\n  aws:x: {a: no, 010: 1:30}")), "dev")


@settings(deadline=None)
@given(st.text(alphabet="ab01:_-+.eExXoyn~ \n[]{},&*!<'\"#|>%@`?\t\\", max_size=60))
def test_whatever_stands_in_a_file_it_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DocumentError):
        parse_document(text.encode())


def test_every_line_names_the_file(tmp_path: Path) -> None:
    assert message_of(tmp_path, "config: {cluster:platform: local, cluster:upstream: {servers: 2}}").splitlines() == [
        "stacks/Pulumi.dev.yaml: app: required: The Django project, and one instance of it.",
        "stacks/Pulumi.dev.yaml: site: required: nginx's server.",
    ]


def test_a_missing_file_names_the_known_stacks(tmp_path: Path) -> None:
    expected = "stacks/Pulumi.qa.yaml: qa: no such file; {there}; `cluster init qa --project DIR` makes one"
    with pytest.raises(StackFileError, match=re.escape(expected.format(there="there is no stack yet"))):
        load_stack(tmp_path, "qa")
    write(tmp_path, GOOD, "local")
    write(tmp_path, GOOD, "dev")
    with pytest.raises(StackFileError, match=re.escape(expected.format(there="the stacks here are dev, local"))):
        load_stack(tmp_path, "qa")


def test_a_file_that_cannot_be_read_is_a_problem_without_the_machines_paths(tmp_path: Path) -> None:
    (tmp_path / "stacks" / "Pulumi.dev.yaml").mkdir(parents=True)
    with pytest.raises(StackFileError) as raised:
        load_stack(tmp_path, "dev")
    assert str(raised.value) == "stacks/Pulumi.dev.yaml: dev: can't be read: Is a directory"


def test_merge_keys_and_anchors_of_yaml_work(tmp_path: Path) -> None:
    text = GOOD.replace("{name: app1, weight: 3}", "&one {name: app1, weight: 3}").replace(
        "{name: app3, down: true}", "{<<: *one, name: app3, down: true}"
    )
    assert load_stack(write(tmp_path, text), "dev").upstream.servers[2].weight == 3


def test_encrypted_secrets_are_not_read_and_plain_ones_never_shown(tmp_path: Path) -> None:
    config = load_stack(write(tmp_path, GOOD), "dev")
    assert all(getattr(config, key) is None for key in SECRET_KEYS)
    plain = parse_config({**SMALL, **dict.fromkeys(SECRET_KEYS, "hunter2")})
    assert "hunter2" not in repr(plain)
    assert "hunter2" not in str(dump(plain))
    for wrong in ({"secure": "hunter2", "more": 1}, ["hunter2"], 2, {"hunter2": 1}):
        for key in SECRET_KEYS:
            assert problems_of({**SMALL, key: wrong}) == [f"{key}: must be text"]


def test_a_bare_number_is_seconds_or_bytes_and_parts_add_up() -> None:
    assert Duration.parse(30) == Duration.parse("30") == Duration.parse("30s") == 30_000
    assert Duration.parse("1h30m").seconds == 5400
    assert Duration.parse("1500ms").seconds == 1.5
    assert Size.parse(1024) == Size.parse("1k") == Size.parse("1K") == 1024
    assert (str(Duration.parse("90s")), str(Duration.parse("120s")), str(Size.parse("0"))) == ("90s", "2m", "0")


@given(st.integers(0, Duration.parse(Duration.largest)))
def test_a_duration_is_read_back_from_what_it_writes(milliseconds: int) -> None:
    assert Duration.parse(str(Duration(milliseconds))) == milliseconds


@given(st.integers(0, Size.parse(Size.largest)))
def test_a_size_is_read_back_from_what_it_writes(size: int) -> None:
    assert Size.parse(str(Size(size))) == size


@given(st.text() | st.integers() | st.text(alphabet="0123456789smhdkg", max_size=8))
def test_no_text_breaks_a_unit(value: str | int) -> None:
    for kind in (Duration, Size):
        try:
            assert kind.parse(str(kind.parse(value))) == kind.parse(value)
        except ValueError as error:
            assert str(error).startswith("must be ")  # noqa: PT017 - not every value is refused


FULL = {
    key.removeprefix("cluster:"): value
    for key, value in yaml.safe_load(GOOD)["config"].items()
    if key.startswith("cluster:") and key.removeprefix("cluster:") not in SECRET_KEYS
}
KEYS = st.sampled_from(["name", "servers", "engine", "weight", "x", "int", "str", "a b", ""]) | st.text(max_size=5)
ODD_KEYS = KEYS | st.integers() | st.booleans() | st.none()
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.sampled_from(["local", "all", "10s", "1m", "app1", "db", "://a:b@c", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_KEYS, inner, max_size=3),
    max_leaves=8,
)


def places(value: object, way: tuple[int | str, ...] = ()) -> list[tuple[int | str, ...]]:
    """Return the ways to all values within `value`."""
    found = [way] if way else []
    if isinstance(value, dict):
        found += [place for key, inner in value.items() for place in places(inner, (*way, key))]
    if isinstance(value, list):
        found += [place for index, inner in enumerate(value) for place in places(inner, (*way, index))]
    return found


def steps(path: str) -> list[Any]:
    """Read a problem's path."""
    found = re.findall(r'\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]|([\w-]+)', path)
    return [int(index) if index else json.loads(quoted) if quoted else plain for index, quoted, plain in found]


def names_a_place(path: str, values: Any, *, missing: bool) -> bool:
    here = values
    way: list[Any] = steps(path)
    for number, step in enumerate(way):
        if isinstance(here, dict) and step not in here:
            written = {key if isinstance(key, str) else json.dumps(key) for key in here}
            return number == len(way) - 1 and (missing or step in written)
        if not isinstance(here, dict) and not (isinstance(here, list) and isinstance(step, int)):
            return False
        here = here[step]
    return True


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places(FULL)), VALUES), min_size=1, max_size=4), st.data())
def test_whatever_stands_in_a_stack_file_is_taken_or_gets_problems_that_name_their_place(
    changes: list[tuple[tuple[int | str, ...], object]], data: st.DataObject
) -> None:
    values: Any = copy.deepcopy(FULL)
    for way, value in changes:
        put(values, way, value, data.draw(st.none() | KEYS))
    try:
        parse_config(values)
    except StackFileError as error:
        problems = error.problems
    else:
        return
    assert problems
    for problem in problems:
        assert "\n" not in str(problem)
        assert str(problem).encode()
        assert len(problem.message) < 350, problem
        missing = problem.message.startswith("required: ")
        assert names_a_place(problem.path, values, missing=missing), f"{problem.path} is nowhere in {values}"


def put(values: Any, way: tuple[int | str, ...], value: object, new_key: str | None) -> None:
    """Put `value` at `way`, or beside it under a new key; what an earlier change took away stays away."""
    here = values
    for step in way[:-1]:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(here, dict) and new_key is not None:
        here[new_key] = value
    elif isinstance(here, dict):
        here[way[-1]] = value
    elif isinstance(here, list) and here:
        here[0] = value


def test_a_key_that_is_a_word_of_python_s_is_known_by_its_own_name() -> None:
    class Redirect(BaseModel):
        from_: str = Field(alias="from")
        to: str

    assert list(keys_of(Redirect)) == ["from", "to"]


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"tls": {}}, "site.tls: needs a certificate: one of self_signed: true, files and acme"),
        (
            {"tls": {"self_signed": True, "files": {"certificate": "a.pem", "key": "a.key"}}},
            "site.tls: needs a certificate: one of self_signed: true, files and acme",
        ),
        ({"listen": 8443, "tls": {"self_signed": True}}, "site: tls.listen and listen are both 8443"),
        (
            {"tls": {"self_signed": True, "hsts": {"max_age": "7d", "preload": True}}},
            "site.tls.hsts: preload needs include_subdomains and a max_age of a year, 365d",
        ),
        (
            {"trusted_proxies": ["10.0.0.1/8"]},
            "site.trusted_proxies[0]: must be an address or a network whose host bits are 0, for example 10.0.0.0/8",
        ),
        ({"trusted_proxies": ["lb.example"]}, "site.trusted_proxies[0]: must be an address or a network"),
        ({"proxy_protocol": True}, "site: proxy_protocol needs trusted_proxies"),
        (
            {"tls": {"self_signed": True, "http3": True}},
            "site.tls.http3: each reload of nginx loses requests that clients ask by HTTP/3",
        ),
        (
            {
                "tls": {"self_signed": True, "http3": True, "discard_http3_requests": True},
                "trusted_proxies": ["10.0.0.0/8"],
                "proxy_protocol": True,
            },
            "site.tls.http3: nginx takes no PROXY protocol by QUIC (site.proxy_protocol)",
        ),
        (
            {
                "tls": {"self_signed": True, "http3": True, "discard_http3_requests": True},
                "headers": {"alt-svc": "clear"},
            },
            "site.headers.alt-svc: is said by site.tls.http3 already",
        ),
    ],
)
def test_what_does_not_fit_together_in_a_site_is_said_at_its_key(site: dict[str, Any], words: str) -> None:
    values = {
        "platform": "local",
        "app": {"project": "./example", "settings": "example.settings"},
        "upstream": {"servers": 2},
        "site": {"server_names": ["cluster"], **site},
    }
    with pytest.raises(StackFileError, match=re.escape(words)):
        parse_config(values)
