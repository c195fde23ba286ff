"""Runs the whole matrix of sessions and keeps it in docs/: `python -m tests.matrix` (`local` or `docker` alone too).

Every engine through every change and every fault, and each change of one engine to each other one, on this machine and
on Docker. It takes some twenty minutes each: `make test` runs a part of it, and says when what is kept is older than
what it is of.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.sessions import CANNOT_SURVIVE
from tests.e2e.results import digest_of
from tests.sessions import ENGINES, Matrix, Row, load_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sessions import SessionStand

ROOT = Path(__file__).resolve().parents[1]
JSON, PAGE = ROOT / "docs" / "sessions-matrix.json", ROOT / "docs" / "sessions-matrix.md"

COMMAND = "python -m tests.matrix"

#: What the results are of.
PARTS = {
    "local": ("runtime", "cluster"),
    "docker": ("runtime", "cluster", "components", "platforms/docker", "platforms/pulumi"),
}

WHERE = {"local": "On this machine, PostgreSQL beside it", "docker": "On Docker, all of it in containers"}


@contextlib.contextmanager
def local() -> Iterator[SessionStand]:
    from tests.local.postgres import Postgres  # noqa: PLC0415 - of one platform each
    from tests.local.stand import Stand  # noqa: PLC0415

    with contextlib.closing(Postgres()) as database, contextlib.closing(Stand(database=database, instances=4)) as stand:
        stand.edit_stack(lambda stack: stack["sessions"].update(memcached={"nodes": 2, "memory": "32m"}))
        yield stand


@contextlib.contextmanager
def docker() -> Iterator[SessionStand]:
    from tests.e2e.stand import DockerStand  # noqa: PLC0415 - of one platform each

    with contextlib.closing(DockerStand(name="x")) as stand:
        yield stand


PLATFORMS: dict[str, Callable[[], contextlib.AbstractContextManager[SessionStand]]] = {"local": local, "docker": docker}


def missing(platform: str) -> str:
    """Return what a platform's matrix lacks on this machine; empty where it can run."""
    from tests.e2e import tools  # noqa: PLC0415 - of one platform each
    from tests.local import postgres  # noqa: PLC0415

    return tools.missing() if platform == "docker" else postgres.missing()


def measure(platform: str) -> list[Row]:
    with PLATFORMS[platform]() as stand:
        result = stand.up()
        assert result.status == 0, result.output
        with load_of(stand) as load:
            matrix = Matrix(stand, load)
            matrix.everything()
        return matrix.rows


# --- what is kept


def keep(platform: str, rows: list[Row]) -> None:
    """Put one platform's rows beside what is kept of the other, and write the page anew."""
    document: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {}
    document[platform] = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "of": digest_of(PARTS[platform]),
        "rows": [asdict(row) for row in rows],
    }
    JSON.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(document), encoding="utf-8")


def page(document: dict[str, Any]) -> str:
    lines = [
        "# Sessions through changes and faults",
        "",
        "Every engine, under eight clients that use their sessions all the time; 20 more users come back once after",
        "each event. A row is what happened, a column the engine that was in force. A cell: sessions lost / requests",
        "counted, and behind a plus how many of them failed.",
        "",
        f"Command: `{COMMAND}`, which also writes [each event by itself](sessions-matrix.json).",
        "",
        "While a store is away, requests that need it fail (the load's forms need the database whatever keeps the",
        "sessions); they end within 5 s of its return. An instance that is killed takes the POSTs that it already had",
        "with it. Each zero has a test in which the protection is off: `tests/local/test_sessions.py` and",
        "`tests/runtime/test_bridge.py`, `test_sessions.py`, `test_forged.py`.",
    ]
    for platform in PARTS:
        if platform in document:
            lines += ["", *_table(platform, document[platform])]
    lines += ["", "What an engine cannot survive; the linter says so too:", ""]
    lines += [f"- `{engine}`, {fault}: {why}" for (engine, fault), why in CANNOT_SURVIVE.items()]
    return "\n".join([*lines, ""])


def _table(platform: str, kept: dict[str, Any]) -> Iterator[str]:
    rows = [Row(**row) for row in kept["rows"]]
    yield f"## {WHERE[platform]}"
    yield ""
    yield f"{kept['date']}, {kept['cores']} cores, of {kept['of']}."
    yield ""
    yield f"| | {' | '.join(f'`{engine}`' for engine in ENGINES)} |"
    yield f"|---|{'---:|' * len(ENGINES)}"
    for name in dict.fromkeys(kind(row) for row in rows):
        yield f"| {name} | {' | '.join(_cell(rows, name, engine) for engine in ENGINES)} |"
    cannot = {(engine.value, fault.value) for engine, fault in CANNOT_SURVIVE}
    could = [row for row in rows if (row.engine, row.event) not in cannot]
    requests, lost = sum(row.requests for row in could), sum(len(row.lost) for row in could)
    outages = [row.recovered for row in rows if row.recovered is not None]
    yield ""
    yield (
        f"In all, where the engine can: {lost} sessions lost, {requests:,} requests. After a store's return the last "
        f"request failed within {max(outages, default=0.0):.1f} s, of {len(outages)} outages."
    )


def kind(row: Row) -> str:
    """Return the line of the table that an event belongs to."""
    for begins, name in (
        ("half way", "changed to another engine half way"),
        ("taken back from half way", "taken back from half way"),
        ("back to", "taken back after sessions were moved"),
        ("key rotated", "key rotated"),
        ("memcached's", "memcached's memory changed"),
    ):
        if row.event.startswith(begins):
            return name
    if row.event.startswith("to "):
        return f"changed to `{row.event.removeprefix('to ').partition(',')[0]}`"
    return "without the former engine" if row.event.startswith("without ") else row.event


def _cell(rows: list[Row], name: str, engine: str) -> str:
    found = [row for row in rows if row.engine == engine and kind(row) == name]
    if not found:
        return "-"
    requests, failed = sum(row.requests for row in found), sum(len(row.failed) for row in found)
    return f"{sum(len(row.lost) for row in found)} / {requests:,}" + (f" + {failed}" if failed else "")


def ages() -> Iterator[str]:
    """Yield what is to be said of the kept matrices; nothing where they are of this code."""
    document: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {}
    for platform, parts in PARTS.items():
        if document.get(platform, {}).get("of") != digest_of(parts):
            yield f"the sessions' matrix of {platform} in docs/ is older than the code: run {COMMAND} {platform}"


def main(arguments: list[str]) -> int:
    if arguments == ["--age"]:
        print("\n".join(ages()) or "the sessions' matrices in docs/ are of this code")
        return 0
    bad = 0
    for platform in arguments or PARTS:
        if why := missing(platform):
            print(f"the sessions' matrix of {platform} did not run: {why}")
            continue
        rows = measure(platform)
        wrong = [row for row in rows if row.wrong]
        for row in wrong:
            print(f"WRONG: {row}: {row.wrong[:5]}")
        if not wrong:
            keep(platform, rows)
        bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
