"""Kinds of values that a stack file holds, each with what it takes and the words for what it does not."""

from __future__ import annotations

import datetime as dt
import ipaddress
import posixpath
import re
import shlex
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from cluster.config.document import Written
from cluster.config.units import MOMENT, moment_text, parse_moment

if TYPE_CHECKING:
    from enum import StrEnum


def _plain_text(value: object) -> object:
    """Environment values are text; a bare number is taken as it is written, a bare yes or no is not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _command(value: str) -> str:
    """Return a management command whose arguments are quoted as for a shell."""
    return _checked_words(value, "a management command")


def _program(value: str) -> str:
    """Return the command of a program whose arguments are quoted as for a shell."""
    return _checked_words(value, "a program, manage.py for one")


def _checked_words(value: str, first: str) -> str:
    """Return a text that can be split into words as by a shell, the first of which names what `first` says."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise PydanticCustomError("command", "can't be split into words: {why}", {"why": str(error)}) from None
    if not words or not words[0] or words[0].startswith("-"):
        raise PydanticCustomError("command", "must begin with the name of {first}", {"first": first})
    return value


def _cron(value: str) -> str:
    """Return cron's five fields as cronsim reads them, which does so as Debian's cron."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - few stacks have a schedule

    form = {"example": "0 6 * * *"}
    if len(value.split()) != CRON_FIELDS:
        raise PydanticCustomError("cron", "must be cron's five fields, for example {example}", form)
    try:
        next(CronSim(value, dt.datetime(2026, 1, 1)))  # noqa: DTZ001 - of whatever time zone
    except CronSimError as error:
        raise PydanticCustomError("cron", "is not what cron reads: {why}", {"why": str(error)}) from None
    except StopIteration:
        raise PydanticCustomError("cron", "names a day that never comes") from None
    return value


def _project_path(value: str) -> str:
    """Return a path as it is from the project's directory, without steps that lead nowhere."""
    path = posixpath.normpath(value)
    if path.startswith("/") or posixpath.basename(path) in {".", "..", ""}:
        raise PydanticCustomError(
            "project_path",
            "must be a path from the project's directory, to something that is not it nor above all of it",
        )
    return path


def _shared_directory(value: str) -> str:
    """Return the path of a directory of a host's that others may have, too: none of the system's own."""
    path = posixpath.normpath(value)
    own = next((one for one in OF_ONE_HOST if path == one or path.startswith(f"{one}/")), None)
    if path.startswith("/var/lib/cluster-"):  # what is a stack's own
        own = "/var/lib/cluster"
    if path != "/" and not path.startswith("//") and own is None:
        return path
    raise PydanticCustomError(
        "shared_directory",
        "must be a directory that all hosts can share, such as /mnt/shop, and not in {own}",
        {"own": own or ", ".join(OF_ONE_HOST)},
    )


def _moment(value: object) -> dt.datetime:
    """Take a moment of the past as text; plain too where no reader takes it for a date: Pulumi writes it so."""
    if isinstance(value, Written) and (found := MOMENT.fullmatch(value.text)) and found[1]:
        value = value.text
    try:
        moment = parse_moment(value if isinstance(value, str) else "")
    except ValueError as error:
        raise PydanticCustomError("moment", "{message}", {"message": str(error)}) from None
    now = dt.datetime.now(dt.UTC)
    if moment > now + CLOCKS_DIFFER:
        raise PydanticCustomError("future", "must not be in the future, it is {now} now", {"now": moment_text(now)})
    return moment


def _network(value: str) -> str:
    """Return a network as nginx takes it: an address is that of one machine."""
    try:
        return str(ipaddress.ip_network(value.replace("%", "/")))  # nginx knows no zones
    except ValueError:
        raise PydanticCustomError(
            "network",
            "must be an address or a network whose host bits are 0, for example {example}",
            {"example": "10.0.0.0/8"},
        ) from None


def _shared_address(value: str) -> str:
    """Return an address that one host of several may have on its network."""
    example = {"example": "203.0.113.10"}
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        message = "must be an address without a prefix, for example {example}"
        raise PydanticCustomError("shared_address", message, example) from None
    if found.is_loopback or found.is_multicast or found.is_unspecified or found.is_link_local:
        message = "must be an address by which visitors get to a host, for example {example}"
        raise PydanticCustomError("shared_address", message, example)
    return str(found)


