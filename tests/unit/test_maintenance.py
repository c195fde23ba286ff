"""`cluster maintenance`: what may be asked for, the page, what nginx reads, what is kept, and what is said of it."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import crossplane
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import commands
from cli.maintaining import run_maintenance
from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.maintenance import (
    DEFAULT_MESSAGE,
    KEPT_MAINTENANCE,
    LONGEST_MESSAGE,
    MOST_NETWORKS,
    Maintained,
    Maintenance,
    asked_for,
)
from cluster.render.maintenance import digest_of, page, render_maintenance
from cluster.stack.opened import Stack
from platforms.base import Applied, Change
from platforms.local.maintaining import Keeping
from platforms.local.paths import LocalPaths
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platforms.base import Platform

STACK = Stack(Path(), "t", parse_config(stack_values()))

#: What a browser, nginx and crossplane would each read as something else.
NASTY = '</p><script>alert("$host")</script> it\'s ${remote_addr} \\ \\n {a;} # $1 & "é" \u00a0 \u200b 日本 \U0001f600'


# --- what may be asked for


def test_what_is_asked_for_is_kept_as_it_is_usually_written() -> None:
    found = asked_for(" Back  \r\n at ten. \n", "1h30m", ["10.1.0.0/255.255.0.0", "::1", "2001:DB8::/32", "::1"])
    assert found == Maintenance(
        message="Back\nat ten.", retry_after=5400, allow=("10.1.0.0/16", "::1/128", "2001:db8::/32")
    )


#: What is wrong with an option, and the line that says so.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no message": ({"message": " \n"}, "--message: must say something"),
    "a long message": ({"message": "x" * 401}, "--message: must have at most 400 characters, got 401"),
    "a terminal's message": ({"message": "a\x1b[31m"}, r"--message: must be text, got '\x1b' in it"),
    "no text": ({"message": "a\udcff"}, r"--message: must be text, got '\udcff' in it"),
    "no duration": ({"retry_after": "soon"}, "--retry-after: must be written as nginx writes it, for example 30s"),
    "less than a second": ({"retry_after": "500ms"}, "--retry-after: must be whole seconds, at least 1s, got 500ms"),
    "at once": ({"retry_after": "0"}, "--retry-after: must be whole seconds, at least 1s, got 0"),
    "an address within a network": (
        {"allow": ["10.0.0.1/8"]},
        "--allow: must be a network: 10.0.0.0/8, or 10.0.0.1 alone; got 10.0.0.1/8",
    ),
    "a name": ({"allow": ["office"]}, "--allow: must be an address or a network (10.0.0.0/8, 2001:db8::/32), got 'off"),
    "too long a prefix": ({"allow": ["10.0.0.0/33"]}, "--allow: must be an address or a network"),
    "an interface": ({"allow": ["fe80::1%eth0/64"]}, "--allow: must be an address or a network"),
    "nginx's words": ({"allow": ["10.0.0.0/8; deny all"]}, "--allow: must be an address or a network"),
    "too many": ({"allow": [f"10.0.{n}.0/24" for n in range(101)]}, "--allow: must be at most 100 networks, got 101"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_said_by_its_option(what: str) -> None:
    given, line = WRONG[what]
    with pytest.raises(CommandError) as raised:
        asked_for(**{"message": "x", "retry_after": "10m", "allow": [], **given})
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(CommandError) as raised:
        asked_for("", "soon", ["office", "10.0.0.1/8"])
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == [
        "--message",
        "--retry-after",
        "--allow",
        "--allow",
    ]


# --- the page


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, and the text of its body."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += "\n" if tag == "br" else ""

    def handle_data(self, data: str) -> None:
        if "p" in self.tags:
            self.text += data


#: Of each plane two, and some more: a page can't show them.
NONCHARACTERS = "".join(
    chr(number) for number in range(sys.maxunicode + 1) if 0xFDD0 <= number <= 0xFDEF or number % 0x10000 >= 0xFFFE
)

messages = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NONCHARACTERS),
    min_size=1,
    max_size=LONGEST_MESSAGE,
)


@pytest.mark.parametrize("char", ["\ufdd0", "\ufdef", "\uffff", "\U0010fffe"])
def test_what_no_page_can_show_is_refused(char: str) -> None:
    with pytest.raises(CommandError, match="must be text"):
        asked_for(f"x{char}y", "1", [])


@given(messages)
def test_a_page_shows_any_message_as_it_was_said_and_nothing_in_it_is_read(message: str) -> None:
    kept = asked_for(f"x{message}\ny", "1", []).message
    text = page(kept)
    read = Reader(text)
    assert read.text == kept
    assert [tag for tag in read.tags if tag != "br"] == ["html", "head", "meta", "meta", "title", "style", "body", "p"]
    assert text.isascii()
    assert not set("$\\") & set(text), "nginx would look it up"


def test_what_a_browser_and_nginx_read_is_written_so_that_they_do_not() -> None:
    assert Reader(page(NASTY)).text == NASTY
    assert "<script" not in page(NASTY)


# --- what nginx reads


def entries(maintenance: Maintenance, directory: Path) -> list[list[str]]:
    """Return what the file says, as nginx's parser reads it within a map."""
    (directory / "nginx.conf").write_text(f"http {{ map $a $b {{\n{render_maintenance(maintenance).text}}} }}")
    parsed = crossplane.parse(str(directory / "nginx.conf"), strict=False, check_ctx=False, check_args=False)
    assert parsed["status"] == "ok", parsed["errors"]
    ((http,),) = [file["parsed"] for file in parsed["config"]]
    return [[one["directive"], *one["args"]] for one in http["block"][0]["block"]]


