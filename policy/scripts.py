"""What a command's script asks of a container engine, and what systemd's units in its input say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policy.resources import plain_texts

if TYPE_CHECKING:
    from policy.resources import Resource

#: Programs whose `run` and `create` make a container.
ENGINES = frozenset({"docker", "podman", "nerdctl"})

#: Their options before that which take one.
VALUED = frozenset({"--host", "-H", "--context", "-c", "--config", "--log-level", "-l", "--connection", "--url"})

#: Options of `run` and `create` that take no value.
FLAGS = frozenset(
    (
        *("--rm", "--init", "--interactive", "-i", "--tty", "-t", "--detach", "-d", "--read-only", "--privileged"),
        *("--publish-all", "-P", "--no-healthcheck", "--oom-kill-disable", "--sig-proxy", "--quiet", "-q"),
        *("--disable-content-trust", "--replace", "--use-api-socket"),
    )
)

#: A shell's words, quotes and all, its comments, and what stands between commands.
WORD = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<word>(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"';|&()\\])+)|(?P<end>[\n;|&()])""",
    re.DOTALL,
)

#: What is within quotes.
QUOTED = re.compile(r""""((?:\\.|[^"\\])*)"|'([^']*)'""", re.DOTALL)


@dataclass(frozen=True)
class Option:
    """An option of `docker run` with its value; empty for one that takes none."""

    name: str
    value: str

    @property
    def text(self) -> str:
        """Return it as a script has it."""
        return f"{self.name} {self.value}".strip()


def engine_options(script: str) -> Iterator[Option]:
    """Yield the options with which a script makes containers, up to the image's name.

    A variable that is not in quotes may be any number of options, and is passed over.
    """
    for command in _commands(script.replace("\\\n", " ")):
        words = iter(command)
        for word in words:
            for quoted in QUOTED.findall(word):
                yield from engine_options("".join(quoted))
            if word.rpartition("/")[2] in ENGINES and _makes(words):
                yield from _options(words)


def _commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell's."""
    command: list[str] = []
    for found in WORD.finditer(script):
        if found["word"]:
            command.append(found["word"])
        elif found["end"]:
            yield command
            command = []
    yield command


def _makes(words: Iterator[str]) -> bool:
    """Tell whether the words after an engine's name make a container; they are read as far as that is told."""
    for word in words:
        if word in VALUED:
            next(words, "")
        elif word != "container" and not word.startswith("-"):
            return word in ("run", "create")
    return False


def _options(words: Iterator[str]) -> Iterator[Option]:
    for word in words:
        if word.startswith("$"):
            continue
        if not word.startswith("-"):
            return
        name, equals, value = word.partition("=")
        short = re.fullmatch(r"(-[a-zA-Z])(.+)", name)
        if short and short[1] not in FLAGS and not name.startswith("--"):
            name, value, equals = short[1], short[2] + equals + value, "="  # -p80:80, -uroot
        elif short and not name.startswith("--"):
            yield from (Option(f"-{letter}", "") for letter in name[1:])
            continue
        if not equals and name not in FLAGS:
            value = next(words, "")
        yield Option(name, value.strip("'\""))


def units(resource: Resource) -> Iterator[tuple[str, str]]:
    """Yield the systemd units that start a program among the texts of a command's input, with what each is called."""
    text = resource.get("stdin")
    if not isinstance(text, str) or "[Service]" not in text:
        return
    for name, unit in _texts(text):
        if re.search(r"^\[Service\]$", unit, re.MULTILINE) and re.search(r"^ExecStart=", unit, re.MULTILINE):
            yield name, unit


def told(resource: Resource) -> dict[str, Any]:
    """Return the object that a command's input is; empty where it is none."""
    text = resource.get("stdin")
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _texts(text: str) -> Iterator[tuple[str, str]]:
    try:
        found = json.loads(text)
    except ValueError:
        yield "stdin", text
        return
    yield from _named(found)


def _named(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield texts by their keys; in a list, by what their entry is called."""
    if isinstance(value, list):
        for one in value:
            called = str(one["name"]) if isinstance(one, Mapping) and "name" in one else name
            yield from ((called, text) for _path, text in plain_texts(one))
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _named(one, str(key))
    elif isinstance(value, str):
        yield name, value


def setting(unit: str, key: str) -> str:
    """Return what a unit says of a key the last time; empty where it says nothing."""
    found: list[str] = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return found[-1].strip() if found else ""
