"""The ports of this machine."""

from __future__ import annotations

import errno
import socket


def is_free(address: str, port: int) -> bool:
    """Tell whether nginx could listen there. Without the right to (ports below 1024) that is not known: True."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
