"""What keeps a certificate by ACME: its directory, and when it asks an authority for what."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import json
import os
import shutil
import signal
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cluster.acme import orders, renewer
from cluster.acme.account import thumbprint_of
from cluster.acme.kept import Said, Store, moment, new_key, stamp
from cluster.acme.renewer import FIRST_PAUSE, LONGEST_PAUSE, OTHERS_UNANSWERED, UNANSWERED, Renewer
from cluster.acme.status import await_first, standing
from cluster.acme.wanted import Wanted, read_wanted
from cluster.config import StackFileError, parse_config
from cluster.tls.renewing import wanted as wanted_of
from cluster_runtime import unfollowed
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("www.example.org", "example.org")
DIRECTORY = "https://acme.example/dir"
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ACCOUNT = new_key()
THUMBPRINT = thumbprint_of(ACCOUNT)


def certificate_to(key: str, names: tuple[str, ...], begins: dt.datetime) -> str:
    """Return a certificate of 90 days to a key, PEM."""
    loaded: Any = serialization.load_pem_private_key(key.encode(), None)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")]))
        .public_key(loaded.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + dt.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=True)
        .sign(loaded, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Bench:
    """A renewer with a clock of its own, an authority that gives what it is told to, and an nginx that may answer."""

    directory: Path
    wanted: Wanted
    now: dt.datetime = NOW
    answers: bool = True
    silent: set[tuple[str, int]] = field(default_factory=set)
    refuses: str = ""
    wait: float = 0
    suggested: dt.datetime | None = None
    orders: list[tuple[str, ...]] = field(default_factory=list)
    formers: list[str] = field(default_factory=list)
    questions: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.directory / "acme")

    def renewer(self) -> Renewer:
        """Return one that was just started."""
        return Renewer(self.wanted, self.store, self.lines.append, lambda: self.now)

    def wait_until(self, renewer: Renewer, count: int) -> dt.timedelta:
        """Look every other hour; return after which time there were so many orders."""
        began = self.now
        while len(self.orders) < count:
            self.now += dt.timedelta(hours=2)
            renewer.step()
            assert self.now < began + dt.timedelta(days=400)
        return self.now - began


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "account").write_text(ACCOUNT)
    found = Bench(tmp_path, Wanted(directory=DIRECTORY, names=NAMES, account=str(tmp_path / "account")))

    class Authority:
        def __init__(self, wanted: Wanted, account: str) -> None:
            assert (wanted, account) == (found.wanted, ACCOUNT)

        def order(self, names: tuple[str, ...], key: str, former: str = "") -> str:
            found.orders.append(names)
            found.formers.append(former)
            if found.refuses:
                raise orders.OrderError(found.refuses, found.wait)
            return certificate_to(key, names, found.now)

        def renewal(self, chain: str) -> tuple[dt.datetime | None, dt.timedelta]:
            assert chain == found.store.chain()
            found.questions += 1
            return found.suggested, dt.timedelta(hours=6)

    def asked(wanted: Wanted, name: str, token: str) -> str:
        assert name in found.wanted.names
        return f"{token}.{THUMBPRINT}" if found.answers and wanted.asked not in found.silent else ""

    monkeypatch.setattr(orders, "Authority", Authority)
    monkeypatch.setattr(renewer, "_asked", asked)
    return found


def test_the_first_certificate_takes_the_place_of_a_placeholder(bench: Bench) -> None:
    bench.answers = False
    keeper = bench.renewer()
    keeper.step()
    placeholder = bench.store.issued()
    assert placeholder is not None
    assert (placeholder.names, placeholder.directory) == (NAMES, "")
    first = bench.store.told()
    assert standing(bench.store.said(), first, NOW).state == "placeholder"
    bench.answers = True
    keeper.step()
    issued = bench.store.issued()
    assert issued is not None
    assert (issued.names, issued.directory, issued.begins) == (NAMES, DIRECTORY, NOW)
    assert bench.store.told() != first
    now = standing(bench.store.said(), bench.store.told(), NOW)
    assert (now.state, now.ok, now.message) == ("valid", True, "until 2026-05-30, renewed from 2026-04-30 on")
    assert not standing(bench.store.said(), first, NOW).ok, "nginx has read the placeholder"


def test_it_is_renewed_when_a_third_of_its_time_is_left_and_the_former_one_is_kept(bench: Bench) -> None:
    keeper = bench.renewer()
    keeper.step()
    took = bench.wait_until(keeper, 2)
    assert abs(took - dt.timedelta(days=60)) <= dt.timedelta(hours=2)
    bench.wait_until(keeper, 3)
    assert len(list((bench.directory / "acme" / "certificates").iterdir())) == 2
    assert len({path.read_bytes() for path in bench.directory.glob("acme/certificates/*/privkey.pem")}) == 2


def test_the_authority_may_want_it_earlier_and_not_later(bench: Bench) -> None:
    keeper = bench.renewer()
    keeper.step()
    bench.suggested = NOW + dt.timedelta(days=10)
    took = bench.wait_until(keeper, 2)
    assert abs(took - dt.timedelta(days=10)) <= dt.timedelta(hours=8)
    bench.suggested = bench.now + dt.timedelta(days=89)
    took = bench.wait_until(keeper, 3)
    assert abs(took - dt.timedelta(days=60)) <= dt.timedelta(hours=2)
    assert bench.questions > 3 * 10


def test_an_authority_that_does_not_say_when_is_no_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_arguments: object) -> None:
        raise orders.OrderError("away")

    monkeypatch.setattr(orders.Authority, "renewal", away)
    keeper = bench.renewer()
    for _ in range(10):
        keeper.step()
    assert standing(bench.store.said(), None, NOW).ok
    assert sum("does not say when" in line for line in bench.lines) == 1


def test_other_names_and_another_authority_are_asked_for_at_once(bench: Bench) -> None:
    bench.renewer().step()
    bench.wanted = replace(bench.wanted, names=("example.org", "www.example.org"))
    bench.renewer().step()
    assert len(bench.orders) == 1, "the same ones, however they are ordered"
    bench.wanted = replace(bench.wanted, names=(*NAMES, "shop.example.org"))
    bench.renewer().step()
    assert bench.orders[1:] == [bench.wanted.names]
    bench.wanted = replace(bench.wanted, directory="https://other.example/dir")
    bench.renewer().step()
    assert len(bench.orders) == 3


def test_an_order_names_the_certificate_whose_place_it_takes_each_other_time(bench: Bench) -> None:
    keeper = bench.renewer()
    keeper.step()
    first = bench.store.chain()
    bench.refuses = "it fails"
    bench.wait_until(keeper, 5)
    assert bench.formers == ["", first, "", first, ""]
    bench.refuses = ""
    bench.wait_until(keeper, 6)
    held, bench.wanted = bench.store.chain(), replace(bench.wanted, names=(NAMES[0], "shop.example.org"))
    bench.renewer().step()
    assert bench.formers[5:] == [first, held], "it has one of the names"
    bench.wanted = replace(bench.wanted, names=("other.example.org",))
    bench.renewer().step()
    bench.wanted = replace(bench.wanted, directory="https://other.example/dir")
    bench.renewer().step()
    assert bench.formers[7:] == ["", ""], "nothing of this authority's, of these names"


def test_failures_are_tried_again_after_longer_and_longer_pauses_a_restart_included(bench: Bench) -> None:
    bench.refuses = "www.example.org: connection refused"
    keeper = bench.renewer()
    keeper.step()
    pauses = []
    for count in range(2, 16):
        again = moment(bench.store.said().again)
        pauses.append((again - bench.now).total_seconds())
        bench.now = again - dt.timedelta(seconds=1)
        bench.renewer().step()
        assert len(bench.orders) == count - 1
        bench.now = again
        bench.renewer().step()
        assert len(bench.orders) == count
    assert all(pause >= 0.9 * FIRST_PAUSE * 2**number - 1 for number, pause in enumerate(pauses[:9]))
    assert all(0.9 * LONGEST_PAUSE - 1 <= pause <= 1.1 * LONGEST_PAUSE for pause in pauses[-3:])
    now = standing(bench.store.said(), None, bench.now)
    assert not now.ok
    assert now.message.startswith("www.example.org: connection refused (15 times; again at 2026-")
    bench.refuses = ""
    bench.wait_until(bench.renewer(), 16)
    assert bench.store.said().failures == 0
    assert standing(bench.store.said(), None, bench.now).ok


def test_a_disk_that_is_full_costs_no_certificate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = bench.renewer()
    bench.answers = False
    keeper.step()
    bench.answers = True

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, "say", full)
    for _ in range(3):
        keeper.step()
    assert not bench.orders, "what can't be kept is not asked for"
    assert any("No space left on device" in line for line in bench.lines)


def test_whoever_is_killed_while_he_asks_does_not_ask_again_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object) -> None:
        bench.orders.append(())
        raise KeyboardInterrupt

    monkeypatch.setattr(orders.Authority, "order", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.renewer().step()
    bench.renewer().step()
    assert len(bench.orders) == 1
    bench.now += dt.timedelta(seconds=FIRST_PAUSE)
    with pytest.raises(KeyboardInterrupt):
        bench.renewer().step()


@pytest.mark.parametrize("error", [KeyError("newOrder"), AttributeError("x"), OSError(2, "no such file", "ca.pem")])
def test_whatever_an_authority_says_is_no_end_of_the_renewer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def strange(*_arguments: object) -> None:
        bench.orders.append(())
        raise error

    monkeypatch.setattr(orders.Authority, "order", strange)
    keeper = bench.renewer()
    for _ in range(3):
        keeper.step()
    assert len(bench.orders) == 1
    assert type(error).__name__ in bench.store.said().message


def test_whoever_is_killed_each_time_asks_after_longer_and_longer_pauses_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object) -> None:
        bench.orders.append(())
        raise KeyboardInterrupt

    monkeypatch.setattr(orders.Authority, "order", killed)
    began = bench.now
    while bench.now < began + dt.timedelta(days=1):
        with contextlib.suppress(KeyboardInterrupt):
            bench.renewer().step()
        bench.now += dt.timedelta(seconds=30)
    assert len(bench.orders) == 11, "after 1, 2, 4 … 512 minutes, and so once more within a day"


def test_years_of_failures_are_no_end(bench: Bench) -> None:
    bench.refuses = "away"
    keeper = bench.renewer()
    keeper.step()
    keeper.said.failures = keeper.said.tries = 10_000
    bench.now += dt.timedelta(days=1)
    keeper.step()
    assert len(bench.orders) == 2
    assert moment(keeper.said.again) - bench.now <= dt.timedelta(seconds=1.1 * LONGEST_PAUSE)


def test_a_clock_that_was_far_ahead_and_was_set_back_delays_nothing(bench: Bench) -> None:
    bench.refuses, bench.now = "the clock is wrong", NOW + dt.timedelta(days=4000)
    bench.renewer().step()
    bench.refuses, bench.now = "", NOW
    bench.renewer().step()
    assert len(bench.orders) == 2
    bench.now = NOW + dt.timedelta(days=4000)
    bench.renewer()._ask(bench.wanted, ACCOUNT)
    bench.now = NOW
    bench.renewer()._ask(bench.wanted, ACCOUNT)
    assert bench.questions == 2


def test_the_one_in_use_is_kept_though_the_clock_was_set_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of those that are kept are times."""
    keeper = bench.renewer()
    keeper.step()
    certificates = bench.directory / "acme" / "certificates"
    for number, place in enumerate(sorted(certificates.iterdir())):
        later = place.rename(certificates / f"2099010{number}T000000000000")
        bench.store.live.unlink()
        bench.store.live.symlink_to(f"certificates/{later.name}")
    bench.wait_until(keeper, 2)
    assert (bench.store.live / "fullchain.pem").exists()
    assert len(list(certificates.iterdir())) == 2
    keeper.step()
    assert len(bench.orders) == 2


