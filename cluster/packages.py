"""The packages of a project, by uv: what is installed from, as files that are the same on every platform.

`write_installation` writes them, `install-packages` (beside this file) installs from them, on this machine as in an
image. What comes from directories is left out: `install-local` installs it from a release's own copy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uv

from cluster.requirements import Kind, Requirements, logical_lines, outermost, read_json, read_toml, uv_table
from cluster.source import ReleaseError, Source, write_tree
from cluster_runtime.supervision import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HERE = Path(__file__).resolve().parent

#: The scripts that install, wherever they run.
INSTALL_PACKAGES, INSTALL_LOCAL = HERE / "install-packages", HERE / "install-local"

#: uv's configuration, beside the project's own requirements.
UV_CONFIG = "cluster-uv.toml"

#: Lines of uv's output that a message repeats.
LAST_LINES = 15

#: Variables that would send uv elsewhere than to what is asked for.
LEFT_OUT = frozenset(
    ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_CONFIG_FILE")
)

#: Settings of [tool.uv] that are about what is installed; uv itself reads the rest where it matters.
UV_SETTINGS = (
    *("index-strategy", "keyring-provider", "no-index", "prerelease", "resolution", "exclude-newer"),
    *("override-dependencies", "constraint-dependencies", "build-constraint-dependencies", "dependency-metadata"),
    *("no-binary", "no-binary-package", "no-build", "no-build-package", "no-build-isolation-package"),
    *("extra-build-dependencies", "config-settings", "allow-insecure-host"),
)

#: Who exports each lock. Their versions, and those of all that they need, are in exporters/: one that changed by itself
#: could read a lock differently.
EXPORTERS = {
    Kind.POETRY: ("poetry", "poetry-plugin-export"),
    Kind.PDM: ("pdm",),
    Kind.PIPENV: ("pipenv",),
}

#: What says that a lock does not fit what it was made of, and how it is renewed.
RENEWED_BY = {
    Kind.UV: "uv lock",
    Kind.POETRY: "poetry lock",
    Kind.PDM: "pdm lock",
    Kind.PIPENV: "pipenv lock",
}


def base_python() -> str:
    """Return the interpreter below the tool's own virtual environment, from which releases' environments are made."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def uv_environment() -> dict[str, str]:
    """Return the environment that uv runs in: the caller's, with what it trusts and where it goes out by."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_OUT}


def mask_urls(text: str) -> str:
    """Return `text` without user names and passwords in URLs."""
    return re.sub(r"(?<=://)[^/\s@'\"]+(?=@)", "****", text)


def run_program(
    command: list[str],
    *,
    cwd: Path | None = None,
    outlives: bool = False,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program that installs or exports; `environment` is added to uv's.

    outlives: let it end by itself where the caller is killed. A program with threads that take part in every fork
    (gRPC's, in a Pulumi program) has no other choice.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env={**uv_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=None if outlives else die_with_parent,  # the next `up` must not find it still writing
        **options,
    )


def last_lines(text: str) -> str:
    """Return the last lines of what a program printed, without passwords."""
    return mask_urls("\n".join(text.strip().splitlines()[-LAST_LINES:]))


# --- what is installed from


def write_installation(  # noqa: PLR0913 - what it is made of
    directory: Path,
    found: Requirements,
    *,
    runtime: Iterable[str],
    python: str,
    place: str,
    outlives: bool = False,
    wheels: Path | None = None,
) -> None:
    """Write what `install-packages` installs from; the same files give the same bytes.

    `place` is where `directory` will be when it runs. Locks other than uv's are exported here, by their own tools.
    wheels: a directory of packages that are made elsewhere.
    """
    tree = directory / "tree"
    tree.mkdir(parents=True)
    _copy_needed(tree, found)
    inner = found.directory.relative_to(found.top)
    how, main = _how(found)
    if found.kind in EXPORTERS:
        text = _export(tree / inner, found, outlives=outlives)
        (tree / inner / main).write_text(text.replace(str(tree), f"{place}/tree"), encoding="utf-8")
    elif found.kind is Kind.PYLOCK:
        (tree / inner / main).write_text(_without_directories(found.main), encoding="utf-8")
    (directory / "how").write_text(f"{how}\n", encoding="utf-8")
    (directory / "main").write_text(f"{(inner / main).as_posix()}\n", encoding="utf-8")
    (directory / "options").write_text("".join(f"{word}\n" for word in chosen_options(found)), encoding="utf-8")
    (directory / "python").write_text(f"{python}\n", encoding="utf-8")
    (directory / "runtime").write_text("".join(f"{line}\n" for line in runtime), encoding="utf-8")
    (tree / inner / UV_CONFIG).write_text(uv_config(found, wheels=wheels), encoding="utf-8")


def _how(found: Requirements) -> tuple[str, str]:
    """Return how packages are installed, and from which file beside the project's own."""
    if found.kind is Kind.UV:
        return "locked", "pyproject.toml"
    if found.kind in EXPORTERS:
        return "exact", "cluster-requirements.txt"
    if found.kind is Kind.PYLOCK:
        return "exact", "pylock.cluster.toml"
    return ("compile" if found.depends_on_local else "resolve"), found.main.name


