"""A release that is on this machine: its files, and what they say."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from cluster.kept import COMPLETE, HurtFile, hurt, read_kept
from cluster.machine.confined import clean_environment
from cluster_runtime import unfollowed
from cluster_runtime.config import ConfigError, RuntimeConfig
from cluster_runtime.paths import LEFT_OUT
from platforms.local.written import FILES, SERVED

#: Its migrations have run.
MIGRATED = "migrated"
COMMANDED = "commanded"

#: The names of the project's own sqlite files among the data, as they were when its migrations had run.
DATABASES = "databases.json"

#: Files and directories of a release; what the project must not change of its own release is not its user's.
CONFIG, PARTS, FACTS, SECRETS = "config.json", "parts.json", "project.json", "secrets"
KEPT_FILES = (CONFIG, PARTS, FACTS, COMPLETE, MIGRATED, COMMANDED, SERVED, DATABASES)
OURS = (*KEPT_FILES, SECRETS, FILES, LEFT_OUT, "runtime", "environment")

PARTS_KIND: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])
FACTS_KIND: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that is on this machine."""

    digest: str
    directory: Path

    @property
    def config(self) -> Path:
        """The file that tells the instances what they are."""
        return self.directory / "config.json"

    @property
    def project(self) -> Path:
        """The project's directory in it."""
        return Path(self.runtime()["project"])

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        return str(self.directory / "environment" / "bin" / "python")

    @property
    def migrated(self) -> bool:
        """Whether `migrate` has run in it."""
        return (self.directory / MIGRATED).is_file()

    @property
    def database(self) -> Path | None:
        """The file of an sqlite that the stack file puts beside the releases; None for any other database."""
        found = self.runtime()["database"] or {}
        return Path(found["path"]) if found.get("path") else None

    @property
    def memcached_nodes(self) -> int:
        """How many memcached nodes it keeps sessions in."""
        return len(self.runtime()["sessions"]["memcached"])

    def runtime(self) -> dict[str, Any]:
        """Return the contents of its configuration file; HurtFile where that is not whole."""
        try:
            found = RuntimeConfig.load(self.config)
        except ConfigError as error:
            raise HurtFile(self.config, "is not whole") from error
        if self.directory not in Path(found.project).parents:
            raise HurtFile(self.config, "is of another directory: this one was moved")
        return asdict(found)

    def parts(self) -> dict[str, str]:
        """Return the digests of the release's parts; HurtFile where they are not whole."""
        return self._kept(PARTS, PARTS_KIND)

    def facts(self) -> dict[str, Any]:
        """Return what `cluster_runtime.describe` said of the project; HurtFile where it is not whole."""
        return self._kept(FACTS, FACTS_KIND)

    def _kept(self, name: str, kind: TypeAdapter[T]) -> T:
        found = read_kept(self.directory / name, kind)
        if found is None:
            raise HurtFile(self.directory / name, "is gone")
        return found

    def hurt(self) -> list[str] | None:
        """Return what of it is not as it was made, by its path in the release; None where it was never whole."""
        found = hurt(self.directory, COMPLETE)
        if found is None:
            return None
        for read in (self.runtime, self.parts, self.facts):
            try:
                read()
            except HurtFile as error:
                found.append(error.path.name)
        if not os.access(self.python, os.X_OK) or hurt((self.directory / "environment").resolve(), COMPLETE) != []:
            found.append("environment")
        return list(dict.fromkeys(found))

    def secrets(self) -> dict[str, str]:
        """Return the values of the release's secrets; empty where they are gone, and without those that are hurt."""
        directory, found = self.directory / "secrets", {}
        whole = directory.is_dir() and not directory.is_symlink()
        for path in directory.iterdir() if whole else ():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[path.name] = unfollowed.read(path).decode()
        return {name: value for name, value in found.items() if value}

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that runs in the release."""
        return {
            **clean_environment(),
            "PYTHONPATH": str(self.directory / "runtime"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLUSTER_CONFIG": str(self.config),
            "CLUSTER_RELEASE": self.digest,
        }
