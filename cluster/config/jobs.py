"""The keys of `cluster:workers`, `cluster:schedule` and `cluster:broker`: what runs beside the instances."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cluster.config.kinds import CronText, Model, Port, ProgramText, ServiceName, text_enum
from cluster.config.units import Duration, Size

#: What a broker needs for itself, and a few jobs.
LEAST_BROKER = Size.parse("8m")

#: Names of what runs beside instances, workers and schedules.
RESERVED_NAME = r"^(nginx|access|error|watch|supervisord|instance|task|postgres|broker|memcached\d*)$"


class BrokerEngine(StrEnum):
    """What keeps the jobs of background workers."""

    VALKEY = "valkey"


class Replacement(StrEnum):
    """How the process of a new release takes the place of the former one's."""

    BESIDE = "beside"
    ALONE = "alone"


class StopSignal(StrEnum):
    """The signals by which a program may be told to end what it is at and stop."""

    TERM = "TERM"
    INT = "INT"
    QUIT = "QUIT"
    HUP = "HUP"
    USR1 = "USR1"
    USR2 = "USR2"


def _broker_memory(value: Size) -> Size:
    """Refuse what would hold no jobs, and 0, which has no limit."""
    if value < LEAST_BROKER:
        raise PydanticCustomError("broker_memory", "must be at least {least}", {"least": str(LEAST_BROKER)})
    return value


class _Process(Model):
    """What runs the project's code beside the instances: the same release, settings, secrets and shared paths."""

    name: ServiceName = Field(description="Its name; it outlives its releases.")
    command: ProgramText = Field(
        description="What runs, split into words as by a shell: `manage.py NAME`, `python -m MODULE`, or a program of "
        "the project's packages."
    )
    memory: Size = Field(Size.parse("512m"), description="Limit, where the platform can set it.")
    processes: int = Field(256, ge=8, le=65536, description="Limit, where the platform can set it.")


class Worker(_Process):
    """A background worker: Celery's, Django's own tasks', or whatever takes jobs from a queue."""

    graceful_timeout: Duration = Field(
        Duration.parse("1m"),
        description="How long it may still be at its job once it is told to stop, and then is killed. Celery itself "
        "takes up to 32 seconds where a job ends just then.",
    )
    count: int = Field(1, ge=1, le=100, description="How many: mail1, mail2, and so on.")
    startsecs: Duration = Field(
        Duration.parse("5s"),
        description="Supervisor's: how long it must have lived to count as started; a release whose workers do not "
        "is given up.",
    )
    stop_signal: Annotated[StopSignal, text_enum(StopSignal)] = Field(
        StopSignal.TERM, description="What tells it to end the job that it is at and stop."
    )
    replacement: Annotated[Replacement, text_enum(Replacement)] = Field(
        Replacement.BESIDE,
        description="beside: those of a new release start before the former ones are told to stop; alone: after they "
        "have, for what must never run twice (celery beat).",
    )


class Schedule(_Process):
    """A command that runs at certain times, once for the whole cluster."""

    graceful_timeout: Duration = Field(
        Duration.parse("5m"), description="How long a run may still take once a new release or `down` waits for it."
    )
    at: CronText = Field(
        description="cron's five fields (minute, hour, day, month, day of the week), in the project's TIME_ZONE."
    )
    starting_deadline: Duration = Field(
        Duration.parse("1h"),
        description="How late a run that was missed (the stack was down) is made up for, once; 0: never.",
    )


class Broker(Model):
    """The store of jobs that workers take theirs from, made by the platform.

    The project finds it by CLUSTER_BROKER_URL (Celery's form) and CLUSTER_BROKER_SOCKET; on a host with the role
    broker by CLUSTER_BROKER_URL and CLUSTER_BROKER_AUTHORITY.
    """

    engine: Annotated[BrokerEngine, text_enum(BrokerEngine)] = Field(
        description="valkey, or redis where that is what there is: reached by a socket, without any network (on a host "
        "with the role broker by TLS and a password), and each job on disk before it is acknowledged."
    )
    memory: Annotated[Size, AfterValidator(_broker_memory)] = Field(
        Size.parse("256m"), description="For all jobs, 8m at least; when it is full, new ones are refused."
    )
    port: Port = Field(6380, description="Of the broker that is made on a host with the role broker.")
    discard: bool = Field(
        False, description="Let another broker serve than the one that has jobs now, on another host: they are left."
    )


__all__ = [
    "RESERVED_NAME",
    "Broker",
    "BrokerEngine",
    "Replacement",
    "Schedule",
    "StopSignal",
    "Worker",
]
