"""The stack file's schema. Names are nginx's and Django's own; a default is theirs too unless the description says so.

docs/stack-file.md is generated from here (`cluster reference`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cluster.config.hosts import Host, HostName, Role
from cluster.config.kinds import (
    ApplicationName,
    CommandText,
    Count,
    CronText,
    HashKey,
    InstanceName,
    Model,
    ModuleName,
    Moment,
    PackageName,
    PathPrefix,
    PathText,
    PlainText,
    Port,
    ProgramText,
    ProjectPath,
    PythonVersion,
    Reason,
    ServiceName,
    SharedDirectory,
    UrlPath,
    VariableName,
    Weight,
    text_enum,
)
from cluster.config.refusing import Refusal, refuse
from cluster.config.site import Site, path_refusals
from cluster.config.units import Duration, Size
from cluster.platforms import Platform
from cluster.policies import PolicyRule
from cluster_runtime.config import SECRET_NAMES

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class Interface(StrEnum):
    """How gunicorn talks to the project."""

    WSGI = "wsgi"
    ASGI = "asgi"


class Method(StrEnum):
    """nginx's load balancing methods (ngx_http_upstream_module)."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    HASH = "hash"
    RANDOM = "random"


class SessionEngine(StrEnum):
    """Where sessions are kept."""

    DB = "db"
    CACHED_DB = "cached_db"
    CACHE = "cache"
    FILE = "file"
    SIGNED_COOKIES = "signed_cookies"
    PROJECT = "project"

    @property
    def where(self) -> str:
        """Where a session is, in a few words."""
        return WHERE_SESSIONS_ARE[self]


WHERE_SESSIONS_ARE = {
    SessionEngine.DB: "kept in the database",
    SessionEngine.CACHED_DB: "kept in the database, cached",
    SessionEngine.CACHE: "kept in memcached alone",
    SessionEngine.FILE: "files, shared by all",
    SessionEngine.SIGNED_COOKIES: "in the client's own cookie",
    SessionEngine.PROJECT: "by the project's own engine",
}


class DatabaseEngine(StrEnum):
    """Who makes the database."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    EXTERNAL = "external"


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


def _numbered_servers(value: object) -> object:
    """`servers: 4` means app1 … app4."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if not 1 <= value <= LARGEST_CLUSTER:
        raise PydanticCustomError(
            "servers", "must be a number from 1 to {largest}, or a list", {"largest": LARGEST_CLUSTER}
        )
    return [{"name": f"app{number}"} for number in range(1, value + 1)]


def _batch(value: object) -> int | str:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("batch", "must be a number of instances from 1, or all")


def _requirements(value: object) -> object:
    """Take `requirements: requirements.txt` as the file alone."""
    return {"file": value} if isinstance(value, str) or value is None else value


def _no(value: object) -> object:
    """Take `media: false` as no media at all; null is what the project says."""
    return {"root": None} if value is False else value


def _broker_memory(value: Size) -> Size:
    """Refuse what would hold no jobs, and 0, which has no limit."""
    if value < LEAST_BROKER:
        raise PydanticCustomError("broker_memory", "must be at least {least}", {"least": str(LEAST_BROKER)})
    return value


def _migrate(value: object) -> bool | list[str]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and value and all(isinstance(name, str) and name for name in value):
        return value
    raise PydanticCustomError("migrate", "must be true or false, or a list of aliases of DATABASES")


LARGEST_CLUSTER = 1000

#: What a broker needs for itself, and a few jobs.
LEAST_BROKER = Size.parse("8m")

#: Names of what runs beside instances, workers and schedules.
RESERVED_NAME = r"^(nginx|access|error|watch|supervisord|instance|task|postgres|broker|memcached\d*)$"


class Health(Model):
    """How an instance is judged."""

    path: UrlPath = Field("/-/health", description="What the running check asks for; the default is the runtime's own.")
    pages: list[UrlPath] | None = Field(
        None,
        description="What a release must answer before it takes a name, as a visitor would see it, with a static file "
        "of each; default: / and LOGIN_URL.",
    )
    interval: Duration = Field(Duration.parse("1s"), description="Time between two checks.")
    timeout: Duration = Field(Duration.parse("2s"), description="How long an answer may take.")
    retries: int = Field(3, ge=1, le=100, description="Failed checks in a row until the instance is started again.")
    start_timeout: Duration = Field(
        Duration.parse("60s"), description="How long an instance may take to become healthy."
    )
    busy_timeout: Duration = Field(
        Duration.parse("60s"),
        description="How long all threads may be in requests of which none moves, until the instance counts as "
        "deadlocked. The default is nginx's proxy_read_timeout: by then no client waits any more.",
    )


