#!/usr/bin/python3 -ISB
"""Ends with 0 where nginx answers for the stack on its internal socket: keepalived asks once a second.

It is a program of its own, which imports nothing of the other commands, and runs as nginx's user.
"""

import socket
import sys
import time

#: Seconds that an answer may take: a busy nginx is none that hangs.
WITHIN = 2.0


def answers(path: str) -> bool:
    """Tell whether nginx says there in time that it has the stack's configuration."""
    deadline, said = time.monotonic() + WITHIN, b""
    with socket.socket(socket.AF_UNIX) as nginx:
        try:
            nginx.settimeout(WITHIN)
            nginx.connect(path)
            nginx.sendall(b"GET /-/config HTTP/1.0\r\n\r\n")
            while b"\n" not in said:
                nginx.settimeout(max(0.01, deadline - time.monotonic()))
                more = nginx.recv(256)
                if not more:
                    return False
                said += more
        except OSError:
            return False
    return said.split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1]))