def chosen_options(found: Requirements) -> list[str]:
    """Return uv's options for the extras and groups that were chosen."""
    if found.kind in EXPORTERS:
        return []
    return [
        *(word for name in found.extras for word in ("--extra", name)),
        *(word for name in found.groups for word in ("--group", name)),
    ]


def _copy_needed(tree: Path, found: Requirements) -> None:
    """Copy what is read to find out what to install: metadata, and whole packages where only their code says it."""
    for path in outermost(found.unclear):
        write_tree(Source(project=path, root=path).tree(""), tree / path.relative_to(found.top), _copy)
    for path in found.files:
        _copy(path, tree / path.relative_to(found.top))
    for path, text in found.texts.items():
        target = tree / path.relative_to(found.top)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (tree / found.directory.relative_to(found.top)).mkdir(parents=True, exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        shutil.copy2(source, target, follow_symlinks=False)


def _without_directories(lock: Path) -> str:
    """Return a pylock.toml without the packages that come from directories."""
    head, *blocks = re.split(r"(?m)^(?=\[\[packages\]\])", lock.read_text(encoding="utf-8"))
    packages = read_toml(lock).get("packages", [])
    if len(blocks) != len(packages):
        raise ReleaseError(f"app.requirements: {lock}: each package must be a table [[packages]] of its own")
    kept = (block for block, package in zip(blocks, packages, strict=True) if "directory" not in package)
    return "".join((head, *kept))


# --- locks


def _export(directory: Path, found: Requirements, *, outlives: bool) -> str:
    """Return what a lock pins, as requirements, by its own tool; ReleaseError where it does not fit."""
    check, export = _export_words(found)
    for words in (check, export):
        done = _run_exporter(found.kind, words, directory, outlives=outlives)
        if done.returncode != 0 and (words is export or is_of_lock(found.kind, done.stderr + done.stdout)):
            raise ReleaseError(_not_exported(found, done.stderr + done.stdout, stale=words is check))
    lines = [line for _first, _end, line in logical_lines(done.stdout) if not line.startswith(("-i ", "--extra-index"))]
    return "\n".join(lines)


def is_of_lock(kind: Kind, words: str) -> bool:
    """Tell whether a check that failed speaks of the lock.

    Poetry's looks at more: at a README, which is not in this copy, and at all that it would publish.
    """
    errors = _errors(words)
    return kind is not Kind.POETRY or not errors or any(str(kind) in line for line in errors)


def _errors(words: str) -> list[str]:
    """Return what a tool calls errors, among its warnings."""
    return [line for line in words.splitlines() if line.startswith("Error: ")]


def _export_words(found: Requirements) -> tuple[list[str], list[str]]:
    """Return the commands that check a lock against what it was made of, and that export it."""
    if found.kind is Kind.POETRY:
        chosen = [word for name in found.extras for word in ("--extras", name)]
        groups = ["--with", ",".join(found.groups)] if found.groups else []
        return ["check", "--lock"], ["export", "--format", "requirements.txt", *chosen, *groups]
    if found.kind is Kind.PDM:
        chosen = [word for name in (*found.extras, *found.groups) for word in ("--group", name)]
        # Groups of dependencies count as those of development, of which otherwise all would be taken.
        production = [] if found.groups else ["--prod"]
        # It refuses hashes where one package, a directory, has none.
        hashes = ["--no-hashes"] if found.local else []
        return ["lock", "--check"], ["export", "--format", "requirements", *hashes, *production, *chosen]
    categories = " ".join(("packages", *found.groups))
    return ["verify"], ["requirements", "--hash", "--categories", categories]


def _run_exporter(kind: Kind, words: list[str], directory: Path, *, outlives: bool) -> subprocess.CompletedProcess[str]:
    name, *plugins = EXPORTERS[kind]
    pins = HERE / "exporters" / f"{name}.txt"
    versions = dict(
        line.split(" ")[0].split("==") for line in pins.read_text(encoding="utf-8").splitlines() if "==" in line
    )
    tool = [
        *("tool", "run", "--quiet", "--isolated", "--constraints", str(pins), "--python", base_python()),
        *("--from", f"{name}=={versions[name]}"),
        *(word for plugin in plugins for word in ("--with", f"{plugin}=={versions[plugin]}")),
    ]
    environment = {
        "POETRY_VIRTUALENVS_CREATE": "false",
        "POETRY_NO_INTERACTION": "1",
        "PDM_CHECK_UPDATE": "0",
        "PDM_USE_VENV": "0",
        "PDM_PYTHON": base_python(),
        "PDM_IGNORE_SAVED_PYTHON": "1",
        "PIPENV_IGNORE_VIRTUALENVS": "1",
        "PIPENV_PIPFILE": str(directory / "Pipfile"),
        "WORKON_HOME": str(directory / ".venvs"),
        "NO_COLOR": "1",
    }
    command = [uv.find_uv_bin(), "--no-config", "--system-certs", *tool, name, *words]
    return run_program(command, cwd=directory, outlives=outlives, environment=environment)


def _not_exported(found: Requirements, words: str, *, stale: bool) -> str:
    """Return one line: why a lock can't be honoured, and what to do."""
    name = EXPORTERS[found.kind][0]
    last = mask_urls(" ".join(("\n".join(_errors(words)) or words).split()[-40:]))
    if stale and not re.search(
        r"(?i)failed to (?:fetch|download)|no solution|not found in the (?:cache|package registry)", words
    ):
        made_of = "Pipfile" if found.kind is Kind.PIPENV else "pyproject.toml"
        return (
            f"app.requirements: {found.kind} is not what {made_of} asks for: run `{RENEWED_BY[found.kind]}` "
            f"({name} says: {last})"
        )
    return f"app.requirements: {found.kind} can't be exported by {name}, which alone reads it: {last}"


# --- indexes


def uv_config(
    found: Requirements,
    *,
    absolute: bool = False,
    wheels: Path | None = None,
    more: Mapping[str, Any] | None = None,
    left_out: Iterable[str] = (),
) -> str:
    """Return uv's configuration for these requirements: the indexes that the project names, and how it wants them.

    absolute: directories of packages' files by their whole paths, for where it is not used beside the requirements.
    wheels: one more of these. more: settings in the place of the project's, which has none of those in left_out.
    """
    settings: dict[str, Any] = {}
    table = uv_table(found.directory)
    indexes = [*_indexes(found, table)]
    settings |= {name: table[name] for name in UV_SETTINGS if name in table and name not in left_out}
    settings |= more or {}
    if found.kind in EXPORTERS and indexes:
        # Each package is pinned, and by its hash where the lock has one: whichever index has it.
        settings.setdefault("index-strategy", "unsafe-best-match")
    links = [str(path) if absolute else os.path.relpath(path, found.directory) for path in found.links]
    links += [link for link in table.get("find-links", ()) if "://" in link]
    links += [word for option, word in _index_options(found) if option in ("-f", "--find-links")]
    links += [] if wheels is None else [str(wheels)]
    if links:
        settings["find-links"] = links
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    for index in indexes:
        lines += ["[[index]]", *(f"{name} = {_toml(value)}" for name, value in index.items())]
    return "".join(f"{line}\n" for line in lines)


def index_urls(found: Requirements) -> list[str]:
    """Return the indexes that the project names, with the users and passwords that it has for them."""
    return [str(index["url"]) for index in _indexes(found, uv_table(found.directory)) if "url" in index]


def _indexes(found: Requirements, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (dict(index) for index in table.get("index", ()))
    yield from ({"url": url} for url in table.get("extra-index-url", ()))
    if "index-url" in table:
        yield {"url": table["index-url"], "default": True}
    tool = found.project.get("tool", {})
    yield from _poetry_indexes(tool.get("poetry", {}).get("source", ()))
    pdm = tool.get("pdm", {}).get("source", ())
    yield from _named_indexes(source for source in pdm if source.get("type", "index") == "index")
    if found.kind is Kind.PIPENV:
        yield from _named_indexes(read_json(found.main).get("_meta", {}).get("sources", ()))
    for option, url in _index_options(found):
        if option in ("-i", "--index-url", "--extra-index-url"):
            yield {"url": url, **({} if option == "--extra-index-url" else {"default": True})}


def _poetry_indexes(sources: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield Poetry's sources: one that is primary stands in PyPI's place, others beside it."""
    sources = [source for source in sources if "url" in source]
    named_pypi = any(str(source.get("name", "")).lower() == "pypi" for source in sources)
    for source in sources:
        priority = source.get("priority", "primary")
        instead = not named_pypi and priority in ("primary", "default")
        index = {"name": source["name"], "url": _with_credentials(source["name"], source["url"])}
        yield {
            **index,
            **({"default": True} if instead else {}),
            **({"explicit": True} if priority == "explicit" else {}),
        }


def _with_credentials(name: str, url: str) -> str:
    """Return a URL with the user and password that Poetry's variables give for a source, where it has none."""
    variable = re.sub(r"[^A-Z0-9]", "_", name.upper())
    user, password = (os.environ.get(f"POETRY_HTTP_BASIC_{variable}_{word}", "") for word in ("USERNAME", "PASSWORD"))
    if not user or "@" in urlsplit(url).netloc:
        return url
    from urllib.parse import quote  # noqa: PLC0415 - only for private indexes

    return url.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)


def _named_indexes(sources: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, source in enumerate(source for source in sources if "url" in source):
        instead = number == 0 or str(source.get("name", "")).lower() == "pypi"
        yield {"url": _expanded(source["url"]), **({"default": True} if instead else {})}


def _expanded(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), text)


INDEX_OPTION = re.compile(r"\s*(-i|--index-url|--extra-index-url|-f|--find-links)(?:\s*=\s*|\s+)(\S+)")


def _index_options(found: Requirements) -> Iterator[tuple[str, str]]:
    """Yield the options about indexes in the requirements files, with variables expanded."""
    for text in found.texts.values():
        for _first, _end, line in logical_lines(text):
            option = INDEX_OPTION.match(line)
            if option:
                yield option[1], _expanded(option[2])


def _toml(value: object) -> str:
    """Return a value as TOML; JSON's texts and lists are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value), ensure_ascii=False)
