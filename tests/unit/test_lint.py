"""Every lint has a case in which it fires, with its paths, and one in which it does not."""

from __future__ import annotations

import atexit
import copy
import datetime as dt
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.config import load_stack, parse_config
from cluster.lint import RULES, Facts, Finding, Severity, lint
from cluster.lint.variables import is_variable, variables_in
from tests.certificates import made_certificates

ROOT = Path(__file__).resolve().parents[2]

EXAMPLE: dict[str, Any] = {
    "platform": "local",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {
        "servers": [
            {"name": "app1", "weight": 3},
            {"name": "app2", "max_fails": 2, "fail_timeout": "20s"},
            {"name": "app3"},
            {"name": "app4", "backup": True},
        ]
    },
    "sessions": {"engine": "cached_db"},
    "database": {"engine": "sqlite"},
    "site": {"server_names": ["cluster", "localhost"], "listen": 8080, "instance_ports": 8000},
}

HOST = {"name": "web1", "address": "10.0.0.11", "host_key": "ssh-ed25519 AAAA"}
REMOTE: dict[str, Any] = {"platform": "remote", "hosts": [HOST], "sessions.engine": "db", "site.instance_ports": None}
WEB2 = {**HOST, "name": "web2", "address": "10.0.0.12"}
EDGE = {**HOST, "name": "edge1", "address": "10.0.0.21", "roles": ["nginx"]}
ON_SHARED = {"app.shared_filesystem": "/mnt/shop"}
SEVERAL: dict[str, Any] = {"hosts": [HOST, WEB2], "database": {"engine": "external"}}
SHARED: dict[str, Any] = {**SEVERAL, "site.address": "10.0.0.9"}
INSIDE = {**HOST, "internal": "10.1.0.11"}
DATABASE = {**HOST, "name": "db1", "address": "10.0.0.31", "internal": "10.1.0.31", "roles": ["database"]}
APART: dict[str, Any] = {"hosts": [INSIDE, DATABASE], "database": {"engine": "postgres"}}
BROKER = {**DATABASE, "name": "jobs1", "roles": ["broker"]}
ASKED: dict[str, Any] = {
    "hosts": [INSIDE, {**WEB2, "internal": "10.1.0.12"}, BROKER],
    "database": {"engine": "external"},
    "broker": {"engine": "valkey"},
}
BOTH = {**INSIDE, "roles": ["app", "nginx", "database"]}
BOTH_BROKERS = {**INSIDE, "name": "web3", "address": "10.0.0.13", "roles": ["app", "nginx", "broker"]}
JUMP = {"address": "203.0.113.1", "host_key": "ssh-ed25519 AAAA"}
ON_APP1 = "upstream.servers[0].host"

SQLITE = {"database_engine": "django.db.backends.sqlite3", "database_name": "/srv/data/db.sqlite3"}
NO_DATABASE = {"database_engine": "django.db.backends.dummy", "database_name": ""}


def visited(count: int) -> list[dict[str, Any]]:
    """Return hosts, of which each has visitors."""
    return [{**HOST, "name": f"edge{number}", "address": f"10.0.1.{number}"} for number in range(count)]


def a_server(name: str = "app1", **keys: Any) -> dict[str, Any]:
    return {"name": name, **keys}


def two_servers(**keys_of_the_second: Any) -> list[dict[str, Any]]:
    return [a_server(), a_server("app2", **keys_of_the_second)]


