"""Drives Pulumi: finds it, sets a stack up, runs `up` and `destroy`, passes its events on, repairs a broken run.

By its command line, as the Automation API (pulumi.automation) does it too: that one takes longer to import than a whole
`cluster status`, and a run of its ends with the one that said it, before it has let go of its lock. It installs Pulumi.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from cluster.config.models import SECRET_KEYS
from cluster.console import interrupts
from cluster.errors import CommandError
from cluster.stack.history import Busy
from cluster.stack.paths import STATE, stack_path
from cluster.stack.secrets import ALPHABET, KEY_LENGTH, write_secret
from platforms.pulumi.ahead import Ahead, may_start
from platforms.pulumi.backend import PASSPHRASE, current_backend
from platforms.pulumi.forgetting import forget
from platforms.pulumi.installing import find_pulumi, installed_pulumi
from platforms.pulumi.plain import plain
from platforms.pulumi.policing import asking, not_run
from platforms.pulumi.programs import PROJECT, SDK, Programs, programs
from platforms.pulumi.running import Event, Run
from platforms.pulumi.seen import HeldBack, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Key of the stack file that every stack needs and `cluster init` makes.
SECRET_KEY = "cluster:secret_key"  # noqa: S105 - a name

#: Pulumi and its plugins are Go's, and live for seconds: they look for what is garbage when five times as much is there
#: as was in use, and not twice as much (https://go.dev/doc/gc-guide), as long as they stay below this many bytes. A run
#: without changes takes a tenth less time, and 110 MB more memory.
COLLECTING = {"GOGC": "400", "GOMEMLIMIT": "512MiB"}

LOCKED = re.compile(r"created by \S+@(?P<host>\S+) \(pid (?P<pid>\d+)\)")

#: Commands of Pulumi's that run the stack's program.
RUN_PROGRAM = ("up", "preview")


class PulumiError(Exception):
    """Pulumi failed; the text is what it said, without its frame.

    failed: the resources that did, by URN. remarks: what else was said of resources, in order (a build's output).
    """

    def __init__(
        self, text: str, failed: tuple[str, ...] = (), remarks: Mapping[str, list[str]] = MappingProxyType({})
    ) -> None:
        super().__init__(text)
        self.failed = failed
        self.remarks = remarks


class PolicyError(PulumiError):
    """The policy refuses it, or could not be asked, before anything was changed; a line each."""


@dataclass(kw_only=True)
class Changes:
    """What a run did: counts by Pulumi's names of operations (same, create, update, …), and the stack's outputs.

    unjudged: what the policy could not tell before it is made.
    """

    counts: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    unjudged: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Whether nothing was done."""
        return not {name: count for name, count in self.counts.items() if name != "same" and count}


#: Lets Pulumi print secrets in plain.
SHOWN = "--show-secrets"


class Pulumi:
    """One stack of the repository at `root`; `say` is told what is made for it.

    program: the module of the platform that the stack's program will import. unsettled: whether the state had
    operations, when it was read last, of which nobody knows how they ended.
    """

    _ahead: Ahead | None = None

    def __init__(self, root: Path, stack: str, say: Callable[[str], None], program: str | None = None) -> None:
        self.root = root
        self.program = program
        self.stack = stack
        self.say = say
        self.command = find_pulumi(say)
        self.passphrase = root / STATE / stack / "passphrase"
        self.unsettled = False
        self._begun: dict[tuple[str, ...], subprocess.Popen[str]] = {}

    # --- running it

    def begin(self) -> None:
        """Let what runs the program, the stack's state and a preview begin while others go on."""
        _ = self.programs
        backend = current_backend(self.root) if stack_path(self.root, self.stack).exists() else None
        if backend is not None:
            self._begin(*self._exporting)
            self._start_ahead(backend)

    def begin_secrets(self, *, former: bool) -> None:
        """Let the stack file's secrets be read while others go on; former: the state's, too. Each derives a key."""
        with contextlib.suppress(OSError):  # what can't begin now begins when it is asked for
            self._begin(*self._secrets)
            if former:
                self._begin(*self._exporting, SHOWN)

    def end_secrets(self) -> None:
        """Let nobody take later what has been read by now."""
        shown = [arguments for arguments in self._begun if SHOWN in arguments]
        for arguments in shown:
            _let_go(self._begun.pop(arguments))

    @property
    def _exporting(self) -> tuple[str, ...]:
        return ("stack", "export", "--stack", self.stack)

    @property
    def _secrets(self) -> tuple[str, ...]:
        return ("config", SHOWN, "--json", "--stack", self.stack)

    def _begin(self, *arguments: str) -> None:
        """Start a short command of Pulumi's whose words are asked for later, unless it has been."""
        if arguments not in self._begun:
            self._begun[arguments] = self._started(*arguments)
            weakref.finalize(self, _let_go, self._begun[arguments])

    def _read(self, *arguments: str) -> str:
        """Return what a command prints that may have begun already: by one look only, the next one is another."""
        begun = self._begun.pop(arguments, None)
        with self._explaining():
            return _printed(begun or self._started(*arguments))

    @cached_property
    def programs(self) -> Programs | None:
        """What runs the stack's program, which imports what it needs from now on; None where the engine is to do it."""
        return programs(self.root, stack_path(self.root, self.stack), *filter(None, [self.program]), SDK)

    def environment(self) -> dict[str, str]:
        """Return what Pulumi and the program need."""
        given = dict(os.environ)
        environment = {
            **given,
            "PATH": f"{given.get('PATH', '')}:{Path(self.command).parent}",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DEBUG_COMMANDS": "true",  # --event-log is one
            **{name: given.get(name, value) for name, value in COLLECTING.items()},
        }
        known = given.keys() & {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"}
        if not known and self.passphrase.exists():
            environment["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(self.passphrase)
        return environment

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a short command of Pulumi's and return what it printed; PulumiError has its words."""
        return _printed(self._started(*arguments), stdin or "")

    @property
    def _words(self) -> list[str]:
        return [self.command, "--non-interactive"]

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a short command of Pulumi's."""
        return subprocess.Popen(
            [*self._words, *arguments],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # --- setting up

    def set_up(self) -> list[dict[str, Any]]:
        """See that there is a backend, the stack, and its secret_key; what was made is said.

        Return the resources in the stack's state.
        """
        self._log_in()
        resources = self._found()
        if resources is None:
            self.make_stack()
        document = yaml.safe_load(stack_path(self.root, self.stack).read_text(encoding="utf-8"))
        if SECRET_KEY not in document["config"]:
            self.say("making secret_key")
            key = "".join(secrets.choice(ALPHABET) for _ in range(KEY_LENGTH))
            self.set_secret("secret_key", key)
        return resources or []

    def set_secret(self, name: str, value: str) -> None:
        """Put a secret into the stack file."""
        self._explained("config", "set", "--secret", f"cluster:{name}", "--stack", self.stack, stdin=value)

    def set_value(self, path: str, value: str) -> None:
        """Put a plain value into the stack file, at a dotted path below `cluster:`; its comments stay."""
        self._explained("config", "set", "--path", f"cluster:{path}", value, "--stack", self.stack)

    def remove_secret(self, name: str) -> None:
        """Take a secret out of the stack file, where it has one of that name."""
        if self.has_secret(name):
            self._explained("config", "rm", f"cluster:{name}", "--stack", self.stack)

    def secret(self, name: str) -> str | None:
        """Return a secret of the stack file; None where it has none of that name."""
        if not self.has_secret(name):
            return None
        return self._explained("config", "get", f"cluster:{name}", "--stack", self.stack).rstrip("\n")

    def has_secret(self, name: str) -> bool:
        """Tell whether the stack file has a secret of a name: nothing is decrypted for it."""
        document = yaml.safe_load(stack_path(self.root, self.stack).read_text(encoding="utf-8"))
        return f"cluster:{name}" in document["config"]

    def secrets(self, *more: str) -> dict[str, str]:
        """Return the secrets that the stack file has, in plain: for what must not show them. more: names of others."""
        found = {key: told.get("value") for key, told in json.loads(self._read(*self._secrets)).items()}
        return {name: value for name in (*SECRET_KEYS, *more) if (value := found.get(f"cluster:{name}"))}

    def find(self) -> list[dict[str, Any]] | None:
        """Return the resources in the stack's state; None where no backend is known, or it has no such stack."""
        return self._found() if self._logged_in() else None

    def _found(self) -> list[dict[str, Any]] | None:
        try:
            return self.export()
        except CommandError as error:
            if "no stack named" not in str(error):
                raise
            return None

    def _logged_in(self) -> bool:
        return current_backend(self.root) is not None

    def _log_in(self) -> None:
        if self._logged_in():
            return
        how = f"for a team: cluster init {self.stack} --backend URL"
        self.say(f"keeping Pulumi's state on this machine (pulumi login --local); {how}")
        self._explained("login", "--local")

    def make_stack(self, provider: str = PASSPHRASE) -> None:
        """Make a stack that is not there; provider: what encrypts its secrets. CommandError where that can't be."""
        self._log_in()
        self.say(f"making stack {self.stack}")
        passphrases = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
        known = any(name in os.environ for name in passphrases) or self.passphrase.exists()
        if provider == PASSPHRASE and not known:
            self.passphrase.parent.mkdir(parents=True, exist_ok=True)
            write_secret(self.passphrase, secrets.token_urlsafe(32))
            where = self.passphrase.relative_to(self.root)
            self.say(f"the passphrase of its secrets is in {where}: keep a copy of it elsewhere")
            self.say(f"for `pulumi` itself: export PULUMI_CONFIG_PASSPHRASE_FILE={where}")
        options = [] if provider == PASSPHRASE else ["--secrets-provider", provider]
        self._explained("stack", "init", self.stack, "--no-select", *options)

    def _explained(self, *arguments: str, stdin: str | None = None) -> str:
        with self._explaining():
            return self.run(*arguments, stdin=stdin)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Let what Pulumi says be a CommandError's."""
        try:
            yield
        except PulumiError as error:
            raise CommandError(self._explain(str(error))) from error

    def _explain(self, words: str) -> str:
        if "incorrect passphrase" in words or "passphrase must be set" in words:
            where = self.passphrase.relative_to(self.root)
            return (
                f"the passphrase of stack {self.stack} is wrong or missing: set PULUMI_CONFIG_PASSPHRASE (or …_FILE) "
                f"to the one with which its secrets were made, or put it into {where}"
            )
        return f"pulumi: {words}"

    # --- changing

    def up(
        self,
        tell_step: Callable[[Event], None],
        at_first: Mapping[str, str] = MappingProxyType({}),
        /,
        *,
        refresh: bool = False,
        policed: bool = False,
        **environment: str,
    ) -> Changes:
        """Run `pulumi up`; a lock that a killed run left is removed first. PulumiError says what failed.

        policed: ask the policy of each resource before it is changed: `preview`, which did, could not tell all.
        at_first: variables that are no good any more once a killed run's lock had to be removed.
        """
        options = ["--refresh"] if refresh else []
        with self._asking(policed=policed) as pack:
            return self._repaired(["up", "--yes", "--skip-preview", *options, *pack], tell_step, environment, at_first)

    def preview(self, tell_step: Callable[[Event], None], *, refresh: bool = False, **environment: str) -> Changes:
        """Run `pulumi preview`: it changes nothing, and no lock keeps it waiting. PulumiError says what failed.

        PolicyError: what the policy refuses, all of it.
        """
        options = ["--refresh"] if refresh else []
        try:
            found = self._gone_on(tell_step, environment, wanted=not options)
            if found is not None:
                return found
            with self._asking() as pack:
                return self._changing(["preview", *options, *pack], tell_step, environment)
        except PolicyError:
            raise
        except PulumiError as error:
            raise PulumiError(self._explained_or_same(str(error)), error.failed, error.remarks) from error

    def _asking(self, *, policed: bool = True) -> contextlib.AbstractContextManager[list[str]]:
        return asking(policed=policed, interpreter=self.programs.interpreter if self.programs is not None else None)

    def destroy(
        self, tell_step: Callable[[Event], None], *, protected: bool, before: Callable[[], object] = bool
    ) -> Changes:
        """Run `pulumi destroy`; `protected` drops the data too. before: done once nobody else changes the stack."""
        # It goes through the lock, and so says whether somebody else is at it.
        self._repaired(["refresh", "--yes", "--skip-preview", "--clear-pending-creates"], tell_step, {})
        before()
        if protected:
            self._explained("state", "unprotect", "--all", "--yes", "--stack", self.stack)
        options = [] if protected else ["--exclude-protected"]
        return self._repaired(["destroy", "--yes", "--skip-preview", *options], tell_step, {})

    def export(self, *, plain: bool = False) -> list[dict[str, Any]]:
        """Return the resources in the stack's state; `plain`: with secrets' values, for what shows none."""
        document = json.loads(self._read(*self._exporting, *([SHOWN] if plain else [])))
        deployment = document.get("deployment") or {}
        self.unsettled = bool(deployment.get("pending_operations"))
        return list(deployment.get("resources") or [])

    def forget(self, gone: Callable[[dict[str, Any]], bool]) -> int:
        """Take resources out of the state without touching what they are; return how many. gone: tells which."""
        document = json.loads(self._explained(*self._exporting))
        count = forget(document, gone)
        if count:
            self._explained("stack", "import", "--stack", self.stack, stdin=json.dumps(document))
        return count

    def _repaired(
        self,
        arguments: list[str],
        tell_step: Callable[[Event], None],
        more: Mapping[str, str],
        at_first: Mapping[str, str] = MappingProxyType({}),
    ) -> Changes:
        try:
            return self._changing(arguments, tell_step, {**more, **at_first})
        except PulumiError as error:
            if "currently locked" not in str(error):
                raise PulumiError(self._explained_or_same(str(error)), error.failed, error.remarks) from error
            self._unlock(str(error))
        return self._changing(arguments, tell_step, more)

    def _explained_or_same(self, words: str) -> str:
        return self._explain(words) if "passphrase" in words else words

    def _unlock(self, words: str) -> None:
        """Remove a lock whose holder is gone; Busy where it may live."""
        found = LOCKED.search(words)
        who = found[0].removeprefix("created by ") if found else "somebody"
        here = found is not None and found["host"] == socket.gethostname()
        if not here or found is None or Path(f"/proc/{found['pid']}").exists():
            raise Busy(f"{who} is changing this stack; wait until it has ended, or say `pulumi cancel {self.stack}`")
        self.say(f"removing the lock that a killed run left: {who}")
        self._explained("cancel", "--yes", "--stack", self.stack)

    def _changing(self, arguments: list[str], tell_step: Callable[[Event], None], more: Mapping[str, str]) -> Changes:
        with contextlib.closing(Run()) as run:
            environment = {**self.environment(), **more}
            if arguments[0] in RUN_PROGRAM and self.programs is not None:
                address = run.beside.enter_context(self.programs.serving(environment, run.directory))
                arguments = [*arguments, *([] if address is None else [f"--client={address}"])]
            run.start([*self._words, *arguments, "--stack", self.stack], self.root, environment)
            return self._followed(run, Seen(tell_step))

    def _followed(self, run: Run, seen: Seen) -> Changes:
        """Pass on what the engine says, until its end; PulumiError says what failed."""
        try:
            for event in run.events():
                seen.take(event)
        except KeyboardInterrupt:
            interrupts.taken()
            self.say("interrupted: Pulumi ends what it is doing")
            run.interrupt()
            raise
        if run.process.wait() != 0:
            printed = run.printed()
            refused = seen.policed.refused or list(filter(None, [not_run(printed)]))
            if refused:
                raise PolicyError("\n".join(refused), tuple(seen.failed), seen.remarks)
            raise PulumiError(seen.problem() or printed, tuple(seen.failed), seen.remarks)
        return Changes(counts=seen.counts, outputs=seen.outputs, unjudged=tuple(seen.policed.unjudged))

    # --- a preview that starts ahead

    def _start_ahead(self, backend: str) -> None:
        """Start the preview, where it is known how the program is run; what can't start starts when it is asked for."""
        file = stack_path(self.root, self.stack)
        if self._ahead is not None or self.programs is None or not may_start(file, backend):
            return
        runs, files = self.programs, [self.root / PROJECT, file]

        def words(beside: contextlib.ExitStack) -> list[str]:
            pack = beside.enter_context(self._asking())
            return [*self._words, "preview", *pack, f"--client=unix:{runs.ahead}", "--stack", self.stack]

        with contextlib.suppress(OSError, CommandError):
            self._ahead = Ahead(self.root, self.environment(), files, words)

    def _gone_on(self, tell_step: Callable[[Event], None], more: Mapping[str, str], *, wanted: bool) -> Changes | None:
        """Let the preview that has started go on; None where there is none, or not this one: another is to start."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        environment = self.environment()
        with contextlib.closing(ahead):
            if not wanted or not ahead.fits(environment) or self.programs is None:
                return None
            serving = self.programs.serving({**environment, **more}, ahead.run.directory, ahead=True)
            if ahead.run.beside.enter_context(serving) is None:
                return None
            run = ahead.served()
        with contextlib.closing(run):
            early = HeldBack(tell_step)
            try:
                found = self._followed(run, Seen(early.take))
            except PulumiError:
                if early.held is None:
                    raise
                return None  # no resource was asked for: it may have waited too long
            early.pass_on()
            return found


def warm(pulumi: Callable[[], Pulumi]) -> None:
    """Let what the stack's program needs be imported, and its state be read, while others go on, where Pulumi is."""
    if installed_pulumi() is not None:
        pulumi().begin()


def _printed(process: subprocess.Popen[str], told: str = "") -> str:
    """Return what a short command of Pulumi's prints until its end; PulumiError has its words where it fails."""
    with process:
        try:
            printed, words = process.communicate(told)
        except BaseException:
            process.kill()  # who is interrupted waits for none
            raise
    if process.returncode != 0:
        raise PulumiError(plain(words or printed))
    return printed


def _let_go(process: subprocess.Popen[str]) -> None:
    """End what nobody has asked for."""
    process.kill()
    process.communicate()


def name_of(urn: str) -> tuple[str, str]:
    """Return the type (its last word) and the name of a resource: ("Container", "app1")."""
    kind, _, name = urn.rpartition("::")
    return kind.rpartition(":")[2], name
