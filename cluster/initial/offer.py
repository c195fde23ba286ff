"""What a platform has for a new stack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a new stack file says otherwise on another platform.

    platform: its name in the file. database: the engine of the one that it makes where a project has an sqlite, or
    names none. secret_environment: where secret variables of the project are kept, in the words of the file's comment;
    how: how they get there, in the words after `secret ones go`. nginx_image: the image that nginx's is built on, where
    services are containers. listen: the site's port; None: one that is free on this machine. more: lines at the end of
    the file.
    """

    platform: str
    database: str
    secret_environment: str
    how: str
    nginx_image: str | None = None
    listen: int | None = None
    more: str = ""
