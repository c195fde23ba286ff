"""Builds a package for hosts of this one's kind: by a user that is there while it lasts, in a sandbox without network.

What is built is foreign code, and nothing that it leaves is believed: its wheel comes on its standard output.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.remote.host.receiving import python_of, unpack
from platforms.remote.host.running import HostError, alone, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    from platforms.remote.host.paths import HostPaths

#: What is sent: what a package is built with, its source, and how it is built.
ENVIRONMENT, SOURCE, HOW, BACKEND = "environment", "source", "how.json", "backend.py"

#: Where the package's code finds that, and where it may write. A disk: /tmp may be memory.
THERE, WORK = Path("/run/build"), "/var/tmp"  # noqa: S108 - systemd gives the unit one of its own

#: Bytes of a wheel as JSON has it, of what a build has said last, and of what is read of it at a time.
LARGEST, LAST_WORDS, CHUNK = 512 * 1024**2, 16 * 1024, 1024**2

#: Seconds after which a build is ended.
LONGEST = 3600


def build(places: HostPaths, sent: IO[bytes]) -> dict[str, Any]:
    """Build a package of what is sent, a tar archive of ENVIRONMENT, SOURCE and HOW; one at a time.

    Return `wheel` and `content` as `backend` says them, or `requires`, where it needs more than it was sent, or
    `failed`, the last of its words.
    """
    with alone(places.building), tempfile.TemporaryDirectory(prefix=f"{places.name}-build-", dir=WORK) as temporary:
        directory = Path(temporary)
        with tarfile.open(fileobj=sent, mode="r|*") as archive:
            for member in archive:
                unpack(archive, member, directory)
        how = json.loads((directory / HOW).read_text(encoding="utf-8"))
        python_of(directory / ENVIRONMENT, THERE / ENVIRONMENT)
        code = pkgutil.get_data(__package__, BACKEND)
        assert code is not None  # noqa: S101 - it is beside this module
        (directory / BACKEND).write_bytes(code)
        asked = _ask(places, directory, how, "requires")
        if "failed" in asked or not {*asked["requires"]} <= {*how["sent"]}:
            return asked
        return _ask(places, directory, how, "wheel")


def _ask(places: HostPaths, directory: Path, how: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Ask the package's backend; `failed` where it fails."""
    output("systemctl", "stop", places.build_unit)  # of an `up` that was killed
    (source,) = (directory / SOURCE).iterdir()
    python = THERE / ENVIRONMENT / "bin" / "python"
    hook = {key: how[key] for key in ("backend", "path", "subdirectory", "settings")}
    # Where systemd-run looks for a program itself, outside of the sandbox, this one is not.
    words = [
        "/usr/bin/env",
        str(python),
        "-P",
        str(THERE / BACKEND),
        what,
        json.dumps(hook),
        str(THERE / SOURCE / source.name),
    ]
    said, last = _run([*_sandbox(places.build_unit, directory, how), *words], places.build_unit)
    try:
        found = json.loads(said)
    except ValueError:
        return {"failed": last}
    return found if _is_said(found) else {"failed": last}


def _is_said(found: object) -> bool:
    """Tell whether that is what a backend's answer may be."""
    if not isinstance(found, dict):
        return False
    if {*found} == {"requires"}:
        return isinstance(found["requires"], list) and all(isinstance(one, str) for one in found["requires"])
    return {*found} == {"wheel", "content"} and all(isinstance(one, str) for one in found.values())


def _sandbox(unit: str, directory: Path, how: Mapping[str, Any]) -> list[str]:
    """Return the words that run a program in the sandbox, which sees of the directory what was sent."""
    path = f"{THERE / ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin"
    variables = {"PATH": path, "HOME": WORK, "TMPDIR": WORK, "LANG": "C.UTF-8", **how["variables"]}
    properties = [
        *how["properties"],
        # Nothing of what else runs on the host is to be seen there: sockets, code, data.
        *("TemporaryFileSystem=/run:ro", "TemporaryFileSystem=/srv:ro"),
        *(f"BindReadOnlyPaths={directory / name}:{THERE / name}" for name in (ENVIRONMENT, SOURCE, BACKEND)),
        *(f"WorkingDirectory={WORK}", f"RuntimeMaxSec={LONGEST}"),
    ]
    return [
        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}"),
        *(word for one in properties for word in ("--property", one)),
        *(word for name, value in variables.items() for word in ("--setenv", f"{name}={value}")),
    ]


def _run(command: Sequence[str], unit: str) -> tuple[bytearray, str]:
    """Run a unit; return what it said, and the last of its other words. It may say anything, and without an end."""
    with (
        subprocess.Popen(["tail", "-c", str(LAST_WORDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tail,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=tail.stdin) as running,
    ):
        assert running.stdout is not None  # noqa: S101 - these are pipes
        assert tail.stdin is not None  # noqa: S101 - as above
        assert tail.stdout is not None  # noqa: S101 - as above
        tail.stdin.close()
        said = bytearray()
        while more := running.stdout.read(CHUNK):  # room is made for as much as comes, and not for the most
            said += more
            if len(said) > LARGEST:
                output("systemctl", "stop", unit)
                raise HostError(f"what is built is larger than {LARGEST // 1024**2} MB")
        status = running.wait()
        last = tail.stdout.read().decode(errors="replace").strip()
    return (
        said if status == 0 else bytearray(),
        last or f"it was ended after at most {LONGEST // 60} minutes ({status})",
    )


__all__ = ["build"]
