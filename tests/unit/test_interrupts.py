"""Ctrl-C is not lost, wherever the program is."""

from __future__ import annotations

import subprocess
import sys

import pytest

TIMES = 60

#: Interrupts itself while it makes and forgets files; WATCH and CHECK are what the command line does.
PROGRAM = f"""
import io, os, signal, threading, time
from cluster.console import interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class File(io.RawIOBase):
    def close(self):
        for _ in range(20):
            pass
        super().close()

noticed = 0
WATCH
for _ in range({TIMES}):
    timer = threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            File()
        timer.join()
        CHECK
    except KeyboardInterrupt:
        noticed += 1
        interrupts.taken()
    timer.join()
print(noticed)
"""


@pytest.mark.parametrize("watched", [True, False])
def test_an_interrupt_is_noticed_even_where_python_throws_it_away(watched: bool) -> None:
    """Without the watch, the saboteur, many are not."""
    program = PROGRAM.replace("WATCH", "interrupts.watch()" if watched else "pass")
    program = program.replace("CHECK", "interrupts.check()" if watched else "pass")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) == TIMES) == watched
