"""A renewer and an authority that answers as none should: it keeps what it has, and asks no more than it may."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cluster.acme import orders, renewer
from cluster.acme.account import thumbprint_of
from cluster.acme.kept import Store, moment, new_key
from cluster.acme.network import LONGEST_ANSWER, LONGEST_WAIT, pause_of, within
from cluster.acme.renewer import FIRST_PAUSE, LONGEST_PAUSE, Renewer
from cluster.acme.wanted import Wanted
from cluster_runtime import unfollowed
from tests.strange_authority import NOW, Answer, StrangeAuthority, certificate_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.strange_authority import Twist

NAMES = ("a.test", "b.test")
LIMITED = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}
STEPS = 5


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[StrangeAuthority]:
    with contextlib.closing(StrangeAuthority(tmp_path)) as found:
        yield found


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def keeper(
    tmp_path: Path, authority: StrangeAuthority, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Renewer]:
    """A renewer whose nginx answers; whatever it does, its certificate fits its key at its end."""
    account = new_key()
    (tmp_path / "account").write_text(account)
    monkeypatch.setattr(renewer, "_asked", lambda _wanted, _name, token: f"{token}.{thumbprint_of(account)}")
    wanted = Wanted(directory=authority.url, names=NAMES, account=str(tmp_path / "account"), trusted=str(authority.ca))
    found = Renewer(wanted, Store(tmp_path / "acme"), lines.append)
    yield found
    issued = found.store.issued()
    assert issued is not None
    assert issued.names == NAMES
    key = serialization.load_pem_private_key((found.store.live / "privkey.pem").read_bytes(), None)
    assert _spki(key.public_key()) in _spki_of(found.store.chain())


def _spki(key: object) -> bytes:
    encoding, kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = key.public_bytes(encoding, kind)  # type: ignore[attr-defined]
    return found


def _spki_of(chain: str) -> list[bytes]:
    return [_spki(one.public_key()) for one in x509.load_pem_x509_certificates(chain.encode())]


def steps(keeper: Renewer) -> None:
    for _ in range(STEPS):
        keeper.step()


def waits(keeper: Renewer) -> float:
    """Return for how many seconds it asks no more."""
    return (moment(keeper.said.again) - dt.datetime.now(dt.UTC)).total_seconds()


def giving(body: object, status: int = 200, **headers: str) -> Twist:
    return lambda answer: answer.give(body, status, **headers)


def test_one_that_does_as_it_should_is_asked_once(
    authority: StrangeAuthority, keeper: Renewer, lines: list[str]
) -> None:
    steps(keeper)
    assert authority.asked.count("/order") == 1
    assert keeper.said.issuer == authority.url, lines
    assert sum(path.startswith("/renewal/") for path in authority.asked) == 1


def other_key(authority: StrangeAuthority) -> str:
    key = serialization.load_pem_private_key(new_key().encode(), None)
    return certificate_to(key.public_key(), authority.names, NOW, NOW + dt.timedelta(days=90))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (other_key, "it is to another key"),
        (lambda authority: authority.issued(names=["evil.test"]), "it does not cover a.test, b.test"),
        (lambda authority: authority.issued(names=["a.test"]), "it does not cover b.test"),
        (lambda authority: authority.issued(begins=-90, ends=-1), "it has ended at "),
        (lambda authority: authority.issued(begins=10, ends=100), "it begins at "),
        (lambda authority: authority.issued() + other_key(authority), "have not signed it"),
        (lambda authority: authority.issued() * 100, "have not signed it"),
        (lambda _authority: "<html>", "it holds no certificate"),
        (lambda _authority: "", "it holds no certificate"),
        (lambda _authority: b"\xff" * 100, "it holds no certificate"),
        (lambda _authority: "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "it "),
    ],
)
def test_a_certificate_that_can_t_be_used_takes_no_place_and_is_not_asked_for_again_at_once(
    authority: StrangeAuthority,
    keeper: Renewer,
    given: Callable[[StrangeAuthority], object],
    message: str,
) -> None:
    authority.twists["/certificate"] = lambda answer: answer.give(given(authority))
    steps(keeper)
    assert authority.asked.count("/certificate") == 1
    assert keeper.said.message.startswith("it gave a certificate that can't be used: ")
    assert message in keeper.said.message
    assert keeper.said.issuer == ""
    assert waits(keeper) > 0.8 * LONGEST_PAUSE
    assert len(keeper.said.issued) == 1, "it counts for the authority"


@pytest.mark.parametrize(
    ("path", "twist"),
    [
        ("/dir", giving(b"\xff\xfe<html>")),
        ("/dir", giving([])),
        ("/dir", giving({})),
        ("/dir", giving("[" * 100_000)),
        ("/dir", giving(b"", 302, Location="http://localhost:1/dir")),
        ("/dir", giving({"newNonce": "http://localhost:1/nonce", "newAccount": "x", "newOrder": 5})),
        ("/dir", giving(b"x" * 100, 200, Content_Encoding="gzip")),
        ("/account", giving({"type": "urn:ietf:params:acme:error:unauthorized", "detail": "deactivated"}, 403)),
        ("/account", giving({"type": "urn:ietf:params:acme:error:userActionRequired", "detail": "new terms"}, 403)),
        ("/order", giving({"identifiers": 1}, 201)),
        ("/order", giving(LIMITED, 429)),
        ("/order", giving(LIMITED, 429, Retry_After="-5")),
        ("/order", giving(LIMITED, 429, Retry_After="soon")),
        ("/order", giving({"type": "urn:ietf:params:acme:error:badNonce"}, 400)),
        ("/order", giving({"detail": "x\n\x1b[2J" + "y" * 100_000}, 500)),
        ("/authorization", giving({"status": "pending", "challenges": []})),
        ("/authorization", giving({"status": "invalid", "challenges": None})),
        ("/finalize", giving({"type": "urn:ietf:params:acme:error:badCSR", "subproblems": [{}]}, 400)),
        ("/state", lambda answer: answer.give(answer.authority.order_of("invalid"))),
        ("/state", lambda answer: answer.give(answer.authority.order_of("invalid", error={"detail": 5}))),
    ],
)
def test_what_is_no_answer_is_told_in_a_line_and_tried_again_after_a_pause(
    authority: StrangeAuthority, keeper: Renewer, lines: list[str], path: str, twist: Twist
) -> None:
    authority.twists[path] = twist
    steps(keeper)
    assert authority.asked.count("/dir") == 1
    assert 0.8 * FIRST_PAUSE < waits(keeper) < 1.2 * FIRST_PAUSE
    assert keeper.said.failures == 1
    assert keeper.said.message
    assert len(lines) == 2
    assert not any(char in line for line in lines for char in "\n\x1b")
    assert max(map(len, lines)) < 1000
    assert keeper.store.said() == keeper.said


@pytest.mark.parametrize(
    "pause", ["1000000000000", "99999999999999999999999", "9" * 5000, "31536000000", "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_nobody_is_left_alone_for_ever(authority: StrangeAuthority, keeper: Renewer, pause: str) -> None:
    authority.twists["/order"] = giving(LIMITED, 429, Retry_After=pause)
    steps(keeper)
    assert keeper.said.message == "rateLimited: too many"
    assert 0 < waits(keeper) <= LONGEST_WAIT


def test_a_pause_is_seconds_or_a_date_whatever_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        found = [
            pause_of(text, now) for text in ("90", " 90 ", "-3", "Sun, 01 Mar 2026 12:10:00 GMT", "", "x", "1e3", "nan")
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == [90, 90, 0, 600, None, None, None, None]


def test_an_order_that_is_never_decided_is_not_asked_about_without_a_pause(
    authority: StrangeAuthority, keeper: Renewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the authority says that the time to ask again is long over."""
    monkeypatch.setattr(orders, "ORDER_PATIENCE", 3)
    authority.twists["/state"] = lambda answer: answer.give(
        authority.order_of("processing"), Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"
    )
    keeper.step()
    assert authority.asked.count("/state") <= 4
    assert keeper.said.message == "it did not decide within 3 s"


