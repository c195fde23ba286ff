"""A whole site in maintenance: nobody's request is lost by it, nobody's session ends, and everything goes on beside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from cluster.machine.nginx import find_nginx
from cluster.maintenance import asked_for
from cluster.render.maintenance import page
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.stack.history import locked
from platforms.local.maintaining import Keeping
from tests.clients import NO_TLS
from tests.conformance import servers, wait_until
from tests.load import Load
from tests.local.stand import Stand
from tests.local.test_commands import assert_done, assert_refused, get
from tests.visitors import MESSAGE, Visitors
from tests.visitors import ON as KEPT_OUT

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where allowed clients come from: another address of this machine's own network.
ALLOWED = "127.7.0.9"

ON = ("maintenance", "t", "on", *KEPT_OUT, "--allow", "127.7.0.0/20")
OFF = ("maintenance", "t", "off")

#: Without the care that a reload takes, so many must be enough to see what the care is for.
TURNS_WITHOUT_CARE = 20


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        assert_done(stand.up())
        yield stand


def programs(stand: Stand) -> dict[str, int]:
    """Return the ids of all processes of the stack but nginx's workers, which a reload replaces."""
    found = {process.name: process.pid for process in stand.supervisor().processes().values()}
    return found | {f"{name} {what}": pid for name in ("app1", "app2") for what, pid in stand.processes(name).items()}


def kept_files(stand: Stand) -> set[str]:
    return {path.name for path in stand.paths.state.glob("*maintenance*")}


def test_visitors_lose_nothing_and_allowed_clients_notice_nothing(stand: Stand) -> None:
    with Load(stand.address, clients=4, slow=1, source=ALLOWED) as allowed, Visitors(stand.address) as visitors:
        visitors.wait_for(200, 300)
        before = programs(stand)
        output = assert_done(stand.run(*ON))
        assert "stack t: maintenance is on; all but 127.7.0.0/20 get 503, Retry-After 1200 s: Back at" in output
        visitors.wait_for(503, 500)
        assert programs(stand) == before, "maintenance touched a process"
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        output = assert_done(stand.up())
        assert "nginx: one reload" in output
        assert "the site is in maintenance: all but 127.7.0.0/20 get 503" in output
        release = stand.release()
        stand.edit_code("visits/apps.py", "# another release\n")
        assert "`cluster maintenance t off` lets visitors in again" in assert_done(stand.up())
        assert stand.release() != release
        visitors.wait_for(503, 500)
        served = visitors.answers[200]
        visitors.wait_for(503, 500)
        assert visitors.answers[200] == served, "somebody got in"
        before = programs(stand)
        assert "stack t: maintenance is off; visitors get the site" in assert_done(stand.run(*OFF))
        assert programs(stand) == before
        visitors.wait_for(200, 500)
    print(f"visitors: {visitors}; allowed clients: {allowed.counts}")
    assert (visitors.failed, visitors.lost) == ([], [])
    assert set(visitors.answers) == {200, 503}
    assert (allowed.counts.failed, allowed.counts.lost, allowed.counts.cut) == ([], [], 0)
    assert allowed.counts.total > 200


def test_without_the_polite_closing_visitors_lose_requests(stand: Stand) -> None:
    if find_nginx()[1] >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        pytest.skip("this nginx sees to it by itself")
    with stand.sabotaged("no_closing"), Visitors(stand.address) as visitors:
        turns = 0
        while not visitors.failed and turns < TURNS_WITHOUT_CARE:
            assert_done(stand.run(*(OFF if turns % 2 else ON)))
            turns += 1
            time.sleep(0.3)
    print(f"{turns} times on or off without the polite closing: {visitors}")
    assert visitors.failed
    assert_done(stand.run(*OFF))


