"""`cluster up --plan-digest` on this machine: exactly what was planned, or nothing."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from tests.conformance import servers
from tests.local.stand import Stand

if TYPE_CHECKING:
    from tests.local.stand import Result


def digest(stand: Stand) -> str:
    path = stand.root / "output"
    path.unlink(missing_ok=True)
    result = stand.run("plan", stand.name, "--json", "--digest-file", str(path))
    (one,) = json.loads(result.output)["plans"]
    assert path.read_text() == f"plan_digest={one['digest']}\nplan_changes={str(one['changes']).lower()}\n"
    return str(one["digest"])


def up(stand: Stand, planned: str) -> Result:
    return stand.run("up", stand.name, "--plan-digest", planned)


def test_what_was_planned_is_done_and_nothing_else() -> None:
    with contextlib.closing(Stand()) as stand:
        first = digest(stand)
        assert digest(stand) == first
        assert up(stand, first).status == 0, "the first release is the one that was planned"

        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        weight = digest(stand)
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
        serving = stand.serving()
        refused = up(stand, weight)
        assert refused.status == 1
        assert "What differs: nginx's lines and the traffic." in refused.output
        assert stand.serving() == serving

        stand.edit_code("visits/views.py", "\n# one line more\n")
        refused = up(stand, weight)
        assert "What differs: what it costs; the release; nginx's" not in refused.output
        assert "What differs: the release; nginx's lines and the traffic; the steps." in refused.output
        assert up(stand, digest(stand)).status == 0
        assert "nothing is done" in up(stand, weight).output, "a plan is carried out once"
        assert up(stand, digest(stand)).status == 0, "that nothing changes is a plan too"
