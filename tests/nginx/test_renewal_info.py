"""When an authority wants a certificate renewed (RFC 9773): a pebble that says so, and the real nginx."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from acme import client, errors, messages
from cryptography import x509
from josepy.jwa import ES256

from cluster.acme import network
from cluster.acme.account import account_of
from cluster.acme.kept import Store, moment, new_key
from cluster.acme.orders import Authority, _id_of
from cluster.acme.renewer import ASK_AGAIN, Renewer
from cluster.tls.authority import signed
from tests.nginx.running import ACCOUNT, AUTHORITY, Running
from tests.nginx.test_acme import by_acme, wanted
from tests.pebble import Pebble, needs_later_pebble, needs_pebble

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nginx_versions import Nginx

pytestmark = [needs_pebble, needs_later_pebble]

#: The lifetime of pebble's certificates here, and what it says to all who ask when to renew: ask again in six hours.
DAYS, ASKED_EACH = 90, dt.timedelta(hours=6)

#: What it writes where an order takes a certificate's place, before it gives one and then.
TOLD, DONE = "is a replacement of", "has been marked as replaced"


@dataclass
class Bench:
    """A renewer with a clock of its own, an authority that says when to renew, and an nginx that answers for both."""

    directory: Path
    running: Running
    pebble: Pebble
    ahead: dt.timedelta = dt.timedelta()
    lines: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.directory / "acme")

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead

    def renewer(self) -> Renewer:
        told = wanted(self.running, self.pebble, self.directory / "account")
        return Renewer(told, self.store, self.lines.append, self.now)

    def after(self, keeper: Renewer, **time: float) -> None:
        """Let time go by, and look twice: what is due, and what there is to be asked then."""
        self.ahead += dt.timedelta(**time)
        keeper.step()
        keeper.step()

    def suggest(self, *days: float) -> None:
        """Let it say that the certificate that is there is to be renewed between so many days from now."""
        start, end = ((self.now() + dt.timedelta(days=one)).isoformat() for one in days)
        window = {"suggestedWindow": {"start": start, "end": end}, "explanationURL": "https://authority.test/why"}
        self.pebble.suggest(self.store.chain(), json.dumps(window))

    def replaced(self) -> tuple[int, int]:
        """Return how many orders took a certificate's place, by the authority, as they began and as they ended."""
        said = self.pebble.said()
        return said.count(TOLD), said.count(DONE)


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, by_acme()) as found:
        yield found


@pytest.fixture
def bench(running: Running, tmp_path: Path) -> Iterator[Bench]:
    with contextlib.closing(Pebble(running.port, seconds=DAYS * 86400, later=True)) as pebble:
        yield Bench(tmp_path, running, pebble)


def test_it_is_asked_as_often_as_it_wants_and_renewed_when_it_says(bench: Bench) -> None:
    keeper = bench.renewer()
    bench.after(keeper)
    assert (bench.pebble.issued(), bench.pebble.questions()) == (1, 1), bench.lines
    own, day = keeper.store.issued(), dt.timedelta(days=1)
    assert own is not None
    assert abs(moment(keeper.said.renewal) - own.renewal("")) <= day, "as it says by itself: a day around that"
    bench.suggest(10, 10.5)
    bench.after(keeper, hours=5.9)
    assert bench.pebble.questions() == 1, "it wants to be left alone for six hours"
    bench.after(keeper, hours=0.2)
    assert bench.pebble.questions() == 2
    while bench.pebble.issued() == 1:
        bench.after(keeper, hours=2)
        assert bench.ahead < dt.timedelta(days=30)
    print(f"renewed after {bench.ahead}, and it was asked {bench.pebble.questions() - 1} times until then")
    assert dt.timedelta(days=10) <= bench.ahead <= dt.timedelta(days=11.25)
    assert bench.pebble.questions() <= 2 + bench.ahead / ASKED_EACH
    assert any("(its authority wants it renewed)" in line for line in bench.lines)
    assert bench.replaced() == (1, 1)


def test_one_that_it_took_back_is_renewed_at_the_next_question(bench: Bench) -> None:
    keeper = bench.renewer()
    bench.after(keeper)
    bench.after(keeper, days=2)
    assert bench.pebble.issued() == 1
    asking = network.Network(account_of(ACCOUNT), alg=ES256, verify_ssl=str(bench.pebble.ca))
    asked = client.ClientV2(client.ClientV2.get_directory(bench.pebble.url, asking), asking)
    with pytest.raises(errors.ConflictError) as known:
        asked.new_account(messages.NewRegistration(only_return_existing=True))
    asking.account = messages.RegistrationResource(uri=known.value.location, body=messages.Registration())
    asked.revoke(x509.load_pem_x509_certificate(bench.store.chain().encode()), 0)
    bench.after(keeper, hours=6.1)
    assert bench.pebble.issued() == 2
    assert bench.replaced() == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[]", id="no window"),
        pytest.param('{"suggestedWindow": {"start": "soon", "end": 5}}', id="no times"),
        pytest.param("x" * (2 << 20), id="2 MB"),
    ],
)
def test_whatever_it_says_it_is_renewed_at_a_third_of_the_lifetime(bench: Bench, answer: str) -> None:
    keeper = bench.renewer()
    bench.after(keeper)
    bench.pebble.suggest(bench.store.chain(), answer)
    bench.after(keeper, hours=6.1)
    assert any("does not say when to renew" in line for line in bench.lines)
    assert not keeper.said.message, "by itself that is no fault"
    keeper.said.renewal = ""  # what it said first, a day around that time
    bench.after(keeper, days=59)
    assert bench.pebble.issued() == 1
    bench.after(keeper, days=1)
    assert bench.pebble.issued() == 2
    assert any("(ends on " in line for line in bench.lines)


def test_what_it_said_before_it_could_no_more_holds(bench: Bench) -> None:
    keeper = bench.renewer()
    bench.after(keeper)
    bench.suggest(10, 11)
    bench.after(keeper, hours=6.1)
    suggested = keeper.said.renewal
    bench.pebble.suggest(bench.store.chain(), "{")
    bench.after(keeper, hours=6.1)
    assert keeper.said.renewal == suggested
    assert moment(keeper.said.asked) - bench.now() <= dt.timedelta(seconds=ASK_AGAIN)
    bench.after(keeper, days=11)
    assert bench.pebble.issued() == 2


def test_an_order_that_it_takes_for_nobodys_place_is_made_as_any_other(bench: Bench) -> None:
    """One that was cut off took it already, or the authority knows nothing of it."""
    bench.after(bench.renewer())
    former, told = bench.store.chain(), wanted(bench.running, bench.pebble, bench.directory / "account")
    unknown = "".join(signed(AUTHORITY, list(told.names), bench.now()))
    assert _id_of(unknown)
    for count, chain in enumerate((former, former, unknown), 2):
        assert Authority(told, ACCOUNT).order(told.names, new_key(), chain)
        assert bench.pebble.issued() == count
    assert bench.replaced() == (1, 1)


def test_without_the_field_no_place_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "Replacement", lambda **fields: messages.NewOrder(identifiers=fields["identifiers"]))
    keeper = bench.renewer()
    bench.after(keeper)
    bench.after(keeper, days=61)
    assert bench.pebble.issued() == 2
    assert bench.replaced() == (0, 0)
