"""What a plan says of a site's addresses is measured: one that redirects from now on, and one that answers no more."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up
from tests.load import SPARSE, TIMEOUT, Load
from tests.local.stand import Stand, free_port
from tests.secure_load import Secure, SecureLoad

if TYPE_CHECKING:
    from pathlib import Path


class Browser(http.client.HTTPConnection):
    """A visitor of a plain site, who is led to https, and posts there what the form of the plain page holds.

    Who is refused opens the page again, where it is by now.
    """

    def __init__(self, plain: int, secure: int, authority: Path) -> None:
        super().__init__("127.0.0.1", plain, timeout=TIMEOUT)
        self.origin, self.secure, self.authority = f"http://cluster:{plain}", secure, authority
        self.sent: tuple[Any, ...] = ()
        self.there: Secure | None = None
        self.moved = False

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any) -> None:
        """Send a request to where the page is."""
        self.sent = method, url, body, {**headers, "Origin": self.origin}
        if self.moved:
            self._ask_there()
        else:
            super().request(*self.sent)

    def getresponse(self) -> http.client.HTTPResponse:
        """Return what answers in the end."""
        if self.moved:
            assert self.there is not None
            return self.there.getresponse()
        response = super().getresponse()
        if response.status != 308:
            return response
        assert (response.headers["Location"] or "").startswith(f"https://cluster:{self.secure}/")
        response.read()
        self._ask_there()
        assert self.there is not None
        response = self.there.getresponse()
        if response.status == 403:
            self.moved, self.origin = True, f"https://cluster:{self.secure}"
        return response

    def _ask_there(self) -> None:
        if self.there is None:
            self.there = Secure(("127.0.0.1", self.secure), "cluster", self.authority.read_text(), TIMEOUT)
        method, url, body, headers = self.sent
        self.there.request(method, url, body, {**headers, "Host": f"cluster:{self.secure}"})


class Led(Load):
    """Clients that are browsers."""

    def __init__(self, plain: int, secure: int, authority: Path) -> None:
        super().__init__(("127.0.0.1", plain), host=f"cluster:{plain}", pause=SPARSE)
        self.ports, self.authority = (plain, secure), authority

    def connect(self, number: int) -> http.client.HTTPConnection:
        return Browser(*self.ports, self.authority)


def planned(stand: Stand) -> dict[str, Any]:
    (found,) = json.loads(stand.run("plan", stand.name, "--json").output)["plans"]
    return dict(found)


@pytest.mark.wide
def test_an_address_that_redirects_refuses_open_forms_and_one_that_is_left_fails() -> None:
    with contextlib.closing(Stand()) as stand:
        assert_up(stand)
        secure = free_port(consecutive=3) + 2
        stand.edit_stack(lambda stack: stack["site"].update(tls={"listen": secure, "self_signed": True}))
        found = planned(stand)
        assert found["costs"] == ["redirected"]
        assert found["steps"][-1].endswith(": only redirected from now on")
        with Led(stand.port, secure, stand.paths.authority) as led:
            led.wait_for(AROUND)
            assert_nothing_lost(led.counts)
            assert_up(stand)
            led.wait_for(AROUND)
        print(f"TLS: {led.counts}")
        posting = len(led.clients) - len(led.slow_clients)
        assert 1 <= len(led.counts.failed) <= posting, led.counts.failed
        assert [line for line in led.counts.failed if "POST /form: 403 " not in line] == []
        assert led.counts.lost == []

        stand.edit_stack(lambda stack: stack["site"].pop("tls"))
        found = planned(stand)
        assert found["costs"] == ["address-left"]
        assert f"https://cluster:{secure}" in found["steps"][-1]
        with SecureLoad(secure, stand.paths.authority, pause=SPARSE) as left:
            left.wait_for(AROUND)
            assert_nothing_lost(left.counts)
            assert_up(stand)
            left.wait_for(AROUND)
        print(f"TLS no more: {left.counts}")
        assert left.counts.failed, "it cost nothing"
        with Load(stand.address, host=f"cluster:{stand.port}", pause=SPARSE) as plain:
            plain.wait_for(AROUND)
        assert_nothing_lost(plain.counts)
