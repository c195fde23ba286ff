"""Reads a stack file: YAML to ClusterConfig, with every problem said at once, a line each."""

from __future__ import annotations

import datetime as dt
import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from cluster.config.models import SECRET_KEYS, ClusterConfig

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "cluster:"
MERGE = "tag:yaml.org,2002:merge"

#: pydantic's last step where not a value but the key itself is wrong.
KEY = "[key]"
STACKS = "stacks"

#: Named in a message where no file is known.
SOURCE = "stack file"

NAME_HINT = "lower-case letters, digits, - and _, beginning with a letter, 32 at most"

#: Added to a message, by the end of the key's dotted name and pydantic's error type.
HINTS = {
    ("servers.weight", "greater_than_equal"): 'to stop traffic use "down: true"',
    ("servers.name", "string_pattern_mismatch"): NAME_HINT,
    ("servers.host", "string_pattern_mismatch"): NAME_HINT,
    ("hosts.name", "string_pattern_mismatch"): NAME_HINT,
    ("server_names", "string_pattern_mismatch"): "a host name, *.example.com, .example.com, or _ for any",
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
    ("health.path", "string_pattern_mismatch"): "a path that begins with /",
    ("hash.key", "string_pattern_mismatch"): "nginx's text and variables, for example $request_uri",
    ("host_key", "string_pattern_mismatch"): "as ssh-keyscan prints it, for example ssh-ed25519 AAAA…",
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a stack file: `path` is the key's, dotted."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class StackFileError(Exception):
    """A stack file that can't be used, with all its problems."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key said twice, as the second would silently win.

    Not libyaml's faster reader: it ends the process on deep nesting, and says less of a mistake.
    """


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _value in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE:
            continue  # construct_mapping refuses the one and knows the other
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                "while reading a mapping",
                node.start_mark,
                f"the key {key!r} stands twice",
                key_node.start_mark,
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def stack_path(root: Path, stack: str) -> Path:
    """Return where the stack file of `stack` is, whether it exists or not."""
    return root / STACKS / f"Pulumi.{stack}.yaml"


def load_stack(root: Path, stack: str) -> ClusterConfig:
    """Read the stack file of `stack`; StackFileError has all that is wrong with it."""
    path = stack_path(root, stack)
    source = f"{STACKS}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = sorted(found.name[7:-5] for found in path.parent.glob("Pulumi.*.yaml"))
        there = f"the stacks here are {', '.join(known)}" if known else "there is no stack yet"
        message = f"no such file; {there}; `cluster init {stack} --project DIR` makes one"
        raise StackFileError(source, [Problem(stack, message)]) from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StackFileError(source, [Problem(stack, f"can't be read: {why}")]) from error
    try:
        document = _read_yaml(text)
    except StackFileError as error:
        raise StackFileError(source, error.problems) from error.__cause__
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise StackFileError(source, [Problem("config", f"required: the keys {PREFIX}platform, {PREFIX}app, …")])
    try:
        return parse_config(_ours(document["config"]))
    except StackFileError as error:
        raise StackFileError(source, error.problems) from None


def _read_yaml(text: str) -> object:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "YAML"
        raise StackFileError(SOURCE, [Problem(where, f"not valid YAML: {error.problem}")]) from error
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        message = f"not valid YAML: the character {chr(error.character)!r} is not allowed"
        raise StackFileError(SOURCE, [Problem(f"line {line}, column {column}", message)]) from error
    except RecursionError as error:
        raise StackFileError(SOURCE, [Problem("YAML", "nested too deeply")]) from error
    except ValueError as error:
        # A value that has the form of a date or number, and is none: 2020-13-45.
        raise StackFileError(SOURCE, [Problem("YAML", f"a value is not valid: {error}; write it in quotes")]) from error


def _ours(config: dict[str, Any]) -> dict[str, Any]:
    """Keep the keys of `cluster:`, without the prefix; encrypted secrets are not for us to read."""
    values = {}
    for key, value in config.items():
        if not str(key).startswith(PREFIX):
            continue
        name = str(key).removeprefix(PREFIX)
        if name in SECRET_KEYS and isinstance(value, dict) and set(value) == {"secure"}:
            continue
        values[name] = value
    return values


def parse_config(values: dict[str, Any]) -> ClusterConfig:
    """Validate plain values (the keys without `cluster:`); StackFileError has all problems, in the keys' order."""
    try:
        return ClusterConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [Problem(_path(e, values), _message(e)) for e in found]
        unique = list(dict.fromkeys(problems))
        raise StackFileError(SOURCE, unique) from None


def _path(error: Any, values: dict[str, Any]) -> str:
    """Return `upstream.servers[3].weight`; the last step is not a key of the file where the key itself is wrong."""
    text = ""
    here: Any = values
    for step in error["loc"][:-1] if error["loc"][-1:] == (KEY,) else error["loc"]:
        if isinstance(step, int) and isinstance(here, list):
            text += f"[{step}]"
            here = here[step] if step < len(here) else None
            continue
        key = _key(here, step)
        if isinstance(key, str) and re.fullmatch(r"[\w-]+", key):
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key if isinstance(key, str) else _shown(key))}]"
        here = here.get(key) if isinstance(here, dict) else None
    return text or "config"


def _key(mapping: object, step: int | str) -> object:
    """Return the key of the file that pydantic calls `step`: it has only whole numbers and text."""
    if not isinstance(mapping, dict) or (isinstance(step, str) and step in mapping):
        return step
    return next((key for key in mapping if key == step or str(key) == step), step)


def _message(error: Any) -> str:
    kind, location, given = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "missing":
        return f"required: {_description(location)}"
    if kind == "extra_forbidden":
        return _unknown_key(location)
    if kind == "invalid_key" or (kind == "string_type" and location[-1] == KEY):
        return "a key must be text; write it in quotes"
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
    secret = any(step in SECRET_KEYS for step in location)
    if not secret:
        message += f", got {_shown(given)}"
    form = hint(location, kind)
    return f"{message} ({form})" if form else message


def hint(location: tuple[int | str, ...], kind: str) -> str | None:
    """Return what more to say of an error of pydantic's `kind` at a key: most often the form that is asked for."""
    if location[-1] == KEY:  # whatever the key is
        location = (*location[:-2], KEY)
    dotted = "." + ".".join(step for step in location if isinstance(step, str))
    return next((text for (end, k), text in HINTS.items() if k == kind and dotted.endswith(f".{end}")), None)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    try:
        text = f"the date {value}" if isinstance(value, dt.date) else repr(value)
    except ValueError:
        return "a number of thousands of digits"
    # A URL in the wrong place may hold a password.
    text = re.sub(r"://\S*@", "://…@", text)
    return text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004 - a line's worth


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that holds the key at the end of `location`."""
    model: type[BaseModel] | None = ClusterConfig
    for step in location[:-1]:
        if isinstance(step, str) and model is not None and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation)
    return model


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
    field = model.model_fields.get(str(location[-1])) if model else None
    return (field.description or "") if field else ""


def _unknown_key(location: tuple[int | str, ...]) -> str:
    model = _model_at(location)
    known = list(model.model_fields) if model else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}"
