"""The policy's rules, without an engine: over what our own program registers, and over what each is to catch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.acme.kept import new_key
from cluster.config import StackFileError, parse_config
from cluster.config.models import OWN_KEYS, SECRET_KEYS
from cluster.plan.judged import disabled_rules
from cluster.policies import TOLD, PolicyRule
from platforms.docker import engine
from policy import resources, rules
from policy.exceptions import EXCEPTIONS
from policy.resources import COMMAND, CONTAINER, SECRET, SIGNATURE, UNKNOWN, VOLUME, Resource, Site, Unknown
from policy.rules import OF_INPUTS, OF_OUTPUTS, disabled, site_of, violations
from policy.scripts import engine_options
from policy.texts import values_of
from tests.certificates import authority
from tests.unit import pulumi_mocks
from tests.unit.pulumi_mocks import SECRETS, run_main, stack_values
from tests.unit.test_remote import HOSTS_KEY, VALUES
from tests.unit.test_remote import run as run_remote
from tests.unit.test_remote_acme import run as run_by_acme
from tests.unit.test_remote_hosts import run as run_on_hosts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.pulumi_mocks import Record

SITE = Site(production=True, secrets=values_of({**SECRETS, "hosts_key": HOSTS_KEY}))

#: Stacks that have all that there is on Docker: each has another session engine and database.
STACKS: dict[str, dict[str, Any]] = {
    "dev": {"site": {"instance_ports": 8000, "tls": {"self_signed": True}}},
    "whole": {
        "sessions": {"engine": "cache"},
        "workers": [{"name": "mail", "command": "manage.py db_worker"}],
        "schedule": [{"name": "digest", "command": "manage.py digest", "at": "0 6 * * *"}],
        "broker": {"engine": "valkey"},
        "app": {"shared": ["media"], "read_only": False},
        "site": {"server_names": ["shop.example"], "tls": {"acme": {}}},
    },
    "sqlite": {
        "sessions": {"engine": "file"},
        "database": {"engine": "sqlite"},
        "site": {"tls": {"self_signed": True}},
    },
}


def resources_of(record: Record) -> list[Resource]:
    """Return what a program registers as a policy sees it, the outputs of components among it."""
    found = [
        Resource(urn=one.urn, parent=one.parent, protect=one.protect, inputs=one.inputs) for one in record.registrations
    ]
    says = {urn: Resource(urn=urn, inputs=outputs) for urn, outputs in record.outputs.items()}
    return [one for one in found if one.urn not in says] + list(says.values())


#: And one on a host, with programs of the distribution's beside the instances.
ON_HOST: dict[str, Any] = {
    "sessions": {"engine": "cache"},
    "workers": [{"name": "mail", "command": "manage.py db_worker"}],
    "broker": {"engine": "valkey"},
}

#: And one on hosts that hold an address in turn.
ADDRESSED = {**VALUES["site"], "address": "192.0.2.9"}

OURS = [f"{name}-{run}" for name in (*STACKS, "remote", "hosts", "hosts_address", "acme") for run in ("up", "preview")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Resource]]:
    """Return all that the repository's own program makes of one of OURS."""
    known: dict[str, list[Resource]] = {}
    account = new_key()

    def run(which: str) -> list[Resource]:
        if which not in known:
            name, _, how = which.partition("-")
            root, preview = tmp_path_factory.mktemp("policy"), how == "preview"
            secrets = {**SECRETS, "tls_authority": authority(), "acme_account": account}
            known[which] = resources_of(
                run_remote(root, preview=preview, **ON_HOST)
                if name == "remote"
                else run_on_hosts(root, preview=preview)
                if name == "hosts"
                else run_on_hosts(root, preview=preview, site=ADDRESSED)
                if name == "hosts_address"
                else run_by_acme(root, preview=preview)
                if name == "acme"
                else run_main(root, stack_values(**STACKS[name]), preview=preview, secrets=secrets)
            )
        return known[which]

    return run


