"""What is to be said of a certificate that a renewer keeps, by what that says of itself."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cluster.acme.kept import Said

#: Seconds that `up` waits for the first certificate: an authority takes a few.
FIRST_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a certificate stands: a word, whether that is well, and more for a person."""

    state: str
    ok: bool
    message: str


def standing(said: Said, told: str | None, now: dt.datetime) -> Standing:
    """Judge a certificate. told: what nginx says it has read; None where it does not answer."""
    if not said.at:
        return Standing(state="starting", ok=False, message="")
    if not said.issuer:
        return Standing(state="placeholder", ok=False, message=_tried(said) or "asking for the first certificate")
    certificate = said.certificate
    until = f"until {certificate.ends:%Y-%m-%d}"
    if now >= certificate.ends:
        message = f"on {certificate.ends:%Y-%m-%d}; {_tried(said)}".rstrip("; ")
        return Standing(state="ended", ok=False, message=message)
    if now >= certificate.late:
        return Standing(state="late", ok=False, message=f"{until}, and not renewed; {_tried(said)}".rstrip("; "))
    if told is not None and told != said.loaded:
        return Standing(state="not loaded", ok=False, message=f"{until}; nginx has read another one")
    renewal = certificate.renewal(said.renewal)
    tried = f"; {_tried(said)}" if said.message else ""
    return Standing(state="valid", ok=True, message=f"{until}, renewed from {renewal:%Y-%m-%d} on{tried}")


def await_first(
    look: Callable[[], tuple[Said, str | None]], say: Callable[[str], None], names: Collection[str] = ()
) -> None:
    """Wait until there is a certificate that has not ended, or it was said why there is none; that is said.

    look: returns what the renewer says, and what nginx has read. names: which it is to be of; of other ones is the
    former one, which serves until then.
    """
    deadline, told = time.monotonic() + FIRST_SECONDS, False
    while True:
        said, loaded = look()
        now = standing(said, loaded, dt.datetime.now(dt.UTC))
        # One that has ended was not renewed while the stack was down.
        former = bool(names and said.names) and set(said.names.split()) != set(names)
        waiting = (former or now.state in ("starting", "placeholder", "ended", "not loaded")) and not said.failures
        if not waiting or time.monotonic() > deadline:
            break
        if not told:
            say("waiting for the certificate")
            told = True
        time.sleep(0.3)
    say(f"the certificate: {now.state}{f', {now.message}' if now.message else ''}")


def _tried(said: Said) -> str:
    """Return by what the last try failed."""
    again = f" ({said.failures} times; again at {said.again})" if said.failures else ""
    return f"{said.message}{again}" if said.message else ""
