"""docs/stack-file.md is what the models say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from cli.reference import EXAMPLE, Key, all_keys, render_reference
from cluster.config import parse_config
from cluster.config.models import SECRET_KEYS, ClusterConfig, dump

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "stack-file.md"

PARENTS: dict[str, dict[str, Any]] = {
    "app.media": {"root": "media"},
    "app.protected_media": {"root": "private"},
    "broker": {"engine": "valkey"},
    "database": {"engine": "sqlite"},
    "hosts[]": {"name": "web1", "address": "web1", "host_key": "ssh-ed25519 AAAA"},
    "hosts[].jump": {"address": "jump", "host_key": "ssh-ed25519 AAAA"},
    "schedule[]": {"name": "digest", "command": "manage.py digest", "at": "0 6 * * *"},
    "site.locations[]": {"path": "/upload/"},
    "site.tls": {"files": {"certificate": "site.pem", "key": "site.key"}},
    "site.tls.hsts": {"max_age": "5m"},
    "upstream.servers[]": {"name": "app1"},
    "workers[]": {"name": "mail", "command": "manage.py db_worker"},
}


def example() -> dict[str, Any]:
    return {key.removeprefix("cluster:"): value for key, value in yaml.safe_load(EXAMPLE)["config"].items()}


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        found |= {
            inner for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel) for inner in models(kind)
        }
    return found


def rows(document: str) -> dict[str, list[str]]:
    """Return the cells of all tables, by their first one."""
    found = {}
    for line in document.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.is_file(), "run `cluster reference > docs/stack-file.md`"
    assert DOCUMENT.read_text(encoding="utf-8") == render_reference(), "run `cluster reference > docs/stack-file.md`"


def test_the_example_of_the_document_is_a_stack_file() -> None:
    assert EXAMPLE in render_reference()
    assert len(parse_config(example()).upstream.servers) == 4


def test_every_key_of_every_model_has_a_row_with_its_meaning() -> None:
    document = render_reference()
    last_words = {path.replace("[]", "").split(".")[-1] for path in rows(document)}
    for model in models(ClusterConfig):
        for name, field in model.model_fields.items():
            section = model is ClusterConfig and f"## {name}\n" in document
            assert name in last_words or section, f"{model.__name__}.{name} is not in the reference"
            assert field.description, f"{model.__name__}.{name} has no description"
            assert field.description in document


def test_no_secret_stands_among_the_plain_keys_and_each_has_a_row() -> None:
    assert not {key.path for key in all_keys()} & set(SECRET_KEYS)
    assert set(SECRET_KEYS) <= set(rows(render_reference()))


WITH_DEFAULT = [key for key in all_keys() if key.default is not None]


@pytest.mark.parametrize("key", WITH_DEFAULT, ids=[key.path for key in WITH_DEFAULT])
def test_a_default_as_it_is_shown_means_the_same_as_leaving_the_key_out(key: Key) -> None:
    if key.path not in ClusterConfig.model_fields:
        assert f"| `{key.path}` | `{key.default}` |" in render_reference()
    without, with_it = example(), example()
    put(without, key.path, None)
    put(with_it, key.path, yaml.safe_load(key.default or ""), given=True)
    assert dump(parse_config(with_it)) == dump(parse_config(without))


#: As above, for one key: a site has either the one or the other.
PARENTS_OF: dict[str, dict[str, Any]] = {
    "site.tls.files": {"site.tls": {"self_signed": True}},
    **{
        f"site.tls.acme{key}": {"site.tls": {}, "site.tls.acme": {}}
        for key in (".email", ".directory", ".directory_ca", ".eab")
    },
}


def put(values: dict[str, Any], path: str, value: object, *, given: bool = False) -> None:
    """Make what `path` needs around it; then, if `given`, put the value there."""
    here: Any = values
    *way, last = path.split(".")
    for number, step in enumerate(way, start=1):
        parent = dict({**PARENTS, **PARENTS_OF.get(path, {})}.get(".".join(way[:number]), {}))
        name = step.removesuffix("[]")
        if name != step:
            here[name] = [parent]
            here = here[name][0]
        else:
            here = here.setdefault(name, parent)
    if given:
        here[last] = value
