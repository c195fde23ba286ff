"""Installs packages of the distribution's."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from platforms.remote.host.running import HostError, output, put

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds for which another program may hold the package manager's lock: a new server often installs its updates then.
LOCKED_SECONDS = 120

#: Asked by the distribution's scripts whether a service that is installed is to be started.
POLICY = Path("/usr/sbin/policy-rc.d")


def install(*names: str) -> str:
    """Install the first of these packages that there is, and return its name; HostError where there is none."""
    wait = ("-o", f"DPkg::Lock::Timeout={LOCKED_SECONDS}")
    said = ""
    for refresh in (False, True):
        if refresh:
            said += output("apt-get", *wait, "update", "-q").stderr  # a mirror that is away is a warning to it
        for name in names:
            done = output("apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", name)
            if done.returncode == 0:
                return name
            said += done.stderr if refresh else ""
    found = [line for line in said.splitlines() if line.startswith(("E: ", "W: "))]
    why = found[0][3:] if found else "apt-get does not say why"
    called = " or ".join(names)
    raise HostError(f"{called} is not installed, and can't be; is the distribution's mirror within reach? {why}")


@contextlib.contextmanager
def nothing_starts() -> Iterator[None]:
    """Let the distribution's scripts start no service; where somebody else says which may, that stays."""
    if POLICY.exists():
        yield
        return
    put(POLICY, "#!/bin/sh\nexit 101\n", 0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
