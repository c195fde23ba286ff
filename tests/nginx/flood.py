"""Connections from one address that never finish their headers: `python -m tests.nginx.flood PORT COUNT ADDRESS`.

It opens anew what nginx has closed, until its standard input ends, and writes a line when it has opened COUNT. How many
are open at a time is nginx's affair: it may have too few connections for them, or have closed the first by then.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import select
import socket
import sys

HALF = b"GET / HTTP/1.1\r\nHost: cluster\r\nX-Half: "

#: Connections that are being made at a time: more would only fill the kernel's queue.
AT_A_TIME = 500


class Flood:
    """So many connections to a port of this machine, from one address."""

    def __init__(self, port: int, count: int, address: str) -> None:
        self.port, self.count, self.address = port, count, address
        self.poll = select.epoll()
        self.opening: dict[int, socket.socket] = {}
        self.open: dict[int, socket.socket] = {}
        self.opened = 0

    def run(self) -> None:
        """Keep them open until standard input ends."""
        self.poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        said = False
        while True:
            while len(self.opening) < AT_A_TIME and len(self.opening) + len(self.open) < self.count:
                self.connect()
            for descriptor, _events in self.poll.poll(0.1):
                if descriptor == sys.stdin.fileno():
                    return
                self.look_at(descriptor)
            if not said and self.opened >= self.count:
                said = True
                print("open", flush=True)

    def connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        connection.bind((self.address, 0))
        if connection.connect_ex(("127.0.0.1", self.port)) not in (0, errno.EINPROGRESS):
            connection.close()
            return
        self.opening[connection.fileno()] = connection
        self.poll.register(connection, select.EPOLLOUT)

    def look_at(self, descriptor: int) -> None:
        if connection := self.opening.pop(descriptor, None):
            with contextlib.suppress(OSError):
                connection.send(HALF)
                self.open[descriptor] = connection
                self.opened += 1
                self.poll.modify(descriptor, select.EPOLLIN)
                return
        connection = connection or self.open.pop(descriptor)
        self.poll.unregister(descriptor)
        connection.close()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Flood(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]).run()
