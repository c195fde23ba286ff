"""The Docker engine, and what of a stack runs on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.acme.kept import Said
from cluster.errors import ClusterError
from cluster_runtime.status import believable
from platforms.base import by_holder
from platforms.docker.api import Asked, SilentError, UnansweredError, quoted, socket_of
from platforms.pulumi.live import Live

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

T = TypeVar("T")

#: Labels of everything that belongs to a stack.
STACK_LABEL, ROLE_LABEL = "django-cluster.stack", "django-cluster.role"
INSTANCE_LABEL, RELEASE_LABEL = "django-cluster.instance", "django-cluster.release"

#: What a container is that runs the project's code beside the instances: worker or schedule.
SERVICE_LABEL = "django-cluster.service"

#: Digits of a container's id that are its host name.
SHORT_ID = 12

#: What the command says of an image that the engine does not have.
NO_SUCH_IMAGE = "no such image"

#: Statuses of a program in a container that could not begin.
NOT_BEGUN = (126, 127)

#: Seconds that the engine may take to say what runs.
LOOK_SECONDS = 20.0


def image_repository(stack: str, service: str) -> str:
    """Return what the images of a stack's service are called, whatever their tags."""
    return f"django-cluster/{stack.lower().replace('/', '-')}/{service}"


class EngineError(ClusterError):
    """The engine is away or refuses; the text says what to do."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine: `host` as in docker:host (unix://, ssh://, tcp://), empty for the one of the environment."""

    host: str = ""

    def environment(self) -> dict[str, str]:
        """Return what a `docker` command needs to reach this engine."""
        return {"DOCKER_HOST": self.host} if self.host else {}

    def socket(self) -> str | None:
        """Return the socket at which it is asked; None where the command is to be asked."""
        return socket_of(self.host, os.environ)

    def address(self) -> str:
        """Return the host on which the engine publishes ports."""
        scheme, _, rest = self.host.partition("://")
        if scheme in ("ssh", "tcp"):
            return rest.rpartition("@")[2].partition("/")[0].rpartition(":")[0] or rest.rpartition("@")[2].strip("/")
        return "127.0.0.1"

    def run(self, *arguments: str, timeout: float = LOOK_SECONDS) -> str:
        """Run a `docker` command and return what it printed; EngineError has its words."""
        return self._done(arguments, timeout).stdout

    def said(self, *arguments: str, timeout: float = LOOK_SECONDS) -> str:
        """As `run`, with what went to standard error too."""
        done = self._done(arguments, timeout)
        return done.stdout + done.stderr

    def output(self, *arguments: str, timeout: float = LOOK_SECONDS) -> str:
        """Run a `docker` command and return all that it printed, whatever its status: a container's log, say."""
        done = self._run(arguments, timeout)
        return done.stdout + done.stderr

    def told(self, *arguments: str, told: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a `docker` command that reads `told`; return it, whatever its status."""
        return self._process(arguments, timeout, input=told)

    def _done(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        done = self._run(arguments, timeout)
        if done.returncode != 0:
            raise EngineError(self._explain(done.stderr.strip()))
        return done

    def _run(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        return self._process(arguments, timeout, stdin=subprocess.DEVNULL)

    def _process(self, arguments: tuple[str, ...], timeout: float, **given: Any) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["docker", *arguments],
                env={**os.environ, **self.environment()},
                **given,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise EngineError("the docker command is missing: apt-get install docker.io") from error
        except subprocess.TimeoutExpired as error:
            raise self._silent(timeout) from error

    def _silent(self, timeout: float) -> EngineError:
        return EngineError(f"the Docker engine {self.host or 'here'} does not answer within {timeout:g} s")

    def _explain(self, words: str) -> str:
        where = self.host or "here"
        if "permission denied" in words.lower():
            return (
                f"no right to use the Docker engine {where}: add yourself to the group docker "
                "(sudo usermod -aG docker $USER, then log in again)"
            )
        if "cannot connect" in words.lower() or "error during connect" in words.lower():
            return (
                f"the Docker engine {where} does not answer: start it (sudo systemctl start docker), or set docker:host"
            )
        return f"docker: {words}"

    def check(self) -> None:
        """Raise an EngineError where the engine does not answer, or the `docker` command is missing."""
        if shutil.which("docker") is None or self._answer(lambda asked: asked.get("/version", dict)) is None:
            self.run("version")

    def execute(self, container: str, *words: str, timeout: float = LOOK_SECONDS) -> str:
        """Run a program in a container that runs, and return what it printed; EngineError has its other words."""
        with self._asking(timeout) as asked:
            made = None
            if asked is not None:
                with contextlib.suppress(UnansweredError):  # the command says why
                    made = asked.make(container, words)
            if asked is None or made is None:
                return self.run("exec", container, *words, timeout=timeout)
            try:
                status, printed, error = asked.run(made)
            except UnansweredError as unanswered:  # it may have run: the command would run it once more
                raise EngineError(f"docker: {unanswered}") from unanswered
        if status != 0:
            said = error or (printed if status in NOT_BEGUN else "")  # the engine's own words are with the output
            raise EngineError(f"docker: {said.strip()}")
        return printed

    @contextlib.contextmanager
    def _asking(self, timeout: float) -> Iterator[Asked | None]:
        """Give who asks the engine at its socket; None where the command is to be asked.

        EngineError where it is silent: so it is for the command.
        """
        socket = self.socket()
        if socket is None:
            yield None
            return
        with contextlib.closing(Asked(socket, timeout)) as asked:
            try:
                yield asked
            except SilentError as error:
                raise self._silent(timeout) from error

    def _answer(self, ask: Callable[[Asked], T], timeout: float = LOOK_SECONDS) -> T | None:
        """Return what the engine answers at its socket; None where the command is to be asked."""
        with self._asking(timeout) as asked, contextlib.suppress(UnansweredError):
            return None if asked is None else ask(asked)
        return None

    def inspect(self, containers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the engine says of containers; one that has gone meanwhile is left out."""
        if not containers:
            return []
        answers = self._answer(lambda asked: [asked.get(f"/containers/{one}/json", dict) for one in containers])
        if answers is not None:
            return [answer for answer in answers if answer is not None]
        try:
            found: list[dict[str, Any]] = json.loads(self.run("inspect", *containers))
        except EngineError:
            if len(containers) == 1:
                return []
            return [one for container in containers for one in self.inspect([container])]
        return found

    def containers(self, stack: str, role: str | None = None, *, stopped: bool = False) -> list[str]:
        """Return the ids of a stack's containers, the newest first."""
        labels = [f"{STACK_LABEL}={stack}", *([] if role is None else [f"{ROLE_LABEL}={role}"])]
        found = self._answer(
            lambda asked: asked.get("/containers/json", list, all="1" if stopped else "0", filters={"label": labels})
        )
        if found is not None:
            return [one["Id"] for one in found]
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return self.run("ps", "--quiet", "--no-trunc", *(["--all"] if stopped else []), *filters).split()

    def image(self, name: str) -> str | None:
        """Return the id of the image of that name and tag; None where the engine has none."""
        found = self._images(name)
        if found is not None:
            return next(iter(found.values()), None)
        return next(iter(self.run("images", "--quiet", "--no-trunc", name).split()), None)

    def images_of(self, stack: str) -> dict[str, str]:
        """Return the ids of the images that a stack's services have, by their names and tags."""
        named, told = image_repository(stack, "*"), "{{.Repository}}:{{.Tag}} {{.ID}}"
        found = self._images(named)
        if found is not None:
            return found
        lines = self.run("images", "--no-trunc", "--filter", f"reference={named}", "--format", told).splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def tags(self, repository: str) -> list[str]:
        """Return the tags of the images of a repository."""
        found = self._images(repository)
        if found is not None:
            return [name.rpartition(":")[2] for name in found]
        return self.run("images", "--format", "{{.Tag}}", repository).split()

    def _images(self, reference: str) -> dict[str, str] | None:
        """Return the ids of images by their names and tags; None where the command is to be asked.

        reference: a repository, with a tag or with each that it has; `*` stands for what has no slash.
        """
        found = self._answer(lambda asked: asked.get("/images/json", list, filters={"reference": [reference]}))
        if found is None:
            return None
        named = [(name, one["Id"]) for one in found for name in one["RepoTags"] or ()]
        # An image may have names beside these.
        return {
            name: image
            for name, image in named
            if fnmatchcase(name, reference) or fnmatchcase(name.rpartition(":")[0], reference)
        }

    def creation_times(self, images: Sequence[str], timeout: float) -> dict[str, str]:
        """Return when images were made, in the engine's words, by their names: of those that it has.

        None of them where the engine is away: that is told by what needs it.
        """
        try:
            answers = self._answer(
                lambda asked: [asked.get(f"/images/{quoted(one)}/json", dict) for one in images], timeout
            )
            if answers is not None:
                found = zip(images, answers, strict=True)
                return {name: answer.get("Created") or "" for name, answer in found if answer is not None}
            told = self.run("image", "inspect", "--format", "{{.Created}}", *images, timeout=timeout)
        except EngineError as error:
            if NO_SUCH_IMAGE not in str(error).lower() or len(images) == 1:
                return {}
            return {name: made for one in images for name, made in self.creation_times([one], timeout).items()}
        lines = told.splitlines()  # empty for an image that has none
        return dict(zip(images, lines, strict=True)) if len(lines) == len(images) else {}

    def sessions(self, stack: str) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return self.ask(stack, "/-/probe/sessions")

    def ask(self, stack: str, url: str) -> dict[str, Any] | None:
        """Return what an instance says below /-/probe; None where none says it."""
        nginx = self.containers(stack, "nginx")
        if not nginx:
            return None
        try:
            text = self.execute(nginx[0], "/usr/local/lib/cluster/ask", url)
        except EngineError:
            return None
        found: dict[str, Any] = json.loads(text)
        return found

    def mounting(self, stack: str, volumes: Collection[str], role: str | None = None) -> list[dict[str, Any]]:
        """Return what the engine says of a stack's containers, running or not, that mount one of these volumes.

        Another checkout's stack of the same name has other volumes.
        """
        return mounting(self.inspect(self.containers(stack, role, stopped=True)), volumes)

    def remove(self, container: str, *, grace: int) -> None:
        """Stop a container, which has `grace` seconds to end, and remove it."""
        self.run("stop", "--time", str(grace), container, timeout=grace + LOOK_SECONDS)
        self.run("rm", "--force", container)

    def live(self, stack: str) -> Live:
        """Look at what runs; EngineError where the engine is away."""
        return self._live(self._looked(stack))

    def look(self, stack: str) -> str:
        """Look at what runs, for another process: return what `handed` reads. EngineError where the engine is away."""
        return json.dumps({"engine": self.host, "stack": stack, "looked": self._looked(stack)})

    def handed(self, text: str | None, stack: str) -> Live | None:
        """Return what another process has seen; None where that is nothing, or another stack."""
        found = {} if text is None else json.loads(text)
        return self._live(found["looked"]) if (found.get("engine"), found.get("stack")) == (self.host, stack) else None

    def _looked(self, stack: str) -> str | int | None:
        """Return what nginx says of what runs; the generation of what it was told last where it does not."""
        running = self.containers(stack, "nginx")
        if not running:
            return None if self.containers(stack, "nginx", stopped=True) else 0
        try:
            return self.execute(running[0], "/usr/local/lib/cluster/live")
        except EngineError:
            return None

    @staticmethod
    def _live(looked: str | int | None) -> Live:
        return read_live(looked) if isinstance(looked, str) else Live(nginx_generation=looked)


def mounting(containers: Iterable[dict[str, Any]], volumes: Collection[str]) -> list[dict[str, Any]]:
    """Return those of containers that mount one of these volumes; containers: what the engine says of them."""
    return [one for one in containers if any(m.get("Name") in volumes for m in one["Mounts"] if "Name" in m)]


def read_live(text: str) -> Live:
    """Read what nginx's `live` printed; what has none of its forms is passed over: instances wrote much of it."""
    nginx: str | None = None
    generation: int | None = 0
    static, static_generation = None, 0
    holders: dict[str, str | None] = {}
    given: dict[str, str | None] = {}
    generations, answers = {}, {}
    statuses = {}
    certificate, renewal = _of_certificate(text)
    for line in text.split("\n"):  # and at nothing else that Python takes for a line's end
        what, *words = line.split(" ", 3)
        try:
            if what == "nginx":
                nginx, generation = _or_none(words[0]), int(words[1])
                if nginx is not None and generation == 0:
                    generation = None  # it runs something, and nobody can say which time that was
            elif what == "static":
                static, static_generation = _or_none(words[0]), int(words[1])
            elif what == "instance":
                name, holder, rest = words
                generation_text, process, answering = [*rest.split(" "), "-", "-"][:3]
                generations[name] = int(generation_text)
                holders[name], given[name], answers[name] = _or_none(holder), _or_none(process), answering == "yes"
            elif what == "status":
                status = believable(json.loads(words[2]))
                if status is not None:
                    statuses[words[0], words[1]] = status
        except (ValueError, IndexError, RecursionError):
            continue
    statuses = {key: by_holder(said, holds=holders.get(key[0]) == key[1]) for key, said in statuses.items()}
    return Live(
        nginx=nginx,
        nginx_generation=generation,
        holders=holders,
        generations=generations,
        given=given,
        answers=answers,
        statuses=statuses,
        static=static,
        static_generation=static_generation,
        certificate=certificate,
        renewal=renewal,
    )


def _of_certificate(text: str) -> tuple[str | None, Said | None]:
    """Return which certificate by ACME nginx has read, and what its renewer says; None where `live` printed none."""
    found = dict(line.partition(" ")[::2] for line in text.split("\n") if line.startswith(("certificate ", "renewal ")))
    try:
        renewal = Said.of(json.loads(found["renewal"]))
    except (KeyError, ValueError, RecursionError):
        renewal = None
    return _or_none(found.get("certificate", "-")), renewal


def _or_none(word: str) -> str | None:
    return None if word == "-" else word
