"""Forged and damaged sessions, ten thousand, through Django's own middleware: none is accepted, none is an error."""

from __future__ import annotations

import base64
import hmac
import json
import pickle
import random
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, JsonResponse
from django.test import override_settings

from cluster_runtime.config import Sessions
from cluster_runtime.sessions import settings_for
from tests.runtime.memcached import Memcached
from tests.runtime.standing import SECRET_KEY, Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpResponseBase

#: Of each of the three places where a session's text can be reached.
FORGED = 3400

ADMIN = {"_auth_user_id": "1", "name": "x" * 40}


def forge(good: bytes, number: int) -> bytes:
    """Return text that is not what was signed, made from text that was: after a colon, or 32 bytes before the value."""
    dice = random.Random(number)
    at = dice.randrange(len(good))
    signed = json.dumps([ADMIN, None, 1], separators=(",", ":")).encode()
    body = json.dumps(ADMIN).encode()
    other = signing.TimestampSigner(key="another", salt="any").sign_object(ADMIN).encode()
    return dice.choice(
        (
            lambda: good[:at] + bytes([good[at] ^ dice.randrange(1, 256)]) + good[at + 1 :],
            lambda: good[:at],
            lambda: good[at + 1 :],
            lambda: good[:at] + dice.randbytes(dice.randrange(1, 20)) + good[at:],
            lambda: dice.randbytes(dice.randrange(300)),
            lambda: pickle.dumps(ADMIN),
            lambda: body,
            lambda: base64.urlsafe_b64encode(body).rstrip(b"=") + b":" + b":".join(good.rsplit(b":", 2)[1:]),
            lambda: good[:32] + signed,
            lambda: hmac.digest(b"another", signed, "sha256") + signed,
            lambda: b"." + base64.urlsafe_b64encode(zlib.compress(body)) + b":1:" + good.rpartition(b":")[2],
            lambda: other,
            lambda: good[:at] + "é\u2028".encode() + good[at:],
        )
    )()


class Site:
    """A project that answers with the session it was given."""

    def __init__(self) -> None:
        from django.contrib.sessions.middleware import SessionMiddleware  # noqa: PLC0415 - after the settings

        def view(request: HttpRequest) -> HttpResponseBase:
            return JsonResponse(dict(request.session.items()))

        self.middleware = SessionMiddleware(view)

    def session(self, cookie: str) -> Any:
        """Return the session that a cookie gives; whatever is raised would be a 500."""
        request = HttpRequest()
        request.COOKIES["sessionid"] = cookie
        response: Any = self.middleware(request)
        assert response.status_code == 200
        return json.loads(response.content)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with closing(Stand()) as found:
        yield found


def engine(stand: Stand, name: str, previous: str = "", node: Memcached | None = None) -> Any:
    if not settings.configured:
        settings.configure(SECRET_KEY=SECRET_KEY)
    files = stand.root / "sessions"
    files.mkdir(exist_ok=True)
    sessions = Sessions(
        engine=name, previous=previous, path=str(files), memcached=(str(node.path),) if node is not None else ()
    )
    return override_settings(SECRET_KEY=SECRET_KEY, SECRET_KEY_FALLBACKS=[], **settings_for(sessions, None))


def accepted(site: Site, put: Callable[[bytes], str], good: bytes) -> list[bytes]:
    """Return the forged texts that gave anything but no session. The last digit of base 64 may mean nothing."""
    found = []
    for number in range(FORGED):
        text = forge(good, number)
        session = site.session(put(text))
        if session and not (session == ADMIN and len(text) == len(good) and text != good):
            found.append(text)
    return found


def test_no_forged_cookie_is_a_session(stand: Stand) -> None:
    with engine(stand, "signed_cookies", previous="file"):
        salt = "django.contrib.sessions.backends.signed_cookies"
        good = signing.dumps(ADMIN, salt=salt, compress=True)
        site = Site()
        assert site.session(good) == ADMIN
        found = accepted(site, lambda text: text.decode("latin-1"), good.encode())
    print(f"cookies: {len(found)} of {FORGED:,} forged sessions accepted, 0 errors")
    assert found == []


def test_no_forged_file_is_a_session(stand: Stand) -> None:
    with engine(stand, "file"):
        from cluster_runtime.sessions.file import SessionStore  # noqa: PLC0415 - after the settings

        store = SessionStore()
        store.update(ADMIN)
        store.create()
        key = str(store.session_key)
        path = stand.root / "sessions" / f"sessionid{key}"
        site, good = Site(), path.read_bytes()
        assert site.session(key) == ADMIN

        def put(text: bytes) -> str:
            path.write_bytes(text)
            return key

        found = accepted(site, put, good)
    print(f"files: {len(found)} of {FORGED:,} forged sessions accepted, 0 errors")
    assert found == []


def forged_in_memcached(stand: Stand) -> list[bytes]:
    node = Memcached(stand.root / "m")
    try:
        with engine(stand, "cache", node=node):
            from pymemcache.client.base import Client  # noqa: PLC0415

            from cluster_runtime.sessions.cache import SessionStore  # noqa: PLC0415 - after the settings

            store = SessionStore()
            store.update(ADMIN)
            store.create()
            key = str(store.session_key)
            cache: Any = store._cache
            ((_node, place),) = cache._places(store.cache_key, None)
            site = Site()
            assert site.session(key) == ADMIN
            with closing(Client(str(node.path))) as client:
                good = client.get(place)

                def put(text: bytes) -> str:
                    client.set(place, text, noreply=False, flags=random.Random(text).choice((0, 1, 2)))
                    return key

                return accepted(site, put, good)
    finally:
        node.kill()


def test_no_forged_value_in_memcached_is_a_session(stand: Stand) -> None:
    found = forged_in_memcached(stand)
    print(f"memcached: {len(found)} of {FORGED:,} forged sessions accepted, 0 errors")
    assert found == []


def test_without_the_signature_forged_values_would_be_sessions(stand: Stand) -> None:
    """The saboteur: nobody looks at the signature."""

    from cluster_runtime.sessions import signing  # noqa: PLC0415 - after the settings

    with patch.object(signing, "_is_signed", lambda *_arguments: True):
        assert len(forged_in_memcached(stand)) > 50
