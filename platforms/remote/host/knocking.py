"""Sees whether other hosts' nginx answer this host's."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from platforms.remote.host.paths import AUTHORITY, CERTIFICATE, KEY
from platforms.remote.host.running import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds that another host's nginx has to accept a connection, and the name by which it is known.
REACHED_WITHIN, RELAY = 5.0, "relay"


def check_relays(shown: Mapping[str, str], relays: Sequence[Sequence[str | int]]) -> None:
    """See that other hosts' nginx answer this host's; HostError has a line for each that does not.

    shown: what this host shows them, PEM files by their paths. relays: their names, addresses and ports. Where a
    firewall is between them, the site would lead to nowhere.
    """
    if not relays:
        return
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        context = _context(Path(directory), shown)
        with ThreadPoolExecutor(max_workers=len(relays)) as pool:
            problems = [line for line in pool.map(lambda one: _problem(context, *one), relays) if line]
    if problems:
        raise HostError("\n".join(problems))


def _context(directory: Path, shown: Mapping[str, str]) -> ssl.SSLContext:
    for path, text in shown.items():
        with open(os.open(directory / Path(path).name, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
    context = ssl.create_default_context(cafile=str(directory / AUTHORITY))
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    return context


def _problem(context: ssl.SSLContext, name: str | int, address: str | int, port: str | int) -> str:
    try:
        with (
            socket.create_connection((str(address), int(port)), timeout=REACHED_WITHIN) as plain,
            context.wrap_socket(plain, server_hostname=RELAY) as secured,
        ):
            # Of a client that it refuses, a server says so only once it is asked.
            secured.sendall(b"GET / HTTP/1.0\r\n\r\n")
            secured.recv(1)
    except OSError as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror or str(error) or "no answer"
        return f"can't reach nginx of {name} at {address}:{port}: {why}"
    return ""
