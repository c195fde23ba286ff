"""Runs a program that may take long, and tells how far its migrations are while it does."""

from __future__ import annotations

import codecs
import os
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any

from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What `migrate` says when it begins with one.
APPLYING = re.compile(r"^ *(?:Applying|Unapplying) (\S+?)\.\.\.", re.MULTILINE)

#: Characters of a line that are looked at.
LONGEST = 4096

#: Seconds between two words about the migrations.
INTERVAL = 1.0


def follow(command: Sequence[str], say: Callable[[str], object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return it with all that it printed, on either stream, as its stdout.

    `say` is told the number and the name of the migration that is being applied, at most once a second, so that the
    last word is always about the one that is at it. options: subprocess.Popen's.
    """
    kept = bytearray()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    with process, process.stdout as stream:
        try:
            read_telling(stream.fileno(), kept.extend, say)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, kept.decode("utf-8", "replace"), "")


def read_telling(descriptor: int, keep: Callable[[bytes], object], say: Callable[[str], object]) -> None:
    """Read to the end what a program prints; `keep` gets it piece by piece, and `say` as `follow` says."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, name = "", ""
    count, told, last = 0, 0, -INTERVAL
    while True:
        if count > told and time.monotonic() - last >= INTERVAL:
            told, last = count, time.monotonic()
            say(f"migration {count}: {printable(name)}")
        if count > told and not select.select([descriptor], [], [], INTERVAL)[0]:
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        keep(chunk)
        rest += decoder.decode(chunk)
        for match in APPLYING.finditer(rest):
            count, name = count + 1, match[1]
        rest = rest[rest.rfind("\n") + 1 :][-LONGEST:] if "..." not in rest.rpartition("\n")[2] else ""
