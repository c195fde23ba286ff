"""The results of the end-to-end tests, kept in docs/ by the run itself; `python -m tests.e2e.results`: their age."""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import RESULT
from tests.e2e.tools import BASE, PULUMI_HOME, docker

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
JSON, PAGE = ROOT / "docs" / "e2e.json", ROOT / "docs" / "e2e.md"

#: Held while the two are written.
LOCK = Path(tempfile.gettempdir()) / "django-cluster-e2e-results"

#: What is kept of a file beside the versions of what it was run with.
TOLD = ("date", "of", "tests")

#: What the results are of.
PARTS = (
    *("components", "runtime", "cluster", "cli", "policy", "__main__.py"),
    *("platforms/base.py", "platforms/registry.py", "platforms/pulumi"),
)

#: How files of tests are called that are of hosts; all others are of Docker.
OF_HOSTS = ("test_hosts", "test_remote")

COUNTED = re.compile(r"(\d+) of ([\d,]+) requests failed")

#: How a line begins that sums up others; its requests are not counted twice.
SUM = "all changes:"


@dataclass(frozen=True, kw_only=True)
class Row:
    test: str
    outcome: str
    seconds: float
    lines: list[str]


def row(nodeid: str, outcome: str, seconds: float, output: str) -> Row:
    lines = [line for line in output.splitlines() if RESULT.search(line)]
    return Row(test=nodeid.partition("tests/e2e/")[2], outcome=outcome, seconds=round(seconds, 1), lines=lines)


def digest_of(parts: tuple[str, ...]) -> str:
    """Return what is another whenever one of these directories and files is; what Python compiled is none of it."""
    found = [path for part in parts for path in ((ROOT / part).rglob("*") if (ROOT / part).is_dir() else [ROOT / part])]
    taken = hashlib.sha256()
    for path in sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts):
        taken.update(f"{path.relative_to(ROOT)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return taken.hexdigest()[:12]


@cache
def components_digest(file: str) -> str:
    """Return the digest of what a file's tests are of: the common parts, and the platform."""
    return digest_of((*PARTS, f"platforms/{'remote' if file.startswith(OF_HOSTS) else 'docker'}"))


def versions() -> dict[str, str]:
    command = PULUMI_HOME / "bin" / "pulumi"
    pulumi = subprocess.run(
        [str(command) if command.exists() else "pulumi", "version"], capture_output=True, text=True, check=False
    ).stdout
    plugins = sorted(path.name for path in (PULUMI_HOME / "plugins").iterdir() if path.is_dir())
    return {
        "pulumi": pulumi.strip(),
        "plugins": ", ".join(name.removeprefix("resource-") for name in plugins),
        "docker": docker("version", "--format", "{{.Server.Version}}"),
        "base image": BASE,
        "hosts": os.environ.get("HOST_BASE", BASE),
    }


def write(rows: list[Row]) -> None:
    """Keep the results of whole test files, beside what is kept of others; several runs may end at once."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {}
        document = merged(kept, rows, {"date": today(), **versions()}, components_digest)
        JSON.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(document), encoding="utf-8")


def today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def merged(kept: dict[str, Any], rows: list[Row], told: dict[str, str], of: Callable[[str], str]) -> dict[str, Any]:
    """Return what is kept once these rows are, by test file; told: when they were seen, and with what; of: of what."""
    files = {name: one for name, one in kept.items() if (HERE / name).exists()}
    for name, found in groupby(sorted(rows, key=lambda one: one.test), key=lambda one: one.test.partition("::")[0]):
        files[name] = {**told, "of": of(name), "tests": [asdict(one) for one in found]}
    return dict(sorted(files.items()))


def counted(rows: list[Row]) -> int:
    """Return how many requests these tests counted."""
    found = (hit for one in rows for line in one.lines if not line.startswith(SUM) for hit in COUNTED.finditer(line))
    return sum(int(hit[2].replace(",", "")) for hit in found)


def page(document: dict[str, Any]) -> str:
    rows = {name: [Row(**one) for one in told["tests"]] for name, told in document.items()}
    everything = [one for found in rows.values() for one in found]
    words = ("passed", "failed", "skipped")
    outcomes = ", ".join(f"{sum(one.outcome == word for one in everything)} {word}" for word in words)
    lines = [
        "# End-to-end tests by the real engine",
        "",
        "Written by the runs themselves: `make e2e`, or `pytest --write-results` of some files. Real containers and",
        "hosts, real requests, real kills; each line of counts states its denominator, and each zero has a test beside",
        "it in which the protection is switched off. Of each file the last whole run is kept.",
        "",
        f"{outcomes}; {counted(everything):,} requests counted.",
    ]
    for name, found in rows.items():
        told = document[name]
        with_what = "; ".join(f"{what} {version}" for what, version in told.items() if what not in TOLD)
        lines += ["", f"## {name}", "", f"{told['date']}, components {told['of']}; {with_what}."]
        for one in found:
            lines += ["", f"**{one.test.partition('::')[2]}**: {one.outcome} in {one.seconds:.0f} s"]
            if one.lines:
                lines += ["", "```", *one.lines, "```"]
    return "\n".join(lines) + "\n"


def age() -> str:
    """Return what is to be said of the kept results; empty where all are of these components."""
    kept = json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {}
    return said_of(kept, sorted(path.name for path in HERE.glob("test_*.py")), components_digest)


def said_of(kept: dict[str, Any], files: list[str], of: Callable[[str], str]) -> str:
    """Return which of these test files' results are not kept, and which are older than the components."""
    missed = [name for name in files if name not in kept]
    older = [f"{name} ({kept[name]['date']})" for name in files if name in kept and kept[name]["of"] != of(name)]
    said = [f"of {', '.join(missed)} there are no results in docs/e2e.md"] if missed else []
    said += [f"those in docs/e2e.md of {', '.join(older)} are older than the components"] if older else []
    return f"{'; '.join(said)}: run make e2e where Pulumi and Docker are" if said else ""


if __name__ == "__main__":
    print(age() or "the end-to-end results in docs/e2e.md are of these components")
    sys.exit(0)
