"""What is done once for a release before its instances start: `python -m cluster_runtime.prepare WHAT`.

- `release`: writes its secrets (standard input: a JSON object) where systemd does not give them, imports the project
  and its URLs, collects its static files, runs the migrations and app.release_commands, puts a compressed copy beside
  each static file that is worth it, and starts one instance that takes no name: it must get healthy, and its pages are
  looked at as a visitor would (cluster_runtime.gate). Whatever fails, nothing after it is done. Progress is told on
  standard output.
- `show`: lets the collected static files be the ones that nginx looks in first. Then the processes that CLUSTER_SERVE
  names, "INSTANCE/PROCESS" each, take their names in CLUSTER_SOCKETS, and for each "INSTANCE/PROCESS/GENERATION" is
  printed. Variables, since a release that knows nothing of them passes over them.

A failure is told by the last lines of what the program printed, without the value of any secret.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cluster_runtime.checks import Unhealthy
from cluster_runtime.compress import compress
from cluster_runtime.config import CONFIG_VARIABLE, MADE_NAMES, SECRET_NAMES, ConfigError, RuntimeConfig
from cluster_runtime.describe import COLLECT, MIGRATE, NOT_COLLECTED, NOT_MIGRATED, REFUSED
from cluster_runtime.gate import serving_socket
from cluster_runtime.handover import serve_all
from cluster_runtime.progress import follow
from cluster_runtime.proof import UNFIT
from cluster_runtime.secret_files import BROKER_SECRET, forget_old, write_all
from cluster_runtime.static_files import CURRENT, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Lines of a failed program's output that a message repeats.
LAST_LINES = 20

#: Shorter values than this would mask ordinary words.
SHORTEST_MASKED = 4

#: Names the processes that take their names once the static files are shown, and the directory of those.
SERVE, SOCKETS = "CLUSTER_SERVE", "CLUSTER_SOCKETS"

#: Seconds that one of them has to listen again, where it was started again after all were found healthy.
PATIENCE = 5.0

READ_ONLY_HINT = "The project writes into its own directory: set app.read_only to false, and each instance may."


class TaskError(Exception):
    """A task failed; the text says how."""


def mask(text: str, secrets: dict[str, str]) -> str:
    """Return `text` with the values of secrets, and of what is in them, replaced by their names.

    In them are the variables of secret_environment, fallback keys, and the password of a database's URL and of a
    broker's. A value is found as it is, as Python prints it in a dictionary, and as JSON has it.
    """
    values = {value: name for name, value in secrets.items()}
    values |= {str(value): name for name, value in json.loads(secrets.get("secret_environment") or "{}").items()}
    values |= dict.fromkeys(json.loads(secrets.get("secret_key_fallbacks") or "[]"), "secret_key_fallbacks")
    for name in ("database_url", BROKER_SECRET):
        values |= dict.fromkeys(_passwords(secrets.get(name, "")), name)
    for value, name in sorted(values.items(), key=lambda item: -len(item[0])):
        if len(value) >= SHORTEST_MASKED:
            for form in sorted({value, repr(value)[1:-1], json.dumps(value)[1:-1]}, key=len, reverse=True):
                text = text.replace(form, f"[{name}]")
    return text


def _passwords(url: str) -> list[str]:
    """Return the password in a URL, as it stands there and as the database is told it."""
    try:
        netloc = urlsplit(url).netloc
    except ValueError:  # it is told by who uses it, without its text
        return []
    userinfo, at, _host = netloc.rpartition("@")
    password = userinfo.partition(":")[2] if at else ""
    return [password, unquote(password)]


class Tasks:
    """The tasks of the release that CLUSTER_CONFIG names."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        found = {name: self.config.secret(name) for name in (*SECRET_NAMES, *MADE_NAMES)}
        self.secrets = {name: value for name, value in found.items() if value}

    def build(self, endings: tuple[str, ...], *, collect: bool, migrate: str | None) -> None:
        """Prove that the project imports, collect its static files and run its migrations, in this order."""
        public = Path(self.config.static_root or tempfile.gettempdir())
        public.mkdir(parents=True, exist_ok=True)
        collect = collect and bool(self.config.static_root)
        problems = {
            NOT_COLLECTED: "app.collectstatic: collectstatic failed",
            NOT_MIGRATED: f"app.migrate: migrate failed in release {self.config.release}",
            REFUSED: "app.settings: the stack file would replace what the project has chosen",
            None: "app.settings: the project does not import",
        }
        # In one process: each start of Django costs as much as all that it does here.
        with tempfile.TemporaryDirectory() as temporary:
            wanted = [*([COLLECT] if collect else []), *([] if migrate is None else [f"{MIGRATE}={migrate}"])]
            self._run(problems, "cluster_runtime.describe", str(Path(temporary) / "project.json"), *wanted)
        for number, command in enumerate(self.config.release_commands):
            words = f"app.release_commands[{number}]: `{command}` failed in release {self.config.release}"
            _say(f"running {command}")
            self._run({None: words}, "cluster_runtime.manage", *shlex.split(command))
        if collect:
            compress(public, endings)

    def prove(self, instance: str, serving: Path | None, *, judge: bool) -> None:
        """Start an instance on sockets of its own; once it is healthy its pages are looked at, and it ends.

        serving: where an instance of the serving release listens. judge: whether its pages decide.
        """
        with tempfile.TemporaryDirectory() as temporary:
            verdict = Path(temporary) / "verdict"
            words = ["--prove", str(verdict), *(["--former", str(serving)] if serving else [])]
            words += [] if judge else ["--no-pages"]
            run = ("cluster_runtime.instance", "run", "--instance", instance, "--sockets", temporary, *words)
            problems = {
                None: f"{instance} of release {self.config.release} did not get healthy",
                UNFIT: f"release {self.config.release} does not do for visitors what it should:",
            }
            self._run(problems, *run, "--config", os.environ[CONFIG_VARIABLE], verdict=verdict)

    def _run(
        self, problems: Mapping[int | None, str], module: str, *arguments: str, verdict: Path | None = None
    ) -> None:
        """Run a module; TaskError with the problem of its exit status (None: of any other than 0).

        verdict: where the program says why in words that are better than the last lines of what it printed.
        """
        done = follow([sys.executable, "-P", "-m", module, *arguments], _say, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return
        found = verdict.read_text(encoding="utf-8") if verdict is not None and verdict.exists() else ""
        # What a check says again and again would leave no room for why.
        lines = [line for line, _same in groupby(mask(found or done.stdout, self.secrets).strip().splitlines())]
        hints = [READ_ONLY_HINT] if os.strerror(errno.EROFS) in done.stdout else []
        problem = problems.get(done.returncode, problems[None])
        last = lines if found else lines[-LAST_LINES:]
        raise TaskError("\n".join([problem, *(f"    {line}" for line in last), *hints]))


def _say(message: str) -> None:
    print(message, flush=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock: the task of an `up` that was killed may still be running."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.prepare", description=__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="tasks that name the same file run one by one")
    commands = parser.add_subparsers(dest="command", required=True)
    release = commands.add_parser("release")
    release.add_argument("--compress", default="", help="endings of files that are worth it: .css,.js")
    release.add_argument("--no-collect", action="store_true", help="collect no static files")
    release.add_argument("--no-migrate", action="store_true", help="run no migrations")
    release.add_argument(
        "--migrate", default="", help="aliases of the databases to migrate, by commas; default: every one"
    )
    release.add_argument("--instance", required=True, help="the one that is started to prove the release")
    release.add_argument("--sockets", type=Path, help="of what serves: its secrets are kept, its pages compared")
    release.add_argument(
        "--link", action="append", default=[], metavar="NAME=PATH", help="a secret that lies elsewhere"
    )
    shown = commands.add_parser("show")
    shown.add_argument("--static", type=Path, required=True)
    shown.add_argument("--turn", type=int, required=True, dest="generation")
    options = parser.parse_args(arguments)
    try:
        config = RuntimeConfig.from_environment()
        with _alone(options.lock):
            if options.command == "show":
                show(options.static, config.release, options.generation)
                for taken in serve_all(Path(os.environ.get(SOCKETS, "")), os.environ.get(SERVE, "").split(), PATIENCE):
                    _say(taken)
            else:
                _prepare(config, options)
    except (TaskError, ConfigError, Unhealthy) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write_secrets(config: RuntimeConfig, links: dict[str, str], sockets: Path | None) -> None:
    directory = Path(config.secrets)
    write_all(directory, json.load(sys.stdin), links)
    if sockets is not None:
        forget_old(directory.parent, sockets)


def _prepare(config: RuntimeConfig, options: argparse.Namespace) -> None:
    if config.secrets:
        _write_secrets(config, dict(link.split("=", 1) for link in options.link), options.sockets)
    tasks = Tasks(config)
    collect, migrate = not options.no_collect, None if options.no_migrate else options.migrate
    tasks.build(tuple(options.compress.split(",")), collect=collect, migrate=migrate)
    serving = serving_socket(options.sockets, config.release) if options.sockets is not None else None
    current = options.lock.parent / CURRENT
    # Where nothing serves, a release that has served may do so again, whatever its pages answer by now.
    served = current.is_symlink() and str(current.readlink()) == config.release
    tasks.prove(options.instance, serving, judge=serving is not None or not served)


if __name__ == "__main__":
    sys.exit(main())
