"""Releases on a host: received, prepared, started, served, left."""

from __future__ import annotations

import contextlib
import errno
import grp
import gzip
import io
import json
import os
import pwd
import shutil
import sys
import tarfile
import time
import zlib
from functools import partial
from secrets import token_hex
from typing import IO, TYPE_CHECKING

from cluster_runtime import static_files
from cluster_runtime.instance_link import SERVICES
from cluster_runtime.secret_files import is_held
from platforms.remote.host import credentials, leaving
from platforms.remote.host.credentials import CONFIG, reads_files
from platforms.remote.host.places import THERE, UNSEEDED
from platforms.remote.host.running import (
    HostError,
    become,
    directory_of,
    done_by,
    identity,
    is_active,
    output,
    run,
    told_by,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from platforms.remote.host.places import Places

#: Releases that are kept beside the one that serves.
KEPT = 3

#: Lines of a log that tell why an instance did not get healthy.
LOG_LINES = 20

#: Bytes that are read at a time.
CHUNK = 1 << 20

#: In a release beside its configuration: its environment of packages, and what the project holds of what it writes.
ENVIRONMENT, RUNTIME, SEED = "environment", "runtime", "seed"

#: In a release: all that is Python. Its local packages, and the source of those to which these lead, are in it too.
CODE = ("tree", RUNTIME, "packages", "sources")

#: What reading an archive raises that is none, or not whole.
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)

#: The last file of static files that are sent on.
WHOLE = ".whole"


# --- what is sent


def receive(places: Places, kind: str, digest: str, sent: IO[bytes]) -> None:
    """Unpack a release, an environment or a renewer, whole or not at all; a tar archive of root's own files, gzipped.

    It is read as it comes: a host may have less memory than its packages have bytes.
    """
    above = {"release": places.releases, "environment": places.environments, "renewer": places.renewers}
    directory = above[kind] / digest
    if directory.is_dir():
        return
    directory.parent.mkdir(mode=0o755, exist_ok=True)  # that of renewers
    new = directory.with_name(f".{digest}.new")
    if new.exists():
        shutil.rmtree(new)
    try:
        _make(places, kind, new, directory, sent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # on a full disk it is in the way of whoever makes room
        raise


def _make(places: Places, kind: str, new: Path, directory: Path, sent: IO[bytes]) -> None:
    """Make in `new` what `directory` is to be, and let it be that."""
    is_renewer = kind == "renewer"  # which has a user of its own, and holds no code of the project's
    group = 0 if is_renewer else grp.getgrnam(places.name).gr_gid
    new.mkdir(mode=0o700)
    try:
        _unpack_all(sent, new)
    except BROKEN as error:
        raise HostError(f"the {kind} {directory.name} did not come whole: {error or type(error).__name__}") from error
    for path in (new, *new.rglob("*")):
        os.chown(path, 0, group, follow_symlinks=False)
    new.chmod(0o755 if is_renewer else 0o750)
    if kind != "release":
        _finish_environment(new, directory)
    else:
        _compile(*(path for name in CODE if (path := new / name).is_dir()))
        environment = (new / ENVIRONMENT).read_text(encoding="ascii").strip()
        (new / ENVIRONMENT).unlink()
        (new / ENVIRONMENT).symlink_to(places.environments / environment)
        _seed(places, new / SEED)
    new.rename(directory)


def _unpack_all(sent: IO[bytes], new: Path) -> None:
    """Unpack an archive as it comes, to its last byte; BROKEN where it ends too soon."""
    with gzip.open(sent) as whole, tarfile.open(fileobj=whole, mode="r|") as archive:
        for member in archive:
            unpack(archive, member, new)
        while whole.read(CHUNK):  # its checksum is at the end
            pass


def unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, new: Path) -> None:
    """Unpack a member below `new`, as root's own; HostError where it is nothing that a release holds.

    Python 3.11 of Debian 12 is older than tarfile's filters.
    """
    path = new / member.name
    is_within = not member.name.startswith("/") and ".." not in member.name.split("/")
    if not is_within or not (member.isfile() or member.isdir() or member.issym()) or _leads_out(path.parent, new):
        raise HostError(f"{member.name}: not what a release holds")
    if member.isdir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return
    mode = 0o755 if member.mode & 0o100 else 0o644
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - it is a file
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:  # noqa: PTH123
        shutil.copyfileobj(content, file)


