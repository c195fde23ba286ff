"""The stack file's schema. Names are nginx's and Django's own; a default is theirs too unless the description says so.

Each subject's keys are in a module beside this one; whoever reads a stack finds all of them here.
docs/stack-file.md is generated from here (`cluster reference`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, Field, SecretStr, model_validator

from cluster.config.app import App, Health, Interface, Media, ProtectedMedia, Requirements, Rollout
from cluster.config.hosts import Host, Role
from cluster.config.jobs import RESERVED_NAME, Broker, BrokerEngine, Replacement, Schedule, StopSignal, Worker
from cluster.config.kinds import Model, Moment, PathText, Reason, text_enum
from cluster.config.refusing import Refusal, refuse
from cluster.config.secret_keys import (
    ACCOUNT,
    AUTHORITY,
    DROPPED_KEYS,
    EAB_KEY,
    GIVEN_KEYS,
    HOSTS_KEY,
    HOSTS_KEY_FALLBACKS,
    HOSTS_ROTATION,
    OWN,
    OWN_KEYS,
    ROTATION,
    SECRET_KEYS,
    USERS,
)
from cluster.config.site import Site, path_refusals
from cluster.config.storage import Database, DatabaseEngine, Memcached, SessionEngine, Sessions
from cluster.config.upstream import LARGEST_CLUSTER, Hash, Method, Server, Upstream
from cluster.platforms import Platform
from cluster.policies import PolicyRule

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


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


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys of a model as a stack file writes them; one that is a word of Python's is a field's alias."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def dump(config: ClusterConfig) -> dict[str, Any]:
    """Return the whole configuration as plain values, defaults included, without secrets."""
    return config.model_dump(mode="json", by_alias=True, exclude={*SECRET_KEYS, *OWN_KEYS})


__all__ = [
    "ACCOUNT",
    "AUTHORITY",
    "DROPPED_KEYS",
    "EAB_KEY",
    "GIVEN_KEYS",
    "HOSTS_KEY",
    "HOSTS_KEY_FALLBACKS",
    "HOSTS_ROTATION",
    "LARGEST_CLUSTER",
    "OWN",
    "OWN_KEYS",
    "RESERVED_NAME",
    "ROTATION",
    "SECRET_KEYS",
    "USERS",
    "App",
    "Broker",
    "BrokerEngine",
    "ClusterConfig",
    "Database",
    "DatabaseEngine",
    "Disabled",
    "Hash",
    "Health",
    "Images",
    "Interface",
    "Media",
    "Memcached",
    "Method",
    "Policy",
    "ProtectedMedia",
    "Replacement",
    "Requirements",
    "Rollout",
    "Schedule",
    "Server",
    "SessionEngine",
    "Sessions",
    "StopSignal",
    "Upstream",
    "Worker",
    "dump",
    "keys_of",
    "refuse_what_media_take",
]