def test_of_several_former_ones_the_authoritys_is_taken_that_ends_last(bench: Bench) -> None:
    keeper = bench.renewer()
    keeper.step()
    held = bench.store.chain()
    certificates = bench.directory / "acme" / "certificates"
    for place in list(certificates.iterdir()):
        name = "2000" if (place / "fullchain.pem").read_text() == held else "3000"
        place.rename(certificates / name)
    bench.store.live.unlink()
    bench.store.prepare(NAMES, THUMBPRINT)
    assert bench.store.chain() == held


def test_a_directory_that_can_t_be_written_is_told_once_and_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = bench.renewer()
    bench.refuses = "away"
    keeper.step()
    lines = len(bench.lines)
    bench.now += dt.timedelta(days=1)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unfollowed, "replace", full)
    for hurt in ("acme.map", "live"):
        (bench.directory / "acme" / hurt).unlink()
        for _ in range(5):
            keeper.step()
    assert len(bench.orders) == 1
    assert 1 <= len(bench.lines) - lines <= 3, bench.lines[lines:]
    monkeypatch.undo()


def test_an_authority_that_is_asked_when_to_renew_is_not_asked_again_for_what_can_t_be_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = bench.renewer()
    keeper.step()

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, "say", full)
    for _ in range(5):
        keeper.step()
    assert bench.questions == 1


