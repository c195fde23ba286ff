"""What a program makes: which platform made it, and a name that the program and the commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from platforms import base

Made = TypeVar("Made", bound="base.Store | base.MadeDatabase | base.Prepared | base.Instances")


#: The command that lets nginx look in a release's static files, once its instances are healthy.
SHOW = "static-current"


def ours(kind: type[Made], made: object) -> Made:
    """Return what the platform of `kind` made, with what is private to it; TypeError where another one made it."""
    if not isinstance(made, kind):
        platform = kind.__module__.split(".")[1]
        raise TypeError(f"{type(made).__module__}.{type(made).__qualname__} is not what platform {platform} made")
    return made
