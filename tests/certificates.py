"""Certificates for tests, by an authority that is made for them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tls.authority import make_authority, root_of, signed
from cluster.tls.certificates import half_year

if TYPE_CHECKING:
    import datetime as dt

#: The names of the stacks of unit tests.
NAMES = ("cluster", "localhost")


def made_certificates(now: dt.datetime, names: tuple[str, ...] = NAMES) -> Path:
    """Make a directory with ours.pem and ours.key, other.pem and other.key (another authority's, another key), open.key
    (as ours.key, for everybody to read), and authority.pem, which signs ours.
    """
    directory = Path(tempfile.mkdtemp(prefix="certificates"))
    atexit.register(shutil.rmtree, directory)
    for name in ("ours", "other"):
        authority = make_authority(name, now)
        chain, key = signed(authority, names, half_year(now))
        (directory / f"{name}.pem").write_text(chain)
        (directory / f"{name}.key").touch(mode=0o600)
        (directory / f"{name}.key").write_text(key)
        if name == "ours":
            (directory / "authority.pem").write_text(root_of(authority))
            (directory / "open.key").write_text(key)
            (directory / "open.key").chmod(0o644)
    return directory