def test_an_authority_that_wants_to_be_left_alone_is(bench: Bench) -> None:
    bench.refuses, bench.wait = "rateLimited: too many certificates", 3 * 86400
    bench.renewer().step()
    assert bench.wait_until(bench.renewer(), 2) >= dt.timedelta(days=3)


def test_what_is_wanted_anew_is_not_kept_waiting_by_what_failed_before(bench: Bench) -> None:
    bench.refuses, bench.wait = "no", 3 * 86400
    bench.renewer().step()
    bench.renewer().step()
    assert len(bench.orders) == 1
    bench.refuses, bench.wanted = "", replace(bench.wanted, names=("example.org",))
    bench.renewer().step()
    assert len(bench.orders) == 2
    issued = bench.store.issued()
    assert issued is not None
    assert issued.names == ("example.org",)


def test_nothing_is_asked_while_nginx_does_not_answer_and_that_is_told(bench: Bench) -> None:
    """The authority counts what fails: five in an hour, and it gives none for a while."""
    bench.answers = False
    keeper = bench.renewer()
    for _ in range(3 * UNANSWERED):
        keeper.step()
    assert not bench.orders
    assert sum("does not answer in the authority's place" in line for line in bench.lines) == 1
    assert "does not answer" in standing(bench.store.said(), None, NOW).message
    bench.answers = True
    keeper.step()
    assert standing(bench.store.said(), None, NOW).ok


