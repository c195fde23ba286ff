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
    PROXY protocol. eab: the id by which the authority knows whose the account is, eab_key: the file of that key; empty
    where it asks for none. others: host and port where other nginx of the stack answer plain http: the authority may
    ask any of them.
    """

    directory: str
    names: tuple[str, ...]
    account: str
    email: str = ""
    trusted: str = ""
    asked: tuple[str, int] = ("127.0.0.1", 80)
    proxied: bool = False
    eab: str = ""
    eab_key: str = ""
    others: tuple[tuple[str, int], ...] = ()

    @property
    def text(self) -> str:
        """It as it is written."""
        told = asdict(self)
        if not self.others:  # an nginx that is alone is told nothing of them
            del told["others"]
        return json.dumps(told, sort_keys=True)

    def digest(self, *keys: str) -> str:
        """Return what tells it from another, and from itself with other keys."""
        return hashlib.sha256("\0".join([self.text, *keys]).encode()).hexdigest()[:16]

    def binding(self) -> str:
        """Return the key that binds the account, as the authority gave it; empty where there is none. OSError."""
        if not self.eab:
            return ""
        with open(self.eab_key, encoding="utf-8") as file:  # noqa: PTH123 - a path as text
            return file.read().strip()


def read_wanted(text: str) -> Wanted:
    """Return what a text says, as `Wanted.text` wrote it."""
    found = json.loads(text)
    host, port = found.pop("asked")
    others = tuple((host, port) for host, port in found.pop("others", ()))
    return Wanted(**{**found, "names": tuple(found["names"]), "asked": (host, port), "others": others})
