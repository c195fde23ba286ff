"""What a preview of Pulumi's says, by the engine's events: each resource that changes, with the inputs that are why.

Values of secrets are none of the events: the engine has put a mark in the place of each.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.plan.planned import Resource
from platforms.pulumi.engine import name_of
from platforms.pulumi.progress import COMMAND, IMAGE, SERVED, changed_by, finds_it_done, part_of
from platforms.pulumi.seen import STACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from platforms.pulumi.running import Event

#: The engine's steps of an operation; of one that replaces there are three.
OPERATIONS = {
    "create": "create",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replaced",
}

#: Types that are no resource of the platform's.
FRAME = re.compile(r"pulumi:|cluster:index:")

#: Inputs that say which time something is done, or that it was, or tell a digest of another one: nobody reads a reason
#: in them.
NOISE = frozenset({"environment.TURN", SERVED, "environment.DIGEST"})

#: Inputs that are another image, or another container: of the release, where that is another one.
FOLLOWING = frozenset(
    {
        "image",
        "imageName",
        "build",
        "environment.IMAGE",
        "environment.CONTAINER",
        "environment.CONTAINERS",
        "environment.ENVIRONMENT",
    }
)

#: The input that names a release, whosever it is.
NAMED = "environment.RELEASE"

#: Labels of a container that are digests of all that it is made with.
DIGEST_LABELS = frozenset({"django-cluster.spec"})

#: The reasons that are said for those above.
OF_RELEASE, OF_WHAT_RUNS = "release", "what runs"

#: How the image of a release is called within its component; and the command that sends one to a host.
APP_IMAGE, SENT = "app-image", "sent"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is done with one resource: create, update, replace, delete, or same.

    part: what it is called within its component. old, new: its inputs. changed: the paths of those that differ.
    """

    operation: str
    kind: str
    part: str
    component: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    changed: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Preview:
    """What the events said. before, after: the stack's outputs."""

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    _seen: dict[str, Step] = field(default_factory=dict)

    @classmethod
    def of_state(cls, resources: Iterable[Mapping[str, Any]]) -> Preview:
        """Return one in which nothing changes, by the resources in a stack's state: what that has of each."""
        found = cls()
        for resource in resources:
            metadata = {"op": "same", "urn": resource["urn"], "type": resource["type"]}
            states = {"old": resource, "new": resource}
            found.take({"resourcePreEvent": {"metadata": {**metadata, **states}}})
            found.take({"resOutputsEvent": {"metadata": {**metadata, **states}}})
        return found

    def take(self, event: Event) -> None:
        """Take one event of the engine's."""
        begun, ended = event.get("resourcePreEvent"), event.get("resOutputsEvent")
        if begun and not FRAME.match(begun["metadata"]["type"]):
            self._take(begun["metadata"])
        if ended and ended["metadata"]["type"] == STACK:
            metadata = ended["metadata"]
            self.before, self.after = ((metadata.get(one) or {}).get("outputs") or {} for one in ("old", "new"))

    def _take(self, metadata: Mapping[str, Any]) -> None:
        operation = OPERATIONS.get(metadata["op"], "same")
        urn, known = metadata["urn"], self._seen.get(metadata["urn"])
        if operation == "replaced":
            # Alone it is what a former run has replaced, and did not remove.
            if known is None or known.operation == "same":
                self._seen[urn] = _step(metadata, "delete")
        elif known is None or known.operation in ("same", "delete") or operation != "same":
            self._seen[urn] = _step(metadata, operation)

    @property
    def all(self) -> list[Step]:
        """All resources, those that stay the same too, in an order that is always the same."""
        return sorted(self._seen.values(), key=lambda one: (_natural(one.part), one.kind, one.component))

    @property
    def steps(self) -> list[Step]:
        """What changes."""
        found = (step for step in self.all if step.operation != "same")
        return [step for step in found if not (_moved(step) or finds_it_done(step.kind, step.part, step.changed))]

    def of(self, kind: str, *operations: str) -> dict[str, Step]:
        """Return what is done with resources of a kind, by how they are called within their components."""
        return {one.part: one for one in self.steps if one.kind == kind and (one.operation in operations)}

    def release(self) -> tuple[str | None, str | None]:
        """Return the digest of the release in the state, and of the one that is wanted."""
        found = next(filter(_makes_release, self.all), None)
        return (None, None) if found is None else (_release(found.old), _release(found.new))

    def resources(self) -> tuple[Resource, ...]:
        """Return what changes, as it is shown."""
        former, release = self.release()
        app = {one.component for one in self.all if _makes_release(one)}
        return tuple(
            Resource(
                operation=one.operation,
                kind=one.kind,
                name=one.part,
                reasons=_reasons(one, former, release, of_release=one.component in app and former != release),
            )
            for one in self.steps
        )


