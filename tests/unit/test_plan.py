"""What a plan says: its costs and their proofs, the three forms of it, and how two states of a stack are compared."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.config.models import dump
from cluster.plan import COSTS, Cost, Planned, compare, shown
from cluster.plan.costs import dearest_first
from cluster.plan.migrations import new_migrations, unsafe
from cluster.plan.nginx import line_difference
from cluster.plan.planned import (
    FileChange,
    Kind,
    Lint,
    Migration,
    PackageChange,
    Release,
    Resource,
    SecretChange,
    SettingChange,
    Share,
)
from cluster.requirements import read_requirements
from cluster.topology import shares
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig

ROOT = Path(__file__).resolve().parents[2]


# --- costs


def is_there(proof: str) -> bool:
    """Tell whether a test is there that pytest calls so."""
    path, *names = proof.split("::")
    if not (ROOT / path).is_file():
        return False
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
    for name in names:
        found = [one for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name]
        if not found:
            return False
        body = found[0].body
    return True


@pytest.mark.parametrize("cost", Cost)
def test_each_class_of_cost_names_tests_that_measure_it(cost: Cost) -> None:
    proofs = COSTS[cost].proofs
    assert proofs, f"nobody measures what {cost} costs"
    assert [proof for proof in proofs if not is_there(proof)] == []


def test_a_test_that_is_not_there_is_no_proof() -> None:
    assert not is_there("tests/conformance.py::Changes::test_nothing")
    assert not is_there("tests/nowhere.py::test_no_change_loses_a_request_or_a_session")


def test_the_dearest_is_said_first_and_once() -> None:
    assert dearest_first([Cost.NONE]) == dearest_first([]) == (Cost.NONE,)
    costs = dearest_first([Cost.MIGRATION, Cost.LOGGED_OUT, Cost.NONE, Cost.MIGRATION])
    assert costs == (Cost.LOGGED_OUT, Cost.MIGRATION)
    words = shown.headline(Planned(stack="t", changes=True, costs=costs))
    assert words.startswith("everybody is logged out; requests to the former release fail")


# --- the forms

PLANNED = Planned(
    stack="prod",
    changes=True,
    costs=(Cost.LOGGED_OUT,),
    steps=("release aaa -> bbb (code)", "+ app1, app2: start release bbb"),
    traffic=(
        Share(instance="app1", before=0.75, after=0.5),
        Share(instance="app2", before=0.25, after=0.5),
        Share(instance="app3", before=None, after=0.0),
    ),
    nginx=("- server unix:…/app1/http.sock weight=3;", "+ server unix:…/app1/http.sock;"),
    release=Release(
        before="aaa",
        after="bbb",
        parts=("code",),
        code=(
            FileChange(path="shop/views.py", kind=Kind.CHANGED, added=3, removed=1),
            FileChange(path="logo.png", kind=Kind.ADDED, added=None, removed=None),
        ),
        requirements=(
            PackageChange(name="django", before="5.2.1", after="5.2.8"),
            PackageChange(name="pillow", before=None, after=""),
            PackageChange(name="six", before=">=1", after=None),
        ),
        secrets=(SecretChange(name="secret_environment.TOKEN", kind=Kind.CHANGED),),
        migrations=(
            Migration(name="shop.0002_price"),
            Migration(name="shop.0003_gone", unsafe=("removes Item.old",), unread=("runs SQL of its own",)),
        ),
    ),
    settings=(SettingChange(key="app.threads", before="4", after="8"),),
    sessions="sessions in cached_db: 12, 3.1 KiB",
    deleted=("app5 drains and is stopped",),
    lints=(Lint(id="an-id", severity="warning", path="site.listen", text="It is so. Change it."),),
    drift=("release aaa was hurt: views.py",),
    unknown=("what nobody knows",),
    resources=(
        Resource(operation="replace", kind="Container", name="app1", reasons=("image",)),
        Resource(operation="update", kind="Command", name="nginx-config", reasons=("stdin",)),
    ),
)

TEXT = """\
everybody is logged out
traffic: app1 75 % -> 50 %, app2 25 % -> 50 %, app3 - -> 0 %
release aaa -> bbb (code)
+ app1, app2: start release bbb
nginx's lines:
    - server unix:…/app1/http.sock weight=3;
    + server unix:…/app1/http.sock;
code (2 files, +3 -1):
    ~ shop/views.py +3 -1
    + logo.png
requirements:
    ~ django 5.2.1 -> 5.2.8
    + pillow (any version)
    - six >=1