def _leads_out(directory: Path, new: Path) -> bool:
    """Tell whether a directory is one only by a link."""
    return any(path.is_symlink() for path in (directory, *directory.parents) if path.is_relative_to(new))


def _finish_environment(new: Path, directory: Path) -> None:
    """Make an environment of the packages: this host's Python, and bytecode, which nobody else may write there."""
    _compile(python_of(new, directory))


def python_of(new: Path, directory: Path) -> Path:
    """Give packages this host's Python: what is in `new`, and is to be `directory`. Return where the packages are."""
    version = ".".join(map(str, sys.version_info[:2]))
    packages = new / "lib" / f"python{version}" / "site-packages"
    if not packages.is_dir():
        raise HostError(f"the packages were made for another Python than this host's, {version}")
    (new / "bin").mkdir(exist_ok=True)
    for name in ("python", "python3", f"python{version}"):
        (new / "bin" / name).unlink(missing_ok=True)
        (new / "bin" / name).symlink_to(f"/usr/bin/python{version}")
    for script in (new / "bin").iterdir():
        if not script.is_symlink():
            _of_this_environment(script, directory)
    (new / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
    return packages


def _of_this_environment(script: Path, directory: Path) -> None:
    """Let a package's command run on the environment's Python: where it was made there was another one."""
    text = script.read_bytes()
    first, end, rest = text.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        script.write_bytes(f"#!{directory}/bin/python".encode() + end + rest)


def _compile(*directories: Path) -> None:
    """Compile what is there. Some files of packages are no Python that this one knows: who imports one is told."""
    words = ("-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    output(sys.executable, *words, *map(str, directories))


def _seed(places: Places, seed: Path) -> None:
    """Make what the project writes, where it is not there yet, of what it holds there; nothing there is touched.

    As the instances' user: what it may write, root must not.
    """
    top = places.written()
    for held in sorted(seed.iterdir()) if seed.is_dir() else ():
        # On a filesystem that hosts share, another one is at it at the same time.
        own = f".{token_hex(4)}" if top != places.shared else ""
        there, new = top / held.name, top / f".{held.name}{own}.new"
        found = done_by(places.name, partial(_there, there), f"{there} can't be looked at")
        if found == UNSEEDED and held.is_dir():
            # Instances that run may have it already: what the project holds is put into it, beside what is there.
            copied = ("cp", "--recursive", "--no-clobber", "--no-dereference", "--no-preserve=all", "--")
            run(
                *copied,
                f"{held}/.",
                str(there),
                cwd="/",
                umask=0o027,
                **identity(places),
                problem=f"{there} can't be filled",
            )
        if found:
            continue
        for words in (
            ("rm", "--recursive", "--force", "--", str(new)),
            ("cp", "--recursive", "--no-dereference", "--no-preserve=all", "--", str(held), str(new)),
        ):
            run(*words, cwd="/", umask=0o027, **identity(places), problem=f"{there} can't be made")
        done_by(places.name, partial(_take_place, new, there), f"{there} can't be made")
    if top != places.shared:
        done_by(places.name, partial(_is_seeded, top), f"{top} can't be written")
    if seed.is_dir():
        shutil.rmtree(seed)


def _there(path: Path) -> str:
    """Return whether something is at a path: UNSEEDED where a set-up has made it for what the project holds there."""
    note = path.with_name(f"{UNSEEDED}{path.name}")
    return UNSEEDED if os.path.lexists(note) else "there" if os.path.lexists(path) else ""


def _is_seeded(top: Path) -> None:
    for note in top.glob(f"{UNSEEDED}*"):
        note.unlink(missing_ok=True)


def _take_place(new: Path, there: Path) -> None:
    try:
        new.rename(there)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(new)  # another host was quicker


# --- what is done in one


def in_release(  # noqa: PLR0913 - what it is given
    places: Places, release: str, unit: str, *, terminal: bool = False, given: bool = True, writes: Sequence[Path] = ()
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


def _python(places: Places, release: str) -> list[str]:
    return in_release(
        *(places, release, places.unit.read_text(encoding="utf-8")),
        writes=[places.secrets] if reads_files(places, release) else [],
    )


def _put_secrets(places: Places, release: str, secrets: str) -> str:
    """Put a release's secrets in place; return what its own program is told of them."""
    credentials.write(places, release, json.loads(secrets))
    if not reads_files(places, release):
        return ""
    user = pwd.getpwnam(places.name)
    directory_of(places.secrets, user.pw_uid, user.pw_gid, 0o700)
    return secrets


def prepare(places: Places, release: str, words: Sequence[str], secrets: str) -> None:
    """Do what is done once for a release (cluster_runtime.prepare); it tells its progress itself."""
    leaving.use_again(places)
    told = _put_secrets(places, release, secrets)
    command = [*_python(places, release), "-P", "-m", "cluster_runtime.prepare", *words]
    done = output(*command, input=told)
    sys.stdout.write(done.stdout)
    if done.returncode != 0:
        raise HostError(done.stderr.strip() or f"preparing release {release} failed ({done.returncode})")


def start(places: Places, release: str, instances: Sequence[str]) -> None:
    """Start instances beside those that serve; HostError where one does not get healthy.

    None is left then that never served: of those that a boot starts systemd goes on trying.
    """
    _start(places, {f"{name} of release {release}": places.unit_of(name, release) for name in instances})


def start_services(places: Places, services: Sequence[str], *, alone: bool) -> None:
    """Start what runs the project's code beside the instances, each as `name=generation`; as `start`.

    alone: whether the former ones end before.
    """
    units = {name: places.unit_of_service(*name.split("=")) for name in services}
    if alone:
        begin = tuple(unit.partition("@")[0] + "@" for unit in units.values())
        _say("stop", (one for one in units_there(places) if one.startswith(begin) and one not in units.values()))
    _start(places, {name.partition("=")[0]: unit for name, unit in units.items()})
    run("systemctl", "enable", "--quiet", *units.values())


def _start(places: Places, units: Mapping[str, str]) -> None:
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


def tidy(places: Places, *, stop: bool) -> None:
    """Remove the secrets of a release that did not get healthy, here or on another host; who goes on writes them again.

    stop: stop what was started of it beside those that serve, too: on another host something has failed.
    """
    if stop:
        _say("stop", units_there(places) - places.enabled())
    credentials.forget_unused(places, units_there(places) | places.enabled())


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.strip().splitlines()]


def serve(places: Places, release: str, instances: Sequence[str], turns: Sequence[str], *, alone: bool) -> None:
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
    run("systemctl", "enable", "--quiet", *units)
    begin = tuple(places.unit_of(name, "").removesuffix(".service") for name in instances)
    _say("disable", (one for one in places.enabled() - units if one.startswith(begin)))
    if alone:
        _say("stop", (one for one in units_there(places) - units if one.startswith(begin)))


def units_there(places: Places) -> set[str]:
    """Return the stack's units that are there."""
    words = ("systemctl", "list-units", *places.patterns, f"--state={','.join(THERE)}", "--no-legend", "--plain")
    return {line.split()[0] for line in output(*words).stdout.splitlines() if line.split()}


def _say(word: str, units: Iterable[str]) -> None:
    """Let systemd enable, disable or stop units."""
    names = sorted(units)
    if names:
        run("systemctl", word, "--quiet", *names)


def retire(places: Places, release: str, instances: Sequence[str], services: Sequence[str]) -> None:
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


def _forget(places: Places, release: str) -> None:
    made = sorted((one for one in places.releases.iterdir() if not one.name.startswith(".")), key=_age)
    old = [one.name for one in made[:-KEPT] if one.name != release]
    held = told_by(places, lambda: [name for name in old if is_held(places.secrets / name)])
    for name in old:
        if name not in held and not is_held(places.releases / name, CONFIG):
            shutil.rmtree(places.releases / name)
    made = [one for one in places.releases.iterdir() if not one.name.startswith(".")]
    used = {(one / ENVIRONMENT).readlink().name for one in made}
    for directory in places.environments.iterdir():
        if directory.name not in used and not directory.name.startswith("."):
            shutil.rmtree(directory)


def _forget_files(places: Places, release: str) -> None:
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


def config_of(places: Places, release: str) -> str:
    """Return the configuration file of a release; HostError where it is not here."""
    try:
        text = (places.releases / release / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise HostError(f"release {release} is not here") from None
    json.loads(text)
    return text


def show(places: Places, release: str, turn: str) -> None:
    """Let nginx serve the release's static files first. What is there is the instances' user's."""
    told_by(places, lambda: static_files.show(places.static, release, int(turn)))


# --- what another host has, or has made of a release


def environment_of(places: Places, release: str) -> str:
    """Return the name of a release's environment of packages; HostError where it is not here."""
    try:
        return (places.releases / release / ENVIRONMENT).readlink().name
    except OSError:
        raise HostError(f"release {release} is not here") from None


def send(places: Places, kind: str, name: str, there: IO[bytes]) -> None:
    """Write a release or an environment as the archive by which it came; HostError where it is not here."""
    directory = {"release": places.releases, "environment": places.environments}[kind] / name
    environment = environment_of(places, name).encode() if kind == "release" else b""
    if not directory.is_dir():
        raise HostError(f"{kind} {name} is not here")
    with (
        gzip.GzipFile(fileobj=there, mode="wb", compresslevel=1) as sent,
        tarfile.open(fileobj=sent, mode="w|") as archive,
    ):
        for path in sorted(directory.iterdir()):
            if kind != "release" or path.name != ENVIRONMENT:
                archive.add(path, arcname=path.name)
        if environment:
            told = tarfile.TarInfo(ENVIRONMENT)
            told.size = len(environment)
            archive.addfile(told, io.BytesIO(environment))


def adopt(places: Places, release: str, secrets: str) -> None:
    """Put a release's secrets in place, whose other files were made on another host."""
    told = _put_secrets(places, release, secrets)
    if not told:
        return
    words = ("--lock", str(places.static / "lock"), "secrets", "--sockets", str(places.sockets))
    done = output(*_python(places, release), "-P", "-m", "cluster_runtime.prepare", *words, input=told)
    if done.returncode != 0:
        raise HostError(done.stderr.strip() or f"the secrets of release {release} can't be put in place")


def send_static(places: Places, release: str, there: IO[bytes]) -> None:
    """Write a release's static files as an archive, as the user who collected them."""
    become(places)
    # Of a stream tarfile takes no level before Python 3.12.
    with (
        gzip.GzipFile(fileobj=there, mode="wb", compresslevel=1) as sent,
        tarfile.open(fileobj=sent, mode="w|") as archive,
    ):
        top = places.static / release
        for path in sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else ():
            if path.is_dir() or path.is_file() or path.is_symlink():
                archive.add(path, arcname=str(path.relative_to(top)), recursive=False)
        # Of one that an error has ended, tarfile makes a whole archive too.
        archive.addfile(tarfile.TarInfo(WHOLE))


def receive_static(places: Places, release: str, sent: IO[bytes]) -> None:
    """Unpack a release's static files as the user whose they are; HostError, and none are there, if one is missing."""
    problem = told_by(places, lambda: _receive_static(places.static, release, sent))
    if problem:
        raise HostError(f"the static files of release {release} did not come whole: {problem}")


def _receive_static(static: Path, release: str, sent: IO[bytes]) -> str:
    directory, new = static / release, static / f".{release}.new"
    for path in (new, directory):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    new.mkdir()
    try:
        _unpack_all(sent, new)
        (new / WHOLE).unlink()
    except (*BROKEN, OSError, HostError) as error:
        shutil.rmtree(new)
        return str(error) or type(error).__name__
    new.rename(directory)
    return ""


def retire_all(places: Places) -> None:
    """Drain and stop all that runs the project's code, and let no boot start it."""
    _say("disable", places.enabled())
    _say("stop", units_there(places))