def _one_of_several(value: object) -> object:
    """Let a single address be a list of one."""
    return [value] if isinstance(value, str) else value


def _shared_addresses(value: list[str]) -> list[str]:
    """Return addresses that one host of several may have on its network: one of each kind at most."""
    found = [_shared_address(one) for one in value]
    if len({":" in one for one in found}) < len(found):
        raise PydanticCustomError("shared_addresses", "must be one address, or two: one of IPv4 and one of IPv6")
    return found


def _header_name(value: str) -> str:
    """Return a header's name that neither nginx, the protocol nor another key has its own use for."""
    lower = value.lower()
    if lower == "strict-transport-security":
        raise PydanticCustomError(
            "header", "is a matter of TLS: site.tls.hsts says it, or whatever ends TLS before nginx"
        )
    if lower in OWNED_HEADERS or lower.startswith(("x-accel-", "proxy-")):
        raise PydanticCustomError("header", "{why}", {"why": OWNED_HEADERS.get(lower, _OF_ONE_ANSWER)})
    return value


def _realm(value: str) -> str:
    """Return a realm; nginx takes one word for its absence."""
    if value == "off":
        raise PydanticCustomError("realm", "asks for no user in nginx's words: leave it out for that")
    return value


def _header_value(value: str) -> str:
    """Return a header's value that nginx writes as it stands."""
    problem = next((why for character, why in UNWRITABLE.items() if character in value), None)
    if problem is None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        problem = "must be visible characters of ASCII and spaces within"
    if problem is None and len(value) + value.count("'") > LONGEST_HEADER:
        problem = f"must have at most {LONGEST_HEADER} characters, which is what nginx reads"
    if problem is not None:
        raise PydanticCustomError("header", "{why}", {"why": problem})
    return value


_OF_CONNECTION = "is of the connection, and nginx's to say"
_OF_ONE_ANSWER = "is of one answer, and only who gives it can say it"

#: Headers that no site can say for all of its answers.
OWNED_HEADERS = {
    **dict.fromkeys(
        ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via"), _OF_CONNECTION
    ),
    **dict.fromkeys(
        (
            *("accept-ranges", "age", "allow", "content-encoding", "content-length"),
            *("content-location", "content-range", "content-type", "date", "etag", "expires", "host", "last-modified"),
            *("location", "refresh", "retry-after", "server", "set-cookie", "status", "vary", "warning"),
            *("www-authenticate", "x-sendfile", "content-disposition"),
        ),
        _OF_ONE_ANSWER,
    ),
}

#: What nginx would read as something else in a word, with what that is.
UNWRITABLE = {
    "$": "must not contain $: nginx reads a variable there, and has no way to write the character itself",
    "\\": "must not contain a backslash: nginx reads an escape there",
}

#: nginx takes no longer word from a file (NGX_CONF_BUFFER), in bytes; quotes and a margin are taken off.
LONGEST_HEADER = 4000

#: What of a host is its own: the system's, and the cluster's. What is in /home and /tmp no instance sees.
OF_ONE_HOST = (
    *("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sbin", "/srv/cluster", "/sys"),
    *("/tmp", "/usr", "/var/lib/cluster", "/var/tmp"),  # noqa: S108 - they are refused
)

#: The fields of a line of cron's: minute, hour, day of the month, month, day of the week.
CRON_FIELDS = 5

#: How much the clock of who wrote a moment may be ahead of this one.
CLOCKS_DIFFER = dt.timedelta(minutes=10)

Port = Annotated[int, Field(ge=1, le=65535)]

Weight = Annotated[int, Field(ge=1, le=65535)]

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]

InstanceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

_HOST = r"(\*\.|\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"

ServerName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(_|{_HOST})$",
        max_length=253,
    ),
]

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]

ApplicationName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]

VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

PlainText = Annotated[str, BeforeValidator(_plain_text), StringConstraints(pattern=r"^[^\x00]*$")]

UrlPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9/._~-]*$")]