class Requirements(Model):
    """Which packages the project needs, and from where that is read."""

    file: PathText | None = Field(
        None,
        description="From the project's directory; default: requirements.txt, else pyproject.toml. A lock beside "
        "pyproject.toml (uv.lock, poetry.lock, pdm.lock), or Pipfile.lock, is honoured exactly.",
    )
    extras: list[PackageName] = Field(default_factory=list, description="Optional dependencies of pyproject.toml.")
    groups: list[PackageName] = Field(default_factory=list, description="Dependency groups of pyproject.toml.")


class Media(Model):
    """A directory of files that a project writes and nginx reads."""

    root: ProjectPath | None = Field(description="The directory, from the project's; null: none.")
    url: PathPrefix | None = Field("/media/", description="Where nginx serves it; null: nowhere.")


class ProtectedMedia(Media):
    """A directory of files that nginx serves only where the project says so."""

    url: PathPrefix | None = Field(
        "/protected/", description="What X-Accel-Redirect begins with; never public by itself."
    )


class Rollout(Model):
    """How a release replaces instances."""

    batch: Annotated[int | str, PlainValidator(_batch)] = Field(
        "all",
        description="How many instances are replaced at a time; 1 where memory is short. The first goes alone.",
    )


class App(Model):
    """The Django project, and one instance of it."""

    project: PathText = Field(description="The directory that holds manage.py, from the repository's root.")
    settings: ModuleName = Field(description="The project's own settings module: wrapped, never edited.")
    application: ApplicationName | None = Field(
        None, description="module:callable; default: the project's WSGI_APPLICATION (ASGI_APPLICATION)."
    )
    interface: Annotated[Interface, text_enum(Interface)] = Field(
        Interface.WSGI, description="wsgi: gunicorn with threads; asgi: gunicorn with uvicorn workers."
    )
    requirements: Annotated[Requirements, BeforeValidator(_requirements)] = Field(
        default_factory=lambda: Requirements(file=None),
        description="The project's packages; just a path means `file`.",
    )
    python: PythonVersion | None = Field(
        None,
        description='The version of Python, in quotes: "3.13"; default: what the project asks for (requires-python, '
        ".python-version or its lock).",
    )
    workers: int = Field(1, ge=1, le=64, description="gunicorn's workers of one instance.")
    threads: int = Field(4, ge=1, le=256, description="gunicorn's threads of one worker (wsgi).")
    preload: bool = Field(
        True,
        description="Load the project once for all workers of an instance, so that one that has ended is replaced in "
        "milliseconds. A project that starts threads or opens connections when it is imported is loaded by each "
        "worker for itself, as with false.",
    )
    environment: dict[VariableName, PlainText] = Field(
        default_factory=dict,
        description="Plain values for the project; secret ones go to secret_environment.",
    )
    health: Health = Field(default_factory=Health, description="How an instance is judged.")
    graceful_timeout: Duration = Field(
        Duration.parse("30s"),
        description="How long a request in flight may still take when an instance stops.",
    )
    rollout: Rollout = Field(default_factory=Rollout, description="How a release replaces instances.")
    memory: Size = Field(Size.parse("512m"), description="Limit of one instance, where the platform can set it.")
    processes: int = Field(256, ge=8, le=65536, description="Limit of one instance, where the platform can set it.")
    read_only: bool = Field(
        True,
        description="The project can't write into its own directory, where the platform can see to it; false: each "
        "instance has a copy of its own, as long as it lives.",
    )
    migrate: Annotated[bool | list[str], PlainValidator(_migrate)] = Field(
        True,
        description="Run migrate once per release, in the new release, before it gets traffic: for every database, for "
        "none, or for those of a list of aliases.",
    )
    collectstatic: bool = Field(
        True,
        description="Run collectstatic once per release, whoever serves the files; false: STATIC_ROOT stays as it is.",
    )
    release_commands: list[CommandText] = Field(
        default_factory=list,
        description="Management commands that run once per release, after collectstatic and migrate, before it is "
        "proven.",
    )
    shared: list[ProjectPath] = Field(
        default_factory=list,
        description="Paths of the project that it writes: kept outside the releases, one for all instances, deleted by "
        "`down --delete-data` alone.",
    )
    shared_filesystem: SharedDirectory | None = Field(
        None,
        description="With several hosts: the directory, the same on each, where a filesystem is mounted that they "
        "share (NFS, CephFS, GlusterFS). The shared paths are kept there, in `cluster-STACK`; null: on the host.",
    )
    include: list[ProjectPath] = Field(
        default_factory=list, description="Files and directories from above the project that belong to a release."
    )
    media: Annotated[Media | None, BeforeValidator(_no)] = Field(
        None,
        description="Uploads, which nginx serves; default: the project's MEDIA_ROOT and MEDIA_URL, where its settings "
        "say them plainly; false: none.",
    )
    protected_media: ProtectedMedia | None = Field(
        None, description="Files that nginx serves only where the project says so, by the header X-Accel-Redirect."
    )


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


