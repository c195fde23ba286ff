"""JSON that another process wrote, which may be anything."""

from __future__ import annotations

import json
from typing import Any


def object_in(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that a text is; None where it is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
