"""Programs of the distribution's that a stack has for itself: memcached nodes, the broker; each a unit of its own."""

from __future__ import annotations

import json
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

from platforms.remote.host.asking import ask
from platforms.remote.host.installing import install, nothing_starts
from platforms.remote.host.running import HostError, is_active, output, put, run, told_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platforms.remote.host.paths import HostPaths

#: Where nginx asks an instance whether a node that has begun with nothing holds again what it should.
RESTORED = "/-/probe/restore"

#: Seconds that a node has to be filled by the other one, and that somebody has to say whether it is.
FILLED_WITHIN, SAID_WITHIN = 60.0, 20.0

#: Seconds that a daemon has to take a question, and to answer.
PATIENCE = 1.0


def start(places: HostPaths, wanted: Sequence[dict[str, Any]]) -> None:
    """Let daemons run as they should, one after another; HostError where one does not answer.

    wanted: of each its `name`, the `unit`'s text, the `programs` that it may be, the `socket` on which it listens,
    `ping` (a line, and how its answer begins; null: it is ready when it listens), `seconds` that it has, and `filled`:
    whether the next one must wait until it holds again what it should.
    """
    alone = any(one["filled"] for one in wanted)
    if alone:
        _await_filled(places, "a node of the session store")  # one that a killed run has left half filled
    for one in wanted:
        _install(one["programs"])
        if _is_as_wanted(places, one):
            continue
        unit = places.daemon(one["name"])
        put(unit, one["unit"])
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--quiet", unit.name)
        run("systemctl", "restart", unit.name, problem=f"{one['name']} can't be started")
        _await(places, one, unit.name)
        put(places.started(one["name"]), one["unit"])
        if one["filled"]:
            _await_filled(places, one["name"])


def _is_as_wanted(places: HostPaths, one: dict[str, Any]) -> bool:
    """Tell whether a daemon runs, and was started by the unit that is wanted."""
    unit, started = places.daemon(one["name"]), places.started(one["name"])
    said = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in (unit, started)]
    active = is_active(unit.name)
    return active and said == [one["unit"], one["unit"]] and _answers(places, one)


def _install(programs: Sequence[str]) -> None:
    """Install the first of these programs that there is; what the distribution would start of it is not started."""
    if any(shutil.which(name) for name in programs):
        return
    with nothing_starts():
        name = install(*programs)
        output("systemctl", "disable", "--quiet", f"{name}.service")


def _await(places: HostPaths, one: dict[str, Any], unit: str) -> None:
    deadline = time.monotonic() + one["seconds"]
    while not _answers(places, one):
        if time.monotonic() > deadline:
            log = output("journalctl", "--unit", unit, "--output=cat", "--lines", "5").stdout.strip()
            raise HostError(f"{one['name']} does not answer within {one['seconds']:g} s:\n{log}")
        time.sleep(0.05)


def _answers(places: HostPaths, one: dict[str, Any]) -> bool:
    """Tell whether a daemon answers its user, in whose directory its socket is."""
    return bool(told_by(places, lambda: _answered(one)))


def _answered(one: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(one["socket"])
            if one["ping"] is None:
                return True
            question, answer = one["ping"]
            connection.sendall(f"{question}\r\n".encode())
            said = b""
            while len(said) < len(answer) and (more := connection.recv(100)):
                said += more
            return said.startswith(answer.encode())
        except OSError:
            return False


def _await_filled(places: HostPaths, name: str) -> None:
    """Wait until instances have given a node what it should hold; where none serves there is nothing to wait for."""
    began = time.monotonic()
    while time.monotonic() < began + FILLED_WITHIN:
        text = ask(places.internal, RESTORED)
        if text is None:
            if ask(places.internal, "/-/config") is None or time.monotonic() > began + SAID_WITHIN:
                return
        elif json.loads(text).get("restored"):
            return
        time.sleep(0.5)
    raise HostError(
        f"{name} was started again and does not get its sessions from the other node; that is left as it is"
    )


def forget(places: HostPaths, kept: set[str]) -> None:
    """Stop the daemons that are not named any more; what a broker keeps stays."""
    for unit in places.daemons():
        name = unit.name.removeprefix(f"{places.name}.").removesuffix(".service")
        if name not in kept:
            run("systemctl", "disable", "--now", "--quiet", unit.name)
            unit.unlink()
            places.started(name).unlink(missing_ok=True)
