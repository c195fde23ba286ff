"""What a release must share with the one before, as a process says it: else sessions would end, or data be hidden.

Nothing of it is a secret: of a key there is a hash, of a database's URL neither user nor password.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def mark(key: str) -> str:
    """Return what stands for a SECRET_KEY where it must not be read."""
    return hmac.new(key.encode(), b"cluster_runtime.lasting", hashlib.sha256).hexdigest()[:16]


def database_name(database: Mapping[str, Any] | None, url: str | None) -> str:
    """Return which database it is (cluster_runtime.config.RuntimeConfig.database); empty for the project's own."""
    if database is None:
        return ""
    engine = str(database["engine"])
    if engine == "sqlite":
        return f"sqlite {database.get('path', '')}"
    if engine not in {"external", "postgres"} or not url:
        return engine
    try:
        parts = urlsplit(url)
        # Not by whom it is asked, and with which options.
        if engine == "postgres":  # on a host by its name, and else by a socket that is the stack's own
            host = parts.hostname or ""
            return engine if not host or host.startswith("%") else f"{engine} {host}:{parts.port or ''}{parts.path}"
        return f"external {(parts.hostname or '').lower()}:{parts.port or ''}{parts.path}"
    except ValueError:
        return engine


def lasting(
    sessions_path: str,
    secret_key: str | None,
    database: Mapping[str, Any] | None,
    database_url: str | None,
    shared: Iterable[str],
) -> dict[str, Any]:
    """Return the directory of sessions in files, the mark of the key that signs, the database, and what is shared."""
    return {
        "path": sessions_path,
        "key": mark(secret_key) if secret_key else "",
        "database": database_name(database, database_url),
        "shared": sorted(shared),
    }
