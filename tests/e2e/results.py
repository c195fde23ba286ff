"""The results of the end-to-end tests, kept in docs/ by the run itself; `python -m tests.e2e.results`: their age."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.release import tree_digest
from tests.conftest import RESULT
from tests.e2e.tools import BASE, PULUMI_HOME, docker

ROOT = Path(__file__).resolve().parents[2]
JSON, PAGE = ROOT / "docs" / "e2e.json", ROOT / "docs" / "e2e.md"

#: What the results are of.
PARTS = ("components", "platforms/docker", "platforms/pulumi", "runtime", "cluster", "__main__.py")

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
    """Return what is another whenever one of these directories and files is."""
    paths = [ROOT / part for part in parts]
    digests = [path.read_text() if path.is_file() else tree_digest(path) for path in paths]
    return hashlib.sha256("\0".join(digests).encode()).hexdigest()[:12]


def components_digest() -> str:
    return digest_of(PARTS)


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
    }


def write(rows: list[Row]) -> None:
    """Keep the results of a whole run."""
    total = sum(
        int(found[2].replace(",", "")) for one in rows for line in one.lines for found in COUNTED.finditer(line)
    )
    document = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "components": components_digest(),
        "versions": versions(),
        "requests": total,
        "tests": [asdict(one) for one in sorted(rows, key=lambda one: one.test)],
    }
    JSON.write_text(json.dumps(document, indent=1) + "\n")
    PAGE.write_text(page(document))


def page(document: dict[str, object]) -> str:
    tests = [Row(**one) for one in document["tests"]]  # type: ignore[attr-defined]
    found = document["versions"]
    assert isinstance(found, dict)
    counts = {word: sum(one.outcome == word for one in tests) for word in ("passed", "failed", "skipped")}
    passed = ", ".join(f"{count} {word}" for word, count in counts.items())
    what = "; ".join(f"{name} {version}" for name, version in found.items())
    lines = [
        "# End-to-end tests on Docker",
        "",
        "Written by the run itself: `make e2e`. Real containers, real requests, real kills; each line of counts states",
        "its denominator, and each zero has a test beside it in which the protection is switched off.",
        "",
        f"{document['date']}, components {document['components']}; {what}.",
        f"{passed}; {document['requests']:,} requests counted.",
    ]
    for one in tests:
        lines += ["", f"**{one.test}**: {one.outcome} in {one.seconds:.0f} s"]
        if one.lines:
            lines += ["", "```", *one.lines, "```"]
    return "\n".join(lines) + "\n"


def age() -> str:
    """Return what is to be said of the kept results; empty where they are of these components."""
    if not JSON.exists():
        return "there are no end-to-end results in docs/: run make e2e where Pulumi and Docker are"
    document = json.loads(JSON.read_text())
    if document["components"] == components_digest():
        return ""
    return f"the end-to-end results in docs/e2e.md ({document['date']}) are older than the components: run make e2e"


if __name__ == "__main__":
    print(age() or f"the end-to-end results in docs/e2e.md are of these components ({components_digest()})")
    sys.exit(0)
