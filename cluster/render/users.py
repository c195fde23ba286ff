"""The users of a site that asks for one (auth_basic): the secret that names them, and the file that nginx reads.

Each is named with a password or with its hash. A password becomes a hash of crypt(3)'s `$6$`, which every nginx of
Debian's reads; `{SSHA}`, which needs no code of one's own, is one round of SHA-1, and falls to whoever reads the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from cluster.config.models import USERS
from cluster.errors import ClusterError
from cluster.render.sha512_crypt import ALPHABET, SALT_LENGTH, sha512_crypt

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig

#: A name that stands in a line of the file, and in a header; browsers differ in how they send any other.
NAME = re.compile(r"[!-\"$-9;-~][ -9;-~]{0,99}(?<! )")

#: Nobody counts how often somebody tries one.
SHORTEST, LONGEST = 8, 200

#: Hashes that nginx reads, and that take it a few milliseconds at most, in which it does nothing else.
HASHES = re.compile(
    r"\$[56]\$(rounds=\d{4}\$)?[./0-9A-Za-z]{1,16}\$([./0-9A-Za-z]{43}|[./0-9A-Za-z]{86})"
    r"|\$apr1\$[./0-9A-Za-z]{1,8}\$[./0-9A-Za-z]{22}|\{SSHA\}[+/0-9A-Za-z]{32,200}={0,2}"
)

#: What a hash begins with, or what somebody takes for one.
HASH_LIKE = re.compile(r"\$[0-9a-z]{1,10}\$|\{[A-Za-z0-9-]{1,20}\}")

TAKEN = "$6$ or $5$ (openssl passwd -6), $apr1$ (htpasswd -m), {SSHA}"


class UsersError(ClusterError):
    """The secret that names a site's users can't be used; the text says why, and no password."""


def users_file(config: ClusterConfig, secret: str) -> str:
    """Return what nginx reads of a site's users, a line each; empty where the site asks for none.

    secret: a JSON object with a password, or its hash, by each name. The same secret gives the same text. UsersError
    says what is wrong with it.
    """
    if config.site.auth_basic is None:
        return ""
    if not secret.strip():
        raise UsersError(f"{USERS}: missing: site.auth_basic asks for a user, and there is none")
    try:
        users = json.loads(secret, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise UsersError(f"{USERS}: must be a JSON object: a password, or its hash, by each user's name") from None
    if not isinstance(users, dict) or not users:
        raise UsersError(f"{USERS}: must be a JSON object: a password, or its hash, by each user's name")
    problems = [problem for name, word in users.items() if (problem := _problem(name, word))]
    if problems:
        raise UsersError("\n".join(f"{USERS}: {problem}" for problem in problems))
    site = config.site.server_names[0]
    return "".join(f"{name}:{_hash(site, name, word)}\n" for name, word in sorted(users.items()))


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsersError(f"{USERS}: {json.dumps(min(twice))} stands there twice")
    return dict(pairs)


def _problem(name: str, word: object) -> str | None:
    said = json.dumps(name)
    if not NAME.fullmatch(name):
        return f"{said}: a user's name is of visible ASCII and spaces, without : and with no # in front, 100 at most"
    if not isinstance(word, str):
        return f"{said}: a password, or its hash, must be text in quotes"
    if HASH_LIKE.match(word):
        return None if HASHES.fullmatch(word) else f"{said}: no hash that nginx can look at for each request: {TAKEN}"
    if not SHORTEST <= len(word) <= LONGEST or not word.isprintable():
        return f"{said}: a password must have {SHORTEST} to {LONGEST} characters, none of which ends a line"
    return None


def _hash(site: str, name: str, word: str) -> str:
    if HASH_LIKE.match(word):
        return word
    # Not of the password: who sees the salt could try one by it, and so without the rounds.
    seed = hashlib.sha256(f"{site}\0{name}".encode()).digest()
    return sha512_crypt(word, "".join(ALPHABET[byte & 0x3F] for byte in seed[:SALT_LENGTH]))