def found_in(rule: PolicyRule, found: list[Resource], site: Site = SITE) -> list[str]:
    return [line for one in found for line in violations(rule, one, site)]


def urn(kind: str, name: str, above: str = "") -> str:
    return f"urn:pulumi:dev::django-cluster::{above}{kind}::{name}"


def made_of(kind: str, name: str, *, component: str = "", protect: bool = False, **inputs: Any) -> Resource:
    """Return a resource; component: the type of the one that it is a part of, which is called `own`."""
    if not component:
        return Resource(urn=urn(kind, name), inputs=inputs, protect=protect)
    above = f"cluster:index:{component}"
    return Resource(urn=urn(kind, f"own-{name}", f"{above}$"), parent=urn(above, "own"), inputs=inputs, protect=protect)


#: A container as the platform makes them.
GOOD: dict[str, Any] = {
    "image": "sha256:0",
    "user": "10001:10001",
    "capabilities": {"drops": ["ALL"]},
    "securityOpts": ["no-new-privileges:true"],
    "networkMode": "none",
    "memory": 256.0,
    "ulimits": [{"name": "nproc", "hard": 64.0, "soft": 64.0}],
    "healthcheck": {"tests": ["CMD", "true"]},
    "labels": [{"label": "django-cluster.role", "value": "memcached1"}],
    "command": ["memcached", "-s", "/run/sessions/memcached1.sock"],
}


def container(name: str = "memcached1", component: str = "SessionStore", **changes: Any) -> Resource:
    return made_of(CONTAINER, name, component=component, **{**GOOD, **changes})


def labelled(role: str) -> list[dict[str, str]]:
    return [{"label": "django-cluster.role", "value": role}]


def command(create: str = "true", name: str = "step", component: str = "", **inputs: Any) -> Resource:
    return made_of(COMMAND, name, component=component, create=create, **inputs)


def secret(value: Any) -> dict[str, Any]:
    return {SIGNATURE: SECRET, "value": value}


def unit(*lines: str, run: str = "/usr/bin/app") -> str:
    own = {"User=shop", "MemoryMax=1", "TasksMax=1"}
    kept = own - {line.removeprefix("-") for line in lines}
    return "\n".join(
        ["[Service]", f"ExecStart={run}", *sorted(kept), *(line for line in lines if not line.startswith("-"))]
    )


def on_host(*lines: str, run: str = "/usr/bin/app", name: str = "unit") -> Resource:
    return command("sh on web1 set-up", stdin=json.dumps({name: unit(*lines, run=run), "tmpfiles": "d /x"}))


def daemon(run: str) -> Resource:
    return command("sh on web1 daemons", stdin=json.dumps([{"name": "memcached1", "unit": unit(run=run)}]))


def listening(address: str) -> Resource:
    return command("sh on db1 postgres", "db1-postgres", "Database", stdin=secret(json.dumps({"listen": [address]})))


def pool(*servers: dict[str, Any]) -> Resource:
    return Resource(urn=urn("cluster:index:UpstreamPool", "upstream"), inputs={"servers": list(servers)})


def delivered(text: Any, **keys: Any) -> Resource:
    return command("deliver", "nginx-config", "NginxSite", **{"stdin": text, **keys})


MAIL = {"labels": [], "image": "mailhog", "command": []}

