"""Releases that are on a host: prepared, started, served, left."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import sys
import time
from typing import TYPE_CHECKING

from cluster_runtime import static_files
from cluster_runtime.instance_link import SERVICES
from cluster_runtime.secret_files import is_held
from platforms.remote.host import credentials, leaving
from platforms.remote.host.credentials import CONFIG, reads_files
from platforms.remote.host.paths import THERE
from platforms.remote.host.receiving import ENVIRONMENT, RUNTIME
from platforms.remote.host.running import HostError, directory_of, identity, is_active, output, run, told_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: Releases that are kept beside the one that serves.
KEPT = 3

#: The mark of a release that served once all was done: one that failed is kept for a while, too.
SERVED = "served"

#: Lines of a log that tell why an instance did not get healthy.
LOG_LINES = 20


# --- what is done in one


def in_release(  # noqa: PLR0913 - what it is given
    places: HostPaths,
    release: str,
    unit: str,
    *,
    terminal: bool = False,
    given: bool = True,
    writes: Sequence[Path] = (),
) -> list[str]:
    """Return the words of a Python that runs once in a release as an instance does, in the same sandbox.

    unit: the text of the template of the instances' units. terminal: whether its input and output are a person's.
    given: whether systemd has the release's secrets to give. writes: what it writes beside.
    """
    sandbox = unit.partition("# sandbox\n")[2].partition("# end\n")[0]
    # What a unit's file says of %, systemd-run is told as it is.
    lines = [line.replace("%%", "%") for line in sandbox.splitlines() if line]
    lines += [f"ReadWritePaths={' '.join(map(str, (places.static, *writes)))}"]
    lines += [credentials.loaded(places.credentials / release)] if given else []
    properties = [word for line in lines for word in ("--property", line)]
    directory = places.releases / release
    return [
        *("systemd-run", "--quiet", "--pty" if terminal else "--pipe", "--wait", "--collect"),
        *properties,
        *("--setenv", f"CLUSTER_CONFIG={directory / CONFIG}", "--setenv", f"PYTHONPATH={directory / RUNTIME}"),
        str(directory / ENVIRONMENT / "bin" / "python"),
    ]


def _python(places: HostPaths, release: str) -> list[str]:
    return in_release(
        *(places, release, places.unit.read_text(encoding="utf-8")),
        writes=[places.secrets] if reads_files(places, release) else [],
    )


def _put_secrets(places: HostPaths, release: str, secrets: str) -> str:
    """Put a release's secrets in place; return what its own program is told of them."""
    credentials.write(places, release, json.loads(secrets))
    if not reads_files(places, release):
        return ""
    user = pwd.getpwnam(places.name)
    directory_of(places.secrets, user.pw_uid, user.pw_gid, 0o700)
    return secrets


def prepare(places: HostPaths, release: str, words: Sequence[str], secrets: str) -> None:
    """Do what is done once for a release (cluster_runtime.prepare); it tells its progress itself."""
    leaving.use_again(places)
    told = _put_secrets(places, release, secrets)
    command = [*_python(places, release), "-P", "-m", "cluster_runtime.prepare", *words]
    done = output(*command, input=told)
    sys.stdout.write(done.stdout)
    if done.returncode != 0:
        raise HostError(done.stderr.strip() or f"preparing release {release} failed ({done.returncode})")


def start(places: HostPaths, release: str, instances: Sequence[str]) -> None:
    """Start instances beside those that serve; HostError where one does not get healthy.

    None is left then that never served: of those that a boot starts systemd goes on trying.
    """
    _start(places, {f"{name} of release {release}": places.unit_of(name, release) for name in instances})


def start_services(places: HostPaths, services: Sequence[str], *, alone: bool) -> None:
    """Start what runs the project's code beside the instances, each as `name=generation`; as `start`.

    alone: whether the former ones end before.
    """
    units = {name: places.unit_of_service(*name.split("=")) for name in services}
    if alone:
        begin = tuple(unit.partition("@")[0] + "@" for unit in units.values())
        _say("stop", (one for one in units_there(places) if one.startswith(begin) and one not in units.values()))
    _start(places, {name.partition("=")[0]: unit for name, unit in units.items()})
    run("systemctl", "enable", "--quiet", *units.values())