class Hash(Model):
    """What the method `hash` hashes."""

    key: HashKey = Field("$request_uri", description="nginx's key: text and variables.")
    consistent: bool = Field(True, description="ketama: a server more or less moves few keys.")


class Server(Model):
    """One instance, with nginx's parameters of a server in an upstream."""

    name: InstanceName = Field(description="The instance's name; it outlives its releases.")
    weight: Weight = Field(1, description="Its share of the traffic is its weight over the sum of weights.")
    max_fails: Count = Field(
        0,
        description="Failed attempts within fail_timeout until nginx passes it over; 0: never. nginx's own default "
        "of 1 takes an instance out for ten seconds after a single reset, and the whole site if each has had one; to "
        "try an instance that is gone costs nothing here.",
    )
    fail_timeout: Duration = Field(
        Duration.parse("10s"), description="The time for max_fails, and how long it is passed over."
    )
    max_conns: Count = Field(0, description="Connections at a time; 0: no limit.")
    backup: bool = Field(False, description="Gets traffic only when all others are unavailable.")
    down: bool = Field(False, description="Drained: keeps running, gets no new request.")
    host: HostName | None = Field(
        None,
        description="The host on which it runs, one of `hosts`; default: dealt out to those with the role app.",
    )


class Upstream(Model):
    """nginx's upstream."""

    method: Annotated[Method, text_enum(Method)] = Field(Method.ROUND_ROBIN, description="nginx's balancing method.")
    hash: Hash = Field(default_factory=Hash, description="Used by the method hash.")
    keepalive: int = Field(
        256, ge=1, le=65535, description="Idle connections that each nginx worker keeps to the instances, for a second."
    )
    servers: Annotated[
        list[Server], BeforeValidator(_numbered_servers), Field(min_length=1, max_length=LARGEST_CLUSTER)
    ] = Field(description="The instances; or just a number: 4 means app1 … app4.")
    relay_port: int = Field(
        8440,
        ge=1024,
        le=65_535 - LARGEST_CLUSTER,
        description="With several hosts: the first of the ports on which a host's nginx passes on to its instances "
        "what another host's nginx sends it, and nobody else's. Each instance has one after it, in their order.",
    )


class Memcached(Model):
    """The memcached nodes for sessions."""

    nodes: int = Field(2, ge=1, le=32, description="How many.")
    memory: Size = Field(Size.parse("64m"), description="Of each node.")


class Sessions(Model):
    """Where sessions are kept."""

    engine: Annotated[SessionEngine, text_enum(SessionEngine)] = Field(
        SessionEngine.DB,
        description="Django's session engine; project: the project's own SESSION_ENGINE, with all that its settings "
        "say of sessions, as it is.",
    )
    memcached: Memcached = Field(default_factory=Memcached, description="For cache and cached_db.")
    path: PathText | None = Field(
        None,
        description="For file: a directory that all instances share; default: one that the platform makes.",
    )
    previous: Annotated[SessionEngine, text_enum(SessionEngine)] | None = Field(
        None, description="While changing the engine: sessions of the old one stay valid."
    )
    discard: bool = Field(
        False,
        description="Let a change of the engine without `previous`, of the path or of secret_key end all sessions.",
    )
    replace: bool = Field(
        False, description="Let the engine replace one that the project has written itself (its SESSION_ENGINE)."
    )


