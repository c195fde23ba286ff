"""Reads a stack file: YAML to ClusterConfig, with every problem said at once, a line each."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from cluster.config.document import DocumentError, Written, read_document, step
from cluster.config.models import OWN_KEYS, SECRET_KEYS, ClusterConfig, Media, keys_of, refuse_what_media_take
from cluster.config.refusing import KEY, VALUE
from cluster.config.units import MOMENT, Duration
from cluster.errors import ClusterError
from cluster.source import find_media
from cluster.stack.paths import STACKS, stack_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX = "cluster:"

#: What the path of a key of ours begins with in a document.
OURS = re.compile(rf'config\["{PREFIX}([\w-]+)"\]')

#: Keys whose values no message repeats.
NOT_SHOWN = (*SECRET_KEYS, *OWN_KEYS)

#: The kind of error of a key that is no text.
KEY_KIND = "key"

#: A number that YAML 1.1 reads with base 8, and a person with base 10.
OCTAL = re.compile(r"0[0-9]+")

#: Problems that are said; of a file with thousands nobody reads the rest.
MOST_PROBLEMS = 50

#: Characters of a value that a message repeats.
LINE = 80

#: Named in a message where no file is known.
SOURCE = "stack file"

NAME_HINT = "lower-case letters, digits, - and _, beginning with a letter, 32 at most"
SERVICE_HINT = NAME_HINT.replace("32", "28")

#: Added to a message, by the end of the key's dotted name and pydantic's error type.
HINTS = {
    ("servers.weight", "greater_than_equal"): 'to stop traffic use "down: true"',
    ("servers.name", "string_pattern_mismatch"): NAME_HINT,
    ("workers.name", "string_pattern_mismatch"): SERVICE_HINT,
    ("schedule.name", "string_pattern_mismatch"): SERVICE_HINT,
    ("server_names", "string_pattern_mismatch"): "a host name, *.example.com, .example.com, or _ for any",
    ("site.address", "string_pattern_mismatch"): "an address of IPv4 or of IPv6",
    ("hosts.interface", "string_pattern_mismatch"): "a network interface as `ip link` calls it, for example eth0",
    ("app.application", "string_pattern_mismatch"): "module:callable, for example example.wsgi:application",
    ("app.settings", "string_pattern_mismatch"): "a module, for example example.settings",
    (
        "environment.[key]",
        "string_pattern_mismatch",
    ): "letters, digits and _, not beginning with a digit",
    (
        "static_url",
        "string_pattern_mismatch",
    ): "a path that begins and ends with /, for example /static/; null for none",
    ("app.media", "model_type"): "false for none",
    ("health.path", "string_pattern_mismatch"): "a path that begins with /",
    ("locations.path", "string_pattern_mismatch"): "a path that begins with /; all below it where it ends with /",
    (
        "auth_basic",
        "string_pattern_mismatch",
    ): "the realm that browsers show: visible ASCII and spaces within, without quotes, $ and backslashes",
    ("acme.eab", "string_pattern_mismatch"): "the key's id as the authority gave it: visible ASCII without spaces",
    ("limit", "string_pattern_mismatch"): "requests in a second or a minute, for example 10r/s or 30r/m",
    ("headers.[key]", "string_pattern_mismatch"): "letters, digits and -, beginning with a letter",
    ("redirects.[key]", "string_pattern_mismatch"): "a host name, or a path that begins with /, without $ and quotes",
    (
        "redirects.[value]",
        "string_pattern_mismatch",
    ): "a host name of site.server_names, a path that begins with /, or https://…, without $, # and quotes",
    ("hash.key", "string_pattern_mismatch"): "nginx's text and variables, for example $request_uri",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a stack file: `path` is the key's, dotted."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class StackFileError(ClusterError):
    """A stack file that can't be used, with all its problems."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


