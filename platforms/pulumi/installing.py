"""Finds the pulumi command, and installs it where it is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Where Pulumi's installer puts it.
HOME = Path("~/.pulumi")

#: The version that is installed where there is none; any newer one will do.
VERSION = "3.272.0"

INSTALL = "curl -fsSL https://get.pulumi.com | sh"


def installed_pulumi() -> str | None:
    """Return the pulumi command; None where it is missing."""
    return shutil.which("pulumi", path=f"{os.environ.get('PATH', '')}:{HOME.expanduser() / 'bin'}")


def find_pulumi(say: Callable[[str], None]) -> str:
    """Return the pulumi command; installed by the SDK's own installer where it is missing. CommandError says how."""
    own = HOME.expanduser() / "bin"
    found = installed_pulumi()
    if found is not None:
        return found
    say(f"installing Pulumi {VERSION}")
    from pulumi.automation import PulumiCommand  # noqa: PLC0415 - takes a while to import
    from semver import VersionInfo  # noqa: PLC0415

    try:
        return PulumiCommand.install(root=str(own.parent), version=VersionInfo.parse(VERSION)).command
    except Exception as error:
        raise CommandError(
            f"Pulumi is missing, and its installer can't be reached from here. Install it ({INSTALL}), "
            f"or put `pulumi` and `pulumi-language-python` into {own}"
        ) from error
