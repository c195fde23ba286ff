"""The engine signed_cookies: Django's, with an error where a browser would drop the cookie in silence."""

from __future__ import annotations

from django.conf import settings
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookiesStore

from cluster_runtime.sessions.asynchronous import Asynchronous

#: Bytes of a cookie's name and value that every browser keeps (RFC 6265 asks for 4096 in all).
LARGEST_COOKIE = 4093


class TooLarge(ValueError):  # noqa: N818 - what it is
    """A session is larger than a cookie may be; a browser would drop it, and the user with it."""


class SessionStore(Asynchronous, SignedCookiesStore):  # type: ignore[misc]
    """Sessions in the browsers."""

    def _get_session_key(self) -> str:
        value = str(super()._get_session_key())
        size = len(settings.SESSION_COOKIE_NAME) + 1 + len(value)
        if size > LARGEST_COOKIE:
            raise TooLarge(
                f"the session needs a cookie of {size} bytes and browsers drop those of more than {LARGEST_COOKIE}: "
                "keep less in it, or set sessions.engine to cached_db"
            )
        return value
