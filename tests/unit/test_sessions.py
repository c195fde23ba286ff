"""Which change of the stack file would end sessions, and what a person is told of their store."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.config.models import SessionEngine
from cluster.sessions import Lasting, lines, of_release, refusal, refused_hiding, refused_loss, refused_rollback
from cluster_runtime.lasting import database_name
from cluster_runtime.sessions import report
from tests.unit.pulumi_mocks import stack_values


def said(engine: str, previous: str = "", stage: str = "") -> dict[str, str]:
    return {"engine": engine, "previous": previous, "stage": stage}


@pytest.mark.parametrize(
    ("wanted", "serving", "ended"),
    [
        ({"engine": "cache"}, said("db"), "db"),
        ({"engine": "cache", "previous": "db"}, said("db"), None),
        ({"engine": "db"}, said("db"), None),
        ({"engine": "cached_db"}, said("db"), "db"),
        ({"engine": "cached_db", "previous": "db"}, said("db"), None),
        ({"engine": "db"}, said("cached_db"), "cached_db"),
        ({"engine": "file", "previous": "cached_db"}, said("db"), "db"),
        ({"engine": "db"}, said("cache", "db", "follow"), None),
        ({"engine": "db"}, said("cache", "db", "move"), "cache"),
        ({"engine": "db", "previous": "cache"}, said("cache", "db", "move"), None),
        ({"engine": "cache"}, said("cache", "db", "move"), None),
        ({"engine": "file", "previous": "db"}, said("cache", "db", "both"), "cache"),
        ({"engine": "file", "discard": True}, said("db"), None),
        ({"engine": "file"}, None, None),
    ],
)
def test_a_change_that_would_log_everybody_out_is_refused(
    wanted: dict[str, Any], serving: dict[str, str] | None, ended: str | None
) -> None:
    config = parse_config(stack_values(sessions={"memcached": None, **wanted} | {"memcached": {"nodes": 2}}))
    found = refusal(config, [serving, serving], lambda: {engine: {"count": 0} for engine in SessionEngine})
    if ended is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith("sessions.previous: ")
        assert f"set `previous: {ended}`" in found


@pytest.mark.parametrize(("wanted", "former"), [("project", "db"), ("db", "project")])
def test_a_change_to_or_from_the_projects_own_engine_is_refused_unless_told(wanted: str, former: str) -> None:
    found = refusal(parse_config(stack_values(sessions={"engine": wanted})), [said(former)])
    assert found is not None
    assert found.startswith("sessions.engine: ")
    assert f"set `engine: {former}`" in found
    assert "previous" not in found
    told = {"engine": wanted, "discard": True}
    assert refusal(parse_config(stack_values(sessions=told)), [said(former)]) is None
    back = refused_rollback("abc", {"sessions": {"engine": wanted, "previous": ""}}, [said(former)])
    assert back is not None
    assert "previous" not in back


@pytest.mark.parametrize("engine", ["db", "cached_db"])
def test_instances_that_would_not_see_each_others_sessions_are_told_of_as_such(engine: str) -> None:
    former = "db" if engine == "cached_db" else "cached_db"
    found = refusal(parse_config(stack_values(sessions={"engine": engine})), [said(former)])
    assert found is not None
    assert "would not see what the other one has stored" in found


@pytest.mark.parametrize(
    ("wanted", "nodes", "serving", "refused"),
    [
        ({"engine": "cache"}, 3, said("cache"), True),
        ({"engine": "cache"}, 1, said("cache"), True),
        ({"engine": "cache"}, 2, said("cache"), False),
        ({"engine": "file", "previous": "cache"}, 3, said("cache"), True),
        ({"engine": "cache", "previous": "db"}, 3, said("cache", "db", "follow"), False),
        ({"engine": "cache", "discard": True}, 3, said("cache"), False),
        ({"engine": "cached_db"}, 3, said("cached_db"), False),
    ],
)
def test_another_number_of_nodes_is_refused_where_memcached_alone_has_the_sessions(
    wanted: dict[str, Any], nodes: int, serving: dict[str, Any], refused: bool
) -> None:
    config = parse_config(stack_values(sessions={**wanted, "memcached": {"nodes": nodes}}))
    found = refusal(config, [{**serving, "memcached": ["/m1", "/m2"]}])
    assert (found is not None) == refused
    if found is not None:
        assert found.startswith("sessions.memcached.nodes: ")
        assert "`previous: cache` first" in found


SEVEN_LEFT = {"engine": "file", "previous": "db", "db": {"count": 7}}


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (SEVEN_LEFT, "7 sessions are still in db alone"),
        ({**SEVEN_LEFT, "db": {"count": 0}}, None),
        ({**SEVEN_LEFT, "db": {"count": None}}, "nobody can say now how many sessions are still in db alone"),
        (None, "nobody can say now how many sessions are still in db alone"),
    ],
    ids=["some", "none", "a node is away", "the stack is down"],
)
@pytest.mark.parametrize("engine", ["file", "signed_cookies"])
def test_previous_must_stay_while_sessions_are_in_the_former_engine_alone(
    engine: str, report: dict[str, Any] | None, words: str | None
) -> None:
    config = parse_config(stack_values(sessions={"engine": engine}))
    found = refusal(config, [said(engine, "db", "move")], lambda: report)
    assert (found is None) == (words is None)
    if found is not None:
        assert found.startswith(f"sessions.previous: {words}")
    kept = parse_config(stack_values(sessions={"engine": "file", "previous": "db"}))
    assert refusal(kept, [said("file", "db", "move")], lambda: SEVEN_LEFT) is None
    discarded = parse_config(stack_values(sessions={"engine": engine, "discard": True}))
    assert refusal(discarded, [said(engine, "db", "move")], lambda: SEVEN_LEFT) is None


@pytest.mark.parametrize(("engine", "previous"), [("db", "cached_db"), ("cached_db", "db"), ("db", "signed_cookies")])
def test_previous_may_go_where_the_new_engine_has_all_or_nobody_could_ever_count(engine: str, previous: str) -> None:
    config = parse_config(stack_values(sessions={"engine": engine}))
    assert refusal(config, [said(engine, previous, "move")], lambda: None) is None


def test_what_is_left_is_asked_for_only_where_previous_is_taken_away() -> None:
    def never() -> None:
        raise AssertionError("counting takes a while")

    config = parse_config(stack_values(sessions={"engine": "db"}))
    assert refusal(config, [said("db")], never) is None


def test_what_a_release_would_say_of_its_sessions_is_in_its_configuration() -> None:
    runtime = {"sessions": {"engine": "file", "previous": "db", "memcached": ["/m1"]}}
    assert refusal(parse_config(stack_values(sessions={"engine": "cache"})), [of_release(runtime)]) is not None


def test_a_release_that_does_not_read_todays_sessions_is_no_way_back() -> None:
    runtime = {"sessions": {"engine": "db", "previous": ""}}
    assert refused_rollback("abc", runtime, [said("db")]) is None
    found = refused_rollback("abc", runtime, [said("cache", "db", "move")])
    assert found is not None
    assert "Set `engine: db` and `previous: cache`" in found


NODE = {"node": "m1", "sessions": 4, "bytes": 100, "limit": 1000, "evicted": 0, "connections": 5, "refused": 0}


def told(engine: str, previous: str = "", **found: Any) -> list[str]:
    config = parse_config(stack_values(sessions={"engine": engine}))
    return lines({"engine": engine, "previous": previous, **found}, config)


def test_of_sessions_their_number_and_size_are_told() -> None:
    assert told("db", db={"count": 1200, "bytes": 2_500_000, "over": 3}) == [
        "sessions in db: 1,200, 2.4 MiB, and 3 that are over"
    ]
    assert told("signed_cookies", signed_cookies={"count": None, "bytes": None}) == [
        "sessions in signed_cookies: nobody can count them"
    ]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "none; sessions.previous may go"), (7, "must stay"), (None, "SESSION_COOKIE_AGE")]
)
def test_it_is_told_when_previous_may_go(count: int | None, words: str) -> None:
    _, former = told("db", "file", db={"count": 1, "bytes": 1}, file={"count": count, "bytes": 10})
    assert former.startswith("still in file: ")
    assert words in former


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"bytes": 850}, "gets full"),
        ({"evicted": 1}, "sessions were dropped"),
        ({"connections": 900}, "runs out of connections"),
        ({"refused": 1}, "runs out of connections"),
    ],
)
def test_a_node_near_its_limits_is_told_with_what_to_do(changes: dict[str, int], words: str | None) -> None:
    node = {**NODE, "most_connections": 1000, **changes}
    found = told("cache", cache={"count": 4, "bytes": 100, "nodes": [node]})[2:]
    assert bool(found) is (words is not None)
    assert words is None or words in found[0]
    database = told("cached_db", cached_db={"count": 4, "bytes": 100, "nodes": [node]})[2:]
    assert bool(database) is ("connections" in (words or "")), "a database has what a node drops"


# --- what outlives a release

KEY, OTHER = "k" * 50, "o" * 50
SQLITE = {"engine": "sqlite", "path": "/data/db.sqlite3"}
URL = "postgres://user:secret-word@db.example:5432/shop?sslmode=require"


def serving(**changes: Any) -> dict[str, Any]:
    runtime = {"sessions": {"engine": "file", "previous": "", "path": "/data/sessions"}, "database": SQLITE}
    return {**of_release(runtime, {"secret_key": KEY}), **changes}


def wanted(path: str = "/data/sessions", database: Any = SQLITE, **secrets: str) -> Lasting:
    return Lasting.of(path, database, {"secret_key": KEY, **secrets})


def test_the_same_key_path_and_database_lose_nothing() -> None:
    assert refused_loss([serving(), None], wanted()) is None


def test_a_process_of_before_that_says_nothing_of_it_refuses_nothing() -> None:
    assert refused_loss([serving(key="", path="", database="")], wanted("/x", None, secret_key=OTHER)) is None


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (wanted(secret_key=OTHER), "secret_key: it is another than the one that signs now"),
        (wanted(secret_key=OTHER, secret_key_fallbacks='["x"]'), "everybody would be logged out"),
        (wanted("/elsewhere"), "sessions.path: sessions are in /data/sessions now"),
    ],
)
def test_what_would_end_sessions_is_refused_unless_told(release: Lasting, words: str) -> None:
    refused = refused_loss([None, serving()], release)
    assert refused is not None
    assert words in refused
    assert KEY not in refused
    assert refused_loss([serving()], release, discard_sessions=True) is None


def test_a_key_that_is_a_fallback_now_ends_nothing() -> None:
    assert refused_loss([serving()], wanted(secret_key=OTHER, secret_key_fallbacks=json.dumps([KEY]))) is None


def test_a_path_matters_only_where_sessions_are_in_files() -> None:
    assert refused_loss([serving(engine="db")], wanted("/elsewhere")) is None


@pytest.mark.parametrize(
    "database", [None, {"engine": "postgres"}, {"engine": "external"}, {"engine": "sqlite", "path": "/other.sqlite3"}]
)
def test_a_database_that_would_hide_data_is_refused_unless_told(database: Any) -> None:
    refused = refused_loss([serving()], wanted(database=database, database_url=URL))
    assert refused is not None
    assert refused.startswith("database: the data is in sqlite /data/db.sqlite3 now")
    assert "secret-word" not in refused
    assert refused_loss([serving()], wanted(database=database, database_url=URL), discard_data=True) is None


def test_what_is_kept_for_the_project_is_not_hidden_unless_told() -> None:
    release = wanted()
    said = [None, serving(shared=["media", "var/log"])]
    assert refused_loss(said, release) is None, "the platform looks itself whether there is anything"
    assert refused_loss(said, replace(release, shared=frozenset({"media", "var"}))) is None
    refused = refused_loss(said, replace(release, shared=frozenset({"med", "var"})))
    assert refused is not None
    assert refused.startswith("app.shared: what the project writes to media is kept")
    assert refused_loss(said, replace(release, shared=frozenset()), discard_data=True) is None
    former = {"shared": {"var": "var"}}
    assert (refused_hiding("abc", former, said) or "").startswith(
        "app.shared: what the project writes to media is kept"
    )
    assert refused_hiding("abc", {"shared": {"media": "media", "var/log": "x"}}, said) is None
    assert refused_hiding("abc", {}, [serving(), None]) is None


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("postgres://another:pass@DB.example:5432/shop", True),
        ("postgres://user:secret-word@db.example:5432/other", False),
        ("postgres://user:secret-word@new.example:5432/shop", False),
        ("postgres://user:p[ss@db", False),
    ],
)
def test_an_external_database_is_known_by_its_place_and_not_by_who_asks(url: str, *, same: bool) -> None:
    external = {"engine": "external"}
    said = serving(database=database_name(external, URL))
    assert (refused_loss([said], wanted(database=external, database_url=url)) is None) is same


def test_a_node_that_hangs_is_told_of_in_words() -> None:
    class Hanging:
        path = "/run/memcached/memcached1.sock"

        def read(self, *_what: str) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    assert report._node(Hanging()) == {"node": "memcached1", "error": "it does not answer in time"}
