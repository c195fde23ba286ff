"""What a package without a wheel is built of: its source, as the project's requirements pin it, fetched and checked.

uv says which package it can't install for another machine; whoever builds it there needs its source, and what it is
built with (PEP 517, PEP 518). Nothing of it is run here, but for a package in git, of which uv makes an archive.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import ssl
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urldefrag, urlsplit

import uv

from cluster.packages import base_python, index_urls, last_lines, mask_urls, run_program, uv_config
from cluster.requirements import Kind, local_path, logical_lines, normalised, read_toml, uv_table
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cluster.requirements import Requirements

#: What a project builds with that does not say it (PEP 518), and by which backend (PEP 517).
LEGACY = ("setuptools>=40.8.0", "wheel"), "setuptools.build_meta:__legacy__"

#: Seconds for which an index may say nothing.
TIMEOUT = 60.0

#: Bytes of a pyproject.toml; nobody writes a longer one.
LONGEST = 1 << 20

#: What uv says of a package that it could not build, or whose wheel fits another Python alone than it is for.
_FAILED = re.compile(
    r"Failed to (?:download and )?build `(?:([A-Za-z0-9._-]+?)(?:==([^`\s]+)| @ ([^`\s]+))?|(file:[^`]+))`"
)
_OTHER = re.compile(r"[Tt]he built wheel `([A-Za-z0-9._]+)-([^-`]+)-")

_HASH = re.compile(r"--hash[= ](\w+:[0-9a-f]+)")


@dataclass(frozen=True, kw_only=True)
class Unbuilt:
    """A package that uv can't install for another machine, as it calls it. url: where it is from, if not an index."""

    name: str
    version: str = ""
    url: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    @property
    def directory(self) -> Path | None:
        """The directory or file that it is installed from; None where it is from elsewhere."""
        return Path(unquote(urlsplit(self.url).path)) if self.url.startswith("file:") else None


@dataclass(frozen=True, kw_only=True)
class Sdist:
    """An archive of which a package is built; what is in it lies in one directory, its package perhaps below that.

    digest: tells it from any other. requires, backend, backend_path: as [build-system] of its pyproject.toml.
    """

    path: Path
    digest: str
    subdirectory: str = ""
    requires: Sequence[str] = LEGACY[0]
    backend: str = LEGACY[1]
    backend_path: Sequence[str] = ()


def unbuilt(words: str) -> Unbuilt | None:
    """Return which package uv says it could not build; None where something else is the matter."""
    text = " ".join(words.split())
    failed, other = _FAILED.search(text), _OTHER.search(text)
    if failed is None:
        return None if other is None else Unbuilt(name=normalised(other[1]), version=other[2])
    name, version, url = failed[1], failed[2] or "", failed[3] or failed[4] or ""
    if not version and other is not None:
        version = other[2]
    if name is None:
        name = other[1] if other is not None else Path(urlsplit(url).path).name
    return Unbuilt(name=normalised(name), version=version, url=url)


# --- what the requirements pin


def pinned_texts(found: Requirements, made_from: Path) -> list[str]:
    """Return the requirements files that packages are installed from; made_from: as `write_installation` wrote it."""
    exported = made_from / "tree" / (made_from / "main").read_text(encoding="utf-8").strip()
    texts = [*found.texts.values()]
    return [*texts, exported.read_text(encoding="utf-8")] if exported.suffix == ".txt" else texts


def pinned_hashes(found: Requirements, texts: Iterable[str], package: Unbuilt) -> frozenset[str]:
    """Return the hashes (`sha256:…`) that the project has of a package's files; empty where it has none."""
    locked = _locked(found, package)
    hashes = set() if locked is None else set(locked[1])
    for text in texts:
        for _first, _end, line in logical_lines(text):
            named = re.match(r"\s*([A-Za-z0-9._-]+)", line)
            if named is not None and normalised(named[1]) == package.name:
                hashes |= set(_HASH.findall(line))
    return frozenset(hashes)


def is_pinned(found: Requirements, texts: Iterable[str], package: Unbuilt) -> bool:
    """Tell whether no other version of a package can be chosen than the one that was."""
    return (
        bool(package.url)
        or found.kind not in (Kind.REQUIREMENTS, Kind.PYPROJECT)
        or bool(pinned_hashes(found, texts, package))
    )


def _locked(found: Requirements, package: Unbuilt) -> tuple[str, list[str]] | None:
    """Return where a lock has a package's source from, and its hashes; None where that is another file's matter."""
    for entry in _entries(found):
        if normalised(entry["name"]) == package.name and package.version in ("", entry.get("version", "")):
            sdist = entry.get("sdist") or entry.get("archive") or {}
            hashes = [sdist["hash"]] if "hash" in sdist else [f"{one}:{value}" for one, value in _hashes(sdist)]
            return sdist.get("url") or _beside(found, entry, sdist), hashes
    return None


