"""What a process tells the service manager that started it: that it is ready, what it is doing, that it lives.

Nothing is told where nobody asks for it (NOTIFY_SOCKET). Source: sd_notify(3).
"""

from __future__ import annotations

import contextlib
import os
import socket

#: Where it is told, and how soon a process that says nothing is taken for hung: both are the process's alone.
SOCKET_VARIABLE, WATCHDOG_VARIABLE = "NOTIFY_SOCKET", "WATCHDOG_USEC"


def tell_manager(*lines: str) -> None:
    """Send `NAME=value` lines; a manager that is away is nobody's loss."""
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
        there.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        there.send("\n".join(line.replace("\n", " ") for line in lines).encode())


def without_manager() -> dict[str, str]:
    """Return this process's environment for its children: what they say is not this process's word."""
    return {name: value for name, value in os.environ.items() if name not in (SOCKET_VARIABLE, WATCHDOG_VARIABLE)}
