"""What a renewer is to keep: a platform gives it as an argument."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A certificate that is to be there.

    directory: the authority's, a URL. names: those that the certificate covers. email: empty for none.
    account: the file of the account's key, PEM. trusted: the file of those who may sign for the directory, PEM; empty
    for the authorities that all know. asked: host and port where nginx answers plain http. proxied: it is asked by the
    PROXY protocol.
    """

    directory: str
    names: tuple[str, ...]
    account: str
    email: str = ""
    trusted: str = ""
    asked: tuple[str, int] = ("127.0.0.1", 80)
    proxied: bool = False

    @property
    def text(self) -> str:
        """It as it is written."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """What tells it from another."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def read_wanted(text: str) -> Wanted:
    """Return what a text says, as `Wanted.text` wrote it."""
    found = json.loads(text)
    host, port = found.pop("asked")
    return Wanted(**{**found, "names": tuple(found["names"]), "asked": (host, port)})
