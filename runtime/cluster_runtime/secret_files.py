"""Writes a release's secrets where its instances read them: `python -m cluster_runtime.secret_files DIRECTORY`.

Standard input is a JSON object of values by their names; nothing of it is ever printed. A secret that the platform made
itself (the URL of its own database) is linked to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from cluster_runtime.names import NAME

#: Releases whose secrets are kept beside those of the releases that serve.
KEPT = 3


def write_all(directory: Path, values: dict[str, str], links: dict[str, str], owner: int | None) -> None:
    """Put the secrets in place, all at once: files 0400, in a directory 0500, of the user `owner`."""
    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    for name, value in values.items():
        descriptor = os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(value)
        if owner is not None:
            os.chown(new / name, owner, owner)
    for name, target in links.items():
        (new / name).symlink_to(target)
    if owner is not None:
        os.chown(new, owner, owner)
    new.chmod(0o500)
    if directory.exists():
        shutil.rmtree(directory)
    new.rename(directory)


def forget_old(root: Path, sockets: Path) -> None:
    """Remove the secrets of releases that are neither among the latest nor hold any instance's name."""
    serving = {str(link.readlink()).partition(".")[0] for link in sockets.glob(f"*/{NAME}") if link.is_symlink()}
    directories = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for directory in directories[:-KEPT]:
        if directory.name not in serving:
            shutil.rmtree(directory)


def main() -> int:
    """Read the values from standard input and write them."""
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.secret_files", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--owner", type=int, help="the user (and group) who reads them; default: who writes them")
    parser.add_argument("--sockets", type=Path, help="forget old releases' secrets, but for those that serve by these")
    parser.add_argument("--link", action="append", default=[], metavar="NAME=PATH", help="a secret that lies elsewhere")
    options = parser.parse_args()
    links = dict(link.split("=", 1) for link in options.link)
    write_all(options.directory, json.load(sys.stdin), links, options.owner)
    if options.sockets is not None:
        forget_old(options.directory.parent, options.sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