def _step(metadata: Mapping[str, Any], operation: str) -> Step:
    kind, part = part_of(dict(metadata))
    old, new = ((metadata.get(one) or {}).get("inputs") or {} for one in ("old", "new"))
    state = metadata.get("new") or metadata.get("old") or {}
    return Step(
        operation=operation,
        kind=kind,
        part=part,
        component=name_of(state.get("parent") or "")[1],
        old=old,
        new=new,
        changed=changed_by(metadata) if operation in ("update", "replace") else (),
    )


def _moved(step: Step) -> bool:
    """Tell whether an image is the same: only where that lies of which it is made is another directory.

    Its name says all that it is made of. Beside that is what a checkout has left out, which is another in the next one.
    """
    if step.kind != IMAGE or step.operation != "update":
        return False

    def plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
        elsewhere = ("context", "contextDigest", "dockerfile")
        build = {key: value for key, value in (inputs.get("build") or {}).items() if key not in elsewhere}
        return {"imageName": inputs.get("imageName"), "build": build}

    return plain(step.old) == plain(step.new)


def _reasons(step: Step, former: str | None, release: str | None, *, of_release: bool) -> tuple[str, ...]:
    """Return the inputs that are why; all that follows from another release is one."""
    found = set()
    for path in step.changed:
        key = path if path.startswith("environment.") else re.split(r"[.\[]", path)[0]
        top = key.partition(".")[0]
        if key in NOISE:
            continue
        follows = key == NAMED or (of_release and key in FOLLOWING) or _same_but(step, top, key, former, release)
        found.add(OF_RELEASE if follows else key)
    if not found and step.changed:
        found.add(OF_RELEASE if of_release else OF_WHAT_RUNS)
    return tuple(sorted(found))


def _same_but(step: Step, top: str, key: str, former: str | None, release: str | None) -> bool:
    """Tell whether an input differs in the release that it names, and in nothing else."""
    if former == release:
        return False
    old, new = step.old.get(top), step.new.get(top)
    if key != top and isinstance(old, dict) and isinstance(new, dict):
        name = key.partition(".")[2]
        old, new = old.get(name), new.get(name)
    return _plain(old).replace(str(former), str(release)) == _plain(new)


def _plain(value: Any) -> str:
    """Return a value as text, without the labels that are digests of the other inputs."""
    kept = [one for one in value if _label(one) not in DIGEST_LABELS] if isinstance(value, list) else value
    return json.dumps(kept, sort_keys=True)


def _label(one: Any) -> str:
    return str(one.get("label", "")) if isinstance(one, dict) else ""


def _makes_release(step: Step) -> bool:
    return (step.kind, step.part) == (IMAGE, APP_IMAGE) or (step.kind == COMMAND and step.part.endswith(SENT))


def _release(inputs: Mapping[str, Any]) -> str | None:
    """Return the release that the inputs of a step name which makes one."""
    if inputs.get("imageName"):
        return str(inputs["imageName"]).rpartition(":")[2]
    found = (inputs.get("environment") or {}).get("RELEASE")
    return str(found) if found else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Return by what names are ordered: app2 before app10."""
    return [(int(word), "") if word.isdigit() else (0, word) for word in re.split(r"(\d+)", name)]


def names(steps: Iterable[str]) -> list[str]:
    """Return names, app2 before app10."""
    return sorted(steps, key=_natural)


__all__ = ["Preview", "Step", "names"]
