"""A resource as the engine is about to make it, and what of it breaks a rule.

Inputs are as they go over the wire (https://www.pulumi.com/docs/iac/extending-pulumi/, special signatures): a secret is
marked, and a value that is not known yet is one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: The key and the value that mark a secret.
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"

#: What stands for a value that is not known before it is made.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

#: Types of what the platforms make.
CONTAINER, VOLUME, COMMAND = "docker:index/container:Container", "docker:index/volume:Volume", "command:local:Command"

#: Types of commands, on this machine or another.
COMMANDS = frozenset({COMMAND, "command:remote:Command"})

#: The labels by which a platform knows its containers.
ROLE_LABEL, INSTANCE_LABEL = "django-cluster.role", "django-cluster.instance"


class Breach(NamedTuple):
    """What breaks a rule. what: goes on after the resource's name (`publishes port 80`), and never holds a secret.

    mark: the same in a word, by which a documented exception allows it.
    """

    what: str
    mark: str = ""


class Unknown(Exception):  # noqa: N818 - it is no error
    """A value that a rule needs is not known before the resource is made."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource with its inputs. parent: its parent's URN; empty where it has none. protect: the option."""

    urn: str
    inputs: Mapping[str, Any]
    parent: str = ""
    protect: bool = False

    @property
    def type(self) -> str:
        """Return its own type, without those of its parents."""
        return _type_of(self.urn)

    @property
    def component(self) -> str:
        """Return the type of the component that it belongs to, `cluster:index:NginxSite`; empty for none."""
        found = _type_of(self.parent) if self.parent else ""
        return found if found.startswith("cluster:index:") else ""

    @property
    def part(self) -> str:
        """Return what it is called within its component: as the stack file, the logs and `status` call it."""
        name, parent = (urn.rpartition("::")[2] for urn in (self.urn, self.parent))
        return name.removeprefix(f"{parent}-") if self.component else name

    @property
    def words(self) -> str:
        """Return what it is, and what it is called: `container app1`."""
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.type.rpartition(":")[2]).lower()
        return f"{kind} {self.part}"

    def get(self, name: str) -> Any:
        """Return an input without marks of secrets; None where it is not said. Unknown where nobody can say."""
        return opened(self.inputs.get(name))

    def entries(self, name: str) -> list[Any]:
        """Return an input that is a list."""
        return list(self.get(name) or ())

    def column(self, name: str, key: str) -> list[Any]:
        """Return a value of each entry of a list, whatever is known of the others."""
        found = self.inputs.get(name)
        if found == UNKNOWN:
            raise Unknown
        return [opened(one.get(key)) for one in found or ()]

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an input that is a mapping; Unknown where it, or a value in it, is not known."""
        return dict(self.get(name) or {})

    @property
    def labels(self) -> dict[str, str]:
        """Return a container's labels."""
        return {one["label"]: one["value"] for one in self.entries("labels")}

    @property
    def role(self) -> str:
        """Return what a container of a site does; empty for any other."""
        return self.labels.get(ROLE_LABEL, "")


@dataclass(frozen=True, kw_only=True)
class Site:
    """What is known of the stack.

    secrets: values of its secrets by the key that has them, each a text that must stand nowhere in plain.
    """

    production: bool = False
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)


Breaches = Iterator[Breach]

#: Looks at one resource; Unknown where what it needs is not known yet.
Check = Callable[[Resource, Site], Breaches]


def opened(value: Any) -> Any:
    """Return a value without the marks of secrets; Unknown where any of it is not known."""
    if value == UNKNOWN:
        raise Unknown
    if isinstance(value, Mapping):
        if value.get(SIGNATURE) == SECRET:
            return opened(value["value"])
        return {key: opened(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [opened(one) for one in value]
    return value


def plain_texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text that is no secret, with its path (`environment.TOKEN`); what is not known is no text."""
    if isinstance(value, Mapping):
        if value.get(SIGNATURE) == SECRET:
            return
        for key, one in value.items():
            yield from plain_texts(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from plain_texts(one, f"{path}[{number}]")
    elif isinstance(value, str) and value != UNKNOWN:
        yield path, value


def _type_of(urn: str) -> str:
    """Return the last type of a URN: `urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME`."""
    types = urn.split("::")[2] if urn.count("::") >= 3 else ""  # noqa: PLR2004 - as above
    return types.rpartition("$")[2]
