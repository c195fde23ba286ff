"""`cluster plan` on a host: it only looks, and says what `up` then does."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost, servers
from tests.e2e.remote import RemoteStand, remote_stand
from tests.load import Load
from tests.local.test_commands import assert_done
from tests.planned import (
    NOTHING,
    TOKEN,
    WEIGHTED,
    assert_changes_nothing,
    assert_nginx_is_asked,
    assert_release_is_told,
    change_the_release,
    plan,
    planned,
    repository_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.stand import Stand

#: What of a host a stack has, or could have.
PLACES = ("/srv/cluster", "/var/lib", "/etc/nginx", "/etc/systemd/system", "/var/log/nginx", "/etc/tmpfiles.d")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    upstream = {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]}
    with remote_stand(tmp_path_factory.mktemp("host"), upstream=upstream) as found:
        assert_done(found.up())
        yield found


def state_of(stand: Stand) -> dict[str, object]:
    """Return what there is of a stack: its repository with Pulumi's state, and all that is on the host."""
    assert isinstance(stand, RemoteStand)
    # What ssh is told is written by each command, one that only looks too.
    found = repository_of(stand, stand.root / ".cluster" / stand.name / "ssh")
    host = stand.host_there
    # Whoever asks what runs asks nginx and the instances too, and nginx writes that down.
    others = [word for name in ("*/lib/systemd/*", "*.access.log") for word in ("-not", "-path", name)]
    shown = host.run("find", *PLACES, *others, "-printf", "%p %m %u %i %s %T@\n")
    found |= {line.split(" ")[0]: line for line in shown.splitlines()}
    found["units"] = host.run("systemctl", "list-units", f"cluster-{stand.name}*", "--no-legend", "--plain", "--all")
    found["nginx"] = stand.nginx_workers()
    return found


assert_only_looks = partial(assert_changes_nothing, state_of)


def test_what_does_not_change_is_one_line(stand: RemoteStand) -> None:
    result = assert_only_looks(stand, "--exit-code")
    assert (result.status, result.output) == (0, f"stack {stand.name}: no changes\n")


def test_a_weight_is_told_in_nginx_s_words_and_up_says_the_same(stand: RemoteStand) -> None:
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    result = assert_only_looks(stand)
    one = "  resources: 1 to update"
    assert result.output.splitlines() == [f"stack {stand.name}: {NOTHING}", *WEIGHTED, one]
    assert plan(stand, "--exit-code", "--markdown").status == 2
    applied = assert_done(stand.up())
    assert applied.startswith(result.output), "`up` shows something else before it acts"
    assert plan(stand).output == f"stack {stand.name}: no changes\n"


def test_a_release_is_told_by_what_changes_and_is_the_one_that_up_makes(stand: RemoteStand) -> None:
    former = stand.release()
    change_the_release(stand)
    value = json.dumps({"API_TOKEN": TOKEN})
    assert stand.pulumi("config", "set", "--secret", "cluster:secret_environment", value).returncode == 0
    # Another checkout has none of what was sent.
    shutil.rmtree(stand.root / ".cluster" / stand.name / "sent")
    shown = [assert_only_looks(stand, f"--{form}").output for form in ("text", "markdown", "json")]
    (found,) = json.loads(shown[2])["plans"]
    assert_release_is_told(found, former)
    assert {reason for one in found["resources"] for reason in one["reasons"]} == {"release"}, "noise"
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        result = assert_done(stand.up())
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
    assert result.startswith(shown[0])
    assert stand.release() == found["release"]["after"], "the planned release is another one than that which came"
    key = stand.pulumi("config", "get", "cluster:secret_key").stdout.strip()
    said = "".join([*shown, result])
    assert [secret for secret in (TOKEN, key) if secret in said] == []
    assert re.search(r"secret_environment\.API_TOKEN", said)
    print(f"a release that was planned: {load.counts}")


def test_the_way_back_is_told_by_what_the_host_keeps(stand: RemoteStand) -> None:
    stand.edit_code("visits/views.py", "\n# one more\n")
    assert_done(stand.up())
    result = assert_done(stand.run("rollback", stand.name))
    assert "  code (1 file, +1 -1): ~ visits/views.py +1 -1\n" in result, result
    assert_done(stand.up())


def test_a_checkout_that_has_released_once_goes_back_to_what_another_one_released(stand: RemoteStand) -> None:
    former, kept = stand.release(), stand.root / ".cluster" / stand.name
    (kept / "history.json").unlink()
    shutil.rmtree(kept / "sent")
    stand.edit_code("visits/views.py", "\n# of another checkout\n")
    assert_done(stand.up())
    assert stand.status()["releases"][-2:] == [former, stand.release()]
    assert_done(stand.run("rollback", stand.name))
    assert stand.release() == former
    assert_done(stand.up())


def test_what_the_host_s_nginx_refuses_is_told_by_its_key_and_nothing_is_touched(stand: RemoteStand) -> None:
    assert_nginx_is_asked(stand, assert_only_looks)


def test_what_was_done_by_hand_is_told_by_name_and_up_mends_it(stand: RemoteStand) -> None:
    host, site = stand.host_there, f"sites-available/zz-cluster-{stand.name}"
    (unit,) = stand.units("app2")
    host.run("systemctl", "stop", unit)
    host.run("sh", "-c", f"echo '# by hand' >>/etc/nginx/{site}")
    host.run("sh", "-c", f"echo '# by hand' >>/etc/systemd/system/cluster-{stand.name}@.service")
    shown = stand.run("status", stand.name, "--drift", "--json")
    found = planned(stand)
    assert (shown.status, json.loads(shown.output)["drift"]) == (1, found["drift"])
    assert found["changes"]
    assert found["drift"] == [
        f"{site} was edited",
        f"app2 is stopped: {unit} is inactive",
        f"/etc/systemd/system/cluster-{stand.name}@.service was edited",
    ]
    assert found["nginx"] == ["- # by hand"]
    result = assert_done(stand.up())
    assert f"  changed by hand, or broken:\n      {site} was edited\n" in result
    assert plan(stand).output == f"stack {stand.name}: no changes\n"
    assert "nothing was changed by hand" in assert_done(stand.run("status", stand.name, "--drift"))
