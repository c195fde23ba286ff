"""What the commands show: tables for a person, JSON for a program, the same on every platform."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from cluster.asking import SENSELESS
from cluster.console import say, tell
from cluster.sessions import lines
from cluster.topology import build_topology, percent, site_url
from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cluster.checks import Check
    from cluster.stack.opened import Stack
    from platforms.base import Process, ServiceStatus, Status

#: The version of what `status --json` prints: raised where a key goes, or means something else (docs/guide.md).
SCHEMA = 1


def with_drift(status: Status, drift: Sequence[str]) -> Status:
    """Return a status with what was changed by hand: where there is something, not all is well."""
    return replace(status, ok=status.ok and not drift, drift=drift)


def print_status(stack: Stack, status: Status, *, as_json: bool) -> None:
    """Print what runs."""
    if as_json:
        tell(json.dumps(document(stack, status), indent=2))
        return
    topology = build_topology(stack.config)
    rows = []
    for one in status.instances:
        share = percent(topology.instance(one.instance).share)
        rows += [_row(one.instance, share, process) for process in one.processes] or [
            (one.instance, share, "-", "not running", "", "")
        ]
    rows += [_service_row(service) for service in status.services]
    print_table(("instance", "share", "release", "state", "since", "process"), rows)
    held = any(one.release for one in status.instances)
    release = status.release or ("not the same everywhere" if held else "none")
    engine, url = stack.config.sessions.engine, site_url(stack.config)
    tell(f"nginx: {_nginx(status)}; sessions: {engine}; release: {release}; {url}")
    if status.maintenance is not None:
        tell(f"maintenance: {status.maintenance}")
    found = status.drift or ()
    for line in (*_store_lines(stack, status), *status.notes, *(one for one in status.troubles if one not in found)):
        tell(line)
    if status.drift is not None:
        tell("changed by hand, or broken:" if found else "nothing was changed by hand")
        for line in found:
            say(line)


def document(stack: Stack, status: Status) -> dict[str, Any]:
    """Return what `status --json` prints."""
    return {
        "version": SCHEMA,
        "stack": stack.name,
        "url": site_url(stack.config),
        "sessions": stack.config.sessions.engine.value,
        **asdict(status),
    }


def _row(instance: str, share: str, process: Process) -> tuple[str, ...]:
    state = _state(process.state, process.message)
    return instance, share, process.release, state, _since(process.since), process.container or str(process.pid)


def _service_row(service: ServiceStatus) -> tuple[str, ...]:
    state = _state(service.state, service.message)
    return service.service, "", service.release or "", state, _since(service.since), ""


def _state(state: str, message: str) -> str:
    return f"{state}: {message}" if message else state


def _since(moment: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""


def _nginx(status: Status) -> str:
    if status.nginx.digest is None:
        return "runs, and does not answer" if status.nginx.runs else "not running"
    return "current" if status.nginx.current else "runs another configuration"


def _store_lines(stack: Stack, status: Status) -> list[str]:
    """Return what is told of the session store; an instance has said it, and may say anything."""
    try:
        return lines(status.store, stack.config) if status.store else []
    except SENSELESS:
        return ["sessions: what the instances say of the store makes no sense"]


def print_checks(checks: Sequence[Check], *, as_json: bool) -> bool:
    """Print the result of verify; tell whether all is well."""
    ok = all(check.ok is not False for check in checks)
    if as_json:
        tell(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=2))
        return ok
    words = {True: "ok", False: "failed", None: "-"}
    colours = {"ok": "green", "failed": "red"}
    rows = [(words[check.ok], check.name, check.expected, check.found) for check in checks]
    print_table(("", "check", "expected", "found"), rows, colours)
    return ok


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], colours: dict[str, str] | None = None) -> None:
    """Print a table. colours: of cells that say just this. The project, or a client, may have written the others."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is drawn
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(printable(word), style=(colours or {}).get(word, "")) for word in row))
    Console().print(table)