class Database(Model):
    """Django's default database. Left out: the project's own DATABASES."""

    engine: Annotated[DatabaseEngine, text_enum(DatabaseEngine)] = Field(
        description="sqlite, postgres (made by the platform), or external (database_url)."
    )
    replace: bool = Field(
        False, description="Let sqlite replace a database server that the project's own DATABASES name."
    )
    port: Port = Field(5432, description="Of the PostgreSQL that is made on a host.")
    discard: bool = Field(
        False, description="Let another database serve than the one that has the data now: that is seen no more."
    )


class Images(Model):
    """Base images of platform docker; any Debian-based image may serve."""

    base: PathText = Field("debian:trixie-slim", description="For every service that names none of its own.")
    app: PathText | None = Field(None, description="For the instances.")
    nginx: PathText | None = Field(None, description="For nginx.")
    memcached: PathText | None = Field(None, description="For the memcached nodes.")
    postgres: PathText | None = Field(None, description="For PostgreSQL.")
    broker: PathText | None = Field(None, description="For the broker.")
    as_of: Moment | None = Field(
        None,
        description="Every image is built anew from its base as it was pulled then or later, with its distribution's "
        "updates as of then: security updates. `cluster up --pull` writes it; null: a base is whatever the engine has.",
    )


class Disabled(Model):
    """A rule that the stack's resources need not keep to."""

    rule: Annotated[PolicyRule, text_enum(PolicyRule)] = Field(description="Its name.")
    reason: Reason = Field(description="Why: every `plan` and `up` says it.")


class Policy(Model):
    """What the stack's resources must keep to."""

    production: bool | None = Field(
        None,
        description="Whether the rules for production hold too; default: where the site has a certificate by ACME of "
        "a public authority (no `directory_ca`).",
    )
    disable: list[Disabled] = Field(default_factory=list, description="Rules that do not hold here.")

    @model_validator(mode="after")
    def _refuse_twice(self) -> Self:
        rules = [one.rule for one in self.disable]
        refuse(
            Refusal(("disable", number, "rule"), f"{rule.value} is disabled above already", rule.value)
            for number, rule in enumerate(rules)
            if rule in rules[:number]
        )
        return self


