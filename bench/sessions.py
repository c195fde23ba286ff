"""Session engines beside Django's own and django-redis: `python -m bench.sessions` writes docs/benchmarks/sessions.*.

One process with four threads, as an instance has; each thread loads a session (a read), or loads and stores one (a
write). All stores are reached through unix sockets on this machine, sqlite is the same for all sides, and the sides are
measured in turn, round by round. redis-server and the package django-redis are not installed by this: without them
their rows are missing, and it says so.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import keep
from cluster_runtime.config import Sessions
from cluster_runtime.databases import sqlite
from cluster_runtime.sessions import settings_for
from tests.runtime.memcached import Memcached

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "PYTHONPATH=.:runtime .venv/bin/python -m bench.sessions"

ROUNDS, SECONDS, THREADS, SESSIONS = 5, 1.0, 4, 200

#: The targets: of Django's own engine's reads and writes a second.
TARGETS = {"cached_db": 0.9, "cache": 0.8}

OURS, DJANGO, REDIS = "here", "Django's own", "django-redis"

#: About what a shop keeps in one.
CONTENT = {
    "_auth_user_id": "1234",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": "f" * 64,
    "cart": [{"product": number, "count": 1, "price": "12.50"} for number in range(5)],
}


def sides(root: Path, nodes: list[Memcached], redis: str | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return Django's settings of each side of each engine."""
    paths = [str(node.path) for node in nodes]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for engine in ("signed_cookies", "file", "db", "cached_db", "cache"):
        sessions = Sessions(engine=engine, path=str(root), memcached=tuple(paths))
        found[engine, OURS] = settings_for(sessions, None)
        own: dict[str, Any] = {"SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}"}
        if engine == "file":
            own["SESSION_FILE_PATH"] = str(root)
        if engine in TARGETS:
            backend = "django.core.cache.backends.memcached.PyMemcacheCache"
            own["CACHES"] = {"default": {"BACKEND": backend, "LOCATION": [f"unix:{path}" for path in paths]}}
            if redis:
                cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"unix://{redis}"}
                found[engine, REDIS] = {**own, "CACHES": {"default": cache}}
        if engine != "db":
            found[engine, DJANGO] = own
    return found


# --- one side, in a process of its own


def work(settings: dict[str, Any], database: str) -> dict[str, list[float]]:
    """Return the seconds that each read and each write took."""
    import django  # noqa: PLC0415 - in this process alone
    from django.conf import settings as configured  # noqa: PLC0415

    entry = sqlite(database)
    configured.configure(
        SECRET_KEY="x" * 50,
        INSTALLED_APPS=["django.contrib.sessions"],
        DATABASES={"default": entry},
        USE_TZ=True,
        **settings,
    )
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    store = import_module(configured.SESSION_ENGINE).SessionStore
    keys = [[_create(store) for _number in range(SESSIONS // THREADS)] for _thread in range(THREADS)]
    taken: dict[str, list[float]] = {}
    for what in ("read", "write"):
        results: list[list[float]] = [[] for _thread in range(THREADS)]
        threads = [
            threading.Thread(target=_use, args=(store, keys[number], what == "write", results[number]))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken[what] = [one for result in results for one in result]
    return taken


def _create(store: Any) -> str:
    session = store()
    session.update(CONTENT)
    session.save()
    return str(session.session_key)


def _use(store: Any, keys: list[str], writing: bool, taken: list[float]) -> None:
    end = time.perf_counter() + SECONDS
    number = 0
    while (began := time.perf_counter()) < end:
        place = number % len(keys)
        session = store(keys[place])
        assert session["_auth_user_id"] == "1234", "the session is gone"
        if writing:
            session["seen"] = number
            session.save()
            keys[place] = session.session_key
        number += 1
        taken.append(time.perf_counter() - began)


# --- all sides


@contextlib.contextmanager
def redis_server(root: Path) -> Iterator[str | None]:
    """Start Redis on a socket; None where it, or django-redis, is not installed."""
    program = shutil.which("redis-server")
    if program is None or importlib.util.find_spec("django_redis") is None:
        yield None
        return
    path = root / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            time.sleep(0.05)
        yield str(path)
    finally:
        process.terminate()
        process.wait()


def measure() -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = [Memcached(root / f"m{number}") for number in range(2)]
        for node in nodes:
            stack.callback(node.kill)
        redis = stack.enter_context(redis_server(root))
        files = root / "files"
        files.mkdir()
        found = sides(files, nodes, redis)
        taken: dict[tuple[str, str], dict[str, list[list[float]]]] = {side: {} for side in found}
        for side, settings in [one for _round in range(ROUNDS) for one in found.items()]:
            words = json.dumps({"settings": settings, "database": str(root / "db.sqlite3")})
            command = [sys.executable, "-m", "bench.sessions", "--side", words]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{side}: {done.stderr}")
            for what, seconds in json.loads(done.stdout).items():
                taken[side].setdefault(what, []).append(seconds)
    rows = []
    for (engine, whose), by in taken.items():
        row: dict[str, Any] = {"engine": engine, "side": whose}
        for what, rounds in by.items():
            row[what] = round(statistics.median(len(one) / SECONDS for one in rounds))
            everything = sorted(second for one in rounds for second in one)
            row[f"{what} p99 ms"] = round(1000 * everything[int(0.99 * len(everything))], 2)
        rows.append(row)
    return {"rows": rows, "redis": redis is not None}


def report(found: dict[str, Any]) -> str:
    rows = {(row["engine"], row["side"]): row for row in found["rows"]}
    when = dt.datetime.now(tz=dt.UTC).date()
    lines = [
        "# Session engines beside Django's own and django-redis",
        "",
        f"One process, {THREADS} threads, {SESSIONS} sessions of some 400 bytes, through unix sockets; sqlite with WAL",
        "for all. A read loads a session, a write loads and stores one. `cache` here stores each session on two nodes",
        "and signs it; Django's own stores it on one, as a pickle.",
        "",
        f"{when}, {os.cpu_count()} cores. Medians of {ROUNDS} interleaved rounds. Command: `{COMMAND}`.",
        "",
        "| engine | whose | reads a second | 99th percentile, ms | writes a second | 99th percentile, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {engine} | {side} | {row['read']:,} | {row['read p99 ms']:.2f} | {row['write']:,} | "
        f"{row['write p99 ms']:.2f} |"
        for (engine, side), row in rows.items()
    ]
    lines.append("")
    for engine, target in TARGETS.items():
        ours, own = rows[engine, OURS], rows[engine, DJANGO]
        ratios = {what: ours[what] / own[what] for what in ("read", "write")}
        met = "met" if min(ratios.values()) >= target else "not met"
        words = ", ".join(f"{what}s {ratio:.2f}" for what, ratio in ratios.items())
        lines += [f"`{engine}` against Django's own: {words} times. Target {target:g}: {met}.", ""]
    if not found["redis"]:
        lines += ["redis-server or the package django-redis is not installed here: not measured.", ""]
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        side = json.loads(sys.argv[2])
        json.dump(work(side["settings"], side["database"]), sys.stdout)
        return 0
    found = measure()
    keep("sessions", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
