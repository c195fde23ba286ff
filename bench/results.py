"""Where each bench keeps what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"


def keep(name: str, found: dict[str, Any], text: str) -> None:
    """Write what was measured and its page, docs/benchmarks/NAME.json and .md; the page is shown, too."""
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