def test_the_stack_s_other_nginx_are_waited_for_and_not_without_end(bench: Bench) -> None:
    """The authority may ask any of them, and they get their configuration at the same time."""
    other = ("10.0.0.12", 80)
    bench.wanted = replace(bench.wanted, others=(other,))
    bench.silent = {other}
    keeper = bench.renewer()
    for _ in range(OTHERS_UNANSWERED):
        keeper.step()
    assert not bench.orders
    keeper.step()
    assert len(bench.orders) == 1, "one that is gone for good keeps no certificate away"


def test_another_nginx_that_answers_is_not_waited_for_and_at_a_renewal_none_is(bench: Bench) -> None:
    other = ("10.0.0.12", 80)
    bench.wanted = replace(bench.wanted, others=(other,))
    keeper = bench.renewer()
    keeper.step()
    assert len(bench.orders) == 1
    bench.silent = {other}
    bench.now += dt.timedelta(days=61)
    keeper.step()
    assert len(bench.orders) == 2


def test_a_renewal_that_fails_is_told_long_before_the_end_and_what_is_there_serves_on(bench: Bench) -> None:
    keeper = bench.renewer()
    keeper.step()
    told = bench.store.told()
    bench.refuses = "away"
    bench.wait_until(keeper, 3)
    now = standing(bench.store.said(), told, bench.now)
    assert (now.state, now.ok) == ("valid", True)
    assert "away (2 times; again at" in now.message
    bench.now = NOW + dt.timedelta(days=68)
    late = standing(bench.store.said(), told, bench.now)
    assert (late.state, late.ok) == ("late", False)
    assert late.message.startswith("until 2026-05-30, and not renewed; away (")
    assert standing(bench.store.said(), told, NOW + dt.timedelta(days=91)).state == "ended"
    assert bench.store.told() == told


