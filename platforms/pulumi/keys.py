"""A stack's keys, encrypted in its file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from cluster.config.models import DROPPED_KEYS
from cluster.errors import CommandError
from cluster.stack.secrets import with_dropped

if TYPE_CHECKING:
    from platforms.pulumi.engine import Pulumi


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