def _beside(found: Requirements, entry: Mapping[str, Any], sdist: Mapping[str, Any]) -> str:
    """Return the path of a file that a lock names: in uv's beside the others of its index, a directory."""
    if "path" not in sdist:
        return ""
    registry = entry.get("source", {}).get("registry", "") if found.kind is Kind.UV else ""
    return str(found.directory / local_path(registry) / sdist["path"])


def _hashes(sdist: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    found: Mapping[str, str] = sdist.get("hashes", {})
    return found.items()


def _entries(found: Requirements) -> Iterator[dict[str, Any]]:
    if found.kind is Kind.PYLOCK:
        yield from read_toml(found.main).get("packages", ())
    for lock in found.files if found.kind is Kind.UV else ():
        if lock.name == Kind.UV:
            yield from read_toml(lock).get("package", ())


# --- where it is from


def fetch(
    found: Requirements, texts: Sequence[str], package: Unbuilt, target: tuple[str, str], directory: Path
) -> Sdist:
    """Put a package's source into a directory that is empty; ReleaseError where it is not what was pinned, or is away.

    target: the Python and the platform for which the package is, as uv calls them.
    """
    hashes, place = pinned_hashes(found, texts, package), package.directory
    if place is not None:
        _check(package, place, hashes)
        return _sdist(place, digest_of(place))
    url, fragment = urldefrag(package.url)
    given = {key: values[0] for key, values in parse_qs(fragment).items()}
    subdirectory = given.get("subdirectory", "")
    if url.startswith("git+"):
        return _checked_out(found, package, url.removeprefix("git+"), subdirectory, directory)
    if url:
        named = {f"{key}:{value}" for key, value in given.items() if key in hashlib.algorithms_guaranteed}
        wanted = [hashes, named]
    else:
        locked = _locked(found, package)
        url, said = locked if locked is not None and locked[0] else _of_index(found, package, target, directory)
        wanted = [hashes, frozenset(said)]
    path = directory / Path(unquote(urlsplit(url).path)).name
    if url.startswith(("http:", "https:")):
        _download(found, package, url, path)
    else:
        try:
            shutil.copyfile(found.directory / local_path(url), path)
        except OSError as error:
            raise ReleaseError(f"app.requirements: {package}: {local_path(url)}: {error.strerror}") from error
    for one in wanted:
        _check(package, path, one)
    return _sdist(path, digest_of(path), subdirectory)


def digest_of(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(package: Unbuilt, path: Path, hashes: Iterable[str]) -> None:
    """Refuse a file that has none of these hashes; none at all let any pass."""
    wanted = sorted(hashes)
    for one in wanted:
        algorithm, _, value = one.partition(":")
        with path.open("rb") as file:
            if hashlib.file_digest(file, algorithm).hexdigest() == value:
                return
    if wanted:
        raise ReleaseError(
            f"app.requirements: {package}: {path.name} is not what was pinned: it has sha256:{digest_of(path)}, and "
            f"{' or '.join(wanted)} is asked for"
        )


def _of_index(found: Requirements, package: Unbuilt, target: tuple[str, str], directory: Path) -> tuple[str, list[str]]:
    """Return where an index has the source of a package from, and its hashes, as uv finds it."""
    version = {"version": package.version} if package.version else {}
    said = {"name": package.name, **version, "requires-dist": []}
    # Without it uv would ask the package's own code what it needs, which may need what is not here.
    config = uv_config(found, absolute=True, more={"dependency-metadata": [said]}, left_out=OF_THE_PROJECT)
    (directory / "uv.toml").write_text(config, encoding="utf-8")
    pinned = f"=={package.version}" if package.version else ""
    (directory / "wanted").write_text(f"{package.name}{pinned}\n", encoding="utf-8")
    words = ("--python", base_python(), "--python-version", target[0], "--python-platform", target[1], "--no-deps")
    done = run_program(
        [
            *(uv.find_uv_bin(), "--config-file", str(directory / "uv.toml"), "--system-certs", "--quiet"),
            *("pip", "compile", "--no-header", "--format", "pylock.toml", *words, str(directory / "wanted")),
        ],
        cwd=found.directory,
        outlives=True,
    )
    if done.returncode != 0:
        raise ReleaseError(f"app.requirements: {package}: its source can't be found\n{last_lines(done.stderr)}")
    for entry in tomllib.loads(done.stdout).get("packages", ()):
        sdist = entry.get("sdist", {})
        place = sdist.get("url") or (str(found.directory / sdist["path"]) if "path" in sdist else "")
        if place:
            return place, [f"{one}:{value}" for one, value in _hashes(sdist)]
    raise ReleaseError(f"app.requirements: {package} is published for other machines alone, without its source")


#: What a project says of its own packages, and not of one alone, or of what one is built with.
OF_THE_PROJECT = ("override-dependencies", "constraint-dependencies", "dependency-metadata", "resolution")


def _download(found: Requirements, package: Unbuilt, url: str, path: Path) -> None:
    """Download a file, with the user and password that the project has for an index of that host."""
    parts = urlsplit(url)
    known = [one for one in map(urlsplit, index_urls(found)) if one.hostname == parts.hostname and one.username]
    auth = (
        (unquote(known[0].username or ""), unquote(known[0].password or "")) if known and not parts.username else None
    )
    import httpx  # noqa: PLC0415 - takes its time, and few packages are had so

    try:
        with (
            httpx.Client(verify=ssl.create_default_context(), timeout=TIMEOUT, follow_redirects=True) as client,
            client.stream("GET", url, auth=auth) as answer,
            path.open("wb") as file,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                file.write(chunk)
    except (httpx.HTTPError, OSError) as error:
        why = mask_urls(str(error).partition("\n")[0]) or type(error).__name__
        raise ReleaseError(f"app.requirements: {package}: {mask_urls(url)} can't be had: {why}") from error


def _checked_out(found: Requirements, package: Unbuilt, url: str, subdirectory: str, directory: Path) -> Sdist:
    """Make an archive of what a repository has, by uv, which lets the package say its version by git's history."""
    place, _, revision = url.rpartition("@") if "@" in urlsplit(url).path else (url, "", "HEAD")
    there, made, config = directory / "checkout", directory / "made", directory / "uv.toml"
    config.write_text(uv_config(found, absolute=True, left_out=OF_THE_PROJECT), encoding="utf-8")
    git = ("git", "-C", str(there))
    archive = ("build", "--sdist", "--python", base_python(), "--out-dir", str(made), str(there / subdirectory))
    for words in (
        ("git", "clone", "--quiet", place, str(there)),
        (*git, "checkout", "--quiet", "--detach", revision),
        (*git, "submodule", "--quiet", "update", "--init", "--recursive"),
        (uv.find_uv_bin(), "--config-file", str(config), "--system-certs", "--quiet", *archive),
    ):
        done = run_program([*words], outlives=True, environment={"GIT_TERMINAL_PROMPT": "0"})
        if done.returncode != 0:
            raise ReleaseError(
                f"app.requirements: {package}: {mask_urls(url)} can't be had\n{last_lines(done.stderr or done.stdout)}"
            )
    commit = run_program([*git, "rev-parse", "HEAD"], outlives=True).stdout.strip()
    (path,) = made.glob("*.tar.gz")
    # The archive has the time of its making in it.
    return _sdist(path, hashlib.sha256(f"{mask_urls(place)}@{commit}#{subdirectory}".encode()).hexdigest())


def packed(directory: Path, path: Path) -> Sdist:
    """Make an archive of a local package's directory; the same files give the same digest."""
    with tarfile.open(path, "w") as archive:
        archive.add(directory, arcname="source", filter=_plain)
    return _sdist(path, digest_of(path))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


# --- what it is built with


def _sdist(path: Path, digest: str, subdirectory: str = "") -> Sdist:
    text = _pyproject(path, tuple(part for part in subdirectory.split("/") if part))
    try:
        table: dict[str, Any] = tomllib.loads(text).get("build-system", {})
    except tomllib.TOMLDecodeError as error:
        raise ReleaseError(f"app.requirements: pyproject.toml of {path.name}: {error}") from error
    is_legacy = "build-backend" not in table
    return Sdist(
        path=path,
        digest=digest,
        subdirectory=subdirectory,
        requires=table.get("requires", LEGACY[0]),
        backend=LEGACY[1] if is_legacy else table["build-backend"],
        backend_path=table.get("backend-path", ()),
    )


def _pyproject(path: Path, below: tuple[str, ...]) -> str:
    """Return the pyproject.toml of an archive's package; empty where it has none."""

    def is_it(name: str) -> bool:
        return tuple(name.removeprefix("./").split("/")[1:]) == (*below, "pyproject.toml")

    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed_:
                found = [name for name in packed_.namelist() if is_it(name)]
                return packed_.open(found[0]).read(LONGEST).decode() if found else ""
        with tarfile.open(path) as archive:
            members = [member for member in archive if is_it(member.name) and member.isfile()]
            content = archive.extractfile(members[0]) if members else None
            return "" if content is None else content.read(LONGEST).decode()
    except (OSError, tarfile.TarError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ReleaseError(f"app.requirements: {path.name} is no archive of a package's source: {error}") from error


def build_requirements(found: Requirements, sdist: Sdist, name: str) -> tuple[list[str], list[str]]:
    """Return what a package is built with, and what holds for its versions: [tool.uv] may add to both."""
    table = uv_table(found.directory)
    extra: Mapping[str, Sequence[Any]] = table.get("extra-build-dependencies", {})
    more = [
        one["requirement"] if isinstance(one, dict) else str(one)
        for key, lines in extra.items()
        if normalised(key) == name
        for one in lines
    ]
    return [*sdist.requires, *more], [str(line) for line in table.get("build-constraint-dependencies", ())]
