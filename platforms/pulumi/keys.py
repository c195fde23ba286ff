"""A stack's keys, encrypted in its file."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml

from cluster.acme.kept import new_key
from cluster.config.models import (
    ACCOUNT,
    AUTHORITY,
    DROPPED_KEYS,
    GIVEN_KEYS,
    HOSTS_KEY,
    HOSTS_KEY_FALLBACKS,
    HOSTS_ROTATION,
    ROTATION,
)
from cluster.errors import CommandError
from cluster.stack.paths import stack_path
from cluster.stack.rotation import KEPT, ProgressFile, unsaid
from cluster.stack.secrets import with_dropped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster.config import ClusterConfig
    from cluster.stack.rotation import Rotation
    from platforms.base import Voice
    from platforms.pulumi.engine import Pulumi


@dataclass(frozen=True)
class ProgressInFile:
    """How far a rotation is, in the stack file beside its keys: whoever has these knows it, and both go by one commit.

    former: where a checkout alone had it; read where the stack file has none.
    """

    pulumi: Pulumi
    name: str
    former: ProgressFile

    @property
    def forget(self) -> str:
        """What to do where it is to be begun anew."""
        if not self.pulumi.has_secret(self.name):
            return self.former.forget
        return f"`pulumi config rm cluster:{self.name} --stack {self.pulumi.stack}`"

    def load(self) -> Rotation | None:
        """Return the rotation that was begun, None where none was; LostKey where nobody can say how far it is."""
        text = self.pulumi.secret(self.name)
        if text is None:
            return self.former.load()
        try:
            return KEPT.validate_json(text)
        except ValueError as error:
            raise unsaid(f"cluster:{self.name}: holds something else") from error

    def save(self, rotation: Rotation | None) -> None:
        """Keep it; None: it has ended."""
        if rotation is None:
            self.pulumi.remove_secret(self.name)
        else:
            self.pulumi.set_secret(self.name, json.dumps(asdict(rotation)))
        self.former.save(None)


class PulumiKeys:
    """A stack's keys, encrypted in its file."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.pulumi = pulumi

    def read(self) -> tuple[str, list[str]]:
        """Return secret_key and secret_key_fallbacks."""
        return self.pulumi.secret("secret_key") or "", json.loads(self.pulumi.secret("secret_key_fallbacks") or "[]")

    def write_key(self, key: str) -> None:
        """Replace secret_key."""
        self.pulumi.set_secret("secret_key", key)

    def write_fallbacks(self, keys: list[str]) -> None:
        """Replace secret_key_fallbacks."""
        self.pulumi.set_secret("secret_key_fallbacks", json.dumps(keys))

    def keep_aside(self, keys: list[str]) -> str:
        """Keep keys encrypted beside the others: a file on this machine would be gone where a rotation runs in CI."""
        former = self.pulumi.secret(DROPPED_KEYS) or ""
        try:
            text = with_dropped(former, keys, time.strftime("%Y-%m-%d"))
        except ValueError as error:
            raise CommandError(f"cluster:{DROPPED_KEYS}: can't be read: {error}; remove it") from error
        self.pulumi.set_secret(DROPPED_KEYS, text)
        where = f"cluster:{DROPPED_KEYS}"
        return (
            f"{where} of the stack, encrypted, which nothing reads; when nothing needs the key any more: "
            f"pulumi config rm {where} --stack {self.pulumi.stack}"
        )

    def progress(self, state: Path) -> ProgressInFile:
        """Return where the stack file says how far a rotation is."""
        return ProgressInFile(self.pulumi, ROTATION, ProgressFile(state / "rotation.json"))


class PulumiHostsKeys:
    """Of what a stack's hosts make their certificates, encrypted in its file."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.pulumi = pulumi

    def read(self) -> tuple[str, list[str]]:
        """Return hosts_key and hosts_key_fallbacks."""
        return self.pulumi.secret(HOSTS_KEY) or "", json.loads(self.pulumi.secret(HOSTS_KEY_FALLBACKS) or "[]")

    def write_key(self, key: str) -> None:
        """Replace hosts_key."""
        self.pulumi.set_secret(HOSTS_KEY, key)

    def write_fallbacks(self, keys: list[str]) -> None:
        """Replace hosts_key_fallbacks."""
        self.pulumi.set_secret(HOSTS_KEY_FALLBACKS, json.dumps(keys))

    def keep_aside(self, _keys: list[str]) -> str:
        """Keep none: nothing that lasts is made of them."""
        return ""

    def progress(self, state: Path) -> ProgressInFile:
        """Return where the stack file says how far a rotation is."""
        return ProgressInFile(self.pulumi, HOSTS_ROTATION, ProgressFile(state / "rotation-hosts.json"))


def secret_environment(root: Path, stack: str, voice: Voice) -> str | None:
    """Return the secret variables that a stack has already, encrypted in its file; None where it has none."""
    path = stack_path(root, stack)
    if not path.exists() or "cluster:secret_environment:" not in path.read_text(encoding="utf-8"):
        return None
    from platforms.pulumi.engine import Pulumi  # noqa: PLC0415 - only where Pulumi keeps it

    return Pulumi(root, stack, voice.say).secret("secret_environment")


def make_secrets(pulumi: Pulumi, config: ClusterConfig, shown: Path, say: Callable[[str], None]) -> None:
    """Make the secrets of a site that its stack lacks; shown: where browsers find what they are to trust."""
    tls = config.site.tls
    if tls is not None and tls.self_signed:
        from cluster.tls.authority import make_authority, show_authority  # noqa: PLC0415 - cryptography takes its time

        authority = pulumi.secret(AUTHORITY)
        if authority is None:
            authority = make_authority(pulumi.stack, dt.datetime.now(dt.UTC))
            pulumi.set_secret(AUTHORITY, authority)
            say(f"making the stack's own authority: browsers are to trust {shown}")
        show_authority(shown, authority)
    if config.site.acme is not None and not pulumi.has_secret(ACCOUNT):
        pulumi.set_secret(ACCOUNT, new_key())


def stack_keys(root: Path, stack: str) -> dict[str, Any]:
    """Return the keys of the stack file with their values, secrets as they stand there."""
    document = yaml.safe_load(stack_path(root, stack).read_text(encoding="utf-8"))
    return dict(document.get("config") or {})


def secrets_there(root: Path, stack: str) -> frozenset[str]:
    """Return the names of the secrets that a stack file has; `up` makes the secret_key that it lacks."""
    keys = stack_keys(root, stack)
    return frozenset(name for name in GIVEN_KEYS if f"cluster:{name}" in keys) | {"secret_key"}
