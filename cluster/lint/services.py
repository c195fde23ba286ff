"""Lints of what runs beside the instances: workers, schedules, the broker."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import TYPE_CHECKING

from cluster.config.models import RESERVED_NAME, DatabaseEngine, Replacement
from cluster.lint.rule import ERROR, WARNING, Remark, Rule
from cluster.services import Kind
from cluster.topology import build_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks


def _names(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    """Yield the name of each process that runs the project's code, with its path in the stack file."""
    for number, server in enumerate(config.upstream.servers):
        yield f"upstream.servers[{number}].name", server.name
    for number, worker in enumerate(config.workers):
        for one in range(1, worker.count + 1):
            yield f"workers[{number}].name", f"{worker.name}{one}"
    for number, schedule in enumerate(config.schedule):
        yield f"schedule[{number}].name", schedule.name


def _names_taken(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Logs and `status` are asked by them, and on Docker two resources would have one name.
    ours = {
        service.name: str(service.kind)
        for service in build_topology(config).services
        if service.daemon and service.kind is not Kind.MEMCACHED
    }
    seen: dict[str, str] = {}
    for path, name in _names(config):
        former = seen.setdefault(name, path)
        if former != path and not (former.startswith("upstream") and path.startswith("upstream")):
            yield Remark(path, f"{name} is the name of {former} as well.", "Give it another name.")
        elif name in ours and path.startswith("upstream"):
            yield Remark(path, f"{name} is the name of the {ours[name]} already.", f"Choose another, {name}-app say.")
        elif not path.startswith("upstream") and re.match(RESERVED_NAME, name):
            yield Remark(path, f"{name} is the name of a service of the cluster's own.", "Give it another name.")


def is_beat(command: str) -> bool:
    """Tell whether a worker's command is celery's clock, which must run once."""
    words = shlex.split(command)
    return any(word.rpartition("/")[2] == "celery" for word in words[:3]) and _has_clock(words)


def _has_clock(words: list[str]) -> bool:
    """Tell whether `beat` is celery's command, or a worker has the clock in it."""
    return bool({"-B", "--beat"} & {*words}) or any(
        word == "beat" and before not in ("-A", "--app") for before, word in itertools.pairwise(words)
    )


def _beat_beside(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Each of two clocks puts every job into the queue.
    for number, worker in enumerate(config.workers):
        if not is_beat(worker.command):
            continue
        if worker.count > 1:
            why = f"{worker.count} processes of celery's clock put every scheduled job into the queue as often."
            yield Remark(f"workers[{number}].count", why, "Let it be 1, in a worker of its own.")
        elif worker.replacement is Replacement.BESIDE:
            why = "In a release two of celery's clocks run side by side: what is due then goes into the queue twice."
            yield Remark(f"workers[{number}].replacement", why, "Set it to alone, for a worker that is the clock only.")


def _broker_unused(config: ClusterConfig, _facts: Facts) -> Remarks:
    # What is in the queue stays there.
    if config.broker is not None and not config.workers:
        why = "There is a broker, and no worker that takes jobs from it."
        yield Remark("broker", why, "Name the workers, or leave the broker out.")


def _sqlite_queue(config: ClusterConfig, _facts: Facts) -> Remarks:
    # One writer at a time: every worker that asks for a job locks the file.
    on_sqlite = config.database is not None and config.database.engine is DatabaseEngine.SQLITE
    many = sum(worker.count for worker in config.workers if "db_worker" in shlex.split(worker.command))
    if on_sqlite and many > 1:
        why = f"{many} workers ask one sqlite file for jobs, which lets one of them write at a time."
        yield Remark("workers", why, "Let one do it, or let database.engine be postgres.")


SERVICE_RULES = (
    Rule("service-name-taken", ERROR, "Workers and schedules have names of their own.", _names_taken),
    Rule("beat-beside", WARNING, "Celery's clock runs once.", _beat_beside),
    Rule("broker-unused", WARNING, "A broker has workers.", _broker_unused),
    Rule("sqlite-queue", WARNING, "Several workers of one sqlite file wait for each other.", _sqlite_queue),
)
