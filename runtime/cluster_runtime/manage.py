"""The project's manage.py commands under the overlay: `python -m cluster_runtime.manage COMMAND …`."""

from __future__ import annotations

import sys

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare


def main() -> None:
    """Run a management command of the release that CLUSTER_CONFIG names."""
    prepare(RuntimeConfig.from_environment())
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - after the environment

    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
