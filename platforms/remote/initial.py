"""What a stack that has no file yet gets on platform remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.initial.offer import Offer

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.base import Voice


#: What only the user knows: where the site runs.
HOSTS = """
  # The server that the site runs on (docs/remote.md); site.server_names above are the names that its visitors type.
  # cluster:hosts:
  #   - name: web1                 # what it is called here
  #     address: 203.0.113.5
  #     user: deploy               # whose sudo asks for no password; left out: root
  #     host_key: ssh-ed25519 AAAA # what `ssh-keyscan -t ed25519 203.0.113.5` prints after the address
  #     identity_file: ~/.ssh/id_ed25519   # left out: what ssh's agent has
"""


def offer(stack: str) -> Offer:
    """Return what its file says of this platform."""
    return Offer(
        platform="remote",
        database="sqlite",
        secret_environment="secret_environment",  # noqa: S106 - a name
        how=f"by pulumi config set --secret cluster:secret_environment -s {stack} (a JSON object)",
        listen=80,
        more=HOSTS,
    )


def secret_environment(root: Path, stack: str, voice: Voice) -> str | None:
    """Return the secret variables that the stack has already, encrypted in its file; None where it has none."""
    from platforms.pulumi.keys import secret_environment as kept  # noqa: PLC0415 - only where Pulumi keeps it

    return kept(root, stack, voice)