def test_it_is_told_by_status_and_verify_which_do_not_fail_by_it(stand: Stand) -> None:
    assert_done(stand.run(*ON))
    try:
        assert "\nmaintenance: all but 127.7.0.0/20 get 503, " in assert_done(stand.run("status", "t"))
        found = stand.status()
        maintenance = {"message": MESSAGE, "retry_after": 1200, "allow": ["127.7.0.0/20"]}
        assert (found["ok"], found["maintenance"], found["nginx"]["current"]) == (True, maintenance, True)
        assert json.loads(assert_done(stand.run("maintenance", "t", "--json"))) == {"maintenance": maintenance}
        checks = json.loads(assert_done(stand.run("verify", "t", "--json")))["checks"]
        noted = {check["name"]: check["found"] for check in checks if check["ok"] is None}
        assert noted["maintenance"] == "on: visitors get 503 in place of the site"
        assert noted["page /"] == "GET / 503: the site is in maintenance"
        assert not [check for check in checks if check["ok"] is False]
        assert "no changes" in assert_done(stand.up())
    finally:
        assert_done(stand.run(*OFF))
    assert stand.status()["maintenance"] is None
    assert "maintenance" not in assert_done(stand.verify())


def test_what_is_so_already_needs_no_reload_and_another_message_one(stand: Stand) -> None:
    workers = stand.nginx_workers()
    assert "maintenance is off already" in assert_done(stand.run(*OFF))
    assert stand.nginx_workers() == workers
    assert_done(stand.run(*ON))
    assert (workers := stand.nginx_workers()) != set()
    assert "maintenance is on already" in assert_done(stand.run(*ON))
    assert stand.nginx_workers() == workers
    assert_done(stand.run("maintenance", "t", "on", "--message", "Later."))
    answer = get(stand, "/")
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, page("Later."), "600")
    assert_done(stand.run(*OFF))
    assert get(stand, "/whoami").status_code == 200


def test_an_nginx_that_was_killed_comes_back_in_maintenance(stand: Stand) -> None:
    assert_done(stand.run(*ON))
    pid = stand.supervisor().processes()["nginx"].pid
    for one in stand.nginx_workers():
        os.kill(one, signal.SIGKILL)

    def is_new() -> bool:
        found = stand.supervisor().processes()["nginx"]
        return found.state == "RUNNING" and found.pid != pid and stand.nginx_digest() is not None

    wait_until(is_new, "another nginx")
    assert get(stand, "/whoami").status_code == 503
    assert_done(stand.run(*OFF))


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_up_ends_what_a_command_that_was_killed_has_begun(stand: Stand, on: bool) -> None:
    """It was killed after it had written what is wanted, and before nginx was told."""
    asked = asked_for("Soon.", "1m", [])
    if not on:
        assert_done(stand.run("maintenance", "t", "on", "--message", "Soon."))
    Keeping(stand.paths).put(asked if on else None)
    assert get(stand, "/whoami").status_code == (200 if on else 503)
    result = stand.run("status", "t")
    trouble = "nginx does not keep out whom it should" if on else "nginx keeps visitors out, and should not"
    assert (result.status, f"{trouble}; `cluster up t` mends it" in result.output) == (1, True), result.output
    assert "nginx: one reload" in assert_done(stand.up())
    assert get(stand, "/whoami").status_code == (503 if on else 200)
    assert "no changes" in assert_done(stand.up())
    if on:
        Keeping(stand.paths).put(None)
        assert "maintenance is off; " in assert_done(stand.run(*OFF)), "so does the command itself"
        assert get(stand, "/whoami").status_code == 200


def test_nginx_file_that_was_changed_or_removed_is_written_again(stand: Stand) -> None:
    assert_done(stand.run(*ON))
    Keeping(stand.paths).file.write_text("page other;\n")
    assert "nginx: one reload" in assert_done(stand.up())
    Keeping(stand.paths).file.unlink()
    assert "nginx: one reload" in assert_done(stand.up())
    assert get(stand, "/whoami").text == page(MESSAGE)
    assert_done(stand.run(*OFF))


