"""The project's manage.py commands under the overlay: `python -m cluster_runtime.manage COMMAND …`."""

from __future__ import annotations

import sys

from cluster_runtime.program import run


def main() -> None:
    """Run a management command of the release that CLUSTER_CONFIG names."""
    run(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