def test_one_that_wants_a_renewal_at_once_each_time_gets_one_a_day(
    authority: StrangeAuthority, keeper: Renewer
) -> None:
    window = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
    authority.twists["/renewal"] = giving({"suggestedWindow": window})
    steps(keeper)
    assert authority.asked.count("/order") == 1
    keeper.now = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=1, minutes=1)
    steps(keeper)
    assert authority.asked.count("/order") == 2


def breaking(answer: Answer) -> None:
    if "replaces" in answer.payload():
        answer.give("<html>", 500)
    else:
        answer.authority.order(answer)


def refusing(answer: Answer) -> None:
    if "replaces" in answer.payload():
        answer.give({"type": "urn:ietf:params:acme:error:malformed", "detail": "what is that?"}, 400)
    else:
        answer.authority.order(answer)


@pytest.mark.parametrize(
    ("twist", "asked", "tries"), [(StrangeAuthority.order, 1, 1), (refusing, 2, 1), (breaking, 2, 2)]
)
def test_who_takes_no_certificate_for_anothers_place_gives_one_all_the_same(
    authority: StrangeAuthority, keeper: Renewer, twist: Any, asked: int, tries: int
) -> None:
    keeper.step()
    ahead = dt.timedelta(days=61)
    keeper.now = lambda: dt.datetime.now(dt.UTC) + ahead
    authority.twists["/order"] = twist if tries > 1 or asked > 1 else lambda answer: twist(authority, answer)
    before = keeper.store.chain()
    for _ in range(tries):
        assert keeper.store.chain() == before
        steps(keeper)
        ahead += dt.timedelta(minutes=2)
    assert keeper.store.chain() != before
    assert authority.asked.count("/order") == 1 + asked


