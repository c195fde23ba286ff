"""A way to a socket elsewhere: what is told of one that has ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess

from platforms.pulumi.relay import Relay


def test_a_connection_whose_program_has_ended_is_none_any_more() -> None:
    """A request on it would wait for its answer until nobody wants it: nginx closes connections when it is reloaded."""

    def start(_path: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with contextlib.closing(Relay(start)) as relay, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(relay.to("/there").path)
        assert client.recv(1) == b""
