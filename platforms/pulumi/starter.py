"""Stands for Python where the engine starts one: it asks a process that has imported much for a fork of it.

`starter.py SOCKET PYTHON WORDS…`, run by Python in isolated mode without `site`, so that it begins in 20 ms. Its three
standard streams are the fork's; it ends as the fork does, and the fork ends with it. Where no fork begins, or other
words than `-c` and `-u -m` are asked for, it becomes PYTHON itself.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> None:
    """Pass on what was asked for, and wait for its end."""
    path, python, *words = sys.argv[1:]
    known = words[:1] == ["-c"] or words[:2] == ["-u", "-m"]
    with socket.socket(socket.AF_UNIX) as connection:
        if known and connection.connect_ex(path) == 0 and _passed_on(connection, words):
            status = connection.recv(1)
            sys.exit(status[0] if status else 1)
    os.execv(python, [python, *words])  # noqa: S606 - as the engine has it


def _passed_on(connection: socket.socket, words: list[str]) -> bool:
    """Give a fork the streams, words, directory and environment; tell whether there is one that has begun."""
    here = os.getcwd()  # noqa: PTH109 - pathlib takes as long to import as all of this
    told = json.dumps({"words": words, "directory": here, "environment": dict(os.environ)}).encode()
    try:
        if not connection.recv(1):
            return False
        socket.send_fds(connection, [len(told).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(told)
    except OSError:  # it was killed
        return False
    return True


if __name__ == "__main__":
    main()
