"""Keeps one certificate: orders it, and renews it in time."""

from __future__ import annotations

import datetime as dt
import http.client
import random
import secrets
import socket
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.acme import CHALLENGES
from cluster.acme.account import thumbprint_of
from cluster.acme.kept import WEEK, moment, new_key, stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.acme.kept import Issued, Said, Store
    from cluster.acme.wanted import Wanted

#: Seconds until it is tried again, after the first failure; twice as many after each further one, up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 12 * 3600.0

#: How often a pause is doubled at most: the longest one is reached by then.
DOUBLED = 10

#: By how much a clock goes back without anybody having set it back.
SET_BACK = dt.timedelta(minutes=1)

#: Seconds between two looks, and those that nginx has to answer one.
LOOK, PATIENCE = 1.0, 2.0

#: Looks that nginx may not answer until that is told: it has just been started.
UNANSWERED = 30

#: Looks that the stack's other nginx may not answer until the authority is asked all the same: one may be gone.
#: They get their configuration at the same time. Once a certificate is only to be renewed, none of them is waited for.
OTHERS_UNANSWERED = 15

#: Seconds after which the authority is asked about a renewal again where it could not be.
ASK_AGAIN = 6 * 3600.0


class Renewer:
    """Keeps the certificate in `store` as it is wanted; `say` takes what it does, a line each.

    now: tells the time.
    """

    def __init__(
        self, wanted: Wanted, store: Store, say: Callable[[str], None], now: Callable[[], dt.datetime] | None = None
    ) -> None:
        self.wanted = wanted
        self.store = store
        self.tell = say
        self.now = now or (lambda: dt.datetime.now(dt.UTC))
        self.said: Said = store.said()
        self.unanswered = self.others_unanswered = 0
        self.told: set[str] = set()

    def step(self) -> None:
        """Look at what is there, and do what is due. Whatever fails is told, once."""
        try:
            self._look()
        except Exception as error:  # noqa: BLE001 - an end would be a restart, and the authority asked again at once
            self._fail(f"{type(error).__name__}: {error}", counted=False)

    def _look(self) -> None:
        wanted = self.wanted
        self.store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            account = _text(wanted.account)
            thumbprint = thumbprint_of(account)
        except (OSError, ValueError) as error:
            self._fail(f"{wanted.account}: the account's key can't be read: {error}", counted=False)
            return
        about = wanted.digest(thumbprint, wanted.binding())
        self.store.prepare(wanted.names, thumbprint)
        if self.said.wanted != about:  # this was not tried yet
            self.said.wanted, self.said.failures, self.said.tries, self.said.again = about, 0, 0, ""
        issued = self.store.issued()
        self._tell_of(issued)
        why = self._due(issued, wanted)
        if why is None:
            self._be_well()
            self._ask(wanted, account)
        elif self._waits(self.said.again):
            return
        elif not self._answered(wanted, thumbprint):
            self.unanswered += 1
            if self.unanswered >= UNANSWERED:
                host, port = wanted.asked
                self._fail(f"nginx ({host}:{port}) does not answer in the authority's place yet", counted=False)
        elif self._waits_for_others(wanted, thumbprint, issued):
            self.others_unanswered += 1
        else:
            self.unanswered = self.others_unanswered = 0
            self._order(wanted, account, thumbprint, why, self._former(issued, wanted))

    def _former(self, issued: Issued | None, wanted: Wanted) -> str:
        """Return the certificate whose place the next one takes for its authority, PEM; empty for none.

        Every other try does without: an authority that fails by that is no reason to have none.
        """
        told = issued is not None and issued.directory == wanted.directory and bool({*issued.names} & {*wanted.names})
        return self.store.chain() if told and self.said.tries % 2 == 0 else ""

    def _waits_for_others(self, wanted: Wanted, thumbprint: str, issued: Issued | None) -> bool:
        """Tell whether other nginx of the stack are to be waited for, which do not answer by these names yet."""
        is_renewal = issued is not None and issued.directory and set(issued.names) == set(wanted.names)
        if is_renewal or self.others_unanswered >= OTHERS_UNANSWERED:
            return False
        return not all(self._answered(replace(wanted, asked=other), thumbprint) for other in wanted.others)

    def _due(self, issued: Issued | None, wanted: Wanted) -> str | None:
        """Return why a certificate is to be had now; None where one is there."""
        if issued is None or not issued.directory:
            return "the first one"
        if set(issued.names) != set(wanted.names):
            return "other names"
        if issued.directory != wanted.directory:
            return "another authority"
        if self.now() < issued.renewal(self.said.renewal) or self._is_new(issued):
            return None
        return (
            f"ends on {issued.ends:%Y-%m-%d}" if self.now() >= issued.renewal("") else "its authority wants it renewed"
        )

    def _is_new(self, issued: Issued) -> bool:
        """Tell whether it was given just now: an authority that always wants another one at once gets no flood."""
        given = moment(self.said.issued[-1][0]) if self.said.issued else moment("")
        return given <= self.now() < given + issued.least

    def _waits(self, until: str) -> bool:
        """Tell whether that moment is to be waited for. Said of a clock that was set back since, it is of no worth."""
        now = self.now()
        return bool(until) and moment(self.said.at) - SET_BACK <= now < moment(until)

    def _order(self, wanted: Wanted, account: str, thumbprint: str, why: str, former: str) -> None:
        from cluster.acme.checked import UnusableError, checked  # noqa: PLC0415 - takes its time
        from cluster.acme.orders import Authority, OrderError  # noqa: PLC0415 - the protocol's client does, too

        self.told.clear()
        self.tell(f"asking {wanted.directory} for a certificate ({why}) for {', '.join(wanted.names)}")
        try:
            # Kept first: whoever is killed meanwhile, and started again, is not to ask again at once. And where nothing
            # can be kept, on a full disk, nothing is asked for.
            self.said.tries += 1
            self.said.again = stamp(self.now() + dt.timedelta(seconds=self._pause()))
            self._keep()
            key = new_key()
            self.store.begin(key, wanted.directory, wanted.names)
            chain = Authority(wanted, account).order(wanted.names, key, former)
            since = self.now() - WEEK
            self.said.issued = [one for one in self.said.issued if moment(one[0]) > since]
            self.said.issued.append((stamp(self.now()), " ".join(sorted(wanted.names))))
            self.store.put(checked(chain, key, wanted.names, self.now()), thumbprint)
        except OrderError as error:
            self._fail(str(error), wait=error.wait)
            return
        except UnusableError as error:
            self._fail(f"it gave a certificate that can't be used: {error}", wait=LONGEST_PAUSE)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"{type(error).__name__}: {error}")
            return
        self.said.failures, self.said.tries, self.said.message = 0, 0, ""
        self.said.again, self.said.renewal, self.said.asked = "", "", ""
        issued = self.store.issued()
        self._tell_of(issued)
        self.tell(f"got one until {issued.ends:%Y-%m-%d}" if issued else "got one that can't be read")

    def _pause(self) -> float:
        """Return the seconds until it is tried again, after so many tries."""
        doubled = min(self.said.tries - 1, DOUBLED)  # a number that has no end has no float either
        return min(FIRST_PAUSE * 2.0**doubled, LONGEST_PAUSE)

    def _ask(self, wanted: Wanted, account: str) -> None:
        """Ask the authority when to renew, where that is due: it may want to take certificates back."""
        if self._waits(self.said.asked):
            return
        from cluster.acme.orders import LONGEST_ASK, Authority, OrderError  # noqa: PLC0415 - as above

        try:
            when, pause = Authority(wanted, account).renewal(self.store.chain())
        except Exception as error:  # noqa: BLE001 - as above
            # By itself it is no fault: a third of the lifetime before its end it is renewed anyway, and earlier where
            # the authority said so before.
            self.tell(f"{wanted.directory} does not say when to renew: {error}")
            wait = error.wait if isinstance(error, OrderError) else 0
            pause = dt.timedelta(seconds=min(max(wait, ASK_AGAIN), LONGEST_ASK))
        else:
            self.said.renewal = stamp(when) if when else ""
        self.said.asked = stamp(self.now() + pause)
        self._keep()

    def _answered(self, wanted: Wanted, thumbprint: str) -> bool:
        """Tell whether nginx answers in the authority's place, for each name: what it would refuse is not asked for."""
        token = secrets.token_urlsafe(16)
        return all(_asked(wanted, name, token) == f"{token}.{thumbprint}" for name in wanted.names)

    def _fail(self, message: str, *, wait: float = 0, counted: bool = True) -> None:
        if counted:
            pause = self._pause() * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
            self.said.failures += 1
            self.said.again = stamp(self.now() + dt.timedelta(seconds=max(pause, wait)))
        if counted:
            self.tell(f"{message}; again at {self.said.again}")
        else:
            self._tell_once(message)
        if counted or message != self.said.message:
            self.said.message = message
            try:
                self._keep()
            except OSError as error:
                self._tell_once(f"{self.store.directory}: {error.strerror}")

    def _tell_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            self.tell(line)

    def _tell_of(self, issued: Issued | None) -> None:
        """Say which certificate is there."""
        said, told = self.said, self.store.told()
        now = ("", "", "", "", told)
        if issued is not None:
            names = " ".join(sorted(issued.names))
            now = (issued.directory, names, stamp(issued.begins), stamp(issued.ends), told)
        if now != (said.issuer, said.names, said.begins, said.ends, said.loaded) or not said.at:
            said.issuer, said.names, said.begins, said.ends, said.loaded = now
            self._keep()

    def _be_well(self) -> None:
        if self.said.message or self.said.tries:
            self.said.message, self.said.failures, self.said.tries, self.said.again = "", 0, 0, ""
            self._keep()
            self.told.clear()

    def _keep(self) -> None:
        self.said.at = stamp(self.now())
        self.store.say(self.said)


def run(renewer: Renewer, then: Callable[[], None]) -> None:
    """Keep the certificate until this process ends; `then` is called after each look, and lets nginx load it."""
    with renewer.store.locked():
        renewer.said = renewer.store.said()
        while True:
            renewer.step()
            then()
            time.sleep(LOOK)


def told_by(name: str) -> Callable[[str], None]:
    """Return what prints lines to standard error, with the time before each."""

    def say(line: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}: {line}", file=sys.stderr, flush=True)

    return say


def _asked(wanted: Wanted, name: str, token: str) -> str:
    """Return what nginx answers the authority; empty where it does not."""
    connection = http.client.HTTPConnection(*wanted.asked, timeout=PATIENCE)
    try:
        connection.sock = socket.create_connection(wanted.asked, timeout=PATIENCE)
        if wanted.proxied:
            connection.sock.sendall(b"PROXY UNKNOWN\r\n")
        connection.request("GET", f"{CHALLENGES}{token}", headers={"Host": name})
        response = connection.getresponse()
        text = response.read(1000).decode("ascii", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    return text if response.status == http.client.OK else ""


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - a path as text
        return file.read()