def stack(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the example with some keys changed, each by its dotted path; None removes a key."""
    values = copy.deepcopy(EXAMPLE)
    for path, value in changes.items():
        *parents, key = path.split(".")
        here = values
        for parent in parents:
            here = here.setdefault(parent, {})
        if value is None and key != "static_url":
            here.pop(key, None)
        else:
            here[key] = value
    return values


def findings(changes: dict[str, Any], facts: Facts | None = None) -> list[Finding]:
    return lint(parse_config(stack(changes)), facts or Facts())


def paths(rule: str, changes: dict[str, Any], facts: Facts) -> list[str]:
    return [finding.path for finding in findings(changes, facts) if finding.id == rule]


@dataclass(frozen=True)
class Stack:
    """Changes to the example, what is known beside it, and at which paths the rule is to fire."""

    changes: dict[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    at: tuple[str, ...] = ()


def case(changes: dict[str, Any] | None = None, *at: str, **facts: Any) -> Stack:
    return Stack(changes or {}, Facts(**facts), at)


def project(**keys: Any) -> dict[str, Any]:
    return {"project": keys}


def written(*, data: bool) -> dict[str, Any]:
    return {"paths": {"written": [{"setting": "X_ROOT", "path": "files", "data": data}], "missing": []}}


def workers(*entries: dict[str, Any], **keys: Any) -> dict[str, Any]:
    named = [{"name": "mail", "command": "celery -A shop worker", **entry} for entry in entries]
    return {"workers": named, **keys}


def scheduled(name: str) -> list[dict[str, Any]]:
    return [{"name": name, "command": "manage.py digest", "at": "0 6 * * *"}]


def at(path: str, **keys: Any) -> dict[str, Any]:
    return {"site.locations": [{"path": path, **keys}]}


def named(*names: str) -> dict[str, Any]:
    return {"upstream": {"servers": [{"name": name} for name in ("app1", *names)]}}


DOCKER = {"platform": "docker"}

ASKING: dict[str, Any] = {"site.auth_basic": "Staging"}

SELF_SIGNED: dict[str, Any] = {"site.tls": {"self_signed": True}}

#: A certificate, its key, another one's, and the key with a mode that lets others read it.
NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
SOON, LATER = dt.datetime(2027, 6, 20, tzinfo=dt.UTC), dt.datetime(2027, 8, 1, tzinfo=dt.UTC)
FILES = made_certificates(NOW)


HTTP3: dict[str, Any] = {"site.tls": {"self_signed": True, "http3": True, "discard_http3_requests": True}}
BY_ACME: dict[str, Any] = {"site.server_names": ["example.org"], "site.tls": {"acme": {}}}
BOUND: dict[str, Any] = {"site.server_names": ["example.org"], "site.tls": {"acme": {"eab": "kid-1"}}}


def made_projects(lines: dict[str, str]) -> Path:
    """Make a directory of projects, each with a line of code."""
    directory = Path(tempfile.mkdtemp(prefix="projects"))
    atexit.register(shutil.rmtree, directory)
    for name, line in lines.items():
        code = directory / name / ("tests" if name == "tests" else "shop") / "views.py"
        code.parent.mkdir(parents=True)
        code.write_text(f"import django\n{line}\n")
    return directory


#: Projects by a line of theirs: those that read Authorization, and others.
CODES = {
    "django": "token = request.META['HTTP_AUTHORIZATION']",
    "headers": 'token = request.headers.get("Authorization")',
    "asgi": "token = headers['authorization']",
    "rest": "    'DEFAULT_AUTHENTICATION_CLASSES': ['rest_framework.authentication.TokenAuthentication'],",
    "jwt": "AUTH = ('rest_framework_simplejwt.authentication.JWTAuthentication',)",
    "ninja": "from ninja.security import HttpBearer",
}
OTHER_CODES = {
    "session": "    'DEFAULT_AUTHENTICATION_CLASSES': ['rest_framework.authentication.SessionAuthentication'],",
    "comment": "x = 1  # HTTP_AUTHORIZATION is nginx's",
    "outgoing": "requests.get(url, headers={'Authorization': token})",
    "tests": "client.get('/', HTTP_AUTHORIZATION='Basic x')",
}
CODE = made_projects({**CODES, **OTHER_CODES})


def got(count: int, *, days: int = 1, names: str = "example.org") -> list[tuple[str, str]]:
    return [((NOW - dt.timedelta(days=days)).isoformat(), names)] * count


def tls(certificate: str, key: str | None = None, **keys: Any) -> dict[str, Any]:
    files = {"certificate": f"{certificate}.pem", "key": f"{key or certificate}.key"}
    return {"site.tls": {"files": files, **keys}}


JANUARY, FEBRUARY = (dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in (1, 2))

#: For each rule: stacks in which it fires, and stacks in which it does not.
CASES: dict[str, tuple[list[Stack], list[Stack]]] = {
    "project-missing": (
        [
            case({"app.project": "./nowhere"}, "app.project", root=ROOT),
            case({"app.project": "./tests"}, "app.project", root=ROOT),
        ],
        [case(root=ROOT), case({"app.project": "./nowhere"})],
    ),
    "requirements-missing": (
        [case({"app.requirements": "none.txt"}, "app.requirements", root=ROOT)],
        [case(root=ROOT), case({"app.requirements": "none.txt"})],
    ),
    "lock-unused": (
        [case({"app.project": "./tests/unit/locked"}, "app.requirements", root=ROOT)],
        [case(root=ROOT), case({"app.project": "./tests/unit/locked"}), case({"app.project": "./no"}, root=ROOT)],
    ),
    "secret-key-missing": (
        [case({"platform": "docker"}, "secret_key", secrets=frozenset())],
        [
            case(secrets=frozenset()),
            case({"platform": "docker"}),
            case({"platform": "docker"}, secrets=frozenset({"secret_key"})),
            case({"platform": "docker", "secret_key": "k" * 50}, secrets=frozenset()),
        ],
    ),
    "service-name-taken": (
        [
            case(workers({}, {}), "workers[1].name"),
            case(workers({"name": "app"}), "workers[0].name"),
            case(workers({"count": 2}, schedule=scheduled("mail2")), "schedule[0].name"),
            case({"schedule": scheduled("nginx")}, "schedule[0].name"),
            case(workers({"name": "memcached"}), "workers[0].name"),
            case({"broker": {"engine": "valkey"}, **named("broker")}, "upstream.servers[1].name"),
        ],
        [case(named("broker")), case(workers({}, {"name": "post", "count": 9}, schedule=scheduled("mail"))), case()],
    ),
    "beat-beside": (
        [
            case(workers({"command": "celery -A shop beat"}), "workers[0].replacement"),
            case(workers({"command": "python -m celery worker -B", "count": 2}), "workers[0].count"),
        ],
        [
            case(workers({"command": "celery -A shop beat", "replacement": "alone"})),
            case(workers({"command": "celery -A beat worker"}, {"name": "b", "command": "manage.py beat", "count": 2})),
        ],
    ),
    "broker-unused": (
        [case({"broker": {"engine": "valkey"}}, "broker")],
        [case(workers({}, broker={"engine": "valkey"})), case(workers({}))],
    ),
    "sqlite-queue": (
        [case(workers({"command": "manage.py db_worker", "count": 2}, database={"engine": "sqlite"}), "workers")],
        [
            case(workers({"command": "manage.py db_worker"}, database={"engine": "sqlite"})),
            case(workers({"command": "manage.py db_worker", "count": 2}, database={"engine": "postgres"})),
            case(workers({"count": 3}, database={"engine": "sqlite"})),
        ],
    ),
    "environment-owned": (
        [
            case(
                {"app.environment": {"DJANGO_SETTINGS_MODULE": "a", "CLUSTER_CONFIG": "b", "PYTHONPATH": "c"}},
                "app.environment.DJANGO_SETTINGS_MODULE",
                "app.environment.CLUSTER_CONFIG",
                "app.environment.PYTHONPATH",
            )
        ],
        [case({"app.environment": {"DJANGO_DEBUG": "0", "MY_CLUSTER": "b"}})],
    ),
    "environment-secret": (
        [
            case({"app.environment": {"EMAIL_PASSWORD": "x"}}, "app.environment.EMAIL_PASSWORD"),
            case({"app.environment": {"STRIPE_SECRET_KEY": "x"}}, "app.environment.STRIPE_SECRET_KEY"),
            case({"app.environment": {"CELERY_BROKER": "redis://:pass@host"}}, "app.environment.CELERY_BROKER"),
        ],
        [
            case({"app.environment": {"STRIPE_PUBLIC_KEY": "x", "KEYBOARD": "x", "TOKENS_PER_DAY": "5"}}),
            case({"app.environment": {"URL": "redis://host:6379/0", "API_TOKEN": ""}}),
        ],
    ),
    "time-zero": (
        [
            case(
                {
                    "app.health": {"timeout": 0, "start_timeout": "0s", "busy_timeout": 0},
                    "site.proxy_read_timeout": 0,
                },
                "app.health.timeout",
                "app.health.start_timeout",
                "app.health.busy_timeout",
                "site.proxy_read_timeout",
            ),
            case(at("/a/", proxy_read_timeout=0), "site.locations[0].proxy_read_timeout"),
        ],
        [case({"app.health": {"timeout": "1ms"}, "app.graceful_timeout": 0}), case(at("/a/"))],
    ),
    "health-path-unknown": (
        [case({"app.health": {"path": "/-/healthz"}}, "app.health.path")],
        [case({"app.health": {"path": "/-/probe"}}), case({"app.health": {"path": "/up"}})],
    ),
    "health-path-of-project": (
        [case({"app.health": {"path": "/up"}}, "app.health.path")],
        [case({"app.health": {"path": "/-/health"}})],
    ),
    "start-timeout-short": (
        [case({"app.health": {"start_timeout": "2s"}}, "app.health.start_timeout")],
        [case({"app.health": {"start_timeout": "5s"}})],
    ),
    "hung-for-long": (
        [case({"app.health": {"interval": "30s", "retries": 3}}, "app.health")],
        [case({"app.health": {"interval": "10s", "retries": 3}})],
    ),
    "busy-timeout-short": (
        [
            case({"site.proxy_read_timeout": "5m"}, "app.health.busy_timeout"),
            case(at("/a/", proxy_read_timeout="5m"), "app.health.busy_timeout"),
            case({"app.health": {"busy_timeout": "30s"}}, "app.health.busy_timeout"),
        ],
        [case({"site.proxy_read_timeout": "5m", "app.health": {"busy_timeout": "5m"}})],
    ),
    "grace-short": (
        [
            case({"site.proxy_read_timeout": "31s"}, "app.graceful_timeout"),
            case(at("/a/", proxy_read_timeout="61s"), "app.graceful_timeout"),
            case({"app.graceful_timeout": "10s"}, "app.graceful_timeout"),
        ],
        [case(), case({"app.graceful_timeout": "60s"}), case({"site.proxy_read_timeout": "30s"})],
    ),
    "grace-long": (
        [case({"app.graceful_timeout": "1h"}, "app.graceful_timeout")],
        [case({"app.graceful_timeout": "10m"})],
    ),
    "threads-ignored": (
        [case({"app.interface": "asgi", "app.threads": 8}, "app.threads")],
        [case({"app.interface": "asgi"}), case({"app.threads": 8})],
    ),
    "memory-small": (
        [case({"platform": "docker", "app.workers": 8}, "app.memory")],
        [
            case({"app.workers": 8}),
            case({"platform": "docker", "app.workers": 7}),
            case({"platform": "docker", "app.workers": 8, "app.memory": "1g"}),
        ],
    ),
    "processes-few": (
        [case({"platform": "docker", "app.workers": 4, "app.threads": 64}, "app.processes")],
        [
            case({"app.workers": 4, "app.threads": 64}),
            case({"platform": "docker", "app.workers": 4, "app.threads": 32}),
            case({"platform": "docker", "app.interface": "asgi", "app.workers": 4, "app.threads": 64}),
        ],
    ),
    "duplicate-server": (
        [case({"upstream.servers": [a_server(), a_server("app2"), a_server()]}, "upstream.servers[2].name")],
        [case({"upstream.servers": 40})],
    ),
    "reserved-server-name": (
        [
            case({"upstream.servers": [a_server(), a_server(name)]}, "upstream.servers[1].name")
            for name in ("closing", "cleared-sessions", "nginx", "access", "memcached1", "memcached12", "supervisord")
        ],
        [case({"upstream.servers": [a_server(), a_server(name)]}) for name in ("closing2", "nginx1", "memcached1-app")],
    ),
    "backup-with-hash": (
        [case({"upstream.method": method}, "upstream.servers[3].backup") for method in ("ip_hash", "hash", "random")],
        [
            case({"upstream.method": "least_conn"}),
            case({"upstream.method": "hash", "upstream.servers": 4}),
        ],
    ),
    "only-backups": (
        [
            case({"upstream.servers": [a_server(backup=True)]}, "upstream.servers"),
            case(
                {"upstream.servers": [a_server(backup=True), a_server("app2", backup=True, down=True)]},
                "upstream.servers",
            ),
        ],
        [case({"upstream.servers": [a_server(down=True), a_server("app2", backup=True)]})],
    ),
    "all-down": (
        [case({"upstream.servers": [a_server(down=True), a_server("app2", down=True)]}, "upstream.servers")],
        [
            case({"upstream.servers": two_servers(down=True)}),
            case({"upstream.servers": [a_server(down=True), a_server("app2", backup=True)]}),
        ],
    ),
    "backups-serve": (
        [case({"upstream.servers": [a_server(down=True), a_server("app2", backup=True)]}, "upstream.servers")],
        [case(), case({"upstream.servers": [a_server(backup=True)]})],
    ),
    "one-instance": (
        [case({"upstream.servers": 1}, "upstream.servers")],
        [case({"upstream.servers": 2}), case({"upstream.servers": two_servers(backup=True)})],
    ),
    "limits-ignored": (
        [
            case(
                {"upstream.servers": [a_server(max_fails=3, fail_timeout="5s")]},
                "upstream.servers[0].max_fails",
                "upstream.servers[0].fail_timeout",
            )
        ],
        [case({"upstream.servers": 1}), case({"upstream.servers": two_servers(max_fails=3)})],
    ),
    "fail-timeout-alone": (
        [case({"upstream.servers": two_servers(fail_timeout="20s")}, "upstream.servers[1].fail_timeout")],
        [case(), case({"upstream.servers": two_servers(max_fails=0)})],
    ),
    "max-fails-everywhere": (
        [case({"upstream.servers": [a_server(max_fails=1), a_server("app2", max_fails=2)]}, "upstream.servers")],
        [case(), case({"upstream.servers": [a_server(max_fails=1)]})],
    ),
    "last-server-fails": (
        [
            case(
                {"upstream.servers": [a_server(max_fails=1), a_server("app2", down=True)]},
                "upstream.servers[0].max_fails",
            )
        ],
        [
            case({"upstream.servers": 1}),
            case({"upstream.servers": [a_server(max_fails=0), a_server("app2", down=True)]}),
            case({"upstream.servers": [*two_servers(down=True), a_server("app3", backup=True)]}),
        ],
    ),
    "lopsided-shares": (
        [case({"upstream.servers": two_servers(weight=10)}, "upstream.servers[1].weight")],
        [
            case({"upstream.servers": two_servers(weight=9)}),
            case({"upstream.servers": 1}),
            case({"upstream.servers": [a_server(weight=99), a_server("app2", backup=True)]}),
        ],
    ),
    "max-conns-everywhere": (
        [
            case(
                {"upstream.servers": [a_server(max_conns=8), a_server("app2", max_conns=8, backup=True)]},
                "upstream.servers",
            )
        ],
        [case({"upstream.servers": two_servers(max_conns=8)})],
    ),
    "max-conns-below-threads": (
        [case({"upstream.servers": two_servers(max_conns=3)}, "upstream.servers[1].max_conns")],
        [
            case({"upstream.servers": two_servers(max_conns=4)}),
            case({"upstream.servers": two_servers(max_conns=3), "app.interface": "asgi"}),
        ],
    ),
    "keepalive-small": (
        [case({"upstream.keepalive": 3}, "upstream.keepalive")],
        [case({"upstream.keepalive": 4})],
    ),
    "fail-timeout-milliseconds": (
        [
            case({"upstream.servers": two_servers(fail_timeout="500ms")}, "upstream.servers[1].fail_timeout"),
            case({"upstream.servers": two_servers(fail_timeout="1s1ms")}, "upstream.servers[1].fail_timeout"),
        ],
        [case({"upstream.servers": two_servers(fail_timeout="2000ms")})],
    ),
    "hash-key-invalid": (
        [
            case(
                {"upstream.servers": 2, "upstream.method": "hash", "upstream.hash": {"key": key}},
                "upstream.hash.key",
            )
            for key in ("$", "a$ b", "${uri", "$nosuch", "$ä", "${1}", "$0", "x" * 4097)
        ],
        [
            case({"upstream.servers": 2, "upstream.method": "hash", "upstream.hash": {"key": key}})
            for key in ("$uri", "$cookie_a-$remote_addr", "${args}b", "x{}")
        ]
        + [case({"upstream.hash": {"key": "$nosuch"}})],
    ),
    "hash-key-constant": (
        [
            case(
                {"upstream.servers": 2, "upstream.method": "hash", "upstream.hash": {"key": key}},
                "upstream.hash.key",
            )
            for key in ("all", "$1", "$scheme-$server_name")
        ],
        [case({"upstream.servers": 2, "upstream.method": "hash", "upstream.hash": {"key": "a$uri"}})],
    ),
    "hash-ignored": (
        [case({"upstream.hash": {"key": "$uri"}}, "upstream.hash")],
        [case(), case({"upstream.servers": 2, "upstream.method": "hash", "upstream.hash": {"key": "$uri"}})],
    ),
    "hash-weights-heavy": (
        [case({"upstream.servers": two_servers(weight=10_000), "upstream.method": "hash"}, "upstream.servers")],
        [
            case({"upstream.servers": two_servers(weight=9999), "upstream.method": "hash"}),
            case({"upstream.servers": two_servers(weight=10_000)}),
        ],
    ),
    "hash-weights-too-large": (
        [
            case(
                {
                    "upstream.servers": [a_server(f"app{number}", weight=65_535) for number in range(16)],
                    "upstream.method": "hash",
                },
                "upstream.servers",
            )
        ],
        [
            case(
                {
                    "upstream.servers": [a_server(f"app{number}", weight=65_535) for number in range(16)],
                    "upstream.method": "hash",
                    "upstream.hash": {"consistent": False},
                }
            )
        ],
    ),
    "down-ignores": (
        [
            case(
                {"upstream.servers": two_servers(weight=2, backup=True, down=True)},
                "upstream.servers[1].weight",
                "upstream.servers[1].backup",
            )
        ],
        [case({"upstream.servers": two_servers(down=True)})],
    ),
    "backup-weight": (
        [case({"upstream.servers": two_servers(weight=2, backup=True)}, "upstream.servers[1].weight")],
        [
            case(),
            case({"upstream.servers": [*two_servers(weight=2, backup=True), a_server("app3", backup=True)]}),
        ],
    ),
    "ip-hash-few-addresses": (
        [case({"upstream.servers": 2, "upstream.method": "ip_hash"}, "upstream.method")],
        [case({"upstream.servers": 2, "upstream.method": "hash"})],
    ),
    "least-conn-hint": (
        [
            case({"site.proxy_read_timeout": "5m"}, "upstream.method"),
            case(at("/a/", proxy_read_timeout="5m"), "upstream.method"),
        ],
        [case(), case({"site.proxy_read_timeout": "5m", "upstream.method": "least_conn"})],
    ),
    "data-in-release": (
        [case({}, "app.shared", project=written(data=True))],
        [case({}, project=written(data=False)), case({}, project={"paths": {"written": [], "missing": []}})],
    ),
    "scratch-in-release": (
        [case({}, "app.shared", project=written(data=False))],
        [case({}, project=written(data=True)), case()],
    ),
    "media-elsewhere": (
        [case({"app.media": {"root": "media"}}, "app.media.url", project={"media_url": "/uploads/"})],
        [
            case({"app.media": {"root": "media"}}, project={"media_url": "media/"}),
            case({"app.media": {"root": "media"}}, project={"media_url": "https://cdn.example.com/media/"}),
            case({"app.media": {"root": "media", "url": None}}, project={"media_url": "/uploads/"}),
            case({}, project={"media_url": "/uploads/"}),
        ],
    ),
    "database-in-release": (
        [
            case(
                {"database": None},
                "database",
                root=ROOT,
                project={**SQLITE, "database_name": str(ROOT / name)},
            )
            for name in ("example/db.sqlite3", ".cluster/local/releases/0123456789ab/project/db.sqlite3", ":memory:")
        ],
        [
            case(root=ROOT, project={**SQLITE, "database_name": str(ROOT / "example/db.sqlite3")}),
            case({"database": None}, root=ROOT, project=SQLITE),
            case(
                {"database": None},
                root=ROOT,
                project={**SQLITE, "database_name": str(ROOT / ".cluster/local/data/db.sqlite3")},
            ),
        ],
    ),
    "postgres-on-local": (
        [case({"database.engine": "postgres"}, "database.engine")],
        [case(), case({"platform": "docker", "database.engine": "postgres"})],
    ),
    "database-url-missing": (
        [case({"database.engine": "external"}, "database_url", secrets=frozenset())],
        [
            case({"database.engine": "external"}),
            case({"database.engine": "external"}, secrets=frozenset({"database_url"})),
            case(secrets=frozenset()),
        ],
    ),
    "database-url-ignored": (
        [case({}, "database_url", secrets=frozenset({"database_url"}))],
        [case({"database.engine": "external"}, secrets=frozenset({"database_url"})), case()],
    ),
    "memcached-connections": (
        [case({"app.workers": 32, "sessions.engine": "cache"}, "sessions.memcached")],
        [
            case({"app.workers": 32, "sessions.engine": "db", "sessions.memcached": None}),
            case({"app.workers": 31, "sessions.engine": "cache"}),
            case({"app.workers": 32, "sessions.engine": "cache", "app.rollout": {"batch": 1}}),
        ],
    ),
    "postgres-connections": (
        [
            case({"platform": "docker", "database.engine": "postgres", "app.workers": 3}, "database.engine"),
        ],
        [
            case({"platform": "docker", "database.engine": "postgres", "app.workers": 2}),
            case({"platform": "docker", "database.engine": "postgres", "app.workers": 3, "app.rollout": {"batch": 1}}),
            case({"platform": "docker", "database.engine": "sqlite", "app.workers": 3}),
            case({"platform": "docker", "database.engine": "postgres", "app.workers": 3, "app.interface": "asgi"}),
        ],
    ),
    "migrate-off": (
        [case({"app.migrate": False}, "app.migrate")],
        [case({"app.migrate": False, "database": None}), case({"app.migrate": False, "database.engine": "external"})],
    ),
    "sessions-app-missing": (
        [case({}, "sessions.engine", **project(sessions_app=False))],
        [
            case({}, **project(sessions_app=True)),
            case({}, **project(sessions_app=False, session_middleware=False)),
            case({"sessions.engine": "cache"}, **project(sessions_app=False)),
        ],
    ),
    "sessions-without-database": (
        [case({"database": None}, "sessions.engine", project=NO_DATABASE)],
        [
            case({}, project=NO_DATABASE),
            case({"database": None}, project=SQLITE),
            case({"database": None, "sessions.engine": "cache"}, project=NO_DATABASE),
            case({"database": None}, project={}),
        ],
    ),
    "one-memcached-node": (
        [case({"sessions": {"engine": "cache", "memcached": {"nodes": 1}}}, "sessions.memcached.nodes")],
        [
            case({"sessions": {"engine": "cache"}}),
            case({"sessions": {"engine": "cached_db", "memcached": {"nodes": 1}}}),
        ],
    ),
    "session-cookie-secure": (
        [case({}, "app.settings", **project(session_cookie_secure=True))],
        [case(), case({}, **project(session_cookie_secure=False))],
    ),
    "session-cookie-open": (
        [
            case({}, "app.settings", **project(session_cookie_httponly=False)),
            case({}, "app.settings", **project(session_cookie_samesite="None")),
            case({}, "app.settings", **project(session_cookie_samesite=False)),
        ],
        [case(), case({}, **project(session_cookie_httponly=True, session_cookie_samesite="Strict"))],
    ),
    "all-of-memcached": (
        [case({"sessions": {"engine": "cache"}}, "sessions.engine")],
        [case(), case({"sessions": {"engine": "cache", "memcached": {"nodes": 1}}})],
    ),
    "signed-cookies-rotation": (
        [case({"sessions.engine": "signed_cookies"}, "sessions.engine")],
        [
            case(),
            case({"sessions.engine": "signed_cookies"}, secrets=frozenset({"secret_key_fallbacks"})),
        ],
    ),
    "session-path-relative": (
        [case({"sessions": {"engine": "file", "path": "sessions"}}, "sessions.path")],
        [case({"sessions": {"engine": "file", "path": "/srv/sessions"}}), case({"sessions.engine": "file"})],
    ),
    "session-path-in-container": (
        [case({"platform": "docker", "sessions": {"engine": "file", "path": "/srv/sessions"}}, "sessions.path")],
        [
            case({"sessions": {"engine": "file", "path": "/srv/sessions"}}),
            case({"platform": "docker", "sessions": {"engine": "file"}}),
        ],
    ),
    "session-path-ignored": (
        [case({"sessions.path": "/srv/sessions"}, "sessions.path")],
        [
            case({"sessions": {"engine": "file", "path": "/srv/sessions"}}),
            case({"sessions": {"engine": "db", "previous": "file", "path": "/srv/sessions"}}),
        ],
    ),
    "memcached-ignored": (
        [case({"sessions": {"engine": "db", "memcached": {"nodes": 3}}}, "sessions.memcached")],
        [
            case({"sessions": {"engine": "db"}}),
            case({"sessions": {"engine": "db", "previous": "cache", "memcached": {"nodes": 3}}}),
        ],
    ),
    "debug-derived": (
        [
            case({}, "app.settings", **project(debug_derived=[{"name": "A", "where": "s.py:1"}])),
            case({}, "app.settings", **project(debug_unknown="KeyError: 'A'")),
        ],
        [case(), case(**project(debug_derived=[], debug_unknown=""))],
    ),
    "debug-variable": (
        [
            case({"app.environment": {"DJANGO_DEBUG": "True"}}, "app.environment.DJANGO_DEBUG"),
            case({"app.environment": {"DEBUG": "on"}}, "app.environment.DEBUG"),
        ],
        [case({"app.environment": {"DEBUG": "False"}}), case({"app.environment": {"DEBUGGER": "1"}})],
    ),
    "session-engine-replaced": (
        [case({}, "sessions.engine", **project(own_session_engine="django.contrib.sessions.backends.cache"))],
        [
            case(**project(own_session_engine="")),
            case(**project(own_session_engine="django.contrib.sessions.backends.cached_db")),
            case(
                {"sessions.engine": "project"},
                **project(own_session_engine="django.contrib.sessions.backends.cache"),
            ),
        ],
    ),
    "database-replaced": (
        [
            case(
                {"database.engine": "external"},
                "database.engine",
                **project(own_database_engine="django.db.backends.postgresql", own_database_host="db"),
            )
        ],
        [
            case({"database.engine": "external"}, **project(own_database_engine="django.db.backends.sqlite3")),
            case({"database": None}, **project(own_database_engine="django.db.backends.mysql")),
        ],
    ),
    "ssl-redirect": ([case({}, "app.settings", **project(ssl_redirect=True))], [case(**project(ssl_redirect=False))]),
    "compression-missing": (
        [case({}, "app.release_commands", **project(offline_compression=True))],
        [
            case(**project(offline_compression=False)),
            case({"app.release_commands": ["compress --force"]}, **project(offline_compression=True)),
        ],
    ),
    "csrf-cookie-secure": (
        [case({}, "app.settings", **project(csrf_cookie_secure=True))],
        [case(**project(csrf_cookie_secure=False))],
    ),
    "cookie-domain": (
        [case({}, "site.server_names", **project(cookie_domains={"SESSION_COOKIE_DOMAIN": ".example.org"}))],
        [
            case(
                {"site.server_names": ["example.org", "www.example.org"]},
                **project(cookie_domains={"SESSION_COOKIE_DOMAIN": ".example.org"}),
            ),
            case(**project(cookie_domains={})),
        ],
    ),
    "cors-open": (
        [case({}, "app.settings", **project(cors_all=True, cors_credentials=True))],
        [case(**project(cors_all=True, cors_credentials=False))],
    ),
    "websockets-unanswered": (
        [case({}, "app.interface", **project(asgi_apps=["daphne", "channels"]))],
        [case({"app.interface": "asgi"}, **project(asgi_apps=["channels"])), case(**project(asgi_apps=[]))],
    ),
    "mail-nowhere": (
        [case({}, "app.settings", **project(email_backend="django.core.mail.backends.console.EmailBackend"))],
        [case(**project(email_backend="django.core.mail.backends.smtp.EmailBackend"))],
    ),
    "any-password": (
        [case({}, "app.settings", **project(auth_app=True, password_validators=0))],
        [
            case(**project(auth_app=False, password_validators=0)),
            case(**project(auth_app=True, password_validators=1)),
        ],
    ),
    "cache-dummy": (
        [case({}, "app.settings", **project(own_default_cache="django.core.cache.backends.dummy.DummyCache"))],
        [case(**project(own_default_cache="django.core.cache.backends.locmem.LocMemCache"))],
    ),
    "previous-of-project": (
        [
            case({"sessions.previous": "project"}, "sessions.previous"),
            case({"sessions.engine": "project", "sessions.previous": "db"}, "sessions.previous"),
        ],
        [case({"sessions.engine": "project"}), case({"sessions.previous": "db"})],
    ),
    "previous-is-engine": (
        [case({"sessions.previous": "cached_db"}, "sessions.previous")],
        [case(), case({"sessions.previous": "db"})],
    ),
    "discard-kept": (
        [
            case({"sessions.discard": True}, "sessions.discard"),
            case({"database": {"engine": "sqlite", "discard": True}}, "database.discard"),
        ],
        [case(), case({"sessions.discard": False, "database": {"engine": "sqlite"}})],
    ),
    "instance-ports-beyond": (
        [case({"site.instance_ports": 65_533}, "site.instance_ports")],
        [case({"site.instance_ports": 65_532})],
    ),
    "same-port": (
        [case({"site.listen": 8003}, "site.listen")],
        [case({"site.listen": 8004}), case({"site.listen": 8000, "site.instance_ports": None})],
    ),
    "port-of-other-stack": (
        [
            case(
                {},
                "site.listen",
                "site.instance_ports",
                other_listens={8080: "dev", 8002: "staging"},
            )
        ],
        [case({}, other_listens={8081: "dev", 8004: "staging"})],
    ),
    "privileged-port": (
        [
            case(
                {"site.listen": 80, "site.instance_ports": 1000}, "site.listen", "site.instance_ports", privileged=False
            )
        ],
        [case({"site.listen": 80}, privileged=True), case({"site.listen": 80}), case({}, privileged=False)],
    ),
    "ipv6": (
        [case({**DOCKER, "site.ipv6": True}, "site.ipv6")],
        [case({"site.ipv6": True}), case(DOCKER)],
    ),
    "https-port": ([case({"site.listen": 443}, "site.listen")], [case({"site.listen": 80})]),
    "https-elsewhere": (
        [
            case(tls("ours", listen=443), "site.listen"),
            case({**tls("ours"), "site.listen": 80}, "site.tls.listen"),
        ],
        [case(tls("ours")), case({**tls("ours", listen=443), "site.listen": 80}), case(SELF_SIGNED)],
    ),
    "acme-port": (
        [case(BY_ACME, "site.listen"), case({**BY_ACME, "site.forwarded_ports": [443]}, "site.listen")],
        [case({**BY_ACME, "site.listen": 80}), case({**BY_ACME, "site.forwarded_ports": [80]}), case(SELF_SIGNED)],
    ),
    "acme-certificates": (
        [
            case(BY_ACME, "site.tls.acme", issued=got(4), now=NOW),
            case({**REMOTE, **BY_ACME}, "site.tls.acme", issued=got(4), now=NOW),
            case({**REMOTE, **BY_ACME, "hosts": visited(4)}, "site.tls.acme", issued=got(5), now=NOW),
            case({**REMOTE, **BY_ACME, "hosts": visited(6)}, "site.tls.acme", now=NOW),
        ],
        [
            case({**REMOTE, **BY_ACME, "hosts": visited(4)}, issued=got(4), now=NOW),  # one for each
            case({**REMOTE, **BY_ACME, "hosts": visited(5)}, now=NOW),
            case({**REMOTE, **BY_ACME, "hosts": [HOST, *({**one, "roles": ["app"]} for one in visited(6))]}, now=NOW),
            case(BY_ACME, issued=got(3), now=NOW),
            case(BY_ACME, issued=[*got(3), *got(9, days=8)], now=NOW),
            case(BY_ACME, issued=[*got(3), *got(9, names="others")], now=NOW),
            case(SELF_SIGNED, issued=got(9), now=NOW),
        ],
    ),
    "acme-eab-key": (
        [
            case(BOUND, "site.tls.acme.eab", secrets=frozenset({"secret_key"})),
            case({**BOUND, **DOCKER}, "site.tls.acme.eab", secrets=frozenset()),
        ],
        [
            case(BOUND, secrets=frozenset({"acme_eab_key"})),
            case(BOUND),
            case({**BOUND, "acme_eab_key": "a2V5"}, secrets=frozenset()),
            case(BY_ACME, secrets=frozenset()),
        ],
    ),
    "self-signed": (
        [case({**DOCKER, **SELF_SIGNED}, "site.tls.self_signed")],
        [case(SELF_SIGNED), case({**DOCKER, **tls("ours")})],
    ),
    "certificate": (
        [
            case(tls("missing"), "site.tls.files.certificate", root=FILES, now=NOW),
            case(tls("ours", key="other"), "site.tls.files.key", root=FILES, now=NOW),
            case(tls("ours"), "site.tls.files.certificate", root=FILES, now=LATER),
        ],
        [case(tls("ours"), root=FILES, now=NOW), case(tls("missing")), case(SELF_SIGNED, root=FILES, now=NOW)],
    ),
    "auth-basic-users": (
        [
            case({**SELF_SIGNED, **ASKING}, "site.auth_basic", secrets=frozenset({"secret_key"})),
            case({**SELF_SIGNED, **ASKING, **DOCKER}, "site.auth_basic", secrets=frozenset()),
        ],
        [
            case({**SELF_SIGNED, **ASKING}, secrets=frozenset({"auth_basic_users"})),
            case({**SELF_SIGNED, **ASKING}),
            case(SELF_SIGNED, secrets=frozenset()),
        ],
    ),
    "auth-basic-plain": (
        [
            case(ASKING, "site.auth_basic"),
            case({**ASKING, "site.trusted_proxies": ["10.0.0.1"], "site.proxy_protocol": True}, "site.auth_basic"),
        ],
        [case({**ASKING, **SELF_SIGNED}), case({**ASKING, "site.trusted_proxies": ["10.0.0.1"]}), case()],
    ),
    "auth-basic-project": (
        [case({**ASKING, "app.project": f"./{name}"}, "site.auth_basic", root=CODE) for name in CODES],
        [
            *(case({**ASKING, "app.project": f"./{name}"}, root=CODE) for name in OTHER_CODES),
            case({"app.project": "./django"}, root=CODE),
            case({**ASKING, "app.project": "./django"}),
            case({**ASKING, "app.project": "./nowhere"}, root=CODE),
            case({**ASKING, "app.project": "./django", **at("/api/", auth_basic=False)}, root=CODE),
            case(ASKING, root=ROOT),
        ],
    ),
    "certificate-chain": (
        [case(tls("alone", key="ours"), "site.tls.files.certificate", root=FILES, now=NOW)],
        [
            case(tls("ours"), root=FILES, now=NOW),
            case(tls("whole", key="ours"), root=FILES, now=NOW),
            case(tls("alone", key="other"), root=FILES, now=NOW),
            case(tls("alone", key="ours"), root=FILES),
            case(tls("missing"), root=FILES, now=NOW),
        ],
    ),
    "certificate-ends": (
        [case(tls("ours"), "site.tls.files.certificate", root=FILES, now=SOON)],
        [case(tls("ours"), root=FILES, now=NOW), case(tls("missing"), root=FILES, now=NOW)],
    ),
    "readable-key": (
        [case(tls("ours", key="open"), "site.tls.files.key", root=FILES)],
        [case(tls("ours"), root=FILES), case(tls("missing"), root=FILES)],
    ),
    "hsts": (
        [
            case(tls("ours", hsts={"max_age": "365d"}), "site.tls.hsts.max_age"),
            case({"site.tls": {"self_signed": True, "hsts": {"max_age": "5m"}}}, "site.tls.hsts"),
        ],
        [
            case(tls("ours", hsts={"max_age": "30d"})),
            case(tls("ours", hsts={"max_age": "730d", "include_subdomains": True, "preload": True})),
        ],
    ),
    "duplicate-server-name": (
        [
            case({"site.server_names": ["a.b", "c", "A.b"]}, "site.server_names[2]"),
            case({"site.server_names": [".a.b", "*.a.b", "a.b"]}, "site.server_names[1]", "site.server_names[2]"),
            case({"site.server_names": ["*.a.b", ".a.b"]}, "site.server_names[1]"),
        ],
        [case({"site.server_names": ["a.b", "*.a.b", "c.a.b", ".d.a.b"]})],
    ),
    "any-host": (
        [case({"platform": "docker", "site.server_names": ["a", "_"]}, "site.server_names[1]")],
        [case({"site.server_names": ["_"]}), case({"platform": "docker"})],
    ),
    "unlimited-bodies": (
        [
            case({"site.client_max_body_size": 0}, "site.client_max_body_size"),
            case(at("/a/", client_max_body_size=0), "site.locations[0].client_max_body_size"),
        ],
        [case({"site.client_max_body_size": "1g"}), case(at("/a/", client_max_body_size=0, buffering=False))],
    ),
    "snippet-header": (
        [
            case({"site.snippets": {"server": "add_header X-A b always;"}}, "site.snippets.server"),
            case(
                {"site.snippets": {"http": "add_header X-A b;", "server": "add_header X-B c; add_header X-C d;"}},
                *("site.snippets.http", "site.snippets.server", "site.snippets.server"),
            ),
        ],
        [case(), case({"site.snippets": {"server": "location /x { add_header X-A b; }"}})],
    ),
    "static-url-reserved": (
        [case({"site.static_url": "/-/"}, "site.static_url")],
        [case({"site.static_url": "/-/static/"})],
    ),
    "static-url-dots": (
        [case({"site.static_url": url}, "site.static_url") for url in ("/../", "/static/./", "/a/../static/")],
        [case({"site.static_url": "/.static/v1..2/"})],
    ),
    "static-url-long": (
        [case({"site.static_url": f"/{'x' * 5000}/"}, "site.static_url")],
        [case({"site.static_url": f"/{'x' * 3000}/"})],
    ),
    "static-url-differs": (
        [
            case({}, "site.static_url", **project(static_url="assets/")),
            case({}, "site.static_url", **project(static_url="/")),
        ],
        [
            case({}, **project(static_url="static/")),
            case({"site.static_url": None}, **project(static_url="/assets/")),
            case({}, **project(static_url="/assets/", static_app=False)),
            case({}, **project(static_url="https://cdn.example.com/")),
            case({}, **project(static_url=None)),
        ],
    ),
    "static-elsewhere": (
        [
            case({}, "site.static_url", **project(static_url="https://cdn.example.com/")),
            case({}, "site.static_url", **project(static_url="https://cdn.example.com/assets/")),
        ],
        [
            case({}, **project(static_url="https://cdn.example.com/static/")),
            case({"site.static_url": None}, **project(static_url="https://cdn.example.com/")),
            case({}, **project(static_url="static/")),
        ],
    ),
    "static-not-collected": (
        [case({"app.collectstatic": False}, "app.collectstatic")],
        [case({"app.collectstatic": False, "site.static_url": None})],
    ),
    "static-app-missing": (
        [case({}, "site.static_url", **project(static_app=False))],
        [case({}, **project(static_app=True)), case({"site.static_url": None}, **project(static_app=False))],
    ),
    "nginx-too-old": (
        [case({}, "platform", nginx=(1, 18, 0))],
        [case({}, nginx=(1, 19, 10)), case()],
    ),
    "nginx-untested": (
        [case({}, "platform", nginx=(1, 20, 1))],
        [case({}, nginx=(1, 22, 0)), case({}, nginx=(1, 18, 0))],
    ),
    "http3-nginx": (
        [
            case(HTTP3, "site.tls.http3", nginx=(1, 22, 1)),
            case(HTTP3, "site.tls.http3", nginx=(1, 25, 5), http3=True),
            case(HTTP3, "site.tls.http3", nginx=(1, 30, 0), http3=False),
            case({**REMOTE, **HTTP3}, "site.tls.http3", nginx=(1, 24, 0)),
        ],
        [
            case(HTTP3, nginx=(1, 26, 0), http3=True),
            case({**REMOTE, **HTTP3}, nginx=(1, 26, 3)),
            case(HTTP3),
            case(SELF_SIGNED, nginx=(1, 22, 1), http3=False),
        ],
    ),
    "http3-discard": (
        [case({"site.tls": {"self_signed": True, "discard_http3_requests": True}}, "site.tls.discard_http3_requests")],
        [case(HTTP3), case(SELF_SIGNED)],
    ),
    "reload-closes-connections": (
        [case({}, "platform", nginx=(1, 27, 3))],
        [case({}, nginx=(1, 27, 4)), case()],
    ),
    "base-old": (
        [
            case({**DOCKER, "images": {"as_of": "2026-01-01"}}, "images.as_of", now=FEBRUARY),
            case(DOCKER, "images.base", now=FEBRUARY, bases={"debian:trixie-slim": JANUARY}),
            case(
                {**DOCKER, "images": {"nginx": "nginx:1.30"}},
                "images.nginx",
                now=FEBRUARY,
                bases={"debian:trixie-slim": FEBRUARY, "nginx:1.30": JANUARY},
            ),
        ],
        [
            case({**DOCKER, "images": {"as_of": "2026-01-02"}}, now=FEBRUARY),
            case({**DOCKER, "images": {"as_of": "2026-01-02"}}, now=FEBRUARY, bases={"debian:trixie-slim": JANUARY}),
            case({**DOCKER, "images": {"as_of": "2026-01-01"}}),
            case(DOCKER, now=FEBRUARY),
            case(DOCKER, bases={"debian:trixie-slim": JANUARY}),
            case({"images": {"as_of": "2026-01-01"}}, now=FEBRUARY),
        ],
    ),
    "policy-unasked": (
        [case({"policy": {"production": True}}, "policy")],
        [case(), case({**DOCKER, "policy": {"production": True}}), case({**REMOTE, "policy": {"production": False}})],
    ),
    "hosts-missing": (
        [case({**REMOTE, "hosts": []}, "hosts"), case({"hosts": [HOST]}, "hosts")],
        [case(REMOTE), case()],
    ),
    "hosts-roles": (
        [
            case({**REMOTE, "hosts": [HOST, {**HOST, "name": "web2"}]}, "hosts[1].address"),
            case({**REMOTE, "hosts": [HOST, {**HOST, "address": "10.0.0.12"}]}, "hosts[1].name"),
            case({**REMOTE, "hosts": [INSIDE, {**WEB2, "internal": INSIDE["internal"]}]}, "hosts[1].internal"),
            case({**REMOTE, "hosts": [{**HOST, "jump": JUMP}, {**WEB2, "name": "web1-jump"}]}, "hosts[1].name"),
            case({**REMOTE, "hosts": [{**HOST, "roles": ["app"]}]}, "hosts"),
            case({**REMOTE, "hosts": [{**HOST, "roles": ["nginx"]}]}, "hosts"),
            case({**REMOTE, "upstream.servers": [{"name": "app1", "host": "web9"}]}, "upstream.servers[0].host"),
            case({**REMOTE, "hosts": [HOST, EDGE], "upstream.servers": [{"name": "app1", "host": "edge1"}]}, ON_APP1),
        ],
        [
            case(REMOTE),
            case(),
            case({**REMOTE, "hosts": [HOST, WEB2, EDGE]}),
            case({**REMOTE, "hosts": [{**HOST, "jump": JUMP}, {**WEB2, "name": "web2-jump"}]}),
        ],
    ),
    "hosts-idle": (
        [case({**REMOTE, "hosts": [HOST, WEB2], "upstream.servers": [a_server("app1")]}, "hosts[1].roles")],
        [case({**REMOTE, "hosts": [HOST, WEB2]}), case({**REMOTE, "upstream.servers": [a_server("app1")]})],
    ),
    "hosts-database": (
        [
            case({**REMOTE, "database": {"engine": "postgres"}}, "hosts"),
            case(
                {
                    **REMOTE,
                    "hosts": [BOTH, {**BOTH, "name": "web2", "address": "10.0.0.12"}],
                    "database": {"engine": "postgres"},
                },
                "hosts",
            ),
            case({**REMOTE, "hosts": [{**HOST, "roles": ["app", "nginx", "database"]}]}, "hosts[0].roles"),
            case({**REMOTE, **APART, "hosts": [INSIDE, {**DATABASE, "internal": None}]}, "hosts[1].internal"),
            case({**REMOTE, **APART, "hosts": [INSIDE, {**DATABASE, "internal": "db.lan"}]}, "hosts[1].internal"),
            case({**REMOTE, **APART, "hosts": [HOST, DATABASE]}, "hosts[0].internal"),
        ],
        [
            case({**REMOTE, **APART}),
            case({**REMOTE, **APART, "hosts": [{**HOST, "roles": ["app", "nginx", "database"]}]}),
            case({**REMOTE, **APART, "hosts": [INSIDE, EDGE, DATABASE]}),
        ],
    ),
    "hosts-broker": (
        [
            case({**REMOTE, "hosts": [INSIDE, BROKER]}, "hosts[1].roles"),
            case({**REMOTE, **ASKED, "hosts": [*ASKED["hosts"][:2], BOTH_BROKERS, BROKER]}, "hosts"),
            case({**REMOTE, **ASKED, "hosts": [INSIDE, {**BROKER, "internal": None}]}, "hosts[1].internal"),
            case({**REMOTE, **ASKED, "hosts": [INSIDE, {**BROKER, "internal": "jobs.lan"}]}, "hosts[1].internal"),
            case({**REMOTE, **ASKED, "hosts": [HOST, BROKER]}, "hosts[0].internal"),
            case({**REMOTE, **ASKED, "hosts": [{**BOTH_BROKERS, "internal": "a.lan"}]}, "hosts[0].internal"),
            case(
                {**REMOTE, **ASKED, "hosts": [BOTH_BROKERS], "broker": {"engine": "valkey", "port": 8080}},
                "broker.port",
            ),
            case(
                {
                    **REMOTE,
                    "hosts": [INSIDE, {**BROKER, "roles": ["broker", "database"]}],
                    "database": {"engine": "postgres"},
                    "broker": {"engine": "valkey", "port": 5432},
                },
                "broker.port",
            ),
        ],
        [
            case({**REMOTE, **ASKED}),
            case({**REMOTE, **ASKED, "hosts": [{**BOTH_BROKERS, "internal": None}]}),
            case({**REMOTE, "broker": {"engine": "valkey"}}),
            case({**REMOTE, **ASKED, "broker": {"engine": "valkey", "port": 8080}}),
        ],
    ),
    "hosts-apart": (
        [
            case({**REMOTE, **SEVERAL, "sessions.engine": "cached_db"}, "sessions.engine"),
            case({**REMOTE, **SEVERAL, "sessions.engine": "cache"}, "sessions.engine"),
            case({**REMOTE, **SEVERAL, "sessions.engine": "file"}, "sessions.engine"),
            case({**REMOTE, **SEVERAL, "sessions.previous": "cached_db"}, "sessions.previous"),
            case({**REMOTE, "hosts": [HOST, WEB2], "database": {"engine": "sqlite"}}, "database.engine"),
            case({**REMOTE, **SEVERAL, "broker": {"engine": "valkey"}}, "broker"),
        ],
        [
            case({**REMOTE, **SEVERAL}),
            case({**REMOTE, **SEVERAL, "sessions.engine": "signed_cookies"}),
            case({**REMOTE, **ASKED}),
            case({**REMOTE, "hosts": [HOST, EDGE], "sessions.engine": "cached_db", "broker": {"engine": "valkey"}}),
        ],
    ),
    "hosts-uploads": (
        [
            case({**REMOTE, **SEVERAL, "app.shared": ["media"]}, "app.shared"),
            case({**REMOTE, "hosts": [HOST, EDGE], "app.media": {"root": "media"}}, "app.shared"),
        ],
        [
            case({**REMOTE, "app.shared": ["media"]}),
            case({**REMOTE, **SEVERAL}),
            case({**REMOTE, **SEVERAL, "app.shared": ["media"], **ON_SHARED}),
            # A database alone has none of them.
            case({**REMOTE, **APART, "app.shared": ["media"]}),
        ],
    ),
    "hosts-filesystem": (
        [
            case({"app.shared": ["media"], **ON_SHARED}, "app.shared_filesystem"),
            case({**REMOTE, **SEVERAL, **ON_SHARED}, "app.shared_filesystem"),
            case({**REMOTE, **SEVERAL, "app.shared": ["var/audit.sqlite3"], **ON_SHARED}, "app.shared"),
            case({**REMOTE, **SEVERAL, "app.shared": ["my files"], **ON_SHARED}, "app.shared"),
        ],
        [
            case({**REMOTE, "app.shared": ["media"], **ON_SHARED}),
            case({**REMOTE, **SEVERAL, "app.media": {"root": "media"}, **ON_SHARED}),
            case({**REMOTE, "app.shared": ["var/audit.sqlite3"]}),
        ],
    ),
    "hosts-ports": (
        [
            case({**REMOTE, **SEVERAL, "site.listen": 8444}, "upstream.relay_port"),
            case({**REMOTE, "hosts": [HOST, EDGE], "upstream.relay_port": 8078}, "upstream.relay_port"),
        ],
        [
            case({**REMOTE, **SEVERAL, "site.listen": 8445}),
            case({**REMOTE, **SEVERAL, "site.listen": 8439}),
            case({**REMOTE, "site.listen": 8444}),
        ],
    ),
    "hosts-hang": (
        [case({**REMOTE, **SEVERAL}, "site.proxy_read_timeout")],
        [case({**REMOTE, **SEVERAL, "site.proxy_read_timeout": "8s"}), case({**REMOTE, "hosts": [HOST, EDGE]})],
    ),
    "address-platform": (
        [case({"site.address": "10.0.0.9"}, "site.address")],
        [case({**REMOTE, **SHARED}), case({**REMOTE, **SEVERAL}), case()],
    ),
    "address-alone": (
        [case({**REMOTE, "site.address": "10.0.0.9"}, "site.address")],
        [case({**REMOTE, **SHARED}), case(REMOTE), case({"site.address": "10.0.0.9"})],
    ),
    "address-taken": (
        [
            case({**REMOTE, **SHARED, "site.address": "10.0.0.12"}, "site.address"),
            case({**REMOTE, **SHARED, "hosts": [INSIDE, WEB2], "site.address": "10.1.0.11"}, "site.address"),
        ],
        [case({**REMOTE, **SHARED})],
    ),
    "address-between": (
        [
            case({**REMOTE, **SHARED, "hosts": [HOST, {**WEB2, "internal": "web2.lan"}]}, "hosts[1].internal"),
            case({**REMOTE, **SHARED, "hosts": [HOST, {**WEB2, "address": "web2.lan"}]}, "hosts[1].address"),
            case({**REMOTE, **SHARED, "hosts": [HOST, {**WEB2, "internal": "fd00::2"}]}, "hosts"),
            case({**REMOTE, **SHARED, "site.address": "2001:db8::9", "site.ipv6": True}, "site.address"),
        ],
        [
            case({**REMOTE, **SHARED}),
            case({**REMOTE, **SHARED, "site.address": ["10.0.0.9", "2001:db8::9"], "site.ipv6": True}),
            case({**REMOTE, **SEVERAL, "hosts": [HOST, {**WEB2, "address": "web2.lan"}]}),
        ],
    ),
    "address-ipv6": (
        [case({**REMOTE, **SHARED, "site.address": ["10.0.0.9", "2001:db8::9"]}, "site.ipv6")],
        [
            case({**REMOTE, **SHARED}),
            case({**REMOTE, **SHARED, "site.address": ["10.0.0.9", "2001:db8::9"], "site.ipv6": True}),
        ],
    ),
    "hosts-services": (
        [
            case({**REMOTE, "app.read_only": False}, "app.read_only"),
            case({**REMOTE, "upstream.servers": [a_server("app-1")]}, "upstream.servers[0].name"),
        ],
        [
            case(REMOTE),
            case({**REMOTE, **BY_ACME}),
            case({**REMOTE, "sessions.engine": "cached_db", "broker": {"engine": "valkey"}}),
            case({**REMOTE, "workers": [{"name": "mail", "command": "manage.py db_worker"}]}),
            case({**REMOTE, "schedule": [{"name": "d", "command": "manage.py d", "at": "0 6 * * *"}]}),
            case({"sessions.engine": "cached_db"}),
            case({"app.read_only": False}),
        ],
    ),
    "images-ignored": (
        [case({"images": {"nginx": "nginx:1.30"}}, "images")],
        [case(), case({"platform": "docker", "images": {"nginx": "nginx:1.30"}})],
    ),
}


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert set(CASES) == {rule.id for rule in RULES}
    for rule, (firing, silent) in CASES.items():
        assert firing, rule
        assert silent, rule
        assert all(stack.at for stack in firing), f"{rule}: a case must say at which path it fires"


def test_every_rule_has_an_id_of_its_own_and_a_sentence() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.id == rule.id.lower().replace("_", "-")
        assert rule.summary.endswith(".")


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_fires_at_the_key_that_is_to_be_changed(rule: str) -> None:
    for stack in CASES[rule][0]:
        assert paths(rule, stack.changes, stack.facts) == list(stack.at)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_silent_where_it_has_nothing_to_say(rule: str) -> None:
    for stack in CASES[rule][1]:
        assert paths(rule, stack.changes, stack.facts) == []


@pytest.mark.parametrize("rule", CASES)
def test_what_a_rule_says_is_a_sentence_why_and_a_sentence_how_to_mend(rule: str) -> None:
    for stack in CASES[rule][0]:
        for finding in findings(stack.changes, stack.facts):
            assert finding.why.endswith("."), finding
            assert finding.remedy.endswith("."), finding
            assert finding.path


def test_errors_come_first_then_warnings_then_notes() -> None:
    found = findings({"upstream.servers": 1, "sessions.path": "x", "site.static_url": "/-/", "images": {}})
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, key=list(Severity).index)
    assert set(severities) == set(Severity)


def test_the_example_has_neither_errors_nor_warnings() -> None:
    described = {
        "static_url": "/static/",
        "static_app": True,
        "sessions_app": True,
        "session_middleware": True,
        "database_engine": "django.db.backends.sqlite3",
        "database_name": str(ROOT / "example" / "db.sqlite3"),
    }
    facts = Facts(root=ROOT, nginx=(1, 22, 1), secrets=frozenset({"secret_key"}), project=described, privileged=False)
    assert [str(found) for found in findings({}, facts) if found.severity is not Severity.NOTE] == []


@pytest.mark.parametrize("path", sorted((ROOT / "stacks").glob("Pulumi.*.yaml")), ids=lambda path: path.name)
def test_the_stacks_of_the_repository_have_neither_errors_nor_warnings(path: Path) -> None:
    config = load_stack(ROOT, path.name[7:-5])
    assert [str(found) for found in lint(config, Facts(root=ROOT)) if found.severity is not Severity.NOTE] == []


def test_an_old_base_is_named_with_its_age_and_what_to_say() -> None:
    facts = Facts(now=FEBRUARY, bases={"debian:trixie-slim": JANUARY}, stack="shop")
    (found,) = [str(one) for one in findings(DOCKER, facts) if one.id == "base-old"]
    assert found.startswith("images.base: debian:trixie-slim was made 31 days ago: ")
    assert "`cluster up --pull shop`" in found
    (found,) = [
        str(one) for one in findings({**DOCKER, "images": {"as_of": "2026-01-01"}}, facts) if one.id == "base-old"
    ]
    assert found.startswith("images.as_of: The images are as of 2026-01-01, 31 days ago: ")
    assert "`cluster up --pull shop`" in found


def test_no_message_repeats_the_value_of_a_variable_that_looks_secret() -> None:
    found = findings({"app.environment": {"API_TOKEN": "hunter2", "BROKER": "redis://me:hunter2@host"}})
    assert found
    assert "hunter2" not in " ".join(map(str, found))


def test_the_names_in_a_hash_key_are_read_as_nginx_reads_them() -> None:
    assert variables_in("$uri$1x${args}-$arg_a.b") == ["uri", "1", "args", "arg_a"]
    assert variables_in("no variable {}") == []
    assert is_variable("REQUEST_URI")
    assert not is_variable("request_uris")
