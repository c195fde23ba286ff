"""Puts compressed copies beside static files: `python -m cluster_runtime.compress DIRECTORY .css,.js`.

What is collected is the project's own to write, links included: none is followed, or what it leads to would be served.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

#: Files smaller than this are not worth a compressed copy, bytes.
WORTH_COMPRESSING = 1024


def compress(public: Path, endings: tuple[str, ...]) -> None:
    """Put a compressed copy beside each file below `public` with one of the endings, for nginx's gzip_static.

    A project that has no static files has no such directory.
    """
    if not public.is_dir():
        return
    for _path, _directories, names, directory in os.fwalk(public, follow_symlinks=False):
        # Django's storage with a manifest puts each file there twice: by its own name, and by one with its hash.
        known: dict[bytes, bytes] = {}
        for name in names:
            if name.endswith(endings):
                _compress(name, directory, known)


def _compress(name: str, directory: int, known: dict[bytes, bytes]) -> None:
    """Put a compressed copy of a file beside it; `known`: those that the directory has, by the digest of their text."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return  # a link, or something else that is no file
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size < WORTH_COMPRESSING:
            return
        text = file.read()
    digest = hashlib.sha256(text).digest()
    content = known.get(digest) or known.setdefault(digest, gzip.compress(text, compresslevel=9, mtime=0))
    new = f".{name}.gz.new"  # nginx may be serving the one that is there
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
        os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(new, f"{name}.gz", src_dir_fd=directory, dst_dir_fd=directory)


if __name__ == "__main__":
    compress(Path(sys.argv[1]), tuple(sys.argv[2].split(",")))
