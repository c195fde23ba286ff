"""Rules of texts among the inputs of any resource: secrets in plain, and DEBUG."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from policy.resources import COMMANDS, CONTAINER, Breach, plain_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from policy.resources import Breaches, Resource, Site

#: Last words of the names of what is secret; a bare `key` is the name of much that is not.
SECRET_NAME = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?)(?:_?\d+)?$|_KEY(?:_?\d+)?$")
PUBLIC_NAME = re.compile(r"PUBLIC|PUBLISHABLE")

#: A password in an address (`%s` and `$PASSWORD` are none), and a private key, whatever they are called.
PASSWORD_IN_URL = re.compile(r"://[^/\s:@$]*:(?![$%{<*])[^/\s@]+@")
PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")

#: The shortest secret that is looked for in other texts: a shorter one (`postgres`) stands in many by chance.
SHORTEST = 12

#: The secret whose parts are a project's variables, and a value of one that nobody has thought up.
VARIABLES = "secret_environment"
RANDOM = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/=_-]{16,}")

#: What a variable says that asks for DEBUG.
YES = frozenset({"1", "true", "yes", "on", "t", "y"})

#: Programs and options that are for who writes a project.
DEBUGGING = re.compile(
    r"(?:^|\s)(?:runserver(?:_plus)?|--debug(?:=(?:1|true|yes|on))?|-X\s?dev)(?=\s|$)", re.IGNORECASE
)


def values_of(secrets: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the texts that must stand nowhere in plain: each secret, and those within it (JSON, an address)."""
    found = {}
    for name, value in secrets.items():
        texts = dict.fromkeys(_within(name.rpartition(":")[2], value.strip()))
        found[name] = tuple(one for one in texts if len(one) >= SHORTEST)
    return {name: texts for name, texts in found.items() if texts}


def _within(name: str, value: str) -> Iterator[str]:
    yield value
    password = urlsplit(value).password if PASSWORD_IN_URL.search(value) and value.isprintable() else None
    if password:
        yield from (password, unquote(password))
    try:
        inside = json.loads(value)
    except ValueError:
        return
    if isinstance(inside, dict | list):
        for path, text in plain_texts(inside):
            # Variables that are no secret lie there too: a host's name stands in many a text.
            if name != VARIABLES or SECRET_NAME.search(path.upper()) or RANDOM.fullmatch(text):
                yield text
            elif PASSWORD_IN_URL.search(text):
                yield from _within("", text)


def plain_secret(resource: Resource, site: Site) -> Breaches:
    """Look for secrets that state, previews and logs would show: only what is marked as one is encrypted."""
    for path, text in _named(resource.inputs):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path_end(path)).upper()
        if text and SECRET_NAME.search(name) and not PUBLIC_NAME.search(name):
            yield Breach(f"has {path} in plain", path)
    for path, text in plain_texts(resource.inputs):
        held = [name for name, values in site.secrets.items() if any(value in text for value in values)]
        yield from (Breach(f"has the secret {name} in plain, in {path}", path) for name in held)
        if not held and PASSWORD_IN_URL.search(text):
            yield Breach(f"has an address with a password in plain, in {path}", path)
        if not held and PRIVATE_KEY.search(text):
            yield Breach(f"has a private key in plain, in {path}", path)


def path_end(path: str) -> str:
    """Return the last name in a path: `registryAuth[0].password`."""
    return re.sub(r"(?:\[\d+\])+$", "", path).rpartition(".")[2]


def _named(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield texts with the names that they are given: a container's variables have theirs in the text."""
    for path, text in plain_texts(inputs):
        if path.startswith("envs["):
            name, _, value = text.partition("=")
            yield f"envs.{name}", value
        else:
            yield path, text


def debug(resource: Resource, _site: Site) -> Breaches:
    """Look for variables, build arguments and options that ask for DEBUG."""
    for path, text in _named(resource.inputs):
        place, _, name = path.rpartition(".")
        if place in ("envs", "environment", "build.args") and "DEBUG" in name.upper().split("_") and _asks(text):
            yield Breach(f"has {path} set to {text.strip()}", path)
    if resource.type == CONTAINER:
        command = " ".join(map(str, (*resource.entries("entrypoints"), *resource.entries("command"))))
        if DEBUGGING.search(command):
            yield Breach("runs what is for who writes a project (runserver, --debug)")
    if resource.type in COMMANDS and re.search(r"\bmanage\.py runserver\b", str(resource.get("create") or "")):
        yield Breach("runs what is for who writes a project (runserver)")


def _asks(text: str) -> bool:
    return text.strip().lower() in YES
