"""What may be a session's key: it comes from a cookie, and so from anybody."""

from __future__ import annotations

from django.contrib.sessions.backends.base import VALID_KEY_CHARS

#: Django's own keys have 32 characters, and it takes none under 8 for one; a file's name has at most 255.
SHORTEST_KEY, LONGEST_KEY = 8, 128


def is_key(session_key: str | None) -> bool:
    """Tell whether this can be a session's key. What can't is asked of no store: PostgreSQL refuses a NUL, say."""
    key = session_key or ""
    return SHORTEST_KEY <= len(key) <= LONGEST_KEY and set(key) <= set(VALID_KEY_CHARS)


class Keyed:
    """A store whose sessions have keys: what can't be one is no session."""

    def _validate_session_key(self, key: str | None) -> bool:
        return is_key(key)
