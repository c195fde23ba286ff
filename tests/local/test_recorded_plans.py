"""What `cluster plan` says on this machine of each recorded change, to the letter; and what `up` then costs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster.machine.nginx import find_nginx
from tests.conformance import AROUND, assert_nothing_lost, assert_up
from tests.load import Load
from tests.local.stand import Stand
from tests.recorded import CHANGES, COUNTED, LOCAL, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.load import Counts


class Local(Stand):
    name = "local"


def by_hand(stand: Stand) -> None:
    """Stop an instance, and edit what nginx would load."""
    program = next(iter(stand.processes("app2")))
    control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(stand.supervisor().conf), "stop", program]
    subprocess.run(control, check=True, timeout=120, capture_output=True)
    site = stand.paths.nginx / "current" / "sites-available" / "cluster"
    site.write_text(site.read_text().replace("weight=3", "weight=9"))


MAKE: Mapping[str, Callable[[Stand], object]] = {
    **{name: change.make["local"] for name, change in CHANGES.items() if "local" in change.make},
    "drift": by_hand,  # the last one: nothing of it is in a file that could be put back
}

#: Those that are counted nowhere else.
COUNTED_HERE = [name for name in MAKE if f"{LOCAL}::{COUNTED}" in CHANGES[name].counted["local"]]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with contextlib.closing(Local(instances=3)) as stand:
        assert_up(stand)
        yield Recorder(stand, "local", "local", MAKE)


@pytest.mark.parametrize("change", MAKE)
def test_what_a_plan_says_is_what_is_recorded(recorder: Recorder, change: str, request: pytest.FixtureRequest) -> None:
    version = ".".join(map(str, find_nginx()[1]))
    with recorder.made(change):
        recorder.assert_recorded(change, renew=request.config.getoption("--renew-plans"), version=version)


def test_what_was_taken_back_changes_nothing(recorder: Recorder) -> None:
    """But for what was done by hand, the recorder has left all as it was."""
    assert_up(recorder.stand)
    assert recorder.stand.release() == recorder.release
    assert recorder.stand.run("plan", "local").output == "stack local: no changes\n"


def lost_nothing(counts: Counts, _load: Load) -> None:
    assert_nothing_lost(counts)


def lost_every_session(counts: Counts, load: Load) -> None:
    """Each visitor is refused until memcached forgets the session too, which is once, and has a new one then."""
    visitors = len(load.clients) - len(load.slow_clients)
    assert len(counts.lost) >= visitors, counts
    assert len({line.partition(":")[0] for line in counts.lost}) == visitors


#: What each cost comes to where `up` is done under load.
COME_TO: dict[str, Callable[[Counts, Load], None]] = {"none": lost_nothing, "data-left": lost_every_session}


@pytest.mark.wide
@pytest.mark.parametrize("change", COUNTED_HERE)
def test_what_a_plan_says_of_the_cost_is_what_up_costs(change: str) -> None:
    with contextlib.closing(Local(instances=3)) as stand:
        assert_up(stand)
        with Load(stand.address) as load:
            load.wait_for(AROUND)
            assert_nothing_lost(load.counts)
            MAKE[change](stand)
            found: dict[str, Any]
            (found,) = json.loads(stand.run("plan", "local", "--json").output)["plans"]
            result = stand.up()
            load.wait_for(AROUND)
        print(f"{change}: {load.counts}")
        assert (result.status == 0) == (not found["refused"]), result.output
        for cost in found["costs"] or ["none"]:
            COME_TO[cost](load.counts, load)
