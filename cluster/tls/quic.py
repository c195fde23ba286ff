"""Which versions of QUIC are spoken at an address: the one question that needs no key (RFC 9000, 6; RFC 8999)."""

from __future__ import annotations

import secrets
import socket
import struct

#: HTTP/3's own (RFC 9000), and one that nobody speaks, so that whoever hears it says which ones it does (15).
VERSION, STRANGE = 1, 0x1A2A3A4A

#: Bytes of a datagram that begins a connection, at least: a server answers no smaller one.
LEAST = 1200

#: Bytes of the number of a connection, of the byte before a version, and of a version.
NUMBER, FIRST, WORD = 8, 1, 4

#: Bytes that are read, and how often a datagram is sent: one may be lost.
LARGEST, TIMES = 2048, 3

#: Of the first byte of a packet: that it is a long one.
LONG = 0x80


def versions(host: str, port: int, timeout: float) -> list[int]:
    """Return the versions that are spoken there; OSError where nobody answers within `timeout` seconds."""
    ours, theirs = secrets.token_bytes(NUMBER), secrets.token_bytes(NUMBER)
    asked = struct.pack("!BIB", 0xC0, STRANGE, NUMBER) + theirs + bytes([NUMBER]) + ours
    family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(timeout / TIMES)
        connection.connect(address)  # so that nobody else's datagram is taken, and a port that is closed is told
        for _time in range(TIMES):
            connection.send(asked.ljust(LEAST, b"\0"))
            try:
                return told(connection.recv(LARGEST), ours)
            except TimeoutError:
                continue
    raise TimeoutError("no answer")


def told(packet: bytes, ours: bytes) -> list[int]:
    """Return what a packet of Version Negotiation says to the connection `ours`; OSError where it is none."""
    begin = FIRST + WORD
    if len(packet) <= begin or not packet[0] & LONG or packet[FIRST:begin] != bytes(WORD):
        raise OSError("an answer that is not QUIC's")
    number, rest = _taken(packet[begin:])
    _theirs, listed = _taken(rest)
    if number != ours:
        raise OSError("an answer to somebody else")
    return [one for (one,) in struct.iter_unpack("!I", listed[: len(listed) // WORD * WORD])]


def _taken(packet: bytes) -> tuple[bytes, bytes]:
    """Return what stands behind its length, and the rest."""
    length = packet[0] if packet else 0
    return packet[1 : 1 + length], packet[1 + length :]
