"""What Pulumi's engine says of a run, event by event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platforms.pulumi.plain import plain
from platforms.pulumi.policing import Policed

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.pulumi.running import Event

#: What Pulumi says of a program or a run that failed, beside why. ENDED: of a program that has said why itself.
FRAME, ENDED = ("update failed", "preview failed", ""), "an unhandled error occurred: program exited"

#: The type of a stack among its resources.
STACK = "pulumi:pulumi:Stack"


class Seen:
    """What the engine said: steps are passed on, problems and counts kept."""

    def __init__(self, tell_step: Callable[[Event], None]) -> None:
        self.tell_step = tell_step
        self.counts: dict[str, int] = {}
        self.outputs: dict[str, Any] = {}
        self.problems: list[tuple[str, str]] = []
        self.remarks: dict[str, list[str]] = {}
        self.failed: list[str] = []
        self.policed = Policed()

    def take(self, event: Event) -> None:
        """Take what it says."""
        if "summaryEvent" in event:
            self.counts = event["summaryEvent"].get("resourceChanges") or {}
        elif "resOutputsEvent" in event and event["resOutputsEvent"]["metadata"].get("type") == STACK:
            self.outputs = (event["resOutputsEvent"]["metadata"].get("new") or {}).get("outputs") or {}
        elif "resOpFailedEvent" in event:
            self.failed.append(event["resOpFailedEvent"]["metadata"]["urn"])
        elif "policyEvent" in event:
            self.policed.take(event["policyEvent"])
        elif "diagnosticEvent" in event:
            diagnostic = event["diagnosticEvent"]
            if diagnostic["severity"] == "error":
                self.problems.append((diagnostic.get("urn", ""), plain(diagnostic["message"])))
            else:
                self.remarks.setdefault(diagnostic.get("urn", ""), []).append(plain(diagnostic["message"]))
        self.tell_step(event)

    def problem(self) -> str:
        """Return what went wrong, each thing once; that the update failed is the least of it."""
        words = [text for _urn, text in self.problems if text not in FRAME and not text.startswith(ENDED)]
        unique = list(dict.fromkeys(words))
        return "\n".join(text for text in unique if not any(text != other and text in other for other in unique))


class HeldBack:
    """Holds back what the engine says before it comes to a resource: until then another one may have to start.

    held: what it has said; None once it is passed on.
    """

    def __init__(self, tell_step: Callable[[Event], None]) -> None:
        self.tell_step = tell_step
        self.held: list[Event] | None = []

    def take(self, event: Event) -> None:
        """Take what the engine says."""
        if "resourcePreEvent" in event:
            self.pass_on()
        if self.held is None:
            self.tell_step(event)
        else:
            self.held.append(event)

    def pass_on(self) -> None:
        """Pass on what was held back."""
        held, self.held = self.held, None
        for event in held or ():
            self.tell_step(event)
