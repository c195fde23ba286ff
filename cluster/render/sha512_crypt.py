"""crypt(3)'s `$6$`, by which nginx compares a password; Python has had none since 3.13.

Source: Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512", 0.6 (https://www.akkadia.org/drepper/SHA-crypt.txt).
"""

from __future__ import annotations

import hashlib
from functools import cache

#: The scheme's own default: 1.4 ms of nginx for each request.
ROUNDS = 5000

#: Characters of a salt.
SALT_LENGTH = 16

ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@cache
def sha512_crypt(password: str, salt: str) -> str:
    """Return a password's hash as crypt(3) writes it; salt: of the alphabet, 16 characters at most."""
    word, grain = password.encode(), salt.encode()
    inner = _digest(word, grain, word)
    mixed = [word, grain, _repeated(inner, len(word))]
    bits = len(word)
    while bits:
        mixed.append(inner if bits & 1 else word)
        bits >>= 1
    found = _digest(*mixed)
    words = _repeated(_digest(word * len(word)), len(word))
    grains = _repeated(_digest(grain * (16 + found[0])), len(grain))
    for number in range(ROUNDS):
        odd = number & 1
        parts = [words if odd else found]
        parts += [grains] if number % 3 else []
        parts += [words] if number % 7 else []
        found = _digest(*parts, found if odd else words)
    return f"$6${salt}${_encoded(found)}"


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(parts)).digest()


def _repeated(block: bytes, length: int) -> bytes:
    return (block * (length // len(block) + 1))[:length]


def _encoded(digest: bytes) -> str:
    text = ""
    order = (0, 21, 42)
    for _ in range(21):
        high, middle, low = order
        text += _characters(digest[high] << 16 | digest[middle] << 8 | digest[low], 4)
        order = (middle + 1, low + 1, high + 1)
    return text + _characters(digest[63], 2)


def _characters(value: int, count: int) -> str:
    return "".join(ALPHABET[value >> 6 * place & 0x3F] for place in range(count))
