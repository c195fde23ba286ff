"""Stands for Python where the engine starts one: it asks a process that has imported much for a fork of it.

`starter.py SOCKET PYTHON WORDS…`, run by Python in isolated mode without `site`, so that it begins in 20 ms. Its three
standard streams are the fork's; it ends as the fork does, and the fork ends with it. Where nobody answers, or other
words than `-c` and `-m` are asked for, it becomes PYTHON itself.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> None:
    """Pass on what was asked for, and wait for its end."""
    path, python, *words = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as connection:
        known = words[:1] in (["-c"], ["-m"]) or words[:2] == ["-u", "-m"]
        if not known or connection.connect_ex(path) != 0:
            os.execv(python, [python, *words])  # noqa: S606 - as the engine has it
        here = os.getcwd()  # noqa: PTH109 - pathlib takes as long to import as all of this
        order = {"words": words, "directory": here, "environment": dict(os.environ)}
        told = json.dumps(order).encode()
        head = len(told).to_bytes(4, "big")
        socket.send_fds(connection, [head], [0, 1, 2])
        connection.sendall(told)
        status = connection.recv(1)
    sys.exit(status[0] if status else 1)


if __name__ == "__main__":
    main()
