"""What `site.redirects` means: names and paths that lead elsewhere, and which of them can't be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.config.refusing import KEY, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: What leads below /-/, the runtime's own paths, however a client writes it.
RUNTIMES = r"(/|%2f)+(-|%2d)(/|%2f)"

#: Steps in search of a circle.
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class PathRedirect:
    """A path that leads to another one or to another site: one path alone, or all below it where it ends with `/`."""

    source: str
    target: str

    @property
    def is_prefix(self) -> bool:
        """Whether all below the path is redirected, with the rest of it kept."""
        return self.source.endswith("/")

    @property
    def target_path(self) -> str | None:
        """The path on this site that it leads to; None where it leads to another site."""
        return self.target.partition("?")[0] if self.target.startswith("/") else None

    @property
    def growth(self) -> int:
        """By how much the path becomes longer."""
        return len(self.target_path or "") - len(self.source)

    def covers(self, path: str) -> bool:
        """Tell whether it redirects a path."""
        return path.startswith(self.source) if self.is_prefix else path == self.source

    def may_lead_to(self, other: PathRedirect) -> bool:
        """Tell whether what this one leads to may be what the other one redirects."""
        path = self.target_path
        if path is None:
            return False
        below = self.is_prefix and other.source.startswith(path)
        return below or other.covers(path)


def path_redirects(redirects: Mapping[str, str]) -> list[PathRedirect]:
    """Return the redirects of paths, in the order in which they are tried: the longer ones first."""
    found = [PathRedirect(source, target) for source, target in redirects.items() if source.startswith("/")]
    return sorted(found, key=lambda one: (one.is_prefix, -len(one.source), one.source))


def host_redirects(redirects: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that lead elsewhere, by the name that they lead to."""
    found: dict[str, list[str]] = {}
    for source, target in redirects.items():
        if not source.startswith("/"):
            found.setdefault(target.lower(), []).append(source)
    return found


def covered_names(name: str) -> list[str]:
    """Return nginx's own names for a name: `.example.com` is example.com and *.example.com."""
    return [name[1:], f"*{name}"] if name.startswith(".") else [name]


def names_host(names: Iterable[str], host: str) -> bool:
    """Tell whether nginx's names, patterns among them, say that of a host."""
    known = {covered.lower() for name in names for covered in covered_names(name)}
    labels = host.lower().split(".")
    patterns = {f"*.{'.'.join(labels[at:])}" for at in range(1, len(labels))}
    return bool(known & {host.lower(), *patterns})


def redirect_refusals(redirects: Mapping[str, str], names: Sequence[str]) -> Iterator[Refusal]:
    """Yield what is wrong with redirects of a site that has these names."""
    sources = {source for source in redirects if not source.startswith("/")}
    seen: dict[str, str] = {}
    for source, target in redirects.items():
        if not source.startswith("/"):
            yield from _host_refusals(source, target, names, sources, seen)
    for one in path_redirects(redirects):
        for message, at in _path_problems(one, names):
            yield Refusal(("redirects", one.source, *at), message, one.source if at else one.target)
    yield from _circles(path_redirects(redirects))


def _host_refusals(
    source: str, target: str, names: Sequence[str], sources: set[str], seen: dict[str, str]
) -> Iterator[Refusal]:
    own = {covered.lower() for name in names for covered in covered_names(name)}
    covered = [name.lower() for name in covered_names(source)]
    if source == "_":
        yield Refusal(("redirects", source, KEY), "must name a host: others than the site's get no answer", source)
    elif own & set(covered):
        message = "is one of site.server_names, and answers itself; remove it there or here"
        yield Refusal(("redirects", source, KEY), message, source)
    elif twice := next((seen[name] for name in covered if name in seen), None):
        yield Refusal(("redirects", source, KEY), f"is redirected by {twice} already", source)
    seen.update(dict.fromkeys(covered, source))
    if "/" in target or target == "_" or target.startswith(("*", ".")):
        yield Refusal(("redirects", source), "a host name leads to a host name of site.server_names", target)
    elif not names_host(names, target):
        yield Refusal(("redirects", source), "must be one of site.server_names", target)
    elif names_host(sources, target):
        yield Refusal(("redirects", source), "is redirected itself, which may lead in a circle", target)


def _path_problems(one: PathRedirect, names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    source, target = one.source, one.target
    if source == "/":
        yield "is every path of the site; name those that lead elsewhere", (KEY,)
    if re.match(RUNTIMES, source, re.IGNORECASE):
        yield "is below /-/, which is the runtime's and never public", (KEY,)
    if {".", ".."} & set(source.split("/")):
        yield "clients resolve . and .. before they ask, so this never matches", (KEY,)
    if target.startswith("//"):
        yield "browsers read // as another host; write https:// before it", ()
    elif re.match(RUNTIMES, target, re.IGNORECASE):
        yield "leads below /-/, which is the runtime's and never public", ()
    elif not target.startswith("/") and "://" not in target:
        yield "a path leads to a path, or to an address that begins with https://", ()
    elif names_host(names, urlsplit(target).hostname or ""):
        yield "is this site itself; write the path alone", ()
    elif one.is_prefix and not target.endswith("/"):
        yield "must end with /, as the path does that leads there: the rest is added", ()


def _circles(found: Sequence[PathRedirect]) -> Iterator[Refusal]:
    """Yield each redirect that may lead to itself again, for ever."""
    for one in found:
        if one.may_lead_to(one) and one.growth >= 0:
            yield Refusal(("redirects", one.source), f"leads to itself: it is what {one.source} redirects", one.target)
    circling = _circling(found)
    for one in circling:
        others = ", ".join(other.source for other in circling if other != one)
        yield Refusal(("redirects", one.source), f"may lead in a circle, with {others[:80]}", one.target)


def _circling(found: Sequence[PathRedirect]) -> list[PathRedirect]:
    """Return the redirects of circles of several in which an address never becomes shorter: the others end."""
    onward = {one: [other for other in found if other != one and one.may_lead_to(other)] for one in found}
    while ended := [one for one, others in onward.items() if not others]:
        onward = {one: [other for other in others if other not in ended] for one, others in onward.items() if others}
    if all(one.growth < 0 for one in onward):
        return []
    if len(onward) * sum(map(len, onward.values())) > MOST_STEPS:
        return list(onward)  # nobody means such a tangle
    # Bellman and Ford: where a way can still grow after as many rounds as there are redirects, it leads in a circle. A
    # circle that neither grows nor shrinks is one too.
    longest = dict.fromkeys(onward, 0)
    still: set[PathRedirect] = set()
    for number in range(2 * len(onward)):
        for one, others in onward.items():
            for other in others:
                length = longest[one] + one.growth * (len(onward) + 1) + 1
                if length > longest[other]:
                    longest[other] = length
                    if number >= len(onward):
                        still.add(other)
    return [one for one in onward if one in still]
