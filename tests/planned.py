"""A change of all that a release is made of, and what a plan must say of it: the same on every platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.conformance import MIGRATED_MODEL, MIGRATION

if TYPE_CHECKING:
    from tests.local.stand import Stand

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
