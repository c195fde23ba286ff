"""The ports of this machine."""

from __future__ import annotations

import errno
import socket


def has_ipv6() -> bool:
    """Tell whether the kernel knows IPv6; where it does not, nginx does not start with a listener of it."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def is_free(address: str, port: int) -> bool:
    """Tell whether nginx could listen there. Without the right to (ports below 1024) that is not known: True."""
    ipv6 = ":" in address
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6:  # as nginx does: beside a socket of IPv4 on the same port
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
