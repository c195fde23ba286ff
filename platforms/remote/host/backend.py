"""Asks a package's build backend (PEP 517), in the sandbox in which it is built: `requires` or `wheel`, HOW, ARCHIVE.

What it says is one line of JSON on standard output; whatever the package's own code prints goes to standard error.
It is run alone, by the Python of what the package is built with.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def answer(what: str, how: dict[str, Any], archive: str, work: Path) -> dict[str, Any]:
    """Return what the backend is asked for: `requires`, a list; or `wheel`, a file's name, and its `content`, base64.

    how: `backend`, `path`, `subdirectory` and `settings`. work: an empty directory.
    """
    shutil.unpack_archive(archive, work / "source")
    (top, *more) = (work / "source").iterdir()
    source = (top if top.is_dir() and not more else work / "source") / how["subdirectory"]
    os.chdir(source)
    sys.path[:0] = [str(source / path) for path in how["path"]]
    module, _, attributes = how["backend"].partition(":")
    backend: Any = importlib.import_module(module)
    for name in filter(None, attributes.split(".")):
        backend = getattr(backend, name)
    if what == "requires":
        hook = getattr(backend, "get_requires_for_build_wheel", None)
        return {"requires": [] if hook is None else [*hook(how["settings"])]}
    (work / "made").mkdir()
    wheel = backend.build_wheel(str(work / "made"), how["settings"])
    return {"wheel": wheel, "content": base64.b64encode((work / "made" / wheel).read_bytes()).decode("ascii")}


def main(what: str, how: str, archive: str) -> None:
    """Say what the backend answers."""
    said = os.dup(1)
    os.dup2(2, 1)
    found = answer(what, json.loads(how), archive, Path(tempfile.mkdtemp()))
    with os.fdopen(said, "w", encoding="utf-8") as there:
        json.dump(found, there)


if __name__ == "__main__":
    main(*sys.argv[1:])
