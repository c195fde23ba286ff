"""docs/stack-file.md, from the models: every key with its default, what is allowed, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, PlainValidator, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

from cluster.config.load import hint
from cluster.config.models import ClusterConfig, keys_of
from cluster.config.refusing import KEY
from cluster.config.units import Duration, Size
from cluster.lint.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

#: A stack file with nothing but what is required.
EXAMPLE = """\
config:
  cluster:platform: local
  cluster:app:
    project: ./example
    settings: example.settings
  cluster:upstream:
    servers: 4
  cluster:site:
    server_names: [cluster, localhost]
"""

INTRODUCTION = f"""\
# The stack file

<!-- Generated from the models: `cluster reference > docs/stack-file.md`. -->

`stacks/Pulumi.<stack>.yaml` says all about one environment. Its keys stand below `config:` and begin with `cluster:`;
within a key the names are nginx's and Django's own. This is a complete stack:

```yaml
{EXAMPLE}```

A default is nginx's or Django's own unless its meaning says otherwise. What is not required may be left out.
`[]` in a key stands for each entry of a list.

A **duration** is a number with a unit, as nginx writes it: `500ms`, `30s`, `1m`, `1h30m`, `1d`; a bare number is
seconds; `{Duration.largest}` at most. A **size** is `512k`, `10m` or `1g`; a bare number is bytes; `{Size.largest}`
at most.

A mistake in the file is said in one line, all mistakes at once: the key, what is allowed, and what was found. A plain
word that readers of YAML take differently (`no`, `010`, `1:30`, `1_000`, `1e3`) is refused, with what it would have
been read as; in quotes it is text. A file of more than 256 kB, of more than 10,000 keys and values (an alias counts as
what it stands for), or of more than 30 levels is refused unread.
"""

SECRETS = """\
## Secrets

Each is a key of its own and is stored encrypted; set it by `pulumi config set --secret cluster:<key>`, which reads
the value from the terminal or from standard input. No message, preview or log shows a value.

| Key | Meaning |
|---|---|
"""

LINTS = """\
## Lints

A file that is valid may still be unwise. Errors stop `up`, warnings print, notes are for `cluster lint` alone.

| Lint | Severity | What it finds |
|---|---|---|
"""


#: Types whose name says all.
PLAIN: dict[type, str] = {Duration: "a duration", Size: "a size", bool: "`true`, `false`"}

#: pydantic's error for text of another form.
FORM = "string_pattern_mismatch"


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of the stack file: `default` is None where the key is required or has keys of its own."""

    path: str
    required: bool
    default: str | None
    allowed: str
    meaning: str


def render_reference() -> str:
    """Return the whole of docs/stack-file.md."""
    sections = [INTRODUCTION]
    secrets = []
    for name, field in ClusterConfig.model_fields.items():
        if _is_secret(field):
            secrets.append(f"| `{name}` | {_cell(field.description or '')} |\n")
        else:
            sections.append(_section(name, field))
    sections.append(SECRETS + "".join(secrets))
    rules: Sequence[Any] = RULES
    if rules:
        rows = (f"| `{rule.id}` | {rule.severity} | {_cell(rule.summary)} |\n" for rule in rules)
        sections.append(LINTS + "".join(rows))
    return "\n".join(sections)


def all_keys() -> list[Key]:
    """Return every key of the stack file but the secrets, in the order of the models."""
    return [
        key for name, field in ClusterConfig.model_fields.items() if not _is_secret(field) for key in _keys(name, field)
    ]


def _section(name: str, field: FieldInfo) -> str:
    keys = list(_keys(name, field))
    first = keys[0]
    need = "Required." if first.required else "May be left out."
    inner = [key for key in keys if key is not first] or keys
    rows = "".join(_row(key) for key in inner)
    meaning = f"{first.meaning} " if len(keys) > 1 else ""
    return f"## {name}\n\n{meaning}{need}\n\n| Key | Default | Allowed | Meaning |\n|---|---|---|---|\n{rows}"


def _row(key: Key) -> str:
    default = "required" if key.required else f"`{key.default}`" if key.default is not None else ""
    return f"| `{key.path}` | {_cell(default)} | {_cell(key.allowed)} | {_cell(key.meaning)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in get_args(field.annotation) or field.annotation is SecretStr


def _keys(path: str, field: FieldInfo) -> Iterator[Key]:
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    inner, repeated = _model(kind)
    required = field.is_required()
    composed = inner is not None and (required or field.default is PydanticUndefined)
    yield Key(
        path=path,
        required=required,
        default=None if composed or required else _yaml(field.get_default(call_default_factory=True)),
        allowed=_allowed(path, kind),
        meaning=field.description or "",
    )
    if inner is not None:
        for name, inner_field in keys_of(inner).items():
            yield from _keys(f"{path}{'[]' if repeated else ''}.{name}", inner_field)


def _model(kind: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model that a key holds, and whether it holds a list of it."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, False
    for argument in get_args(kind):
        model, repeated = _model(argument)
        if model is not None:
            return model, repeated or get_origin(kind) is list
    return None, False


def _yaml(value: object) -> str:
    plain = str(value) if isinstance(value, Duration | Size) else to_jsonable_python(value)
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _allowed(path: str, kind: Any) -> str:
    """Say in words what a type takes."""
    base, limits = _unwrapped(kind)
    match base:
        case _ if any(isinstance(limit, PlainValidator) for limit in limits):
            words = _own_words(kind)
        case type() if issubclass(base, StrEnum):
            words = ", ".join(f"`{choice}`" for choice in base)
        case type() if issubclass(base, BaseModel):
            words = "a mapping"
        case type() if base in PLAIN:
            words = PLAIN[base]
        case type() if issubclass(base, int):
            words = _range(limits)
        case _ if get_origin(base) is list:
            each = get_args(base)[0]
            words = "a list" if _model(each)[0] else f"a list, each: {_allowed(path, each)}"
        case _ if get_origin(base) is dict:
            words = f"names and their text; a name: {hint((*_location(path), '', KEY), FORM)}"
        case _:
            words = hint(_location(path), FORM) or "text"
    return words


def _unwrapped(kind: Any) -> tuple[Any, list[Any]]:
    """Return a type without None and annotations, and all its annotations."""
    limits: list[Any] = []
    while True:
        if get_origin(kind) is Annotated:
            limits += kind.__metadata__
            kind = kind.__origin__
        elif get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
            kind = next(choice for choice in get_args(kind) if choice is not NoneType)
        else:
            return kind, limits


def _range(limits: list[Any]) -> str:
    """Return the bounds; those of a type alias stand within pydantic's own annotation."""
    flat = [inner for limit in limits for inner in getattr(limit, "metadata", [limit])]
    lowest = next(limit.ge for limit in flat if hasattr(limit, "ge"))
    largest = next(limit.le for limit in flat if hasattr(limit, "le"))
    return f"{lowest} to {largest}"


def _own_words(kind: Any) -> str:
    """Return what a type with a validator of its own says of a value that it can't take."""
    try:
        TypeAdapter(kind).validate_python(object())
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("must be ")
    return "anything"


def _location(path: str) -> tuple[str, ...]:
    return tuple(path.replace("[]", "").split("."))