@pytest.mark.parametrize("fails", [False, True])
def test_up_waits_for_a_certificate_that_ended_while_the_stack_was_down(bench: Bench, fails: bool) -> None:
    began = dt.datetime.now(dt.UTC) - dt.timedelta(days=100)
    bench.now = began
    keeper = bench.renewer()
    keeper.step()
    bench.now, bench.refuses = dt.datetime.now(dt.UTC), "away" if fails else ""
    looks, said = [], list[str]()

    def look() -> tuple[Said, str | None]:
        looks.append(standing(bench.store.said(), bench.store.told(), bench.now).state)
        if len(looks) == 2:
            keeper.step()
        return bench.store.said(), bench.store.told()

    await_first(look, said.append)
    assert looks[0] == "ended"
    assert said[0] == "waiting for the certificate"
    assert said[1].startswith("the certificate: ended, on 20" if fails else "the certificate: valid, until ")
    assert ("away (1 times" in said[1]) == fails


@pytest.mark.parametrize("fails", [False, True])
def test_up_waits_for_a_certificate_of_the_names_that_are_wanted_now(bench: Bench, fails: bool) -> None:
    """The former one is valid, and does not cover them: by it a name more would have been there already."""
    bench.now = dt.datetime.now(dt.UTC)
    bench.renewer().step()
    bench.wanted = replace(bench.wanted, names=("a.test", "b.test"))
    bench.refuses = "away" if fails else ""
    keeper, looks, said = bench.renewer(), [0], list[str]()

    def look() -> tuple[Said, str | None]:
        looks[0] += 1
        if looks[0] == 2:
            keeper.step()
        return bench.store.said(), bench.store.told()

    await_first(look, said.append, ("b.test", "a.test"))
    assert looks[0] == 2
    assert said[0] == "waiting for the certificate"
    assert ("away (1 times" in said[1]) == fails
    if not fails:
        assert set(bench.store.said().names.split()) == {"a.test", "b.test"}


def test_an_account_that_can_t_be_read_is_told_once(bench: Bench) -> None:
    (bench.directory / "account").write_text("none")
    keeper = bench.renewer()
    for _ in range(5):
        keeper.step()
    assert len(bench.lines) == 1
    assert "account: the account's key can't be read" in bench.lines[0]
    assert "none" not in bench.lines[0].replace(str(bench.directory), "")


def test_certificates_of_a_week_are_counted(bench: Bench) -> None:
    for number in range(3):
        bench.wanted = replace(bench.wanted, directory=f"{DIRECTORY}{number}")
        bench.renewer().step()
        bench.now += dt.timedelta(days=3)
    assert len(bench.store.said().issued) == 3
    bench.now += dt.timedelta(days=3)
    bench.wanted = replace(bench.wanted, directory=DIRECTORY)
    bench.renewer().step()
    assert [moment(when) for when, _names in bench.store.said().issued] == [
        NOW + dt.timedelta(days=days) for days in (6, 12)
    ]