settings: app.threads: 4 -> 8
secrets, by name: ~ secret_environment.TOKEN
migrations that run:
    shop.0002_price
    shop.0003_gone (the former release can't live beside it: removes Item.old; can't be judged by reading: \
runs SQL of its own)
sessions at risk: sessions in cached_db: 12, 3.1 KiB
stopped or deleted: app5 drains and is stopped
lints that are new: warning: site.listen: It is so. Change it. [an-id]
changed by hand, or broken: release aaa was hurt: views.py
not known before: what nobody knows
resources: 1 to replace, 1 to update"""

MARKDOWN = """\
### `prod`: everybody is logged out

| instance | share of new requests |
|---|---|
| `app1` | 75 % -> 50 % |
| `app2` | 25 % -> 50 % |
| `app3` | - -> 0 % |

- `release aaa -> bbb (code)`
- `+ app1, app2: start release bbb`

```diff
- server unix:…/app1/http.sock weight=3;
+ server unix:…/app1/http.sock;
```

**Code (2 files, +3 -1)**

- `~ shop/views.py +3 -1`
- `+ logo.png`
"""


def test_the_text_is_as_it_is_documented() -> None:
    assert "\n".join(shown.text(PLANNED)) == TEXT


def test_the_markdown_begins_with_the_cost_and_ends_with_what_is_folded() -> None:
    found = "\n".join(shown.markdown(PLANNED))
    assert found.startswith(MARKDOWN)
    assert found.endswith(
        "<details><summary>2 resources of the engine, with what is why</summary>\n\n```\n"
        "replace Container app1 (image)\nupdate Command nginx-config (stdin)\n```\n\n</details>"
    )


def test_what_does_not_change_is_one_line() -> None:
    same = Planned(stack="t", changes=False)
    assert (shown.text(same), shown.markdown(same)) == (["no changes"], ["`t`: no changes"])


def test_what_up_would_refuse_is_said_before_anything_else() -> None:
    refused = Planned(stack="t", changes=True, refused=("a port is in use",))
    assert shown.text(refused) == ["`up` refuses it", "- a port is in use"]
    assert shown.markdown(refused) == ["### `t`: `up` refuses it", "", "- `a port is in use`"]


def paths_of(found: object, above: str = "") -> set[str]:
    """Return the paths of all keys in a document, as docs/plan.md writes them: plans[].traffic[].instance."""
    if isinstance(found, dict):
        inside = {f"{above}{name}": value for name, value in found.items()}
        more = [paths_of(value, f"{name}.") for name, value in inside.items() if isinstance(value, dict | list)]
        return set(inside).union(*more)
    if isinstance(found, list):
        return set().union(*(paths_of(one, f"{above.removesuffix('.')}[].") for one in found))
    return set()


def test_the_json_is_documented_key_by_key() -> None:
    found = json.loads(json.dumps(shown.document([PLANNED])))
    text = (ROOT / "docs" / "plan.md").read_text()
    section = text[text.index("## `--json`") :].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_.\[\]]+)`", "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert named == paths_of(found)
    assert f"`version` is {shown.SCHEMA}" in section
    assert {cost.value for cost in Cost} <= set(re.findall(r"`([a-z-]+)`", section))


def weights(count: int, first: int) -> ClusterConfig:
    servers = [{"name": f"app{n + 1}", "weight": 1 if n else first} for n in range(count)]
    return parse_config(stack_values(upstream={"servers": servers}))


def test_a_plan_of_a_hundred_instances_is_as_long_as_one_of_four() -> None:
    lengths = {}
    for count in (5, 100):
        before, after = weights(count, 1), weights(count, 3)
        traffic = compare.compare_shares(shares(before.upstream.servers), shares(after.upstream.servers))
        assert len(traffic) == count
        steps = (f"+ {shown.listed([f'app{n}' for n in range(count)])}: start release b",)
        lengths[count] = len(
            shown.text(Planned(stack="t", changes=True, costs=(Cost.NONE,), traffic=traffic, steps=steps))
        )
        (line,) = [line for line in shown.text(Planned(stack="t", changes=True, traffic=traffic)) if "traffic" in line]
        assert len(line) < 120, line
    assert len(set(lengths.values())) == 1


#: What somebody who opens a pull request may call a file.
HOSTILE = [
    "a`b` **bold** @everyone.py",
    "```\n</details><script>.py",
    "x\x1b[31m.py",
    "[click](https://evil.example).py",
    "`",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_no_name_of_a_file_is_anything_but_code_in_a_pull_request(path: str) -> None:
    found = shown.code(path)
    ticks = re.match("`+", found)
    assert ticks is not None
    assert found.endswith(ticks[0])
    inner = found[len(ticks[0]) : -len(ticks[0])]
    assert ticks[0] not in re.findall("`+", inner), "a run of as many backticks would end the code"
    assert "\n" not in found
    assert "\x1b" not in found
    first, *rows, last = shown.fenced([path, "plain"], "diff")
    assert first == f"{last}diff"
    assert not any(row.strip() == last for row in rows)
    assert len(rows) == 2


def test_plain_backticks_would_let_a_name_out() -> None:
    """The saboteur of the test before: what it looks for is there."""
    naive = f"`{HOSTILE[0]}`"
    assert "`" in re.findall("`+", naive[1:-1])


# --- comparing


def test_files_are_told_with_the_lines_that_change(tmp_path: Path) -> None:
    for side, texts in {
        "old": {"a.py": "1\n2\n3\n", "gone.py": "x\n", "same.py": "s\n", "logo.png": "l", "--- x.sql": "-- one\n"},
        "new": {
            "a.py": "1\nzwei\n3\n4\n",
            "came.py": "x\ny\n",
            "same.py": "s\n",
            "logo.png": "l",
            "--- x.sql": "-- two\n",
        },
    }.items():
        for name, text in texts.items():
            (tmp_path / side / name).parent.mkdir(exist_ok=True)
            (tmp_path / side / name).write_text(text)
    (tmp_path / "new" / "logo.png").write_bytes(b"\xff\xfe\x00")

    def tree(side: str) -> dict[str, Path | str]:
        return {path.name: path for path in (tmp_path / side).iterdir()}

    found = compare.compare_code({**tree("old"), "link": "a"}, {**tree("new"), "link": "b"})
    assert [(one.path, one.kind, one.added, one.removed) for one in found] == [
        ("--- x.sql", "changed", 1, 1),
        ("a.py", "changed", 2, 1),
        ("came.py", "added", 2, 0),
        ("gone.py", "removed", 0, 1),
        ("link", "changed", None, None),
        ("logo.png", "changed", None, None),
    ]
    assert compare.compare_code(tree("old"), tree("old")) == ()


#: Requirements as projects write them, and what they say of django.
WRITTEN = {
    "requirements.txt": (
        "# all\nDjango==5.2.1 \\\n    --hash=sha256:abc\nPillow>=10 ; python_version > '3'\n-e .\n",
        "5.2.1",
    ),
    "pylock.toml": ('lock-version = "1.0"\n[[packages]]\nname = "django"\nversion = "5.2.2"\n', "5.2.2"),
    "pyproject.toml": ('[project]\nname = "x"\nversion = "1"\ndependencies = ["Django>=5.2,<6"]\n', "<6,>=5.2"),
    "Pipfile.lock": ('{"_meta": {}, "default": {"django": {"version": "==5.2.3"}}}', "5.2.3"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_requirements_say_of_a_version_is_read(name: str, tmp_path: Path) -> None:
    text, version = WRITTEN[name]
    (tmp_path / name).write_text(text)
    (tmp_path / "setup.py").write_text("")
    config = parse_config(stack_values(app={"requirements": name}))
    assert compare.packages_of(read_requirements(config.app, tmp_path))["django"] == version


def test_a_lock_tells_versions_and_not_what_pyproject_allows(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(WRITTEN["pyproject.toml"][0])
    (tmp_path / "uv.lock").write_text('version = 1\n[[package]]\nname = "django"\nversion = "5.2.9"\n')
    config = parse_config(stack_values(app={"requirements": "pyproject.toml"}))
    assert compare.packages_of(read_requirements(config.app, tmp_path)) == {"django": "5.2.9"}


def test_packages_are_told_with_their_versions() -> None:
    found = compare.compare_packages({"a": "1", "b": "1", "c": ""}, {"a": "2", "c": "", "d": ""})
    assert [(one.name, one.before, one.after) for one in found] == [("a", "1", "2"), ("b", "1", None), ("d", None, "")]


def test_keys_are_told_by_the_names_of_what_has_one() -> None:
    before, after = dump(weights(3, 1)), dump(weights(4, 3))
    found = {one.key: (one.before, one.after) for one in compare.compare_settings(before, after)}
    assert found.pop("upstream.servers[app1].weight") == ("1", "3")
    assert set(found) == {key for key in found if key.startswith("upstream.servers[app4].")}
    assert compare.compare_settings(before, before) == ()


def test_secrets_are_told_by_name_and_no_value_is_told() -> None:
    before = {"secret_key": "canary-1", "secret_environment": json.dumps({"A": "canary-2", "B": "canary-3"})}
    after = {"secret_key": "canary-4", "secret_environment": json.dumps({"A": "canary-5"}), "database_url": "canary-6"}
    found = compare.compare_secrets(before, after)
    assert [(one.name, one.kind) for one in found] == [
        ("database_url", "added"),
        ("secret_environment.A", "changed"),
        ("secret_environment.B", "removed"),
        ("secret_key", "changed"),
    ]
    planned = Planned(stack="t", changes=True, release=Release(secrets=found))
    forms = [shown.text(planned), shown.markdown(planned), json.dumps(shown.document([planned]))]
    assert "canary" not in repr(forms)


def test_nginx_s_lines_are_its_own_less_the_machine_s_paths_and_digests() -> None:
    old = ["    server unix:/a/b/run/app1/http.sock weight=3;", "    return 200 abc;", "    listen 80;"]
    new = ["    server unix:/c/run/app1/http.sock weight=5;", "    return 200 def;", "    listen 80;", "    x d1;"]
    assert list(line_difference(old, new, "d1")) == [
        "- server unix:…/app1/http.sock weight=3;",
        "+ server unix:…/app1/http.sock weight=5;",
    ]


# --- migrations

FIELD = 'models.CharField(max_length=9, default=""'

#: Operations, and whether the former release can live beside them; None: that can't be said.
OPERATIONS: dict[str, tuple[str, bool | None]] = {
    "a column that may be NULL": ('migrations.AddField("item", "x", models.IntegerField(null=True))', True),
    "a column with a default of the database's": (f'migrations.AddField("item", "x", {FIELD}, db_default=""))', True),
    "a column with a default of Django's": (f'migrations.AddField("item", "x", {FIELD}))', False),
    "a relation of its own table": ('migrations.AddField("item", "x", models.ManyToManyField("self"))', True),
    "a column that goes": ('migrations.RemoveField(model_name="item", name="x")', False),
    "a column that is renamed": ('migrations.RenameField("item", "x", "y")', False),
    "a table that goes": ('migrations.DeleteModel("Item")', False),
    "a table that is renamed": ('migrations.RenameModel("Item", "Thing")', False),
    "a table that comes": ('migrations.CreateModel("Other", fields=[])', True),
    "a column of a table that comes": (
        f'migrations.CreateModel("Other", []), migrations.AddField("other", "x", {FIELD}))',
        True,
    ),
    "a column that changes": ('migrations.AlterField("item", "x", models.TextField())', None),
    "SQL": ('migrations.RunSQL("DROP TABLE item")', None),
    "code": ("migrations.RunPython(forward)", True),
    "a column that only Django forgets": (
        'migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("item", "x")])',
        True,
    ),
    "a column that is dropped apart": (
        'migrations.SeparateDatabaseAndState([migrations.RemoveField("item", "x")])',
        False,
    ),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_migration_is_judged_by_what_the_former_release_can_live_beside(what: str, tmp_path: Path) -> None:
    operations, safe = OPERATIONS[what]
    path = tmp_path / "0002_x.py"
    path.write_text(f"class Migration(migrations.Migration):\n    dependencies = []\n    operations = [{operations}]\n")
    (found,) = new_migrations({}, {"apps/shop/migrations/0002_x.py": path, "apps/shop/migrations/__init__.py": path})
    assert found.name == "shop.0002_x"
    assert (bool(found.unsafe), bool(found.unread)) == (safe is False, safe is None), found
    assert unsafe([found]) is (safe is False)


def test_a_migration_that_the_former_release_has_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "0001_initial.py"
    path.write_text("this is no Python (")
    tree: dict[str, Path | str] = {"shop/migrations/0001_initial.py": path}
    assert new_migrations(tree, tree) == ()
    (found,) = new_migrations({}, tree)
    assert found.unread, "what can't be read can't be judged"


def lints(*ids: tuple[str, str]) -> list[Any]:
    from cluster.lint import Finding, Severity  # noqa: PLC0415 - of this test alone

    return [Finding(id=one, severity=Severity.WARNING, path=path, why="w.", remedy="r.") for one, path in ids]


def test_only_lints_that_find_something_new_are_told() -> None:
    (found,) = compare.compare_lints(lints(("a", "x")), lints(("a", "x"), ("a", "y")))
    assert (found.id, found.path, found.text) == ("a", "y", "w. r.")
