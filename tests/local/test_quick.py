"""The shortest way through the life of a cluster on this machine, under load: a part of `make quick`."""

from __future__ import annotations

import contextlib

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up, servers
from tests.load import SPARSE, Load
from tests.local.stand import Stand


# `make test` has each of it: under load in test_conformance.py, by whole processes in test_commands.py.
@pytest.mark.quick
def test_up_a_weight_change_a_release_and_down_lose_nothing() -> None:
    with contextlib.closing(Stand()) as stand:
        stand.forks = False
        assert_up(stand)
        first = stand.release()
        with Load(stand.address, pause=SPARSE) as load:
            load.wait_for(AROUND)
            stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
            assert_up(stand)
            stand.edit_code("visits/views.py", "\n# another release\n")
            assert_up(stand)
            load.wait_for(AROUND)
        print(f"a weight change and a release: {load.counts}")
        assert_nothing_lost(load.counts)
        assert load.counts.total >= 2 * AROUND
        assert stand.release() != first
        assert {release for _instance, release in load.counts.by} == {first, stand.release()}
        result = stand.down()
        assert result.status == 0, result.output
        assert not stand.status()["ok"]
        assert not stand.supervisor().pids()