def test_where_what_is_kept_was_hurt_nginx_goes_on_as_it_does_until_it_is_said_again(stand: Stand) -> None:
    assert_done(stand.run(*ON))
    Keeping(stand.paths).fact.write_text("")
    output = assert_done(stand.run("status", "t"))
    assert "maintenance.json: is empty; say `cluster maintenance t on`, or off, again" in output
    assert "no changes" in assert_done(stand.up())
    assert get(stand, "/whoami").status_code == 503
    assert_done(stand.run(*OFF))
    assert get(stand, "/whoami").status_code == 200
    assert kept_files(stand) == set()


def test_a_file_that_nginx_refuses_is_not_left_in_place(stand: Stand) -> None:
    assert_done(stand.run("maintenance", "t", "on", "--message", "First."))
    with stand.sabotaged("broken_maintenance"):
        result = stand.run(*ON)
    assert_refused(result, "nginx -t refuses the configuration")
    assert get(stand, "/whoami").text == page("First.")
    assert "no changes" in assert_done(stand.up())
    assert_done(stand.run(*OFF))


def test_one_command_at_a_time_changes_a_stack(stand: Stand) -> None:
    with locked(stand.paths, "up t"):
        assert_refused(stand.run(*ON), "`cluster up t` (process ")
        assert kept_files(stand) == set()
        assert "maintenance is off" in assert_done(stand.run("maintenance", "t")), "looking waits for nobody"
    thread = threading.Thread(target=stand.run, args=ON)
    thread.start()
    wait_until(lambda: bool(kept_files(stand)), "it is at it")
    result = stand.up()
    if thread.is_alive():  # it was, beside all of that
        assert_refused(result, "`cluster maintenance t` (process ")
    thread.join()
    assert_done(stand.run(*OFF))


def test_mistakes_are_said_and_change_nothing(stand: Stand) -> None:
    result = stand.run("maintenance", "t", "on", "--allow", "10.0.0.1/8", "--retry-after", "soon")
    assert_refused(result, "--allow: must be a network: 10.0.0.0/8, or 10.0.0.1 alone; got 10.0.0.1/8")
    assert_refused(result, "--retry-after: must be written as nginx writes it")
    assert_refused(stand.run("maintenance", "t", "of"), "say `on` or `off`, or neither to see how it is; got of")
    assert_refused(stand.run("maintenance", "nowhere", "on"), "stacks/Pulumi.nowhere.yaml: nowhere: no such file")
    assert_refused(stand.run("maintenance", "on"), "stacks/Pulumi.local.yaml: local: no such file")
    assert kept_files(stand) == set()
    assert re.search(r"Usage: .*cluster maintenance", assert_done(stand.run("maintenance", "--help")))


def test_a_stack_that_is_down_comes_up_in_maintenance_and_nothing_of_it_outlives_its_data() -> None:
    with contextlib.closing(Stand(instances=1)) as stand:
        output = assert_done(stand.run(*ON))
        assert "nginx does not run: it takes effect when the stack is up (`cluster up t`)" in output
        seen: Counter[int] = Counter()
        stopped = threading.Event()

        def look() -> None:
            with httpx.Client(trust_env=False, verify=NO_TLS) as client:
                while not stopped.wait(0.01):
                    with contextlib.suppress(httpx.HTTPError):
                        seen[get(stand, "/whoami", client).status_code] += 1

        looking = threading.Thread(target=look)
        looking.start()
        assert "the site is in maintenance" in assert_done(stand.up())
        assert_done(stand.down())
        assert "maintenance: all but" in stand.run("status", "t").output
        assert_done(stand.up())
        stopped.set()
        looking.join()
        print(f"answers while it came up twice: {dict(seen)}")
        assert set(seen) == {503}
        assert_done(stand.down())
        assert "takes effect when the stack is up" in assert_done(stand.run(*OFF))
        assert_done(stand.up())
        assert get(stand, "/whoami").status_code == 200
        assert_done(stand.run(*ON))
        assert_done(stand.run("down", "t", "--delete-data", "--yes"))
        assert not stand.paths.state.exists()
        assert "maintenance is off" in assert_done(stand.run("maintenance", "t"))