@pytest.mark.parametrize("hurt", ["live", "live/privkey.pem", "live/fullchain.pem", "acme.map", "certificates"])
def test_what_was_hurt_is_put_back_and_nginx_always_finds_a_certificate_with_its_key(bench: Bench, hurt: str) -> None:
    keeper = bench.renewer()
    keeper.step()
    bench.wait_until(keeper, 2)
    path = bench.directory / "acme" / hurt
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
    bench.store.prepare(NAMES, THUMBPRINT)
    live = bench.store.live
    key = serialization.load_pem_private_key((live / "privkey.pem").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((live / "fullchain.pem").read_bytes())
    assert certificate.public_key() == key.public_key()
    assert bench.store.told().startswith(f"{THUMBPRINT} ")
    keeper.step()
    assert standing(bench.store.said(), bench.store.told(), bench.now).ok


def test_a_key_of_another_certificate_is_hurt_too(bench: Bench) -> None:
    bench.renewer().step()
    (bench.store.live / "privkey.pem").write_text(new_key())
    bench.store.prepare(NAMES, THUMBPRINT)
    issued = bench.store.issued()
    assert issued is not None
    assert issued.directory == ""
    bench.renewer().step()
    assert len(bench.orders) == 2


def test_whoever_is_killed_while_he_writes_leaves_a_certificate_with_its_key(bench: Bench) -> None:
    """40 times, each at another moment: `live` never leads to one without the other, nor to another's."""
    store = bench.store
    bench.renewer().step()
    keys = [new_key() for _ in range(2)]
    chains = [certificate_to(key, NAMES, NOW) for key in keys]
    pairs, random = (
        {(bench.store.chain(), (store.live / "privkey.pem").read_text()), *zip(chains, keys, strict=True)},
        Random(7),
    )
    for _ in range(40):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                while True:
                    for key, chain in zip(keys, chains, strict=True):
                        store.begin(key, DIRECTORY, NAMES)
                        store.put(chain, THUMBPRINT)
            os._exit(1)
        for _look in range(random.randrange(200)):
            place = store.live.resolve()
            with contextlib.suppress(FileNotFoundError):  # two later ones are there by now
                assert ((place / "fullchain.pem").read_text(), (place / "privkey.pem").read_text()) in pairs
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert (store.chain(), (store.live / "privkey.pem").read_text()) in pairs
        store.prepare(NAMES, THUMBPRINT)
        assert store.told() == f"{THUMBPRINT} {hashlib.sha256(store.chain().encode()).hexdigest()[:16]}"


def test_nobody_else_reads_the_keys(bench: Bench) -> None:
    bench.renewer().step()
    found = list((bench.directory / "acme").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in found if path.suffix == ".pem"} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir() and not path.is_symlink()} == {0o700}
    assert "PRIVATE" not in (bench.directory / "acme" / "renewal.json").read_text()


@pytest.mark.parametrize(
    "found", [None, [], {"at": 1, "failures": "x", "issued": [1, ["a"], ["a", "b"]]}, {"other": "x"}, "text"]
)
def test_what_somebody_else_wrote_says_nothing(found: object) -> None:
    said = Said.of(json.loads(json.dumps(found)))
    assert (said.at, said.failures) == ("", 0)
    assert said.issued in ([], [("a", "b")])
    assert moment("nonsense") < NOW
    assert moment(stamp(NOW)) == NOW


def test_what_is_wanted_comes_from_the_stack_file() -> None:
    acme = {"email": "ops@example.org", "directory": DIRECTORY, "directory_ca": "ca.pem"}
    site = {
        "server_names": ["www.example.org"],
        "redirects": {"Example.org": "www.example.org"},
        "tls": {"acme": acme},
    }
    config = parse_config(stack_values(site=site))
    found = wanted_of(config, account="/a", trusted="/ca", asked=("nginx", 8080))
    assert found == Wanted(
        directory=DIRECTORY,
        names=NAMES,
        account="/a",
        email="ops@example.org",
        trusted="/ca",
        asked=("nginx", 8080),
    )
    assert found is not None
    assert read_wanted(found.text) == found
    assert "others" not in found.text, "an nginx that is alone is told what it was always told"
    several = replace(found, others=(("10.0.0.12", 80),))
    assert read_wanted(several.text) == several
    assert wanted_of(parse_config(stack_values()), account="/a", trusted="", asked=("nginx", 8080)) is None


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ({"server_names": [".example.org"]}, "site.server_names[0]: is a wildcard, which authorities give by DNS-01"),
        ({"server_names": ["a.example", "_"]}, "site.server_names[1]: is any name"),
        ({"server_names": ["192.0.2.1"]}, "site.server_names[0]: is an address"),
        (
            {"server_names": ["a.example"], "locations": [{"path": "/.well-known/acme-challenge/", "limit": "1r/s"}]},
            "site.locations[0].path: is the authority's",
        ),
        ({"tls": {"acme": {"directory": "http://acme.example/dir"}}}, "site.tls.acme.directory: "),
        ({"tls": {"acme": {"email": "nobody"}}}, "site.tls.acme.email: "),
    ],
)
def test_what_no_authority_gives_is_refused_with_the_reason(site: dict[str, Any], message: str) -> None:
    with pytest.raises(StackFileError) as caught:
        parse_config(stack_values(site={"server_names": ["a.example"], "tls": {"acme": {}}, **site}))
    assert message in str(caught.value)