PathPrefix = Annotated[str, StringConstraints(pattern=r"^/([A-Za-z0-9._~-]+/)+$")]

#: An address, or a network: 10.0.0.0/8, fd00::/8.
Network = Annotated[str, AfterValidator(_network)]

#: The address that one of several hosts holds; of IPv4, of IPv6, or one of each.
SharedAddresses = Annotated[
    list[str],
    BeforeValidator(_one_of_several),
    Field(min_length=1, max_length=2),
    AfterValidator(_shared_addresses),
]

#: Of a network interface, as Linux takes it.
InterfaceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]

PathText = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00\n]+$")]

#: Below the project's directory, or above it by leading `..`.
ProjectPath = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00\n]+$"), AfterValidator(_project_path)
]

#: Where a filesystem is mounted that hosts share.
SharedDirectory = Annotated[
    str,
    StringConstraints(max_length=200, pattern=r"^/[A-Za-z0-9._/-]+$"),
    AfterValidator(_shared_directory),
]

Moment = Annotated[dt.datetime, PlainValidator(_moment), PlainSerializer(moment_text)]

CommandText = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00\n]+$"), AfterValidator(_command)]

ProgramText = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(_program)]

CronText = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(_cron)
]

#: A number is added to it, or nothing.
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,27}$")]

PYTHON_VERSION = r"^3\.\d{1,2}(\.\d{1,2})?$"

PythonVersion = Annotated[str, StringConstraints(pattern=PYTHON_VERSION)]

PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]

#: A path as a client sends it. No `$`, which is a variable of nginx's, no quote, and nothing that ends a line.
_SENT_PATH = r"/([A-Za-z0-9._~!&()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_SENT_QUERY = r"(\?([A-Za-z0-9._~!&()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"

RedirectSource = Annotated[str, StringConstraints(pattern=rf"^({_SENT_PATH}|{_HOST})$", max_length=1000)]

RedirectTarget = Annotated[
    str,
    StringConstraints(
        pattern=rf"^({_SENT_PATH}{_SENT_QUERY}|https?://{_HOST}(:[0-9]{{1,5}})?({_SENT_PATH})?{_SENT_QUERY}|{_HOST})$",
        max_length=1000,
    ),
]

#: Lines of nginx's configuration.
SnippetText = Annotated[str, StringConstraints(min_length=1, max_length=65536, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]

#: A path, or all below it where it ends with /; as nginx compares it, after it has decoded what was sent.
LocationPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=200)]

#: Requests in a second or in a minute, as nginx writes them.
Rate = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}r/[sm]$")]

#: An ACME directory.
DirectoryUrl = Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.\[\]:_-]+(/[!-~]*)?$", max_length=500)]

#: How an authority names somebody whom it knows already (RFC 8555, section 7.3.4).
KeyId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]

EmailText = Annotated[str, StringConstraints(pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$", max_length=200)]

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,99}$"), AfterValidator(_header_name)]

HeaderValue = Annotated[str, AfterValidator(_header_value)]

#: What browsers show where they ask for a user; in quotes in a header.
Realm = Annotated[
    str, StringConstraints(pattern=r"^[!#%-\[\]-~]([ !#%-\[\]-~]{0,98}[!#%-\[\]-~])?$"), AfterValidator(_realm)
]

#: A sentence in one line, which is shown.
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")
]

HashKey = Annotated[str, StringConstraints(min_length=1, pattern=r"^[\w$ :./{}-]+$")]


class Model(BaseModel):
    """What every part of a stack file is: no unknown key, no value of another type, and no change."""

    # defer_build: what is built for the whole stack file has in it what each part would be built for by itself.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


def text_enum(kind: type[StrEnum]) -> BeforeValidator:
    """Let a strict model take the enum's text."""

    def convert(value: object) -> object:
        if isinstance(value, str):
            try:
                return kind(value)
            except ValueError:
                allowed = ", ".join(kind)
                raise PydanticCustomError("choice", "must be one of {allowed}", {"allowed": allowed}) from None
        if not isinstance(value, str):
            raise PydanticCustomError("choice", "must be one of {allowed}", {"allowed": ", ".join(kind)})
        return value

    return BeforeValidator(convert)
