"""Migrations, read and not run: which there are, and what of them the release before can't live beside.

Between a migration and the moment at which the new release takes the names, the former one serves on the new tables.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from cluster.plan.planned import Migration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PLACE = re.compile(r"(?:.*/)?(?P<app>[^/]+)/migrations/(?P<name>(?!__init__)\w+)\.py")

#: Fields that make no column of their model's table.
NO_COLUMN = frozenset({"ManyToManyField", "GenericForeignKey", "GenericRelation"})


def migrations_of(tree: Mapping[str, Path | str]) -> dict[str, Path]:
    """Return the files of migrations by `app.name`; an app is called as its directory."""
    found = {}
    for path, source in tree.items():
        place = PLACE.fullmatch(path)
        if place is not None and not isinstance(source, str):
            found[f"{place['app']}.{place['name']}"] = source
    return dict(sorted(found.items()))


def new_migrations(before: Mapping[str, Path | str], after: Mapping[str, Path | str]) -> tuple[Migration, ...]:
    """Return those that a tree has and another one has not, each with what is known of it."""
    known, there = migrations_of(before), migrations_of(after)
    new = {name: _operations(path) for name, path in there.items() if name not in known}
    created = {
        (name.partition(".")[0], _text(call, "name", 0).lower())
        for name, calls in new.items()
        for call in calls or ()
        if _called(call) == "CreateModel"
    }
    return tuple(_judged(name, calls, created) for name, calls in new.items())


def _judged(name: str, calls: list[ast.Call] | None, created: set[tuple[str, str]]) -> Migration:
    if calls is None:
        return Migration(name=name, unread=("its file can't be read as it stands",))
    app = name.partition(".")[0]
    unsafe, unread = [], []
    for call in calls:
        model = _text(call, "model_name", 0)
        if (app, (model or _text(call, "name", 0)).lower()) in created:
            continue  # the former release knows nothing of the model
        words = _unsafe(call, model)
        unsafe += [words] if words else []
        words = _unread(call, model)
        unread += [words] if words else []
    return Migration(name=name, unsafe=tuple(unsafe), unread=tuple(unread))


def _unsafe(call: ast.Call, model: str) -> str | None:
    """Return what of an operation the former release can't live beside."""
    what, name = _called(call), _text(call, "name", 1)
    if what == "AddField":
        field = _argument(call, "field", 2)
        if not isinstance(field, ast.Call) or _called(field) in NO_COLUMN or _has(field, "db_default"):
            return None
        null = next((word.value for word in field.keywords if word.arg == "null"), None)
        if isinstance(null, ast.Constant) and null.value is True:
            return None
        return f"adds {model}.{name}, NOT NULL without db_default: rows that the former release makes are refused"
    found = {
        "RemoveField": f"removes {model}.{name}",
        "RenameField": f"renames {model}.{_text(call, 'old_name', 1)} to {_text(call, 'new_name', 2)}",
        "DeleteModel": f"deletes the table of {_text(call, 'name', 0)}",
        "RenameModel": f"renames {_text(call, 'old_name', 0)} to {_text(call, 'new_name', 1)}",
        "AlterModelTable": f"renames the table of {_text(call, 'name', 0)}",
    }
    return found.get(what)


def _unread(call: ast.Call, model: str) -> str | None:
    what = _called(call)
    if what == "AlterField":
        return f"changes {model}.{_text(call, 'name', 1)}"
    return "runs SQL of its own" if what == "RunSQL" else None


def _operations(path: Path) -> list[ast.Call] | None:
    """Return the operations on the database; None where the file can't be read without running it."""
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for statement in (inner for outer in module.body if isinstance(outer, ast.ClassDef) for inner in outer.body):
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(one, ast.Name) and one.id == "operations" for one in targets):
            assert isinstance(statement, ast.Assign)  # noqa: S101 - by the line before, for the type checker
            return list(_on_database(statement.value))
    return []


def _on_database(value: ast.expr) -> Iterator[ast.Call]:
    for one in value.elts if isinstance(value, ast.List | ast.Tuple) else ():
        if not isinstance(one, ast.Call):
            continue
        if _called(one) == "SeparateDatabaseAndState":
            yield from _on_database(_argument(one, "database_operations", 0) or ast.Constant(None))
        else:
            yield one


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _argument(call: ast.Call, name: str, position: int) -> ast.expr | None:
    named = next((word.value for word in call.keywords if word.arg == name), None)
    if named is not None:
        return named
    return call.args[position] if position < len(call.args) else None


def _text(call: ast.Call, name: str, position: int) -> str:
    found = _argument(call, name, position)
    return found.value if isinstance(found, ast.Constant) and isinstance(found.value, str) else ""


def _has(call: ast.Call, name: str) -> bool:
    return any(word.arg == name for word in call.keywords)


def unsafe(migrations: Iterable[Migration]) -> bool:
    """Tell whether the former release can't live beside one of them."""
    return any(one.unsafe for one in migrations)
