"""A change of all that a release is made of, and what a plan must say of it: the same on every platform."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.conformance import MIGRATED_MODEL, MIGRATION
from tests.trees import below

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.local.stand import Result, Stand

NOTHING = "no request and no session is lost"

#: What a plan says beside its cost where app1 of two instances gets weight 5 instead of 3.
WEIGHTED = (
    "  traffic: app1 75 % -> 83.3 %, app2 25 % -> 16.7 %",
    "  nginx: one reload; no process of the app is touched by it",
    "  nginx's lines:",
    "      - server unix:…/app1/http.sock weight=3 max_fails=0;",
    "      + server unix:…/app1/http.sock weight=5 max_fails=0;",
)

#: The value of a secret that is put into `secret_environment` as API_TOKEN.
TOKEN = "a-token-that-no-plan-may-show"


def change_the_release(stand: Stand) -> None:
    """Change the code, a model with its migration, settings and a requirement."""
    stand.edit_code("visits/views.py", "\n# one line more\n")
    stand.edit_code("visits/migrations/0002_mood.py", MIGRATION)
    stand.edit_code("visits/models.py", MIGRATED_MODEL)
    stand.edit_stack(lambda stack: stack["app"].update(threads=7, environment={"COLOUR": "red"}))
    requirements = stand.project / "requirements.txt"
    requirements.write_text(f"{requirements.read_text()}sqlparse>=0.5\n")


def assert_release_is_told(found: dict[str, Any], former: str) -> None:
    """Assert that a plan says all that was changed, with API_TOKEN as a new secret, and no more."""
    assert (found["headline"], found["costs"], found["nginx"], found["traffic"]) == (NOTHING, ["none"], [], [])
    release = found["release"]
    assert release["before"] == former
    assert release["parts"] == ["code", "requirements", "settings of the app", "secrets"]
    counts = {one["path"]: (one["added"], one["removed"]) for one in release["code"]}
    assert counts.pop("visits/models.py")[0] > 0
    assert counts == {
        "requirements.txt": (1, 0),
        "visits/migrations/0002_mood.py": (len(MIGRATION.splitlines()), 0),
        "visits/views.py": (2, 0),
    }
    assert release["requirements"] == [{"name": "sqlparse", "before": None, "after": ">=0.5"}]
    assert release["secrets"] == [{"name": "secret_environment.API_TOKEN", "kind": "added"}]
    assert release["migrations"] == [{"name": "visits.0002_mood", "unsafe": [], "unread": []}]
    settings = {one["key"]: (one["before"], one["after"]) for one in found["settings"]}
    assert settings == {"app.threads": ("4", "7"), "app.environment.COLOUR": (None, '"red"')}


def plan(stand: Stand, *options: str) -> Result:
    return stand.run("plan", stand.name, *options)


def planned(stand: Stand) -> dict[str, Any]:
    (found,) = json.loads(plan(stand, "--json").output)["plans"]
    return dict(found)


def repository_of(stand: Stand, *without: Path) -> dict[str, object]:
    """Return what there is in a stand's repository, Pulumi's state among it, but for these directories."""
    found: dict[str, object] = {}
    for path, there in below(stand.root, *without):
        if "__pycache__" not in path.parts:
            found[str(path)] = (there.st_mode, there.st_ino, there.st_size, there.st_mtime_ns)
    return found


def assert_changes_nothing(state_of: Callable[[Stand], dict[str, object]], stand: Stand, *options: str) -> Result:
    """Assert that a plan leaves all of a stack as it was; return what it said."""
    before = state_of(stand)
    result = plan(stand, *options)
    after = state_of(stand)
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == set(), result.output
    return result


def assert_nginx_is_asked(stand: Stand, assert_only_looks: Callable[..., Result]) -> None:
    """Assert that a plan has the stack's nginx look at what it would be told, and says which keys it refuses."""
    before = dict(stand.stack["site"])
    # A snippet of both kinds, and what it lets nginx write is elsewhere for a check.
    well = {"http": "geo $where {\n    default 1;\n}\n", "server": "access_log /var/log/nginx/other.log;\n"}
    stand.edit_stack(lambda stack: stack["site"].update(snippets=well))
    result = assert_only_looks(stand)
    assert result.status == 0, result.output
    assert "+ geo $where {" in result.output
    assert "whether nginx takes its configuration" not in result.output
    broken = {
        "http": "limit_req_zone $uri zone=search:1k rate=1r/s;\n",
        "server": "# the first line is well\nadd_haeder X-A b;\n",
    }
    stand.edit_stack(lambda stack: stack["site"].update(snippets=broken))
    result = assert_only_looks(stand)
    stand.edit_stack(lambda stack: stack.update(site=before))
    assert (result.status, result.output.splitlines()[:3]) == (
        1,
        [
            f"stack {stand.name}: `up` refuses it",
            '  - site.snippets.http: nginx refuses it: zone "zone=search:1k" is too small in snippets/http.conf:1',
            '  - site.snippets.server: nginx refuses it: unknown directive "add_haeder" in snippets/server.conf:2',
        ],
    ), result.output
