"""Lints of the app: the project's files, its environment and secrets, times and limits of an instance."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cluster.config.models import Interface
from cluster.lint.rule import ERROR, NOTE, WARNING, Remark, Rule, has_secret, longest_wait, waits
from cluster.requirements import REQUIREMENTS, read_requirements
from cluster.source import ReleaseError
from cluster_runtime.checks import PREFIX
from cluster_runtime.paths import how_to_keep, why_written

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Variables that the runtime sets itself.
OWNED_VARIABLE = r"DJANGO_SETTINGS_MODULE|PYTHONPATH|SCRIPT_NAME|CREDENTIALS_DIRECTORY|CLUSTER_\w+"

SECRET_WORD = r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|KEY|CREDENTIALS?)(?:_?\d+)?$"  # noqa: S105 - a pattern
PUBLIC_WORD = r"PUBLIC|PUBLISHABLE"
PASSWORD_IN_URL = r"://[^/\s:@]*:[^/\s@]+@"  # noqa: S105 - a pattern

#: What the runtime answers below /-/ with success.
RUNTIME_CHECKS = ("/-/health", "/-/probe")

#: Seconds that importing a Django project may well take.
SHORT_START = 5

#: Seconds after which one rather asks why a release hangs.
LONG_GRACE = 600
LONG_UNTIL_HUNG = 60

#: What a Django worker needs at least, bytes; gunicorn's own parent is one more.
WORKER_MEMORY = 64 * 1024**2


def _project(config: ClusterConfig, facts: Facts) -> Path | None:
    return None if facts.root is None else facts.root / config.app.project


def _project_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    # What a release is made of.
    project = _project(config, facts)
    if project is None:
        return
    remedy = "Name the directory that holds manage.py, from the repository's root."
    if not project.is_dir():
        yield Remark("app.project", f"There is no directory {config.app.project} in the repository.", remedy)
    elif not (project / "manage.py").is_file():
        yield Remark("app.project", f"{config.app.project} has no manage.py.", remedy)


def _requirements_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    # What its environment is made of.
    project, named = _project(config, facts), config.app.requirements.file
    if project is None or not project.is_dir():
        return
    if any((project / name).is_file() for name in ([named] if named else REQUIREMENTS)):
        return
    why = f"There is no {named or ' and no '.join(REQUIREMENTS)} in {config.app.project}."
    yield Remark(
        "app.requirements", why, "Name the file that lists the project's packages, from the project's directory."
    )


def _lock_unused(config: ClusterConfig, facts: Facts) -> Remarks:
    # Two files that may say different things.
    project = _project(config, facts)
    if project is None or not project.is_dir():
        return
    try:
        found = read_requirements(config.app, project.resolve())
    except ReleaseError:
        return  # the release says so
    if found.beside is None:
        return
    named = config.app.requirements.file is not None
    why = (
        f"Packages come from {found.main.name}, "
        f"{'as the stack file says' if named else 'which counts before a lock unless the stack file names that'}; "
        f"{found.beside.name} beside it is not read."
    )
    yield Remark(
        "app.requirements", why, f"Name {found.beside.name} as app.requirements.file, or remove one of the two."
    )


def _secret_key_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    if not config.platform.traits.own_secrets and has_secret(config, facts, "secret_key") is False:
        why = "The stack has no secret_key, which all instances must share to read each other's sessions."
        yield Remark("secret_key", why, "Set it: pulumi config set --secret cluster:secret_key.")


def _owned_variables(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The runtime finds its release by these.
    for name in config.app.environment:
        if re.fullmatch(OWNED_VARIABLE, name):
            why = f"{name} is set by the cluster itself, and the instances would not start with another value."
            remedy = "Remove it; the project's settings module is app.settings."
            yield Remark(f"app.environment.{name}", why, remedy)


def _plain_secrets(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A stack file is committed, and shown in previews.
    for name, value in config.app.environment.items():
        looks_secret = re.search(SECRET_WORD, name.upper()) and not re.search(PUBLIC_WORD, name.upper())
        if value and (looks_secret or re.search(PASSWORD_IN_URL, value)):
            why = f"{name} looks like a secret, and this file is committed and shown in previews."
            yield Remark(f"app.environment.{name}", why, "Move it to the secret secret_environment.")


def _zero_times(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A limit of nothing.
    health = config.app.health
    for path, value, why in (
        ("app.health.timeout", health.timeout, "No check can be answered in no time: every instance would be killed."),
        ("app.health.start_timeout", health.start_timeout, "No instance can become healthy in no time."),
        ("app.health.busy_timeout", health.busy_timeout, "An instance would be killed as soon as it is busy."),
        *((path, value, "nginx would answer 504 before an instance can.") for path, value in waits(config).items()),
    ):
        if value == 0:
            yield Remark(path, why, "Set a time, or remove the key for the default.")


def _health_path_unknown(config: ClusterConfig, _facts: Facts) -> Remarks:
    # What the runtime answers with 404 is not healthy.
    path = config.app.health.path
    if path.startswith(PREFIX) and path not in RUNTIME_CHECKS:
        why = f"Paths below /-/ are the runtime's, and it answers {path} with 404: no instance would become healthy."
        yield Remark("app.health.path", why, "Use /-/health, or a path of the project.")


def _health_path_of_project(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The running check should be shallow.
    if not config.app.health.path.startswith(PREFIX):
        why = "The running check goes through the project: if that page needs the database, its outage restarts it all."
        yield Remark("app.health.path", why, "Use /-/health; the first check of a process goes through Django anyway.")


def _short_start(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Importing takes its time.
    timeout = config.app.health.start_timeout
    if 0 < timeout.seconds < SHORT_START:
        why = f"A Django project may need more than {timeout} to start, and no release would get healthy."
        yield Remark("app.health.start_timeout", why, "Set it to 10s or more; a quick start waits no longer for it.")


def _hung_for_long(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Clients wait meanwhile.
    health = config.app.health
    seconds = health.retries * (health.interval.seconds + health.timeout.seconds)
    if seconds > LONG_UNTIL_HUNG:
        why = f"A hung instance is noticed after {seconds:g} s only (retries times interval and timeout)."
        yield Remark("app.health", why, "Lower interval, timeout or retries.")


def _busy_below_read_timeout(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A long request is not a deadlock.
    busy, (path, read) = config.app.health.busy_timeout, longest_wait(config)
    if 0 < busy < read:
        why = f"Requests that clients wait for (proxy_read_timeout {read}) may be killed as deadlocked after {busy}."
        yield Remark("app.health.busy_timeout", why, f"Set it to {path} or more.")


def _grace_below_read_timeout(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A release ends what takes longer; the defaults of both are no choice of the stack's.
    grace, (path, read) = config.app.graceful_timeout, longest_wait(config)
    whole = path == "site.proxy_read_timeout" and "proxy_read_timeout" not in config.site.model_fields_set
    if grace < read and ("graceful_timeout" in config.app.model_fields_set or not whole):
        why = f"Requests may take {read} ({path}), and an instance that stops cuts them after {grace}."
        yield Remark("app.graceful_timeout", why, f"Set it to {path} or more.")


def _long_grace(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Waiting has no other end.
    grace = config.app.graceful_timeout
    if grace.seconds > LONG_GRACE:
        why = f"One request that never ends holds up a release for {grace}."
        yield Remark("app.graceful_timeout", why, "Set it to the longest that a request should take.")


def _threads_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if config.app.interface is Interface.ASGI and "threads" in config.app.model_fields_set:
        yield Remark("app.threads", "uvicorn's workers take no number of threads.", "Remove it, or raise app.workers.")


def _little_memory(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The kernel kills a worker at the limit.
    processes = config.app.workers + 1
    if config.platform.traits.limits and 0 < config.app.memory < processes * WORKER_MEMORY:
        why = f"{config.app.memory} for {processes} processes is less than a Django process needs (64 MB and more)."
        yield Remark("app.memory", why, "Raise it, or lower app.workers.")


def _few_processes(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The limit counts threads as well.
    app = config.app
    threads = app.threads if app.interface is Interface.WSGI else 1
    needed = app.workers * (threads + 2) + 2
    if config.platform.traits.limits and app.processes < needed:
        why = f"The limit counts threads too, and {app.workers} workers with {threads} threads need {needed}."
        yield Remark("app.processes", why, f"Raise it to {2 * needed}, or lower app.workers or app.threads.")


def _data_in_release(_config: ClusterConfig, facts: Facts) -> Remarks:
    # A release is replaced, and removed with all in it.
    for one in _written(facts):
        if one["data"]:
            yield Remark("app.shared", why_written(one), how_to_keep(one))


def _scratch_in_release(_config: ClusterConfig, facts: Facts) -> Remarks:
    # The same, of what can be done without.
    for one in _written(facts):
        if not one["data"]:
            yield Remark("app.shared", why_written(one), how_to_keep(one))


def _written(facts: Facts) -> list[dict[str, Any]]:
    paths: Any = (facts.project or {}).get("paths") or {"written": []}
    found: list[dict[str, Any]] = paths["written"]
    return found


def _media_elsewhere(config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx serves one URL, and the project's pages name another.
    url, media = (facts.project or {}).get("media_url"), config.app.media
    if media is None or media.root is None or not media.url or not isinstance(url, str) or not url.strip("/"):
        return
    if "://" not in url and f"/{url.strip('/')}/" != media.url:
        why = f"The project's MEDIA_URL is {url}, and nginx serves its uploads at {media.url}."
        yield Remark("app.media.url", why, f"Set it to /{url.strip('/')}/.")


APP_RULES = (
    Rule("data-in-release", ERROR, "What the project writes would be lost with each release.", _data_in_release),
    Rule("scratch-in-release", WARNING, "Logs or caches would be lost with each release.", _scratch_in_release),
    Rule("media-elsewhere", ERROR, "Uploads are served at another URL than the project says.", _media_elsewhere),
    Rule("project-missing", ERROR, "app.project is no directory with a manage.py.", _project_missing),
    Rule("requirements-missing", ERROR, "There is no file that lists the project's packages.", _requirements_missing),
    Rule("secret-key-missing", ERROR, "All instances must share one secret_key.", _secret_key_missing),
    Rule("environment-owned", ERROR, "A variable that the cluster sets itself.", _owned_variables),
    Rule("time-zero", ERROR, "A time of zero that nothing can meet.", _zero_times),
    Rule("health-path-unknown", ERROR, "The runtime does not answer this path.", _health_path_unknown),
    Rule("environment-secret", WARNING, "A plain variable looks like a secret.", _plain_secrets),
    Rule("lock-unused", WARNING, "A lock stands beside the requirements, and is not read.", _lock_unused),
    Rule("start-timeout-short", WARNING, "Too little time for a project to start.", _short_start),
    Rule(
        "busy-timeout-short",
        WARNING,
        "Requests that clients still wait for may be killed.",
        _busy_below_read_timeout,
    ),
    Rule("grace-short", WARNING, "A release cuts off requests that nginx still waits for.", _grace_below_read_timeout),
    Rule("memory-small", WARNING, "Less memory than the workers need.", _little_memory),
    Rule("processes-few", WARNING, "Fewer processes and threads allowed than asked for.", _few_processes),
    Rule("grace-long", NOTE, "One endless request holds up a release.", _long_grace),
    Rule("hung-for-long", NOTE, "A hung instance is noticed late.", _hung_for_long),
    Rule("health-path-of-project", NOTE, "The running check goes through the project.", _health_path_of_project),
    Rule("threads-ignored", NOTE, "app.threads has no effect with asgi.", _threads_ignored),
)
