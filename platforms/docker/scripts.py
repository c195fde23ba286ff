"""The scripts of host/, as text: who runs one needs neither this directory nor its path, which no state then holds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

HOST = Path(__file__).resolve().parent / "host"


@dataclass(frozen=True)
class Variable:
    """A word that is a variable of the script's environment, whatever it is by then."""

    name: str


def script(name: str, *words: str | Variable) -> str:
    """Return what `sh -c` runs as the script of host/ of that name, with `words` as its arguments."""
    return with_words((HOST / name).read_text(encoding="utf-8"), *words)


def with_words(text: str, *words: str | Variable) -> str:
    """Return a script that has `words` as its arguments: they are set after its first line, which names the shell."""
    if not words:
        return text
    first, rest = text.split("\n", 1)
    said = " ".join(f'"${word.name}"' if isinstance(word, Variable) else shlex.quote(word) for word in words)
    return f"{first}\nset -- {said}\n{rest}"
