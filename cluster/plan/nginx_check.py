"""What a real nginx says of the configuration that a stack file gives, before anything is done, and of which keys.

The configuration is rendered for a directory of its own that is gone afterwards: the check opens listening sockets,
logs and what else is written there, and none of a cluster's. Which key it is that nginx refuses is found by leaving
out: what can be left out of the stack file is added again, piece by piece; a piece with which nginx refuses what it
took without it is told, and stays out.
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import CHAIN, KEY, LIVE
from cluster.config import StackFileError, parse_config
from cluster.config.document import step
from cluster.config.models import dump
from cluster.config.snippets import parsed
from cluster.errors import ClusterError
from cluster.machine.nginx import refusal
from cluster.plan.side import nginx_paths
from cluster.render.nginx import render_nginx
from cluster.render.snippets import HTTP, SERVER
from cluster.tls.certificates import Certificate
from cluster.topology import build_topology

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cluster.config import ClusterConfig
    from cluster.render.nginx import NginxConfig
    from cluster.render.paths import NginxPaths
    from cluster.render.versions import Version
    from cluster.topology import Topology

Values = dict[str, Any]

#: A place in the values of a stack file.
Place = tuple[str | int, ...]

#: Directives of a snippet whose first argument is a file or a directory that a check makes.
WRITES = re.compile(r"(error_log|access_log|\w+_temp_path|\w+_cache_path)")

#: Where that is, in the directory of the check.
WRITTEN = "written"

#: What an entry of a list must have, by the key of the list: the rest of it can be left out.
NEEDED = {"locations": "path"}

#: Begins nginx's words on the name of a host that is not known here, and perhaps is where the stack runs.
NO_HOST = "host not found in "


class UncheckedError(ClusterError):
    """A configuration can't be checked here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A key of the stack file that nginx refuses, and its own words; the key is empty where none is to blame."""

    key: str
    words: str

    def __str__(self) -> str:
        return f"{self.key or 'nginx'}: nginx refuses it: {self.words}"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a check needs in a directory of its own: `directory`, an absolute path.

    files: texts by their paths from there, or absolute ones below it. links: where they lead. directories: absolute.
    moved: what of the snippets is elsewhere for this, by its path in the directory.
    """

    directory: str
    files: Mapping[str, str]
    links: Mapping[str, str]
    directories: Sequence[str]
    moved: Mapping[str, str]

    def write(self) -> None:
        """Write it into its directory, which is there."""
        top = Path(self.directory)
        for path in self.directories:
            Path(path).mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text, encoding="utf-8")
        for name, target in self.links.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).symlink_to(target)


class Checker:
    """An nginx of this machine that is asked; and what of asking is the same wherever an nginx is.

    program, version: which. user: by whom its workers run, where it is root who asks. prefix: the directory from which
    the running nginx takes relative paths; None where that is not here.
    """

    #: Whether it knows the names of hosts that the stack's nginx knows.
    resolves = True

    def __init__(self, program: str, version: Version, *, user: str | None = None, prefix: Path | None = None) -> None:
        self.program = program
        self.version = version
        root = os.geteuid() == 0
        self.user = (user or pwd.getpwuid(0).pw_name) if root else None
        self.prefix = prefix

    def refusals(self, config: ClusterConfig) -> list[Refusal]:
        """Return what nginx refuses of a stack; nothing where it takes it. UncheckedError where it can't be asked."""
        words = self.asked(config)
        if words is None:
            return []
        return Search(self, config).found() or [Refusal(key="", words=words)]

    def judged(self, config: ClusterConfig) -> tuple[list[str], list[str]]:
        """Return what nginx refuses of a stack, and what can't be said of that, a line each."""
        try:
            found = self.refusals(config)
        except UncheckedError as error:
            return [], [f"whether nginx takes its configuration: {error}"]
        unsure = [one for one in found if not self.resolves and one.words.startswith(NO_HOST)]
        return [str(one) for one in found if one not in unsure], [str(one) for one in unsure]

    def asked(self, config: ClusterConfig) -> str | None:
        """Return nginx's words where it refuses a stack's configuration; None where it takes it."""
        with self.place() as directory:
            tree = self._tree(config, directory)
            try:
                words = self.said(tree)
            except (TimeoutError, OSError) as error:
                raise UncheckedError(str(error)) from error
        if words is None:
            return None
        if "[emerg]" not in words:
            raise UncheckedError(f"{self.program} -t fails: {words.splitlines()[0] if words else 'it says nothing'}")
        if "too long path in the unix domain socket" in words:
            where = os.path.dirname(directory)  # noqa: PTH120 - of whichever machine
            raise UncheckedError(f"{where}, where temporary files are, has too long a path for sockets")
        words = words.replace(f"{directory}/", "")
        for place, said in tree.moved.items():
            words = words.replace(place, said)
        return _first(words)

    @contextmanager
    def place(self) -> Iterator[str]:
        """Give a directory for a check."""
        # A short path: so are those of the sockets in it.
        with tempfile.TemporaryDirectory(prefix="ngx-", dir=_short()) as made:
            yield made

    def said(self, tree: Tree) -> str | None:
        """Return all that nginx says of a configuration that it refuses; None where it takes it."""
        tree.write()
        # What else the environment holds is none of a snippet's business.
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        directory = Path(tree.directory)
        return refusal(self.program, directory / "nginx.conf", directory, environment)

    def rendered(
        self,
        topology: Topology,
        paths: NginxPaths,
        certificate: Certificate | None,
        directory: str,  # noqa: ARG002 - paths say it
    ) -> NginxConfig:
        """Return a configuration whose every path is in a check's directory."""
        return render_nginx(topology, paths, self.version, certificate)

    def _tree(self, config: ClusterConfig, directory: str) -> Tree:
        topology = build_topology(config)
        paths = nginx_paths(
            topology,
            directory,
            self.user,
            # Sockets have no port that may be taken, or is root's alone.
            (f"unix:{directory}/site", f"unix:{directory}/site6", f"unix:{directory}/instance"),
        )
        directories = [f"{directory}/{name}" for name in ("logs", "temp", WRITTEN)]
        moved: dict[str, str] = {}
        rendered = self.rendered(topology, paths, _certificate(config), directory)
        snippets = {
            name: self._moved(text, Path(directory), moved, directories)
            for name, text in rendered.files.items()
            if name.endswith((HTTP, SERVER))
        }
        files = {**rendered.files, **rendered.private, **snippets}
        if config.site.acme is not None:
            chain, key = _throwaway()
            files |= {f"acme/{LIVE}/{CHAIN}": chain, f"acme/{LIVE}/{KEY}": key}
        return Tree(directory=directory, files=files, links=rendered.links, directories=directories, moved=moved)

    def _moved(self, text: str, directory: Path, moved: dict[str, str], directories: list[str]) -> str:
        """Return a snippet with what it lets nginx write in the check's directory; each line stays where it is."""
        lines = text.split("\n")
        for directive in _all(parsed(text)[0]):
            if not WRITES.fullmatch(directive["directive"]) or not directive["args"]:
                continue
            said, at = directive["args"][0], directive["line"] - 1
            if said in {"off", "stderr"} or said.startswith(("syslog:", "memory:")):
                continue
            place = Path(os.path.normpath(directory / WRITTEN / said.lstrip("/")))
            word = re.compile(rf"(\s[\"']?){re.escape(said)}(?=[\s;\"'])")
            if not place.is_relative_to(directory / WRITTEN) or not word.search(lines[at]):
                raise UncheckedError(f"{directive['directive']} {said} in a snippet: nobody can say what that writes")
            moved[place.relative_to(directory).as_posix()] = said
            if self.prefix is None or (self.prefix / said).parent.is_dir():
                directories.append(str(place.parent))
            lines[at] = word.sub(lambda found, place=place: f"{found[1]}{place}", lines[at], count=1)  # type: ignore[misc]
        return "\n".join(lines)


