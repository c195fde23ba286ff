"""Lints of the images that containers are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import Images
from cluster.lint.rule import NOTE, WARNING, Remark, Rule

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Days after which a base is old.
OLDEST_BASE = 30


def _images_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if "images" in config.model_fields_set and not config.platform.traits.containers:
        why = f"Platform {config.platform} runs no containers."
        yield Remark("images", why, "Remove it, or set platform to docker.")


def _old_base(config: ClusterConfig, facts: Facts) -> Remarks:
    # Debian and the makers of images put security updates into new ones.
    if not config.platform.traits.containers or facts.now is None:
        return
    remedy = f"Say `cluster up --pull {facts.stack or 'STACK'}`."
    as_of = config.images.as_of
    if as_of is not None:
        days = (facts.now - as_of).days
        if days > OLDEST_BASE:
            why = f"The images are as of {as_of.date()}, {days} days ago: security updates since then are not in them."
            yield Remark("images.as_of", why, remedy)
        return
    # The base of all is named where another one is the same.
    keys = {getattr(config.images, key): key for key in reversed(Images.model_fields) if key != "as_of"}
    for image, made in facts.bases.items():
        days = (facts.now - made).days
        if days > OLDEST_BASE:
            why = f"{image} was made {days} days ago: security updates since then are not in what is built on it."
            yield Remark(f"images.{keys[image]}", why, remedy)


IMAGE_RULES = (
    Rule("base-old", WARNING, f"A base of platform docker is older than {OLDEST_BASE} days.", _old_base),
    Rule("images-ignored", NOTE, "Images are for platforms with containers.", _images_ignored),
)
