"""A configuration of nginx's as `nginx/deliver` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.render.nginx import NginxConfig

FILE = "# file "


def delivery(config: NginxConfig) -> str:
    """Return a configuration as `nginx/deliver` reads it: each file after a line with its name, then the links."""
    links = "".join(f"# link {path} {target}\n" for path, target in sorted(config.links.items()))
    return delivered_files(config.files) + links


def delivered_files(files: Mapping[str, str]) -> str:
    """Return files as `nginx/deliver` reads them.

    A file's own lines have a space in front: none can be taken for the name of another file.
    """
    return "".join(
        f"{FILE}{path}\n" + "".join(f" {line}\n" for line in text.removesuffix("\n").split("\n"))
        for path, text in sorted(files.items())
    )


def read_delivered(text: str) -> dict[str, str]:
    """Return the files of a delivery by their paths."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(FILE):
            lines = found.setdefault(line.removeprefix(FILE), [])
        elif line.startswith(" "):
            lines.append(line[1:])
    return {path: "\n".join(kept) for path, kept in found.items()}