class Search:
    """Finds the keys of a stack file that nginx refuses."""

    def __init__(self, checker: Checker, config: ClusterConfig) -> None:
        self.checker = checker
        self.whole = dump(config)
        self.words: dict[Place, str] = {}

    def found(self) -> list[Refusal]:
        """Return each key that nginx refuses beside those that it takes, with its words."""
        taken: list[Place] = []
        said = self._said(taken)
        if said is not None:
            return [Refusal(key="", words=said)]
        broken = [place for one in self._refused(taken, self._places()) for place in self._within(taken, one)]
        return [Refusal(key=_key(place), words=self.words[place]) for place in broken if place in self.words]

    def _refused(self, taken: list[Place], places: Sequence[Place]) -> list[Place]:
        """Return those of the places that nginx refuses beside what it has taken; the others are taken too."""
        if not places:
            return []
        said = self._said([*taken, *places])
        if said is None:
            taken += places
            return []
        if len(places) == 1:
            if said:
                self.words[places[0]] = said
            return list(places)
        half = len(places) // 2
        return [*self._refused(taken, places[:half]), *self._refused(taken, places[half:])]

    def _within(self, taken: list[Place], place: Place) -> list[Place]:
        """Return which keys of an entry of a list it is, where they can be told apart."""
        needed = NEEDED.get(str(place[-2]))
        if needed is None:
            return [place]
        least = (*place, needed)
        if self._said([*taken, least]) is not None:
            self.words[least] = self.words[place]
            return [least]
        default = dump(parse_config(self._with([least])))[str(place[0])][str(place[1])][0]
        inner = [(*place, key) for key, one in _at(self.whole, place).items() if one != default[key] and key != needed]
        return self._refused([*taken, least], inner) or [place]

    def _said(self, places: Sequence[Place]) -> str | None:
        """Return what nginx says of a stack with these places alone; empty where that is no stack."""
        try:
            config = parse_config(self._with(places))
        except StackFileError:
            return ""
        return self.checker.asked(config)

    def _with(self, places: Sequence[Place]) -> Values:
        """Return the values of a stack with what must be there, and these places; lists keep their order."""
        whole = self.whole
        values: Values = {
            "platform": whole["platform"],
            "app": {**{key: whole["app"][key] for key in ("project", "settings")}, "media": False},
            "upstream": {"servers": {at: {"name": one["name"]} for at, one in enumerate(whole["upstream"]["servers"])}},
            "site": {"server_names": {}, "listen": whole["site"]["listen"]},
        }
        for place in places:
            here: dict[Any, Any] = values
            for key in place[:-1]:
                here = here.setdefault(key, {})
            here[place[-1]] = _at(whole, place)
        found: Values = _with_lists(values)
        found["site"]["server_names"] = found["site"]["server_names"] or ["localhost"]
        return found

    def _places(self) -> list[Place]:
        """Return what nginx's configuration is made of, and can be left out, in pieces as small as can be."""
        plain = dump(parse_config(self._with([])))
        whole, found = self.whole, list[Place]()
        found += [("app", key) for key in ("media", "protected_media", "collectstatic")]
        found += [("upstream", key) for key in whole["upstream"] if key != "servers"]
        servers = whole["upstream"]["servers"]
        found += [("upstream", "servers", at, key) for at, one in enumerate(servers) for key in one]
        for key, value in whole["site"].items():
            if isinstance(value, list):
                found += [("site", key, at) for at in range(len(value))]
            elif isinstance(value, dict) and key != "tls":
                found += [("site", key, inner) for inner in value]
            else:
                found.append(("site", key))
        return [place for place in found if _at(whole, place) != _at(plain, place)]