class ClusterConfig(Model):
    """One stack: the keys below `cluster:` of a Pulumi.<stack>.yaml."""

    platform: Annotated[Platform, text_enum(Platform)] = Field(description="Where the cluster runs.")
    app: App = Field(description="The Django project, and one instance of it.")
    upstream: Upstream = Field(description="nginx's upstream.")
    sessions: Sessions = Field(default_factory=Sessions, description="Where sessions are kept.")
    database: Database | None = Field(
        None, description="Django's default database; left out: the project's own DATABASES."
    )
    workers: list[Worker] = Field(default_factory=list, description="Background workers.")
    schedule: list[Schedule] = Field(default_factory=list, description="Commands that run at certain times.")
    broker: Broker | None = Field(None, description="Where the jobs of workers are kept; left out: the project's own.")
    site: Site = Field(description="nginx's server.")
    images: Images = Field(default_factory=Images, description="Base images of platform docker.")
    hosts: list[Host] = Field(default_factory=list, description="The hosts of platform remote.")
    policy: Policy = Field(
        default_factory=Policy, description="What the resources of a Pulumi platform must keep to (docs/policy.md)."
    )
    secret_key: SecretStr | None = Field(
        None, description="Django's SECRET_KEY, the same on every instance. Platform local makes its own."
    )
    secret_key_fallbacks: SecretStr | None = Field(
        None, description="Django's SECRET_KEY_FALLBACKS while rotating, as a JSON list."
    )
    database_url: SecretStr | None = Field(
        None, description="For database.engine external: postgres://user:password@host:port/name."
    )
    secret_environment: SecretStr | None = Field(None, description="Secret values for the project, as a JSON object.")
    tls_authority: SecretStr | None = Field(
        None,
        description="For site.tls.self_signed: the key of the stack's own authority and its certificate, PEM. `cluster "
        "up` makes it.",
    )
    acme_account: SecretStr | None = Field(
        None,
        description="For site.tls.acme: the key of the stack's account, PEM, of the curve P-256. `cluster up` makes "
        "it.",
    )
    acme_eab_key: SecretStr | None = Field(
        None,
        description="For site.tls.acme.eab: the key that the authority gave with that id, base64url as it gives it.",
    )
    auth_basic_users: SecretStr | None = Field(
        None,
        description="For site.auth_basic: a JSON object with a password, or its hash ($6$, $5$, $apr1$, {SSHA}), by "
        "each user's name. nginx is given hashes alone.",
    )
    hosts_key: SecretStr | None = Field(
        None,
        description="On several hosts, or with a PostgreSQL on a host: of what the certificates and keys are made by "
        "which hosts know each other, and the database's password; 64 hexadecimal digits. `cluster up` makes it, and "
        "`cluster rotate-key --hosts` changes it: changed by hand it is refused where that would cost requests.",
    )
    hosts_key_fallbacks: SecretStr | None = Field(
        None, description="What hosts believe beside while `rotate-key --hosts` changes hosts_key, as a JSON list."
    )
    dropped_secret_keys: SecretStr | None = Field(
        None, description="What `rotate-key` has dropped, kept until you delete it; nothing reads it."
    )
    secret_key_rotation: SecretStr | None = Field(
        None, description="How far a `rotate-key` is, so that another checkout goes on with it; gone once it has ended."
    )
    hosts_key_rotation: SecretStr | None = Field(None, description="The same of a `rotate-key --hosts`.")

    @property
    def makes_postgres(self) -> bool:
        """Whether the database is a PostgreSQL that the platform makes."""
        return self.database is not None and self.database.engine is DatabaseEngine.POSTGRES

    @property
    def broker_is_asked_by_tls(self) -> bool:
        """Whether the broker has a host of its own choice, and is asked there by TLS; else it has a socket."""
        named = any(Role.BROKER in host.roles for host in self.hosts)
        return self.broker is not None and self.platform.traits.hosts and named

    def host(self, name: str) -> Host:
        """Return the host called `name`; KeyError where there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    @model_validator(mode="after")
    def _refuse_what_media_take(self) -> Self:
        refuse_what_media_take(self)
        return self


def refuse_what_media_take(config: ClusterConfig) -> None:
    """Raise pydantic's error where the site's keys say of a path of the uploads' what nginx does with it."""
    found = ((config.app.media, "uploads (app.media)"), (config.app.protected_media, "app.protected_media"))
    taken = {media.url: f"where nginx serves {what}" for media, what in found if media and media.root and media.url}
    refuse(one._replace(at=("site", *one.at)) for one in path_refusals(config.site, taken))


#: What keys of a stack file begin with, and secrets of the site that is its program's own.
OWN = "cluster"

#: Keys whose values are secrets; no message repeats them.
SECRET_KEYS = SECRET_NAMES

#: Where keys are kept aside that a rotation has dropped.
DROPPED_KEYS = "dropped_secret_keys"

#: How far a rotation is, of secret_key and of hosts_key.
ROTATION, HOSTS_ROTATION = "secret_key_rotation", "hosts_key_rotation"

#: The stack's own authority.
AUTHORITY = "tls_authority"

#: The key of its account with an authority, by ACME.
ACCOUNT = "acme_account"

#: The users for whom nginx asks.
USERS = "auth_basic_users"

#: What binds that account to somebody whom the authority knows.
EAB_KEY = "acme_eab_key"

#: What the certificates come from by which a stack's hosts know each other.
HOSTS_KEY = "hosts_key"

#: What hosts believe beside what comes from that, while it is changed.
HOSTS_KEY_FALLBACKS = "hosts_key_fallbacks"

#: Secrets that no release holds.
OWN_KEYS = (
    *(DROPPED_KEYS, ROTATION, HOSTS_ROTATION),
    *(AUTHORITY, ACCOUNT, EAB_KEY, USERS),
    *(HOSTS_KEY, HOSTS_KEY_FALLBACKS),
)

#: Secrets that a person gives.
GIVEN_KEYS = (*SECRET_KEYS, USERS, EAB_KEY)


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys of a model as a stack file writes them; one that is a word of Python's is a field's alias."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def dump(config: ClusterConfig) -> dict[str, Any]:
    """Return the whole configuration as plain values, defaults included, without secrets."""
    return config.model_dump(mode="json", by_alias=True, exclude={*SECRET_KEYS, *OWN_KEYS})
