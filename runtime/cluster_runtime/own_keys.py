"""Writes a project's own SECRET_KEY and SECRET_KEY_FALLBACKS: `python -m cluster_runtime.own_keys FILE`, as JSON.

For a site that was in use before: what the former key has signed (sessions, links) stays valid with it.
"""

from __future__ import annotations

import json
import os
import sys

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import import_settings, leave, prepare


def main() -> None:
    """Write them where nobody else reads them."""
    config = RuntimeConfig.from_environment()
    prepare(config)
    project = import_settings(config)
    found = {
        "secret_key": str(getattr(project, "SECRET_KEY", "")),
        "secret_key_fallbacks": [str(key) for key in getattr(project, "SECRET_KEY_FALLBACKS", [])],
    }
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
    leave(0)