def _with_lists(value: Any) -> Any:
    """Return values in which each mapping by numbers is a list."""
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(key, int) for key in value):
        return [_with_lists(value[key]) for key in sorted(value)]
    return {key: _with_lists(one) for key, one in value.items()}


def _at(values: Any, place: Place) -> Any:
    """Return what is at a place; None where there is nothing."""
    for key in place:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _key(place: Place) -> str:
    """Return a place as messages write it: site.locations[2].limit."""
    path = ""
    for one in place:
        path = f"{path}[{one}]" if isinstance(one, int) else step(path, one)
    return path


def _all(directives: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for directive in directives:
        yield directive
        yield from _all(directive.get("block") or ())


def _first(words: str) -> str:
    """Return nginx's first complaint, without its time and who it is."""
    line = next(line for line in words.splitlines() if "[emerg]" in line)
    return re.sub(r"^.*?\[emerg\] (\d+#\d+: )?", "", line)


def _short() -> str | None:
    return "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None  # noqa: S108 - a directory of our own is made in it


def _certificate(config: ClusterConfig) -> Certificate | None:
    """Return a certificate for a site that has one: nginx is not given the real one's key for this."""
    if config.site.tls is None:
        return None
    if config.site.acme is not None:
        return Certificate(label="", renewed=True)
    chain, key = _throwaway()
    return Certificate(label="", chain=chain, key=key)


@cache
def _throwaway() -> tuple[str, str]:
    """Return a certificate and its key, PEM, that nobody trusts."""
    from cluster.tls.authority import make_authority, signed  # noqa: PLC0415 - cryptography takes its time

    now = dt.datetime.now(dt.UTC)
    return signed(make_authority("check", now), ["localhost"], now)
