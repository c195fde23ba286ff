"""Supervisor's configuration files. Source: http://supervisord.org/configuration.html."""

from __future__ import annotations

import configparser
import io
import shlex
from dataclasses import dataclass, field

#: Size at which a process's log is rotated, and how many are kept.
LOG_BYTES, LOG_BACKUPS = "10MB", 2


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process that Supervisor keeps. Programs stop in the reverse order of `priority`."""

    name: str
    command: tuple[str, ...]
    directory: str
    log: str
    priority: int
    user: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: float = 10


def render_program(program: Program) -> str:
    """Return the text of a program's own file."""
    values = {
        "command": shlex.join(program.command),
        "directory": program.directory,
        "autostart": "true",
        "autorestart": "true",
        # A process that ends is started again however soon it ended; instances pause by themselves.
        "startsecs": "0",
        # One that can't even be started (its interpreter is gone) is tried for ever, after longer and longer pauses.
        "startretries": "1000000",
        "priority": str(program.priority),
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(int(program.stop_seconds)),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": program.log,
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": str(LOG_BACKUPS),
    }
    if program.user:
        values["user"] = program.user
    if program.environment:
        quoted = (f"{name}={_quoted(value)}" for name, value in sorted(program.environment.items()))
        values["environment"] = ",".join(quoted)
    return _ini({f"program:{program.name}": values})


def render_supervisord(  # noqa: PLR0913 - the file's own settings
    *, socket: str, pid: str, log: str, directory: str, programs: str, user: str | None
) -> str:
    """Return supervisord.conf; `programs` is a glob of the programs' files, `user` whom supervisord itself runs as."""
    daemon = {"pidfile": pid, "logfile": log, "logfile_maxbytes": LOG_BYTES, "directory": directory, "umask": "027"}
    if user:
        daemon["user"] = user
    return _ini(
        {
            "unix_http_server": {"file": socket, "chmod": "0700"},
            "supervisord": daemon,
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "supervisorctl": {"serverurl": f"unix://{socket}"},
            "include": {"files": programs},
        }
    )


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ini(sections: dict[str, dict[str, str]]) -> str:
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for section, values in sections.items():
        # Supervisor expands %(name)s and reads a semicolon after a space as a comment's beginning.
        parser[section] = {name: value.replace("%", "%%").replace(" ;", " \\;") for name, value in values.items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
