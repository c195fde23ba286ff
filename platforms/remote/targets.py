"""For which machines packages are made: what a host's Python and its C library can take."""

from __future__ import annotations

#: The C library that an environment is made for, by the word for a distribution's release: its own, or the newest
#: that uv knows.
LIBRARIES = {"bookworm": "2_36", "trixie": "2_40", "forky": "2_40", "noble": "2_39", "resolute": "2_40"}

OLDEST_LIBRARY = "2_35"


def target_of(machine: dict[str, object]) -> tuple[str, str]:
    """Return for which Python and which platform a host's packages are, as uv calls them."""
    python = machine["python"]
    assert isinstance(python, list)  # noqa: S101 - what a look says
    library = LIBRARIES.get(str(machine["codename"]), OLDEST_LIBRARY)
    return f"{python[0]}.{python[1]}", f"{machine['architecture']}-manylinux_{library}"
