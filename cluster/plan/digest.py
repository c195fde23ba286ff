"""The digest of a plan: by it `up` does what was planned, or nothing and says what differs."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.plan.shown import headline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.plan.planned import Planned

#: The parts of a digest in their order, what each is called, and the keys of a plan that it is made of. What may change
#: from one minute to the next, and is nothing that `up` does, is in none: sessions, lints, drift, what is not known.
PARTS: dict[str, Sequence[str]] = {
    "what it costs": ("changes", "costs", "refused"),
    "the release": ("release", "settings"),
    "nginx's lines and the traffic": ("nginx", "traffic"),
    "the steps": ("steps", "deleted"),
    "the engine's resources": ("resources",),
}

#: Hexadecimal digits of each part.
LENGTH = 12

DIGEST = re.compile("-".join([rf"[0-9a-f]{{{LENGTH}}}"] * len(PARTS)))


def digest(planned: Planned) -> str:
    """Return the digest of a plan: one part for each of PARTS, so that it can be said what differs."""
    values = asdict(planned)
    return "-".join(_of([planned.stack, *(values[key] for key in keys)]) for keys in PARTS.values())


def _of(values: object) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def differences(planned: Planned, wanted: str) -> list[str]:
    """Return the parts in which a plan is not the one of a digest; CommandError where that is none."""
    if not DIGEST.fullmatch(wanted):
        raise CommandError(f"--plan-digest: {wanted!r} is no digest of a plan: `cluster plan --json` has it")
    parts = zip(PARTS, digest(planned).split("-"), wanted.split("-"), strict=True)
    return [what for what, one, other in parts if one != other]


def misfit(planned: Planned, wanted: str) -> str | None:
    """Return in one line why a plan is not the one of a digest; None where it is."""
    found = differences(planned, wanted)
    if not found:
        return None
    release = planned.release
    now = [headline(planned)]
    if release.after is not None and release.before != release.after:
        now.append(f"release {release.before or '-'} -> {release.after}")
    return (
        f"stack {planned.stack}: the plan is another one than was asked for, and nothing is done. What differs: "
        f"{'; '.join(found)}. Now it is: {'; '.join(now)}. `cluster plan {planned.stack}` shows it."
    )


__all__ = ["PARTS", "differences", "digest", "misfit"]