#: What each rule catches, and a word of what is said of it; and what is like it, and is fine.
CAUGHT: dict[PolicyRule, list[tuple[Resource, str]]] = {
    PolicyRule.PUBLISHED_PORTS: [
        (container(ports=[{"internal": 11211.0, "external": 11211.0, "ip": "0.0.0.0"}]), "port 11211 on every address"),
        (container(ports=[{"internal": 11211, "ip": "127.0.0.1"}]), "port 11211 on 127.0.0.1"),
        (container(ports=[{"internal": 443, "protocol": "udp"}]), "port 443 by UDP on every address"),
        (
            made_of(CONTAINER, "mail", **{**GOOD, **MAIL, "ports": [{"internal": 8025, "external": 80}]}),
            "container mail ",
        ),
        (container("app1", "AppHosts", labels=labelled("nginx"), ports=[{"internal": 80}]), "container app1 "),
        (container(publishAllPorts=True), "all its ports"),
        (container(networkMode="host"), "the host's own network"),
        (command("docker run --rm -p 80:80 x"), "-p 80:80"),
        (command('set -eu\ndocker create --publish="127.0.0.1:80:80" "$IMAGE"'), "--publish 127.0.0.1:80:80"),
        (command("docker run -dP x"), "all ports"),
        (command("docker --host tcp://x container run --network host x"), "the host's own network"),
        (command("ok", delete="docker run -p80:80 x"), "-p 80:80"),
        (command("docker run -p 80:80 x", "nginx-ports", "AppHosts"), "-p 80:80"),
        (command("docker run --publish-all x", "nginx-ports", "NginxSite"), "all ports"),
        (command("""sh -c 'cd /; docker run -p 80:80 x'"""), "-p 80:80"),
    ],
    PolicyRule.DEBUG: [
        (container(envs=["DJANGO_DEBUG=True"]), "envs.DJANGO_DEBUG"),
        (command(environment={"DEBUG": "1"}), "environment.DEBUG"),
        (made_of("docker:index/image:Image", "app-image", build={"args": {"DEBUG": "on"}}), "build.args.DEBUG"),
        (container(command=["python", "manage.py", "runserver", "0.0.0.0:8000"]), "runserver"),
        (container(command=["flask", "--debug", "run"]), "--debug"),
        (command("python manage.py runserver 8000 &"), "runserver"),
    ],
    PolicyRule.PLAIN_SECRET: [
        (command(stdin=SECRETS["secret_key"]), "secret secret_key in plain, in stdin"),
        (command(f"echo '{SECRETS['secret_key']}' >key"), "in create"),
        (command(environment={"X": "a canary-token b"}), "secret secret_environment"),
        (command(environment={"API_TOKEN": "x"}), "environment.API_TOKEN"),
        (container(envs=["PGPASSWORD=hunter2", "DB_PASSWORD=hunter2"]), "envs.DB_PASSWORD"),
        (container(envs=["URL=postgres://app:hunter2@db/app"]), "an address with a password"),
        (made_of("docker:index/image:Image", "app-image", build={"args": {"NPM_TOKEN": "x"}}), "build.args.NPM_TOKEN"),
        (command(stdin="-----BEGIN EC PRIVATE KEY-----\nMH"), "a private key"),
        (made_of("pulumi:providers:docker", "own", registryAuth=[{"password": "x"}]), "registryAuth[0].password"),
        (made_of("aws:s3:Bucket", "own", secretAccessKey="x"), "secretAccessKey"),
    ],
    PolicyRule.PRIVILEGED: [
        (container(privileged=True), "is privileged"),
        (container(user="0:0"), "as root"),
        (container(user="root"), "as root"),
        (container(user=None), "whatever user"),
        (container(capabilities={"drops": ["ALL"], "adds": ["NET_ADMIN"]}), "NET_ADMIN"),
        (container(capabilities=None), "keeps the capabilities"),
        (container(securityOpts=None), "setuid"),
        (container(securityOpts=["no-new-privileges:true", "seccomp=unconfined"]), "not confined"),
        (container(pidMode="host"), "pidMode"),
        (container(devices=[{"hostPath": "/dev/kvm"}]), "devices"),
        (container(volumes=[{"hostPath": "/var/run/docker.sock", "containerPath": "/d"}]), "docker.sock"),
        (container(volumes=[{"volumeName": UNKNOWN}], mounts=[{"source": "/", "target": "/host"}]), "has /"),
        (command("docker run --privileged x"), "privileged"),
        (command("docker run --rm --user 0:0 x"), "as root"),
        (command("docker run -uroot x"), "as root"),
        (command("docker run --cap-add=SYS_ADMIN x"), "SYS_ADMIN"),
        (command("docker run -v /var/run/docker.sock:/d x"), "docker.sock"),
        (command("docker run --cap-add SYS_ADMIN x", "database-password", "Database"), "SYS_ADMIN"),
        (command("docker run --user 0:0 x", "database-data", "Database"), "as root"),
        (on_host("-User=shop"), "the unit unit run as root"),
        (on_host("-User=shop", "User=root"), "as root"),
        (on_host("User=shop", "User=0"), "as root"),
        (on_host("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "capabilities"),
    ],
    PolicyRule.HEALTH_CHECK: [
        (container(healthcheck=None), "no health check"),
        (container(healthcheck={"tests": ["NONE"]}), "no health check"),
        (container("nginx", "AppHosts", healthcheck=None), "no health check"),
    ],
    PolicyRule.LIMITS: [
        (container(memory=None), "its memory"),
        (container(memory=0), "its memory"),
        (container(ulimits=[{"name": "nofile", "hard": 1, "soft": 1}]), "its processes"),
        (container(ulimits=[{"name": "nproc", "hard": -1, "soft": -1}]), "its processes"),
        (on_host("-MemoryMax=1"), "unit unit without a limit of its memory"),
        (on_host("-TasksMax=1", "TasksMax=infinity"), "its processes"),
    ],
    PolicyRule.UNPROTECTED_DATA: [
        (made_of(VOLUME, "database", component="Database"), "volume database is not protected"),
        (made_of(VOLUME, "secrets", component="SessionStore"), "is not protected"),
        (made_of(VOLUME, "mine"), "volume mine is not protected"),
    ],
    PolicyRule.REACHABLE_STORE: [
        (container(ports=[{"internal": 11211}]), "publishes port 11211"),
        (container("postgres", "Database", labels=labelled("postgres"), command=[], ports=[{"internal": 1}]), "port 1"),
        (made_of(CONTAINER, "mine", **{**GOOD, **MAIL, "image": "redis:8", "networkMode": "host"}), "the host's own"),
        (made_of(CONTAINER, "mine", **{**GOOD, **MAIL, "ports": [{"internal": 5432, "external": 9}]}), "port 9"),
        (command("docker run -p 9:5432/tcp x"), "the port of a store"),
        (daemon("/bin/sh -c 'exec memcached -m 64'"), "memcached1, a store, listen beyond"),
        (daemon("/usr/bin/memcached -l 0.0.0.0"), "listen beyond"),
        (daemon("/usr/bin/memcached -l 127.0.0.1,10.0.0.5"), "listen beyond"),
        (on_host(run="/usr/bin/valkey-server --port 6379", name="broker"), "listen beyond"),
        (on_host(run="/usr/lib/postgresql/17/bin/postgres -c listen_addresses='*'"), "listen beyond"),
        *((listening(address), f"listen on {address}, which is public") for address in ("0.0.0.0", "8.8.8.8", "*")),
    ],
    PolicyRule.LIVE_INSTANCES: [
        (pool({"name": "app1"}), "1 of 1 instances that is not down"),
        (pool({"name": "app1"}, {"name": "app2", "down": True}), "1 of 2"),
        (pool({"name": "app1", "down": True}), "0 of 1 instances that are not down"),
    ],
    PolicyRule.TLS: [
        (delivered("listen 80;"), "speaks no TLS"),
        (delivered(json.dumps({"files": {"a": "listen 80;"}})), "speaks no TLS"),
        (command("deliver", "web1-nginx-config", "NginxSite", stdin="listen 80;"), "command web1-nginx-config "),
    ],
}

FINE: dict[PolicyRule, list[Resource]] = {
    PolicyRule.PUBLISHED_PORTS: [
        container(),
        container("nginx", "NginxSite", labels=labelled("nginx"), ports=[{"internal": 80, "external": 80}]),
        command("mkdir -p a; docker run --rm x mkdir -p 80:80"),
        command('docker run $mounts "$IMAGE" python -P -m x'),
        command("# docker run -p 80:80 x, don't\ndocker ps"),
        command("docker run --publish $PORT:80 x", "nginx-ports", "NginxSite"),
        command("docker exec -u root x true; grep -p run x"),
    ],
    PolicyRule.DEBUG: [
        container(envs=["DJANGO_DEBUG=False", "DEBUGGER=1"]),
        command(environment={"DEBUG": "0", "DEBUG_LEVEL": "warn"}),
        container(command=["gunicorn", "--log-level", "debug"]),
    ],
    PolicyRule.PLAIN_SECRET: [
        command(stdin=secret(SECRETS["secret_key"]), environment={"API_TOKEN": secret("x"), "SECRETS": "a-volume"}),
        command(environment=secret({"API_TOKEN": "x"})),
        command(environment={"API_TOKEN": "", "STRIPE_PUBLISHABLE_KEY": "x", "API_KEY": UNKNOWN, "KEY": "name"}),
        command("""printf "postgres://cluster:%s@/cluster" "$password"; echo "http://u:$PASSWORD@host" """),
    ],
    PolicyRule.PRIVILEGED: [
        container(),
        command("docker run --user 10001:10001 --cap-drop ALL x --privileged"),
        command("docker run --user 0:0 --cap-add CHOWN x", "database-password", "Database"),
        on_host(),
        on_host("-User=shop", "DynamicUser=yes"),
        command(stdin=json.dumps({"nginx_unit": "[Service]\nExecStartPre=-/bin/rm -f x\n"})),
    ],
    PolicyRule.HEALTH_CHECK: [container(), container(labels=[], healthcheck=None), container("nginx", "NginxSite")],
    PolicyRule.LIMITS: [container(), container(labels=[], memory=None), on_host()],
    PolicyRule.UNPROTECTED_DATA: [
        made_of(VOLUME, "database", component="Database", protect=True),
        made_of(VOLUME, "sessions", component="SessionStore"),
    ],
    PolicyRule.REACHABLE_STORE: [
        container(),
        container("nginx", "NginxSite", labels=labelled("nginx"), command=["start"], ports=[{"internal": 80}]),
        daemon("/usr/bin/memcached -s /run/x.sock -a 0700"),
        daemon("/usr/bin/memcached -l 127.0.0.1,::1"),
        on_host(run="/usr/bin/valkey-server --port 0 --unixsocket x", name="broker"),
        on_host(run="/usr/lib/postgresql/17/bin/postgres -c listen_addresses=''"),
        *(listening(address) for address in ("10.1.0.31", "fd00::1", "127.0.0.1")),
    ],
    PolicyRule.LIVE_INSTANCES: [pool({"name": "app1"}, {"name": "app2", "backup": True})],
    PolicyRule.TLS: [
        delivered("ssl_certificate a.pem;"),
        delivered(secret(json.dumps({"files": {"a": "ssl_certificate a.pem;"}}))),
        command("deliver", "other", "NginxSite", stdin=""),
    ],
}


def cases(table: dict[PolicyRule, list[Any]]) -> Any:
    return [pytest.param(rule, one, id=f"{rule}-{n}") for rule, found in table.items() for n, one in enumerate(found)]


@pytest.mark.parametrize("which", OURS)
@pytest.mark.parametrize("rule", PolicyRule)
def test_our_own_program_keeps_to_every_rule_and_leaves_none_unjudged(
    rule: PolicyRule, which: str, made: Callable[[str], list[Resource]]
) -> None:
    site = Site(secrets=SITE.secrets) if which.startswith(("remote", "hosts")) else SITE  # it has no certificate
    assert found_in(rule, made(which), site) == []


@pytest.mark.parametrize(("rule", "case"), cases(CAUGHT))
def test_a_rule_catches_what_it_is_for_and_says_what_to_do(rule: PolicyRule, case: tuple[Resource, str]) -> None:
    resource, words = case
    lines = list(violations(rule, resource, SITE))
    assert [line for line in lines if words in line], lines
    assert all(line.startswith(resource.words) and line.endswith(TOLD[rule].remedy) for line in lines)
    assert not [line for line in lines for value in ("hunter2", *SECRETS.values(), "canary") if value in line]


@pytest.mark.parametrize(("rule", "resource"), cases(FINE))
def test_a_rule_lets_through_what_is_fine(rule: PolicyRule, resource: Resource) -> None:
    assert list(violations(rule, resource, SITE)) == []


def test_every_rule_has_a_check_and_its_words_and_both_kinds_of_cases() -> None:
    assert {*OF_INPUTS} & {*OF_OUTPUTS} == set()
    assert {*OF_INPUTS, *OF_OUTPUTS} == {*TOLD} == {*CAUGHT} == {*FINE} == {*PolicyRule}
    for told in TOLD.values():
        assert told.summary.endswith(".")
        assert told.remedy.endswith(".")


@pytest.mark.parametrize("rule", [rule for rule, told in TOLD.items() if told.production])
def test_what_is_for_production_is_asked_nowhere_else(rule: PolicyRule) -> None:
    assert found_in(rule, [resource for resource, _words in CAUGHT[rule]], Site()) == []


@pytest.mark.parametrize("exempt", EXCEPTIONS, ids=[f"{one.rule}-{one.part}" for one in EXCEPTIONS])
def test_no_exception_is_there_for_nothing(
    exempt: Any, made: Callable[[str], list[Resource]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exempt.why.endswith(".")
    others = tuple(one for one in EXCEPTIONS if one is not exempt)
    monkeypatch.setattr("policy.exceptions.EXCEPTIONS", others)
    found = [line for which in OURS for line in found_in(exempt.rule, made(which))]
    assert found, "nothing of ours needs it"


def test_what_is_not_known_yet_is_no_breach_and_not_passed_over() -> None:
    for name in ("ports", "networkMode", "publishAllPorts"):
        with pytest.raises(Unknown):
            list(violations(PolicyRule.PUBLISHED_PORTS, container(**{name: UNKNOWN}), SITE))
    with pytest.raises(Unknown):
        list(violations(PolicyRule.PRIVILEGED, container(volumes=[{"hostPath": UNKNOWN}]), SITE))


def test_the_options_of_a_container_are_read_as_its_engine_reads_them() -> None:
    script = """
        # docker run --never x
        for one in a b; do docker run --rm -it --name=x -e "A=b c" \\
            --volume "$a:/b" $more -v c:/d "$IMAGE" --not --these; done
        echo "$(docker create --user 0 y)" && /usr/bin/podman run -d z -p 1:1
    """
    found = [(one.name, one.value) for one in engine_options(script)]
    assert found == [
        *(("--rm", ""), ("-i", ""), ("-t", ""), ("--name", "x"), ("-e", "A=b c")),
        *(("--volume", "$a:/b"), ("-v", "c:/d"), ("--user", "0"), ("-d", "")),
    ]


# --- what a stack file says of it


def config(**keys: Any) -> dict[str, str]:
    return {f"cluster:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()}


@pytest.mark.parametrize(
    ("keys", "production"),
    [
        ({}, False),
        ({"policy": {"production": True}}, True),
        ({"site": {"tls": {"acme": {}}}}, True),
        ({"site": {"tls": {"acme": {"directory_ca": "ca.pem"}}}}, False),
        ({"site": {"tls": {"self_signed": True}}}, False),
        ({"site": {"tls": {"acme": {}}}, "policy": {"production": False}}, False),
        ({"policy": "no mapping", "site": [1]}, False),
    ],
)
def test_a_stack_is_in_production_where_it_says_so_or_has_a_public_certificate(
    keys: dict[str, Any], production: bool
) -> None:
    assert site_of(config(**keys)).production is production


def test_a_rule_is_off_only_with_a_reason() -> None:
    entries = [{"rule": "debug", "reason": "why"}, {"rule": "tls", "reason": " "}, {"rule": "limits"}, "privileged"]
    assert disabled(config(policy={"disable": entries})) == {"debug"}
    assert disabled({}) == disabled(config(policy={"disable": "debug"})) == frozenset()


def test_secrets_are_looked_for_by_each_of_their_parts_and_not_what_is_none_or_short() -> None:
    variables = {
        "API_TOKEN": "first-value-of-it",
        "CACHE": "redis://:second-value-of-it@cache/0",
        "ODD": "3e7c1b0a9d8f6e5c",
        "EMAIL_HOST": "smtp.example.com",
        "DB_PASSWORD": "postgres",
    }
    found = site_of(
        {
            "cluster:database_url": "postgres://app:pass%2Fword-of-it@db/app",
            "shop:secret_environment": json.dumps(variables),
            "cluster:secret_key_fallbacks": '["a-former-key-of-it"]',
            "cluster:auth_basic_users": '{"ann": "what ann alone knows"}',
            "cluster:site": '{"server_names": ["no-secret-at-all"]}',
        }
    ).secrets
    assert set(found["cluster:database_url"]) >= {"pass%2Fword-of-it", "pass/word-of-it"}
    parts = {"first-value-of-it", "second-value-of-it", "3e7c1b0a9d8f6e5c"}
    assert set(found["shop:secret_environment"]) >= parts
    assert not {"smtp.example.com", "postgres"} & set(found["shop:secret_environment"])
    assert "a-former-key-of-it" in found["cluster:secret_key_fallbacks"]
    assert "what ann alone knows" in found["cluster:auth_basic_users"]
    assert "cluster:site" not in found
    assert "first-value" not in repr(site_of({"shop:secret_environment": json.dumps(variables)}))


def test_the_document_names_every_rule_as_it_is_told() -> None:
    text = (pulumi_mocks.ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{rule}` | {told.summary} |" for rule, told in TOLD.items()]


def test_a_rule_that_does_not_exist_or_has_no_reason_is_an_error_of_the_stack_file_with_its_path() -> None:
    for entries, said in (
        ([{"rule": "debgu", "reason": "x"}], "policy.disable[0].rule: must be one of published-ports, debug, "),
        ([{"rule": "debug"}], "policy.disable[0].reason: required: "),
        ([{"rule": "debug", "reason": " "}], "policy.disable[0].reason: must not be empty"),
        ([{"rule": "debug", "reason": "a\nb"}], "policy.disable[0].reason: is not of the right form"),
        ([{"rule": "debug", "reason": "x"}] * 2, "policy.disable[1].rule: debug is disabled above already"),
    ):
        with pytest.raises(StackFileError) as raised:
            parse_config(stack_values(policy={"disable": entries}))
        assert len(raised.value.problems) == 1
        assert str(raised.value.problems[0]).startswith(said)
    kept = parse_config(stack_values(policy={"disable": [{"rule": "debug", "reason": " a leak "}]}))
    assert disabled_rules(kept) == ("debug: a leak",)


def test_the_policy_calls_things_as_everybody_else_does() -> None:
    assert {*SECRET_KEYS, *OWN_KEYS} == rules.SECRET_KEYS
    assert (engine.ROLE_LABEL, engine.INSTANCE_LABEL) == (resources.ROLE_LABEL, resources.INSTANCE_LABEL)
    for name in ("CONTAINER", "COMMAND", "VOLUME", "SIGNATURE", "SECRET", "UNKNOWN"):
        assert getattr(resources, name) == getattr(pulumi_mocks, name)
