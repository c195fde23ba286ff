"""What a change costs visitors: the classes that there are, and the tests in which just that is measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Cost(StrEnum):
    """The classes, the cheapest first. The values are those of `cluster plan --json`."""

    NONE = "none"
    START = "start"
    QUIC_CUT = "quic-cut"
    REDIRECTED = "redirected"
    MIGRATION = "migration"
    ADDRESS_MOVED = "address-moved"
    NGINX_STARTED = "nginx-started"
    NGINX_REPLACED = "nginx-replaced"
    SERVICE_REPLACED = "service-replaced"
    SITE_STARTED = "site-started"
    ADDRESS_LEFT = "address-left"
    LOGGED_OUT = "logged-out"
    DATA_LEFT = "data-left"
    VOLUME_DELETED = "volume-deleted"


@dataclass(frozen=True, kw_only=True)
class CostClass:
    """A row of the table.

    words: what a person is told. proofs: the tests that measure it, as pytest names them. asks: whether a pull request
    has to accept it (docs/pull-requests.md): whatever a visitor of a site that serves would lose.
    """

    words: str
    proofs: tuple[str, ...]
    asks: bool = True


SESSIONS = "tests/local/test_sessions.py"
ANOTHER_NGINX = "test_another_nginx_is_named_by_preview_and_refuses_connections_for_seconds_and_loses_no_session"
ANOTHER_DATABASE = "test_another_database_costs_the_requests_that_need_it_and_no_session"
TLS_ON_AND_OFF = "test_an_address_that_redirects_refuses_open_forms_and_one_that_is_left_fails"
RECORDED = "tests/local/test_recorded_plans.py::test_what_a_plan_says_of_the_cost_is_what_up_costs"
CHANGES = "test_no_change_loses_a_request_or_a_session"

COSTS: Mapping[Cost, CostClass] = {
    Cost.NONE: CostClass(
        words="no request and no session is lost",
        proofs=(
            f"tests/conformance.py::Changes::{CHANGES}",
            "tests/local/test_tls.py::test_no_change_loses_a_request_or_a_session_over_tls",
            f"{SESSIONS}::test_no_session_is_lost_by_faults_and_by_changes_from_each_engine_to_the_next",
            "tests/local/test_workers.py::test_a_release_and_the_way_back_lose_no_job_and_do_none_twice",
            RECORDED,
        ),
        asks=False,
    ),
    Cost.START: CostClass(
        words="nothing serves now: the site comes up",
        proofs=("tests/local/test_plan.py::test_the_first_plan_touches_nothing_and_says_that_the_site_comes_up",),
        asks=False,
    ),
    Cost.QUIC_CUT: CostClass(
        words="nginx is reloaded: requests that are asked by HTTP/3 meanwhile may be lost, and no other "
        "(site.tls.discard_http3_requests)",
        proofs=("tests/nginx/test_http3.py::test_reloads_lose_requests_of_http3_alone",),
    ),
    Cost.REDIRECTED: CostClass(
        words="an address of the site only redirects from now on: forms that are open there are refused",
        proofs=(f"tests/local/test_plan_addresses.py::{TLS_ON_AND_OFF}",),
    ),
    Cost.MIGRATION: CostClass(
        words="requests to the former release fail where they need what a migration takes away, until the new one "
        "serves",
        proofs=(
            "tests/local/test_plan.py::test_a_migration_that_the_former_release_cannot_live_beside_costs_requests",
        ),
    ),
    Cost.NGINX_STARTED: CostClass(
        words="nginx is started again: connections are refused until it listens",
        proofs=("tests/local/test_plan.py::test_an_nginx_that_does_not_answer_is_started_again_at_a_cost",),
    ),
    Cost.NGINX_REPLACED: CostClass(
        words="nginx is replaced: connections are refused until the new one listens (1 to 3 s where it was measured)",
        proofs=(f"tests/e2e/test_creation.py::{ANOTHER_NGINX}",),
    ),
    Cost.SERVICE_REPLACED: CostClass(
        words="what keeps data for the instances is replaced: requests that need it fail until the new one answers",
        proofs=(f"tests/e2e/test_plan.py::{ANOTHER_DATABASE}",),
    ),
    Cost.SITE_STARTED: CostClass(
        words="the site is away until all is started again",
        proofs=("tests/local/test_plan.py::test_what_a_killed_supervisor_left_is_started_again_at_a_cost",),
    ),
    Cost.ADDRESS_LEFT: CostClass(
        words="an address of the site answers no more: requests to it fail",
        proofs=(f"tests/local/test_plan_addresses.py::{TLS_ON_AND_OFF}",),
    ),
    Cost.ADDRESS_MOVED: CostClass(
        words="a host gives the site's address up: what visitors have open there is cut, and a new request goes to the "
        "next host at once, where there is one",
        proofs=("tests/e2e/test_remote_address.py::test_a_host_that_loses_its_role_gives_the_address_up_before",),
    ),
    Cost.LOGGED_OUT: CostClass(
        words="everybody is logged out",
        proofs=(
            f"{SESSIONS}::test_a_key_that_is_just_replaced_logs_everybody_out",
            f"{SESSIONS}::test_without_the_bridge_a_change_of_the_engine_logs_everybody_out",
        ),
    ),
    Cost.DATA_LEFT: CostClass(
        words="what the database holds is not seen any more, the sessions in it neither",
        proofs=(
            "tests/local/test_plan.py::test_a_database_that_is_left_behind_is_the_first_thing_that_is_said",
            RECORDED,
        ),
    ),
    Cost.VOLUME_DELETED: CostClass(
        words="a volume is deleted with all that it holds",
        proofs=("tests/e2e/test_engine.py::test_destroy_refuses_to_drop_the_database_unless_told",),
    ),
}


def dearest_first(costs: Iterable[Cost]) -> tuple[Cost, ...]:
    """Return costs without repetition, the dearest first; none at all is what costs nothing."""
    order = list(Cost)
    found = sorted(set(costs) - {Cost.NONE}, key=order.index, reverse=True)
    return tuple(found) or (Cost.NONE,)


__all__ = ["COSTS", "Cost", "CostClass", "dearest_first"]
