"""Several connections on one: what is sent of each goes in frames, which say whose they are."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

#: A connection's number, the kind, and the length of what follows, in bytes.
_HEAD = struct.Struct("!IBI")

#: What a socket has, as the kernel is told, to take a connection or what is sent: ten seconds. One that hangs keeps the
#: others waiting.
WITHIN = struct.pack("@ll", 10, 0)

#: Bytes that a frame has at most.
LONGEST = 65536


class Frame(IntEnum):
    """OPEN: leads to the socket at a path, to a port of the host, or to what the program there says itself.

    DATA: bytes; none where no more will come. CLOSED: it is no connection.
    """

    OPEN = 0
    DATA = 1
    CLOSED = 2


def framed(number: int, kind: Frame, data: bytes = b"") -> bytes:
    """Return a frame."""
    return _HEAD.pack(number, kind, len(data)) + data


def read_frame(stream: IO[bytes]) -> tuple[int, Frame, bytes] | None:
    """Return the number, the kind and the data of the next frame; None where there is none, or what comes is none."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    number, kind, length = _HEAD.unpack(head)
    if kind > max(Frame) or length > LONGEST:
        return None
    data = stream.read(length)
    return (number, Frame(kind), data) if len(data) == length else None
