"""Where Pulumi keeps the states of a repository's stacks: Pulumi.yaml says it, for whoever has the repository."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from cluster.errors import CommandError
from platforms.pulumi.installing import HOME

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.base import Shared
    from platforms.pulumi.engine import Pulumi

FILE = "Pulumi.yaml"

#: What Pulumi keeps states in, by the scheme of the URL; https is Pulumi's own cloud, or one that speaks as it does.
BACKENDS = ("s3", "gs", "azblob", "https", "file")

#: What encrypts the secrets in them, beside a passphrase.
PROVIDERS = ("awskms", "azurekeyvault", "gcpkms", "hashivault")

#: What does, where nobody says anything else.
PASSPHRASE = "passphrase"  # noqa: S105 - a word

#: Where they are for who has a token of it, and says nothing else.
CLOUD = "https://api.pulumi.com"

#: In the environment it goes before the file.
VARIABLE = "PULUMI_BACKEND_URL"


def current_backend(root: Path) -> str | None:
    """Return the URL of where Pulumi keeps states for a repository, as it finds it itself; None where nobody said."""
    if named := os.environ.get(VARIABLE) or named_backend(root):
        return named
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((HOME.expanduser() / "credentials.json").read_text(encoding="utf-8")).get("current")
        if known:
            return str(known)
    return CLOUD if os.environ.get("PULUMI_ACCESS_TOKEN") else None


def share(pulumi: Pulumi, shared: Shared) -> None:
    """Let the repository name where states are kept, and make a stack whose secrets are encrypted as it is said.

    CommandError where that can't be had, or where the stack's state would be left where it is.
    """
    stack, backend, provider = pulumi.stack, shared.backend, shared.secrets_provider
    if provider is not None:
        check_provider(provider)
    if backend is not None:
        _check(backend)
        if backend not in (named_backend(pulumi.root), os.environ.get(VARIABLE)) and pulumi.find():
            raise CommandError(
                f"--backend: stack {stack} runs, and its state is in another place. `pulumi stack export --file "
                f"state.json --stack {stack}` there, and then with {backend} in {FILE} `pulumi stack init {stack}` and "
                f"`pulumi stack import --file state.json --stack {stack}` move it"
            )
        if _name_reached(pulumi, backend):
            pulumi.say(f"{FILE} names {backend}: commit it, and whoever has the repository finds the stacks there")
    if provider is None:
        return
    if pulumi.find() is not None:
        raise CommandError(
            f"--secrets-provider: stack {stack} is there, and its secrets are encrypted: `pulumi stack "
            f"change-secrets-provider {provider} --stack {stack}` encrypts them anew"
        )
    pulumi.make_stack(provider)


def _name_reached(pulumi: Pulumi, backend: str) -> bool:
    """Let the repository name a backend, and tell whether it did not yet; it stays as it was where nobody can use it.

    Else a URL with a mistake would be the repository's, and another one refused.
    """
    path = pulumi.root / FILE
    former = path.read_text(encoding="utf-8") if path.is_file() else None
    if not name_backend(pulumi.root, backend):
        return False
    try:
        pulumi.find()
    except CommandError as error:
        if former is not None:
            path.write_text(former, encoding="utf-8")
        why = " ".join(str(error).removeprefix("pulumi: ").split())
        raise CommandError(f"--backend: {backend} can't be used, and {FILE} does not name it: {why}") from error
    return True


def named_backend(root: Path) -> str | None:
    """Return the URL that the repository names; None where it names none. CommandError where its file can't be read."""
    backend = _document(root).get("backend")
    url = backend.get("url") if isinstance(backend, dict) else None
    return url if isinstance(url, str) and url else None


def _document(root: Path) -> dict[str, Any]:
    try:
        found: Any = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CommandError(f"{FILE}: can't be read: {error}") from error
    return found if isinstance(found, dict) else {}


def name_backend(root: Path, url: str) -> bool:
    """Let the repository name it; tell whether it did not yet. CommandError where it can't be had.

    The file is written only where it names none: what it has, its comments too, stays.
    """
    given, known = os.environ.get(VARIABLE), named_backend(root)
    if given and given != url:
        raise CommandError(f"--backend: {VARIABLE} is {given}, which goes before {FILE}: unset it, or say the same")
    if known == url:
        return False
    if known is not None:
        raise CommandError(
            f"--backend: backend.url in {FILE} is {known}, where the states of its stacks are. Move them "
            f"(`pulumi stack export`, and `pulumi stack import` with the other one), and change it there"
        )
    if "backend" in _document(root):
        raise CommandError(f"{FILE}: has a `backend` that names no URL; say `backend: {{url: {url}}}` there")
    path = root / FILE
    try:
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text.rstrip()}\nbackend:\n  url: {url}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{FILE}: {error.strerror}") from error
    return True


def check_provider(provider: str) -> None:
    """Refuse what encrypts nothing; CommandError says what does."""
    if provider != PASSPHRASE and urlsplit(provider).scheme not in PROVIDERS:
        allowed = ", ".join(f"{one}://" for one in PROVIDERS)
        raise CommandError(f"--secrets-provider: must be {PASSPHRASE}, or begin with {allowed}; got {provider}")


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in BACKENDS or any(one.isspace() or one in "\"'#" for one in url):
        allowed = ", ".join(f"{one}://" for one in BACKENDS)
        raise CommandError(f"--backend: must begin with {allowed}; got {url}")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise CommandError(f"--backend: must be absolute, the same on every machine (file:///srv/state); got {url}")
    if parts.password or parts.username:
        raise CommandError("--backend: must hold no credentials: Pulumi takes them from the environment of who asks")


__all__ = ["FILE", "PASSPHRASE", "VARIABLE", "check_provider", "name_backend", "named_backend", "share"]
