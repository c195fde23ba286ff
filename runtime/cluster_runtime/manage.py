"""The project's manage.py commands under the overlay: `python -m cluster_runtime.manage COMMAND …`."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare
from cluster_runtime.secret_files import hold


def main() -> None:
    """Run a management command of the release that CLUSTER_CONFIG names."""
    config = RuntimeConfig.from_environment()
    hold(Path(config.secrets))
    prepare(config)
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - after the environment

    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
