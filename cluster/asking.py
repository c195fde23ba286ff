"""What instances say of their sessions, asked through nginx's internal socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cluster_runtime.checks import Unhealthy, ask
from cluster_runtime.untrusted_json import object_in

#: What reading an answer by its keys raises where it is another than expected: the project's code may give anything.
SENSELESS = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)

#: nginx's name for the server on its own socket.
INTERNAL = "internal"

TIMEOUT = 10.0

#: Seconds that a memcached node has to get its sessions from the others.
RESTORE_SECONDS = 60.0

SUCCESS = 200


def sessions_report(internal: str) -> dict[str, Any] | None:
    """Return what an instance says of the session store (cluster_runtime.sessions.report); None where none says it."""
    try:
        status, text = ask(Path(internal), "/-/probe/sessions", INTERNAL, TIMEOUT)
    except Unhealthy:
        return None
    return object_in(text) if status == SUCCESS else None


def restore_sessions(internal: str) -> bool:
    """Wait until each memcached node has the sessions that it should; False where one does not get them.

    Where no instance answers nobody can give them, and nothing more is lost by going on.
    """
    deadline = time.monotonic() + RESTORE_SECONDS
    while time.monotonic() < deadline:
        try:
            _status, text = ask(Path(internal), "/-/probe/restore", INTERNAL, TIMEOUT)
        except Unhealthy as error:
            if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                return True
            text = ""  # it has much to do, or has just begun: asked again
        if (object_in(text) or {}).get("restored"):
            return True
        time.sleep(0.5)
    return False
