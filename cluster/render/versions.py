"""Versions of nginx: which there are, and what one can do that another can't."""

from __future__ import annotations

import re

Version = tuple[int, int, int]

#: From here on nginx leaves a client's idle connection a moment after a reload, so that no request meets a reset.
KEEPALIVE_MIN_TIMEOUT_SINCE: Version = (1, 27, 4)

#: From here on nginx speaks HTTP/3; before 1.26 as an experiment.
HTTP3_SINCE: Version = (1, 26, 0)

#: From here on nginx has the port that a client asks for in a variable, whatever protocol it speaks.
REQUEST_PORT_SINCE: Version = (1, 29, 3)

OLDEST: Version = (1, 22, 0)

#: nginx of distributions, by the word in an image's name that says which release it is.
DISTRIBUTIONS: dict[str, Version] = {
    "bookworm": (1, 22, 1),
    "trixie": (1, 26, 3),
    "forky": (1, 30, 0),
    "jammy": (1, 18, 0),
    "noble": (1, 24, 0),
}

#: What is rendered for where the nginx that will run it is not known.
NEW_NGINX: Version = (1, 30, 0)


def shown(version: Version) -> str:
    """Return a version as nginx writes it."""
    return ".".join(map(str, version))


def version_in_image(image: str) -> Version:
    """Return the version of nginx in an image of that name, or the oldest that it could be.

    Known before anything is built, so that a preview shows the configuration that will run. nginx's own images say it
    in their tag; Debian's and Ubuntu's releases have one each (https://packages.debian.org/nginx).
    """
    name, _, tag = image.rpartition("/")[2].partition(":")
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tag)
    if name == "nginx" and found:
        return (int(found[1]), int(found[2]), int(found[3] or 0))
    for release, version in DISTRIBUTIONS.items():
        if release in re.split(r"[^a-z0-9.]", f"{name}-{tag}"):
            return version
    return OLDEST
