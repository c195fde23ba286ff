"""For whom nginx asks: what the secret may say, what nginx is given of it, and what nobody is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import StackFileError, parse_config
from cluster.config.models import SECRET_KEYS, USERS, dump
from cluster.render.sha512_crypt import ALPHABET, sha512_crypt
from cluster.render.users import UsersError, users_file
from cluster.stack.secrets import SecretError, read_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig

PASSWORD = "correct horse battery"
HASHED = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"


def stack(**site: Any) -> ClusterConfig:
    return parse_config(
        {
            "platform": "local",
            "app": {"project": "./example", "settings": "example.settings"},
            "upstream": {"servers": 1},
            "site": {"server_names": ["staging.example.org"], "auth_basic": "Staging", **site},
        }
    )


def said(secret: str) -> str:
    with pytest.raises(UsersError) as caught:
        users_file(stack(), secret)
    return str(caught.value)


def test_a_hash_is_the_one_that_the_schemes_author_published() -> None:
    assert sha512_crypt("Hello world!", "saltstring") == HASHED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=100),
    st.text(ALPHABET, min_size=1, max_size=16),
)
def test_a_hash_is_what_another_program_makes_of_it(password: str, salt: str) -> None:
    command = ["openssl", "passwd", "-6", "-salt", salt, "-stdin"]
    done = subprocess.run(command, input=f"{password}\n".encode(), capture_output=True, check=True)
    assert sha512_crypt(password, salt) == done.stdout.decode().strip()


def test_nginx_is_given_hashes_alone_the_same_each_time_in_the_order_of_names() -> None:
    secret = json.dumps({"zoe": PASSWORD, "ann": HASHED})
    text = users_file(stack(), secret)
    ann, zoe = text.splitlines()
    assert ann == f"ann:{HASHED}"
    assert zoe.startswith("zoe:$6$")
    assert PASSWORD not in text
    assert users_file(stack(), secret) == text
    assert users_file(stack(), json.dumps({"ann": HASHED, "zoe": PASSWORD})) == text


def test_two_users_of_one_password_have_two_hashes_and_so_has_one_on_two_sites() -> None:
    secret = json.dumps({"ann": PASSWORD, "zoe": PASSWORD})
    here, there = (users_file(stack(server_names=[name]), secret) for name in ("a.example", "b.example"))
    hashes = [line.partition(":")[2] for line in (here + there).splitlines()]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    "word",
    [
        HASHED,
        "$6$rounds=1000$abc$" + "x" * 86,
        "$5$abc$" + "x" * 43,
        "$apr1$zgXj3dc/$" + "x" * 22,
        "{SSHA}" + "x" * 32,
    ],
)
def test_a_hash_that_nginx_reads_is_given_as_it_is(word: str) -> None:
    assert users_file(stack(), json.dumps({"ann": word})) == f"ann:{word}\n"


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", f"{USERS}: missing: site.auth_basic asks for a user, and there is none"),
        (" \n", f"{USERS}: missing"),
        ("ann:secret-word", f"{USERS}: must be a JSON object"),
        ("{}", f"{USERS}: must be a JSON object"),
        ('["ann"]', f"{USERS}: must be a JSON object"),
        ("[" * 100_000, f"{USERS}: must be a JSON object"),
        ('{"ann": "secret-word", "ann": "other-word"}', f'{USERS}: "ann" stands there twice'),
        ('{"a:b": "secret-word"}', f'{USERS}: "a:b": a user\'s name is'),
        ('{"#ann": "secret-word"}', f'{USERS}: "#ann": a user\'s name is'),
        ('{"": "secret-word"}', f'{USERS}: "": a user\'s name is'),
        ('{"a\\nb": "secret-word"}', f'{USERS}: "a\\nb": a user\'s name is'),
        ('{"ann": "short"}', f'{USERS}: "ann": a password must have 8 to 200 characters'),
        ('{"ann": "secret\\nword"}', f'{USERS}: "ann": a password must have'),
        ('{"ann": 12345678}', f'{USERS}: "ann": a password, or its hash, must be text in quotes'),
        ('{"ann": "{PLAIN}secret-word"}', f'{USERS}: "ann": no hash that nginx can look at'),
        ('{"ann": "$2y$10$secret-word"}', f'{USERS}: "ann": no hash that nginx can look at'),
        ('{"ann": "$6$rounds=500000$abc$' + "x" * 86 + '"}', f'{USERS}: "ann": no hash that nginx can look at'),
    ],
)
def test_what_can_not_be_a_sites_users_is_said_without_a_password(secret: str, words: str) -> None:
    text = said(secret)
    assert text.startswith(words)
    assert not any(word in text for word in ("secret", "other-word", "12345678"))


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert len(said('{"a:b": "secret-word", "ann": "short"}').splitlines()) == 2


def test_a_site_that_asks_for_nobody_reads_no_secret() -> None:
    assert users_file(stack(auth_basic=None), "no JSON") == ""


@pytest.mark.parametrize("realm", ["off", 'a "quoted" one', "$host", "back\\slash", "", " x", "Zürich", "x" * 101])
def test_a_realm_that_nginx_would_read_as_something_else_is_refused(realm: str) -> None:
    with pytest.raises(StackFileError, match=r"site\.auth_basic: "):
        stack(auth_basic=realm)


def test_what_nginx_would_refuse_beside_it_is_refused_at_its_key() -> None:
    with pytest.raises(StackFileError, match=r"site\.snippets\.server: line 2: auth_basic is said by site\.auth_basic"):
        stack(snippets={"server": "# text\nauth_basic other;\n"})
    stack(snippets={"server": "location /open { auth_basic off; return 200 x; }\n"})
    with pytest.raises(StackFileError, match=r"site\.locations\[0\]\.auth_basic: is without what the site has not"):
        stack(auth_basic=None, locations=[{"path": "/hook", "auth_basic": False}])


def test_the_users_are_no_releases_and_no_dump_has_them(tmp_path: Path) -> None:
    (tmp_path / USERS).touch(0o600)
    (tmp_path / USERS).write_text(json.dumps({"ann": PASSWORD}))
    assert read_secrets(tmp_path) == {}
    assert USERS not in SECRET_KEYS
    (tmp_path / USERS).chmod(0o644)
    with pytest.raises(SecretError, match="lets others read it"):
        read_secrets(tmp_path)
    config = parse_config({**dump(stack()), USERS: json.dumps({"ann": PASSWORD})})
    assert PASSWORD not in repr(config)
    assert USERS not in dump(config)