def load_stack(root: Path, stack: str) -> ClusterConfig:
    """Read the stack file of `stack`; StackFileError has all that is wrong with it."""
    path = stack_path(root, stack)
    source = f"{STACKS}/{path.name}"
    try:
        document = read_document(path)
    except FileNotFoundError as error:
        known = sorted(found.name[7:-5] for found in path.parent.glob("Pulumi.*.yaml"))
        there = f"the stacks here are {', '.join(known)}" if known else "there is no stack yet"
        message = f"no such file; {there}; `cluster init {stack} --project DIR` makes one"
        raise StackFileError(source, [Problem(stack, message)]) from error
    except OSError as error:
        raise StackFileError(source, [Problem(stack, f"can't be read: {error.strerror}")]) from error
    except DocumentError as error:
        raise StackFileError(source, [Problem(error.where or stack, error.message)]) from error
    config = document.value.get("config") if isinstance(document.value, dict) else None
    if not isinstance(config, dict):
        raise StackFileError(source, [Problem("config", f"required: the keys {PREFIX}platform, {PREFIX}app, …")])
    words = {OURS.sub(r"\1", path, count=1): word for path, word in document.words.items()}
    values = _ours(config)
    try:
        found = _with_media(parse_config(values, words), root)
        refuse_what_media_take(found)
    except StackFileError as error:
        raise StackFileError(source, error.problems) from None
    except ValidationError as error:
        raise StackFileError(source, _problems(error, values, words)) from None
    return found


def _with_media(config: ClusterConfig, root: Path) -> ClusterConfig:
    """Return the configuration with `app.media` as the project's settings say it, where the stack file does not."""
    if config.app.media is not None:
        return config
    found = find_media(config, root)
    try:
        media = Media.model_validate({"root": found[0], "url": found[1]}) if found else None
    except ValidationError:
        media = None  # a path or URL that can't be written here; the release says that it is not shared
    return config.model_copy(update={"app": config.app.model_copy(update={"media": media})})


def _ours(config: dict[str, Any]) -> dict[str, Any]:
    """Keep the keys of `cluster:`, without the prefix; encrypted secrets are not for us to read."""
    values = {}
    for key, value in config.items():
        if not str(key).startswith(PREFIX):
            continue
        name = str(key).removeprefix(PREFIX)
        if name in NOT_SHOWN and isinstance(value, dict) and set(value) == {"secure"}:
            continue
        values[name] = value
    return values


def parse_config(values: dict[str, Any], words: Mapping[str, str] | None = None) -> ClusterConfig:
    """Validate plain values (the keys without `cluster:`); StackFileError has all problems, in the keys' order.

    words: true, false and null as the file has them, by the path of their key.
    """
    try:
        return ClusterConfig.model_validate(values)
    except ValidationError as error:
        raise StackFileError(SOURCE, _problems(error, values, words or {})) from None


def _problems(error: ValidationError, values: dict[str, Any], words: Mapping[str, str]) -> list[Problem]:
    problems: dict[Problem, None] = {}
    all_found = error.errors(include_url=False)
    for number, found in enumerate(all_found):
        if len(problems) == MOST_PROBLEMS:
            problems[Problem("config", f"{len(all_found) - number} more problems")] = None
            break
        path = _path(found, values)
        problems[Problem(path, _message(found, words.get(path)))] = None
    return list(problems)


def _path(error: Any, values: dict[str, Any]) -> str:
    """Return `upstream.servers[3].weight`; the last step is not a key of the file where the key itself is wrong."""
    text = ""
    here: Any = values
    for one in error["loc"][:-1] if error["loc"][-1:] == (KEY,) else error["loc"]:
        if isinstance(one, int) and isinstance(here, list):
            text += f"[{one}]"
            here = here[one] if one < len(here) else None
            continue
        key = _key(here, one)
        text = step(text, key) if isinstance(key, str) else step(text, _shown(key), quoted=True)
        here = here.get(key) if isinstance(here, dict) else None
    return text or "config"


def _key(mapping: object, one: int | str) -> object:
    """Return the key of the file that pydantic calls `one`: it has only whole numbers and text."""
    if not isinstance(mapping, dict) or (isinstance(one, str) and one in mapping):
        return one
    return next((key for key in mapping if key == one or str(key) == one), one)


