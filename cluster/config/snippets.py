"""What a snippet of nginx's configuration may say: nothing that is this configuration's own to say.

It guards against mistakes, not against whoever writes the stack file, who runs the project's code anyhow.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cluster.config.refusing import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

Directive = dict[str, Any]

_ELSEWHERE = "is said in cluster:site"
_CLIENT = "tells the project who its client is; one's own, or none, would let a client say so itself"
_HEADERS = "keeps clients from telling an instance what nginx tells it"
_INTERNAL = "would also be of the runtime's own server; say it in site.snippets.server"

#: What no snippet may say, anywhere in it.
NOWHERE = {
    "listen": f"{_ELSEWHERE} (listen)",
    "server_name": f"{_ELSEWHERE} (server_names)",
    "include": "would take in what is neither checked nor delivered; write it here",
    "load_module": "belongs to nginx's main configuration",
    "user": "belongs to nginx's main configuration",
    "underscores_in_headers": _HEADERS,
    "ignore_invalid_headers": _HEADERS,
    "merge_slashes": "keeps the runtime's paths from being written otherwise",
}

#: What it may say in blocks of its own alone: in front of them it would change how requests reach the instances.
NOT_FOR_ALL = {
    "proxy_set_header": f"{_CLIENT}; in a location that passes on to something else it may stand",
    "set_real_ip_from": _CLIENT,
    "real_ip_header": _CLIENT,
    "proxy_pass_request_headers": _CLIENT,
}

#: What http may not say for all servers.
NOT_IN_HTTP = {
    **dict.fromkeys(("allow", "deny", "satisfy", "auth_basic", "auth_request", "limit_req", "limit_conn"), _INTERNAL)
}

#: What passes a request on, to what its first argument says.
PASSES = re.compile(r"(proxy|fastcgi|uwsgi|scgi|grpc|memcached)_pass")

#: What leads below /-/, however it is written.
RUNTIMES = re.compile(r"(/|%2f)(-|%2d)(/|%2f)", re.IGNORECASE)

#: Names of this configuration's: variables and captures, zones and upstreams in an address, named locations.
OWN = re.compile(r"\$\{?cluster|\?(P?<|')cluster|(=|//)cluster(_[\w-]*)?($|[:/])|^@(closing|previous)", re.IGNORECASE)

#: Directives in which a word is the name of an upstream, a zone or a format, and such a name.
OF_NAMES = re.compile(r"(\w+_)?(upstream|zone|pass|cache|log|format|conn|req)")
OWN_NAME = re.compile(r"cluster(_[\w-]*)?", re.IGNORECASE)

#: Sockets of the instances and of whoever runs the cluster.
OWN_SOCKET = re.compile(r"/(http|nginx|internal|supervisor|[0-9a-f]{12}[\w.-]*)\.sock\b")


#: The path of a request stands here as a whole, and begins with /: the host before it is plain.
WHOLE_PATH = re.compile(r"\$(request_uri|uri)\b.*")


@lru_cache(maxsize=16)
def parsed(text: str) -> tuple[list[Directive], list[tuple[int, str]]]:
    """Return the directives of a snippet, and what is wrong with their form, each with its line."""
    import crossplane  # noqa: PLC0415 - few stacks have a snippet

    # What nginx knows is nginx's to say; whether each block ends within the snippet is not.
    payload = crossplane.parse_string(text, single=True, check_ctx=False, check_args=False)
    errors = [(error["line"], _in_words(error["error"])) for error in payload["errors"]]
    return payload["config"][0]["parsed"], errors or [*_unended(text)]


def _in_words(error: str) -> str:
    message = re.sub(r" in \S*:\d+$", "", error)
    return "} ends a block that does not begin here" if message == 'unexpected "}"' else message


def _unended(text: str) -> Iterator[tuple[int, str]]:
    """Yield each directive that ends with neither ; nor a block."""
    from crossplane.lexer import lex_string  # noqa: PLC0415 - few stacks have a snippet

    last, last_line = ";", 0
    for word, line, quoted in [*lex_string(text), ("}", 0, False)]:
        if word.startswith("#") and not quoted:
            continue
        if word == "}" and not quoted and last not in ("{", "}", ";"):
            yield last_line, 'must end with ";" before what comes next'
        last, last_line = ("" if quoted else word), line


def snippet_refusals(text: str, where: str) -> Iterator[Refusal]:
    """Yield what is wrong with the text of a snippet in `where`: http or server."""
    lines = text.split("\n")
    directives, errors = parsed(text)
    for line, message in errors:
        yield _refusal(line, message, lines)
    for directive, inside in _all(directives, ()):
        for message in _problems(directive, inside, where):
            yield _refusal(directive["line"], f"{directive['directive']} {message}", lines)


def _refusal(line: int | None, message: str, lines: list[str]) -> Refusal:
    return Refusal((), f"line {line}: {message}", lines[line - 1].strip() if line and line <= len(lines) else "")


def _all(directives: list[Directive], inside: tuple[str, ...]) -> Iterator[tuple[Directive, tuple[str, ...]]]:
    for directive in directives:
        yield directive, inside
        yield from _all(directive.get("block") or [], (*inside, directive["directive"]))


def _problems(directive: Directive, inside: tuple[str, ...], where: str) -> Iterator[str]:
    name, args = directive["directive"], directive["args"]
    not_here = NOWHERE | ({} if inside else NOT_FOR_ALL | (NOT_IN_HTTP if where == "http" else {}))
    if name in not_here:
        yield not_here[name]
    if name == "server" and "block" in directive:
        yield "is another site, which nothing of this stack knows"
    if OWN.search(name) or RUNTIMES.search(name):
        yield "is this configuration's own"
    for arg in args:
        if re.search(r"\$\{(?!\w+\})", arg):
            yield f"has a variable that is not closed: {arg}"
        elif RUNTIMES.search(arg):
            yield "leads below /-/, which is the runtime's and never public"
        elif OWN.search(arg) or (OF_NAMES.fullmatch(name) and OWN_NAME.fullmatch(arg)):
            yield f"uses a name that is this configuration's own: {arg}"
        elif OWN_SOCKET.search(arg):
            yield f"leads past this configuration to a socket of its own: {arg}"
    if PASSES.fullmatch(name) and args and _is_variable_host(args[0]):
        yield f"must name where it passes requests on, without a variable: {args[0]}"


def _is_variable_host(address: str) -> bool:
    """Tell whether the host of an address, or its socket, depends on a variable."""
    whole = WHOLE_PATH.sub("/", re.sub(r"^\w+://", "", address))
    return "$" in (whole if whole.startswith("unix:") else whole.partition("/")[0])


def own_locations(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each location that a snippet adds to the server: its line, its modifier, its path."""
    for directive in parsed(text)[0]:
        if directive["directive"] == "location" and directive["args"]:
            *modifier, path = directive["args"]
            yield directive["line"], "".join(modifier), path


def own_directives(text: str | None, name: str) -> list[list[str]]:
    """Return the arguments of each directive of that name that a snippet says of all."""
    directives = parsed(text)[0] if text else []
    return [directive["args"] for directive in directives if directive["directive"] == name]
