"""Reads the YAML of a stack file: bounded in size, depth and aliases, and with no value that readers take differently.

YAML 1.1, which PyYAML reads, and YAML 1.2, which others do, disagree on some plain words: `no`, `010`, `1:30`, `1_000`,
`0o10`, `1e3`. Such a word becomes a `Written`, which no key takes: the message then says what was written, how it is
read, and what to write instead.
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Bytes of a file, nodes of it with every alias counted as what it stands for, and levels. A thousand servers with all
#: their parameters fit; what is more takes Python's YAML longer than anybody waits.
LARGEST_FILE = 256 * 1024
LARGEST_DOCUMENT = 10_000
DEEPEST = 30

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_TAG = "tag:yaml.org,2002:"
_WRITTEN = "!written"

#: What a key must not be.
_NO_TEXT = tuple(f"{_TAG}{kind}" for kind in ("bool", "null", "int"))

_TRUE, _FALSE = ("y", "yes", "on", "true"), ("n", "no", "off", "false")

#: Longer texts are not worked out as numbers.
_LONGEST_NUMBER = 100


@dataclass(frozen=True, repr=False)
class Written:
    """A plain word of the file that is read as something else than its text: `by` whom, as what."""

    text: str
    by: str
    reading: bool | float | str | None

    def __repr__(self) -> str:
        """Return the text as it stands in the file."""
        return self.text

    @property
    def whole(self) -> int | None:
        """The whole number that it is read as; None where it is none."""
        number = self.reading
        if isinstance(number, bool | str) or number is None:
            return None
        return int(number) if isinstance(number, int) or number.is_integer() else None

    @property
    def words(self) -> str:
        """What it is read as."""
        if self.reading is None or isinstance(self.reading, str):
            return self.reading or "a date or a number"
        if isinstance(self.reading, bool):
            return "true" if self.reading else "false"
        return f"the number {self.reading if self.whole is None else self.whole}"


@dataclass(frozen=True)
class Document:
    """What a file says. words: true, false and null as they were written, by the dotted path of their key."""

    value: Any
    words: dict[str, str] = field(default_factory=dict)


class DocumentError(Exception):
    """A file is not YAML that is read here; `where` is a line and column, or empty for all of it."""

    def __init__(self, where: str, message: str) -> None:
        self.where, self.message = where, message
        super().__init__(f"{where}: {message}")


class _Loader(yaml.SafeLoader):
    """YAML that counts what it reads, and refuses a key said twice, as the second would silently win.

    Not libyaml's faster reader: it ends the process on deep nesting, and says less of a mistake.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way to have none of SafeLoader's

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = 0
        self._depth = 0
        #: Of each whole node: how many nodes and levels it is.
        self._sizes: dict[int, tuple[int, int]] = {}
        self._levels = [0]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call] # types-PyYAML leaves it out
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            size = self._sizes.get(id(node))
            if size is None:
                raise _refused(event, f"*{event.anchor} is a part of itself")
            self._add(*size, event)
            return node
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _TEXT):
            name = tag.replace(_TAG, "!!")
            message = f"the tag {name[:80]} is not read here; remove it"
            raise _refused(event, message)
        before = self._count
        self._add(1, 1, event)
        self._depth += 1
        self._levels.append(0)
        node = super().compose_node(parent, index)
        levels = self._levels.pop() + 1
        self._levels[-1] = max(self._levels[-1], levels)
        self._depth -= 1
        self._sizes[id(node)] = (self._count - before, levels)
        return node

    def _add(self, count: int, levels: int, event: yaml.Event) -> None:
        self._count += count
        self._levels[-1] = max(self._levels[-1], levels)
        problem = None
        if self._depth + levels > DEEPEST:
            problem = f"nested more than {DEEPEST} levels deep"
        elif self._count > LARGEST_DOCUMENT:
            problem = f"more than {LARGEST_DOCUMENT} keys and values, with every alias counted as what it stands for"
        if problem:
            raise _refused(event, problem)


def _refused(event: yaml.Event, message: str) -> DocumentError:
    mark = event.start_mark
    return DocumentError(f"line {mark.line + 1}, column {mark.column + 1}" if mark else "YAML", message)