def _message(error: Any, word: str | None) -> str:
    kind, location, given = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "missing":
        return f"required: {_description(location)}"
    if kind == "invalid_key" or (kind == "string_type" and location[-1] == KEY):
        return f"a key must be text{_as_written(given, None, KEY_KIND, location)}"
    if kind == "extra_forbidden":
        return _unknown_key(location)
    text = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "int_type": "must be a whole number",
        "string_type": "must be text",
        "string_unicode": "must be text",
        "bool_type": "must be true or false",
        "list_type": "must be a list",
        "dict_type": "must be a mapping",
        "model_type": "must be a mapping",
        "too_short": "must have at least {min_length} entry",
        "too_long": "must have at most {max_length} entries",
        "string_too_short": "must not be empty",
        "string_too_long": "must have at most {max_length} characters",
        "string_pattern_mismatch": "is not of the right form",
    }.get(kind)
    message = text.format(**context) if text else error["msg"]
    if not any(one in NOT_SHOWN for one in location):
        message += _as_written(given, word, kind, location)
    form = hint(location, kind)
    return f"{message} ({form})" if form else message


def _as_written(given: Any, word: str | None, kind: str, location: tuple[int | str, ...]) -> str:
    """Return what stands in the file, how it is read where that is something else, and what to write instead."""
    text = given.text if isinstance(given, Written) else word
    if text is None and isinstance(given, bool | int | float):
        text = _shown(given)
    if text is None:
        return "; write it in quotes" if kind == KEY_KIND else f", got {_shown(given)}"
    said = f", got {_short(text) if text else 'nothing'}"
    if isinstance(given, Written):
        said += f", which {given.by} reads as {given.words}"
    elif _shown(given) != text:
        said += f", which YAML reads as {_shown(given)}"
    remedy = _remedy(given, text, kind, location)
    return f"{said}; write {remedy}" if remedy else said


def _remedy(given: Any, text: str, kind: str, location: tuple[int | str, ...]) -> str | None:
    """Return what to write where an error of this kind was made; None where nothing can be said."""
    if kind in ("string_type", KEY_KIND):
        return f"{json.dumps(_short(text), ensure_ascii=False)} in quotes" if text else '"" for an empty text'
    if not isinstance(given, Written):
        return None
    if kind == "moment":
        return f'"{text}" in quotes' if MOMENT.fullmatch(text) else None
    if kind in ("bool_type", "migrate") and isinstance(given.reading, bool):
        return given.words
    number = kind in ("int_type", "batch", "unit") or (kind, location[-1]) == ("list_type", "servers")
    if number and given.whole is not None and given.whole >= 0:
        seconds = "s" if kind == "unit" and _annotation(location) is Duration else ""
        decimal = int(text) if OCTAL.fullmatch(text) else given.whole
        other = f", or {decimal}{seconds} if that is meant" if decimal != given.whole else ""
        return f"{given.whole}{seconds}{other}"
    return None


def _short(text: str) -> str:
    return text if len(text) <= LINE else f"{text[: LINE - 3]}…"


def hint(location: tuple[int | str, ...], kind: str) -> str | None:
    """Return what more to say of an error of pydantic's `kind` at a key: most often the form that is asked for."""
    if location[-1] == KEY:  # whatever the key is
        location = (*location[:-2], KEY)
    dotted = ["." + ".".join(step for step in way if isinstance(step, str)) for way in (location, _any_value(location))]
    return next(
        (text for (end, k), text in HINTS.items() if k == kind and any(way.endswith(f".{end}") for way in dotted)), None
    )


def _any_value(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return (*location[:-1], VALUE)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Written):
        return _short(value.text)
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    # A URL in the wrong place may hold a password.
    return _short(re.sub(r"://\S*@", "://…@", text))


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that holds the key at the end of `location`."""
    model: type[BaseModel] | None = ClusterConfig
    for key in location[:-1]:
        if isinstance(key, str) and model is not None and key in keys_of(model):
            model = _model_in(keys_of(model)[key].annotation)
    return model


def _annotation(location: tuple[int | str, ...]) -> Any:
    """Return the type of the key at the end of `location`."""
    model = _model_at(location)
    field = keys_of(model).get(str(location[-1])) if model else None
    return field.annotation if field else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _description(location: tuple[int | str, ...]) -> str:
    model = _model_at(location)
    field = keys_of(model).get(str(location[-1])) if model else None
    return (field.description or "") if field else ""


def _unknown_key(location: tuple[int | str, ...]) -> str:
    model = _model_at(location)
    known = list(keys_of(model)) if model else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}"
