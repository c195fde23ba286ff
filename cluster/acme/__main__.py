"""`python -m cluster.acme WANTED DIRECTORY`: keeps a certificate beside an nginx that looks itself for a new one."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.acme.kept import Store
from cluster.acme.renewer import Renewer, run, told_by
from cluster.acme.wanted import read_wanted

if __name__ == "__main__":
    text, directory = sys.argv[1:]
    run(Renewer(read_wanted(text), Store(Path(directory)), told_by("acme")), lambda: None)