def _start(places: HostPaths, units: Mapping[str, str]) -> None:
    """Start units, by what they are called in a message."""
    credentials.give(places, units.values())
    begun = time.time()
    output("systemctl", "reset-failed", *units.values())  # of those that have never been, it says so
    done = output("systemctl", "start", *units.values())
    if done.returncode == 0:
        return
    words = []
    for name, unit in units.items():
        if is_active(unit):
            continue
        said = output("systemctl", "show", unit, "--property=StatusText", "--value").stdout.strip()
        log = output("journalctl", "--unit", unit, f"--since=@{begun:.0f}", "--output=cat", "--lines", str(LOG_LINES))
        words += [f"{name} did not get healthy: {said}", *_indented(log.stdout), *credentials.hints(log.stdout)]
    _say("stop", units_there(places) - places.enabled())
    raise HostError("\n".join(words) or done.stderr.strip())


def tidy(places: HostPaths, *, stop: bool) -> None:
    """Remove the secrets of a release that did not get healthy, here or on another host; who goes on writes them again.

    stop: stop what was started of it beside those that serve, too: on another host something has failed.
    """
    if stop:
        _say("stop", units_there(places) - places.enabled())
    credentials.forget_unused(places, units_there(places) | places.enabled())


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.strip().splitlines()]


def serve(places: HostPaths, release: str, instances: Sequence[str], turns: Sequence[str], *, alone: bool) -> None:
    """Let instances of a release take their names, and be those that the next boot starts.

    turns: the generation of each name. alone: whether those that held them are stopped at once, since memory is short.
    """
    directory = places.releases / release
    python = str(directory / ENVIRONMENT / "bin" / "python")
    for name, turn in zip(instances, turns, strict=True):
        run(
            *(python, "-P", "-m", "cluster_runtime.instance", "serve", "--sockets", str(places.sockets)),
            *("--instance", name, "--release", release, "--turn", turn),
            cwd="/",
            **identity(places),
            problem=f"{name}: release {release} can't take the name",
            variables={"PYTHONPATH": str(directory / RUNTIME)},
        )
    units = {places.unit_of(name, release) for name in instances}
    _note_served(places)
    run("systemctl", "enable", "--quiet", *units)
    begin = tuple(places.unit_of(name, "").removesuffix(".service") for name in instances)
    _say("disable", (one for one in places.enabled() - units if one.startswith(begin)))
    if alone:
        _say("stop", (one for one in units_there(places) - units if one.startswith(begin)))


def _note_served(places: HostPaths) -> None:
    """Mark what serves by now, which boots start: it was retired before there were marks, perhaps."""
    enabled = places.enabled()
    for directory in places.releases.iterdir():
        begun = any(one.endswith(f"-{directory.name}.service") for one in enabled)
        if begun and not (directory / SERVED).exists():
            age = _age(directory)
            (directory / SERVED).touch()
            os.utime(directory, (age, age))


def units_there(places: HostPaths) -> set[str]:
    """Return the stack's units that are there."""
    words = ("systemctl", "list-units", *places.patterns, f"--state={','.join(THERE)}", "--no-legend", "--plain")
    return {line.split()[0] for line in output(*words).stdout.splitlines() if line.split()}


def _say(word: str, units: Iterable[str]) -> None:
    """Let systemd enable, disable or stop units."""
    names = sorted(units)
    if names:
        run("systemctl", word, "--quiet", *names)