def test_its_limits_hold_for_a_certificate_that_takes_anothers_place(
    authority: StrangeAuthority, keeper: Renewer
) -> None:
    keeper.step()
    keeper.now = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=61)
    authority.twists["/order"] = giving(LIMITED, 429)
    steps(keeper)
    assert authority.asked.count("/order") == 2
    assert keeper.said.message == "rateLimited: too many"


@pytest.mark.parametrize("pause", ["0", "-1", "1000000000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_it_is_asked_when_to_renew_no_oftener_than_each_minute_and_each_day_at_least(
    authority: StrangeAuthority, keeper: Renewer, pause: str
) -> None:
    window = {"start": "2099-01-01T00:00:00Z", "end": "2099-01-02T00:00:00Z"}
    authority.twists["/renewal"] = giving({"suggestedWindow": window}, Retry_After=pause)
    steps(keeper)
    assert sum(path.startswith("/renewal/") for path in authority.asked) == 1
    again = (moment(keeper.said.asked) - dt.datetime.now(dt.UTC)).total_seconds()
    assert 50 < again <= 86400


def endless(answer: Answer) -> None:
    answer.send_response(200)
    answer.send_header("Content-Type", "application/json")
    answer.end_headers()
    answer.close_connection = True
    while True:
        answer.wfile.write(b" " * 65536)


def test_an_answer_without_end_fills_no_memory(authority: StrangeAuthority, keeper: Renewer) -> None:
    authority.twists["/dir"] = endless
    keeper.step()
    assert keeper.said.message == f"OSError: its answer has more than {LONGEST_ANSWER} bytes"


def dripping(answer: Answer) -> None:
    answer.send_response(200)
    answer.send_header("Content-Length", "1000000")
    answer.end_headers()
    answer.close_connection = True
    while True:
        answer.wfile.write(b" ")
        time.sleep(0.01)


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(
    authority: StrangeAuthority, keeper: Renewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "WHOLE_PATIENCE", 1)
    authority.twists["/dir"] = dripping
    steps(keeper)
    assert keeper.said.message == "it did not answer within 1 s"
    assert authority.asked.count("/dir") == 1


def test_who_waits_for_an_answer_leaves_the_timer_of_another_as_it_was() -> None:
    former = signal.setitimer(signal.ITIMER_REAL, 100, 7)
    try:
        with within(50):
            assert 49 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 99 < left <= 100
        assert interval == 7
    finally:
        signal.setitimer(signal.ITIMER_REAL, *former)


def test_a_disk_that_is_full_when_the_certificate_comes_does_not_lose_it(
    authority: StrangeAuthority, keeper: Renewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room was there before it was asked for; what else is to be kept waits until there is some."""
    replace, full = unfollowed.replace, list[bool]()

    def given(answer: Answer) -> None:
        full.append(True)
        answer.give(authority.issued())

    def kept(*arguments: Any, **options: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        replace(*arguments, **options)

    monkeypatch.setattr(unfollowed, "replace", kept)
    authority.twists["/certificate"] = given
    steps(keeper)
    assert authority.asked.count("/certificate") == 1
    monkeypatch.undo()
    keeper.step()
    assert keeper.said.issuer == authority.url
    assert keeper.store.told().endswith(keeper.store._digest())
