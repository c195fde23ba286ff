"""Ctrl-C, none of which must be lost.

Python raises KeyboardInterrupt wherever the program is. Where that is the finalizer of a file or a socket, which runs
whenever one is forgotten, CPython throws it away (Modules/_io/iobase.c, iobase_finalize), and a release asks Supervisor
and nginx over and over. So it is noted too, and raised again at the next step.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class _Noted:
    came = False


def watch() -> None:
    """Note interrupts from now on, unless they are ignored or somebody else's."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def _note(_signal: int, _frame: FrameType | None) -> None:
    _Noted.came = True
    raise KeyboardInterrupt


def taken() -> None:
    """Say that KeyboardInterrupt has arrived where something is done about it."""
    _Noted.came = False


def check() -> None:
    """Raise KeyboardInterrupt where one came that nothing was done about."""
    if _Noted.came:
        taken()
        raise KeyboardInterrupt