def retire(places: HostPaths, release: str, instances: Sequence[str], services: Sequence[str]) -> None:
    """Drain and stop whatever is not of the release that serves, and forget releases beyond the kept ones.

    services: what runs beside the instances, each as `name=generation`.
    """
    names = {name.partition("=")[0] for name in services}
    wanted = {places.unit_of(name, release) for name in instances}
    wanted |= {places.unit_of_service(*name.split("=")) for name in services}
    _say("enable", wanted - places.enabled())
    _say("disable", places.enabled() - wanted)
    _say("stop", units_there(places) - wanted)
    # One that ended badly long ago is nobody's business any more.
    output("systemctl", "reset-failed", *places.patterns)
    for path in places.templates():
        if path not in {places.template_of(name) for name in names}:
            path.unlink()
    # Of what is the instances' user's: as that user, whatever links it puts there.
    told_by(places, lambda: _sweep(places.sockets, {*instances}))
    told_by(places, lambda: _sweep(places.sockets / SERVICES, names))
    if instances:
        (places.releases / release / SERVED).touch()
        os.utime(places.releases / release)
        _forget(places, release)
        credentials.forget(places, release, wanted)
        _forget_files(places, release)
    else:  # it has no instances any more, and needs none of their secrets
        places.unit.unlink(missing_ok=True)
        for directory in (places.releases, places.environments):
            for path in directory.iterdir():
                shutil.rmtree(path)
        credentials.remove(places)
        # Its own user may have made anything of them, which must not keep the others from being removed.
        for path in places.secrets.iterdir() if places.secrets.is_dir() else ():
            _remove(path)


def _remove(path: Path) -> None:
    """Remove what another user has made, which that user may change meanwhile: no link is followed."""
    with contextlib.suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _sweep(directory: Path, kept: set[str]) -> None:
    """Remove what is left of processes that are no more."""
    for one in directory.iterdir() if directory.is_dir() and not directory.is_symlink() else ():
        if one.is_dir() and not one.is_symlink() and one.name not in kept and not one.name.startswith("."):
            # What its user keeps from being removed must not keep the next release away.
            shutil.rmtree(one, ignore_errors=True)


def _forget(places: HostPaths, release: str) -> None:
    made = sorted((one for one in places.releases.iterdir() if not one.name.startswith(".")), key=_age)
    # What failed takes no place of what one may go back to.
    kept = {*made[-KEPT:], *[one for one in made if (one / SERVED).is_file()][-KEPT:]}
    old = [one.name for one in made if one not in kept and one.name != release]
    held = told_by(places, lambda: [name for name in old if is_held(places.secrets / name)])
    for name in old:
        if name not in held and not is_held(places.releases / name, CONFIG):
            shutil.rmtree(places.releases / name)
    made = [one for one in places.releases.iterdir() if not one.name.startswith(".")]
    used = {(one / ENVIRONMENT).readlink().name for one in made}
    for directory in places.environments.iterdir():
        if directory.name not in used and not directory.name.startswith("."):
            shutil.rmtree(directory)


def _forget_files(places: HostPaths, release: str) -> None:
    """Remove the secrets that releases read as files, where none does any more: whoever goes back writes them again."""
    if not places.secrets.is_dir():
        return
    kept = release if reads_files(places, release) else ""
    told_by(places, lambda: _sweep_secrets(places.secrets, kept))
    with contextlib.suppress(OSError):  # where a command of a former release still runs, with the next one
        places.secrets.rmdir()


def _sweep_secrets(directory: Path, kept: str) -> None:
    for path in directory.iterdir():
        if path.name != kept and not is_held(path):
            with contextlib.suppress(OSError):
                path.chmod(0o700)  # it lets its own user remove what is in it
            _remove(path)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def config_of(places: HostPaths, release: str) -> str:
    """Return the configuration file of a release; HostError where it is not here."""
    try:
        text = (places.releases / release / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise HostError(f"release {release} is not here") from None
    json.loads(text)
    return text


def show(places: HostPaths, release: str, turn: str) -> None:
    """Let nginx serve the release's static files first. What is there is the instances' user's."""
    told_by(places, lambda: static_files.show(places.static, release, int(turn)))


def adopt(places: HostPaths, release: str, secrets: str) -> None:
    """Put a release's secrets in place, whose other files were made on another host."""
    told = _put_secrets(places, release, secrets)
    if not told:
        return
    words = ("--lock", str(places.static / "lock"), "secrets", "--sockets", str(places.sockets))
    done = output(*_python(places, release), "-P", "-m", "cluster_runtime.prepare", *words, input=told)
    if done.returncode != 0:
        raise HostError(done.stderr.strip() or f"the secrets of release {release} can't be put in place")


def retire_all(places: HostPaths) -> None:
    """Drain and stop all that runs the project's code, and let no boot start it."""
    _say("disable", places.enabled())
    _say("stop", units_there(places))