def test_the_file_says_who_is_let_in_before_it_says_that_nobody_is(tmp_path: Path) -> None:
    asked = asked_for(NASTY, "10m", ["10.0.0.0/8", "192.168.16.0/20", "::1", "0.0.0.0/0"])
    found = entries(asked, tmp_path)
    assert found[:5] == [
        [r"~(?s)^client (\x00{10}\xff{2})?\x0a.{3}\z", ""],
        [r"~(?s)^client (\x00{10}\xff{2})?\xc0\xa8[\x10-\x1f].{1}\z", ""],
        [r"~(?s)^client " + r"\x00" * 15 + r"\x01.{0}\z", ""],
        [r"~(?s)^client (\x00{10}\xff{2})?.{4}\z", ""],
        ["~^client ", "1"],
    ]
    assert found[5:] == [
        ["page", page(NASTY)],
        ["retry-after", "600"],
        ["digest", render_maintenance(asked).digest],
    ]


networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda found: ipaddress.ip_network(found, strict=False))


def mapped_of(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address


@given(networks, st.data())
def test_a_pattern_lets_in_the_addresses_of_its_network_and_no_other(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, data: st.DataObject
) -> None:
    file = render_maintenance(asked_for("x", "1", [str(network)])).text
    (text,) = re.findall(r"^'~(.*)\\z' '';$", file, re.MULTILINE)
    pattern = re.compile(text.encode() + rb"\Z")  # as Python calls it

    def let_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return pattern.search(b"client " + address.packed) is not None

    assert let_in(network[0])
    assert let_in(network[-1])
    for version in (4, 6):
        other = data.draw(st.ip_addresses(v=version))
        assert let_in(other) is (other in network or mapped_of(other) in network)
    if isinstance(network, ipaddress.IPv4Network):  # as a trusted proxy may write a client
        for address in (network[0], network[-1], data.draw(st.ip_addresses(v=4))):
            mapped = ipaddress.IPv6Address(f"::ffff:{address}")
            assert let_in(mapped) is (address in network)
    for beside in (int(network[0]) - 1, int(network[-1]) + 1):
        if 0 <= beside < 2**network.max_prefixlen:
            assert not let_in(type(network[0])(beside))


def test_the_largest_file_is_one_that_nginx_reads() -> None:
    """4095 bytes is the longest word of its configuration; tests/nginx/test_maintenance.py shows it to the real one."""
    allow = [f"2001:db8:{n:x}::/127" for n in range(MOST_NETWORKS)]
    for letter in ('"', "\U0001f600", "\u200b"):
        text = render_maintenance(asked_for(letter * LONGEST_MESSAGE, "1", allow)).text
        assert max(map(len, text.splitlines())) < 4096


def test_the_digest_tells_any_two_apart_and_nothing_from_both() -> None:
    asked = [
        ("a", "1", []),
        ("b", "1", []),
        ("a", "2", []),
        ("a", "1", ["10.0.0.0/8"]),
        ("a", "1", ["10.0.0.0/9"]),
        ("a\nb", "1", []),
    ]
    digests = {digest_of(asked_for(*one)) for one in asked}
    assert len(digests) == len(asked)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert digest_of(None) == ""


# --- what is kept


def test_what_is_kept_on_this_machine_is_read_again_and_goes(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path, "t")
    paths.state.mkdir(parents=True)
    keeping, asked = Keeping(paths), asked_for(NASTY, "10m", ["10.0.0.0/8"])
    assert (keeping.load(), keeping.holds(None), keeping.holds(asked)) == (None, True, False)
    keeping.put(asked)
    assert (keeping.load(), keeping.holds(None), keeping.holds(asked)) == (asked, False, True)
    assert {path.name for path in paths.state.iterdir()} == {"maintenance.json", "maintenance.map"}
    keeping.put(None)
    assert list(paths.state.iterdir()) == []


@pytest.mark.parametrize(
    "kept",
    [
        {"message": "x\x1b", "retry_after": 1, "allow": []},
        {"message": "x", "retry_after": 0, "allow": []},
        {"message": "x", "retry_after": 1, "allow": ["10.0.0.1/8; deny all"]},
        {"message": "x" * 401, "retry_after": 1, "allow": []},
    ],
)
def test_what_somebody_else_has_written_is_not_believed(kept: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"message|retry_after|allow"):
        KEPT_MAINTENANCE.validate_python(kept)
    paths = LocalPaths(tmp_path, "t")
    paths.state.mkdir(parents=True)
    keeping = Keeping(paths)
    keeping.fact.write_text(json.dumps(kept))
    assert keeping.found() is None


# --- what is said


class Site:
    """A platform whose site is in maintenance, or not."""

    def __init__(self, kept: Maintenance | None = None, *, runs: bool = True) -> None:
        self.kept = kept
        self.runs = runs

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        changed = wanted != self.kept
        self.kept = wanted
        return Maintained(changed=changed, in_force=self.runs)

    def maintained(self) -> Maintenance | None:
        return self.kept

    def change(self, _wanted: object, _gate: object) -> Any:
        applied = Applied(release="r1", changed=False, checks=list, maintenance=self.kept)
        return nullcontext(Change(lines=[], apply=lambda: applied))


def told(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    *words: str,
    allow: Sequence[str] = (),
    as_json: bool = False,
    **options: str,
) -> str:
    given = {"message": None, "retry_after": None, **options}
    run_maintenance(STACK, cast("Platform", site), words, **given, allow=allow, as_json=as_json)
    return capsys.readouterr().out


def test_on_says_what_visitors_get_and_off_that_they_get_the_site(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    assert told(site, capsys, "on") == (
        f"stack t: maintenance is on; visitors get 503, Retry-After 600 s: {DEFAULT_MESSAGE}\n"
        "`cluster maintenance t off` lets visitors in again\n"
    )
    assert told(site, capsys, "on").startswith("stack t: maintenance is on already; ")
    said = told(site, capsys, "on", message="Back at ten.", retry_after="1h", allow=["10.0.0.0/8", "::1"])
    assert said.startswith(
        "stack t: maintenance is on; all but 10.0.0.0/8, ::1/128 get 503, Retry-After 3600 s: Back at ten.\n"
    )
    assert told(site, capsys) == f"stack t: maintenance is on; {site.kept}\n"
    assert told(site, capsys, "off") == "stack t: maintenance is off; visitors get the site\n"
    assert told(site, capsys, "off") == "stack t: maintenance is off already; visitors get the site\n"
    assert told(site, capsys) == "stack t: maintenance is off\n"


def test_where_nginx_does_not_run_it_is_said_when_it_takes_effect(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(runs=False)
    for word in ("on", "off"):
        line = "nginx does not run: it takes effect when the stack is up (`cluster up t`)"
        assert told(site, capsys, word).splitlines()[1:] == [line]


def test_how_it_is_is_json_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(asked_for("a\nb", "1h", ["::1"]))
    assert json.loads(told(site, capsys, as_json=True)) == {
        "maintenance": {"message": "a\nb", "retry_after": 3600, "allow": ["::1/128"]}
    }
    assert json.loads(told(Site(), capsys, as_json=True)) == {"maintenance": None}


@pytest.mark.parametrize(
    ("words", "options", "line"),
    [
        (("of",), {}, "say `on` or `off`, or neither to see how it is; got of"),
        (("on", "off"), {}, "say `on` or `off`, or neither to see how it is; got on off"),
        (("off",), {"message": ""}, "--message is for `cluster maintenance t on`"),
        ((), {"retry_after": "1h"}, "--retry-after is for `cluster maintenance t on`"),
        (("off",), {"allow": ["::1"]}, "--allow is for `cluster maintenance t on`"),
        (("on",), {"as_json": True}, "--json says how it is: leave on out"),
        (("on",), {"message": ""}, "--message: must say something"),
    ],
)
def test_words_that_make_no_sense_change_nothing(
    words: tuple[str, ...], options: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(asked_for("as it was", "1", []))
    with pytest.raises(CommandError, match=f"^{re.escape(line)}$"):
        told(site, capsys, *words, **options)
    assert site.kept == asked_for("as it was", "1", [])


def test_up_says_that_visitors_do_not_get_what_serves(capsys: pytest.CaptureFixture[str]) -> None:
    commands.up(STACK, cast("Platform", Site(asked_for("Back at ten.", "1h", []))))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "the site is in maintenance: visitors get 503, Retry-After 3600 s: Back at ten.",
        "`cluster maintenance t off` lets visitors in again",
    ]
    commands.up(STACK, cast("Platform", Site()))
    assert "maintenance" not in capsys.readouterr().out


def test_a_message_that_is_too_long_as_nginx_has_it_is_refused() -> None:
    with pytest.raises(CommandError, match="too long for nginx"):
        asked_for("\U0010fffd" * 400, "10m", [])
    assert asked_for("\U0010fffd" * 300, "10m", [])