def _written(text: str) -> Written:
    """Return what readers make of a plain word."""
    if len(text) > _LONGEST_NUMBER:
        return Written(text, "YAML", None)
    old = yaml.SafeLoader("")
    kind = old.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call] # as PyYAML has it
    try:
        if kind != _TEXT:
            value = old.construct_object(yaml.ScalarNode(kind, text))
            if value is None:
                return Written(text, "YAML", "null")
            return Written(text, "YAML 1.1", value if isinstance(value, int | float) else f"the date {value}")
        if text.lower() in (*_TRUE, *_FALSE):
            return Written(text, "YAML 1.1", text.lower() in _TRUE)
        plain = text.replace("_", "")
        value = int(plain, 0) if re.match(r"[-+]?0[xob]", plain) else float(plain)
        return Written(text, "YAML 1.2", value)
    except (ValueError, OverflowError):  # a date that is none, a number that is too large
        return Written(text, "YAML 1.1", None)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _value in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
            continue  # construct_mapping refuses the one and knows the other
        if key_node.tag in _NO_TEXT:
            key_node.tag = _WRITTEN
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                "while reading a mapping",
                node.start_mark,
                f"the key {shown_key(key)!r} stands twice",
                key_node.start_mark,
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.add_constructor(_WRITTEN, lambda _loader, node: _written(str(node.value)))

# What every reader takes alike. A number of more digits is one that some can't hold.
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), None)
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(~|null|Null|NULL|)$"), None)
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^(0|-?[1-9][0-9]{0,17})$"), None)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), None)
# What one reader takes as a number, a date or a truth value, and no other one, or not as the same; and all fractions,
# as no key takes them, and 3.10 is not 3.1 where a text was meant.
_Loader.add_implicit_resolver(
    _WRITTEN,
    re.compile(
        r"""^(?:(?i:y|yes|n|no|on|off)
        |[-+]?0(?:b[01_]+|o[0-7_]+|x[0-9a-fA-F_]+)
        |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?
        |[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)
        |[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?(?:[Tt\ \t].*)?)$""",
        re.VERBOSE,
    ),
    None,
)


def read_document(path: Path) -> Document:
    """Read a file; OSError where it can't be, DocumentError where it is not what is read here."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DocumentError("", "not a file")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise DocumentError("", f"larger than {LARGEST_FILE // 1024} kB, which no stack file needs to be")
    return parse_document(content)


def parse_document(content: bytes) -> Document:
    """Return what a file's content says; DocumentError where it is not what is read here."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DocumentError("", "can't be read: it is not UTF-8") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None)
        return Document(loader.construct_document(node), dict(_words(node, "")))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "YAML"
        raise DocumentError(where, f"not valid YAML: {(error.problem or '')[:160]}") from error
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        message = f"not valid YAML: the character {chr(error.character)!r} is not allowed"
        raise DocumentError(f"line {line}, column {column}", message) from error
    except (ValueError, OverflowError) as error:
        # An escape of no character, a version of YAML with a thousand digits.
        raise DocumentError("YAML", f"a value is not valid: {str(error).partition(';')[0]}") from error


def _words(node: yaml.Node, path: str) -> list[tuple[str, str]]:
    """Return the plain words of a document that are read as true, false or null, by their paths."""
    if isinstance(node, yaml.ScalarNode):
        return [(path, node.value)] if node.tag in (f"{_TAG}bool", f"{_TAG}null") else []
    if isinstance(node, yaml.SequenceNode):
        return [word for number, one in enumerate(node.value) for word in _words(one, f"{path}[{number}]")]
    return [word for key, value in node.value for word in _words(value, step(path, key.value, quoted=key.tag != _TEXT))]


def lines_of(content: bytes) -> dict[str, int]:
    """Return the line of each key and entry of a document that is read here, by its dotted path; the first is 1.

    DocumentError where it is not what is read here.
    """
    parse_document(content)
    node = _Loader(content.decode()).get_single_node()
    return {} if node is None else dict(_lines(node, ""))


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield f"{path}[{number}]", one.start_mark.line + 1
            yield from _lines(one, f"{path}[{number}]")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = step(path, str(key.value), quoted=key.tag != _TEXT)
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)


def step(path: str, key: str, *, quoted: bool = False) -> str:
    """Return the dotted path of a key below `path`; one that is no plain word, or no text, is quoted."""
    if not quoted and re.fullmatch(r"[\w-]+", key):
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(key)}]"


def shown_key(key: object) -> object:
    """Return a key as it stands in the file."""
    return key.text if isinstance(key, Written) else key
