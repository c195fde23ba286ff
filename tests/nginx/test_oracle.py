"""The real nginx is the oracle: what the lints let pass it accepts, and what they say that it refuses it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.lint import Facts, Severity, lint
from cluster.lint.variables import known_variables
from cluster.render.nginx import render_nginx
from cluster.topology import build_topology
from tests.nginx.running import paths_in, stack, versions, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.config.models import ClusterConfig
    from tests.nginx_versions import Nginx

#: Ports that `nginx -t` may try to bind; it minds neither if one is in use (EADDRINUSE), but not to be allowed to.
FIRST_PORT = 1 if os.geteuid() == 0 else 1024

EXAMPLES = 120


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets, with what nginx wants to be there."""
    made = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))
    for name in ("logs", "temp"):
        (made / name).mkdir()
    yield made
    shutil.rmtree(made)


def refusal(nginx: Nginx, config: ClusterConfig, directory: Path) -> str | None:
    """Return what nginx says of a stack that it refuses; None where it accepts it."""
    conf = write(render_nginx(build_topology(config), paths_in(directory), nginx.version), directory)
    arguments = ["-t", "-q", "-c", str(conf), "-p", str(directory), "-e", "stderr"]
    done = subprocess.run([*nginx.command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else done.stderr


def errors(config: ClusterConfig, nginx: Nginx) -> list[str]:
    found = lint(config, Facts(nginx=nginx.version, privileged=os.geteuid() == 0))
    return [finding.id for finding in found if finding.severity is Severity.ERROR]


# Stacks

names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
label = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,10}[A-Za-z0-9_])?", fullmatch=True)
host = st.lists(label, min_size=1, max_size=4).map(".".join)
server_name = st.one_of(
    host,
    host.map("*.{}".format),
    host.map(".{}".format),
    st.sampled_from(["_", "localhost", "127.0.0.1", "internal", "1", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}"]),
)
duration = st.one_of(
    st.integers(0, 36_500 * 86_400),
    st.integers(1, 10_000).map("{}ms".format),
    st.integers(0, 36_500).map("{}d".format),
    st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda time: f"{time[0]}h{time[1]}m"),
)
fail_timeout = st.one_of(st.integers(0, 1000), st.integers(0, 1000), duration)
size = st.one_of(st.integers(0, 2**50), st.integers(0, 1_048_576).map("{}g".format), st.just("10M"))
count = st.one_of(st.integers(0, 10), st.just(2**31 - 1))
weight = st.one_of(st.integers(1, 20), st.integers(1, 65_535))
hash_key = st.one_of(
    st.sampled_from(known_variables()).map("${}".format),
    st.sampled_from(
        ["$request_uri", "${uri}x", "$cookie_sessionid", "$arg_a$http_b", "a b", "{}", "$", "${", "$nosuch"]
    ),
    st.text("ab$ {}/:.-_1é", min_size=1, max_size=8),
)
port = st.integers(FIRST_PORT, 65_535)
static_url = st.one_of(
    st.none(),
    st.from_regex(r"/([A-Za-z0-9._~-]{1,6}/){1,3}", fullmatch=True),
    st.sampled_from(["/static/", "/-/", "/-/probe/", "/../"]),
)


rate = st.tuples(st.integers(1, 999_999), st.sampled_from(["r/s", "r/m"])).map(lambda drawn: f"{drawn[0]}{drawn[1]}")
path = st.from_regex(r"/[a-z]{1,3}(/[A-Za-z0-9._~-]{1,4})?/?x", fullmatch=True)
methods = st.lists(st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS"]), max_size=3)
locations = st.lists(
    st.fixed_dictionaries(
        {"path": st.one_of(path, path.map("{}/".format))},
        optional={
            "client_max_body_size": size,
            "proxy_read_timeout": duration,
            "buffering": st.booleans(),
            "limit": rate,
            "limit_methods": methods,
        },
    ).map(lambda one: one if "limit" in one else {key: one[key] for key in one if key != "limit_methods"}),
    max_size=4,
    unique_by=lambda location: str(location["path"]),
)
visible = st.text("".join(chr(code) for code in range(33, 127) if chr(code) not in "$\\"), min_size=1, max_size=40)
headers = st.dictionaries(st.from_regex(r"X-[A-Z][a-z]{1,8}(-[a-z]{1,4})?x", fullmatch=True), visible, max_size=4)
# Each leads to what is shorter, and so in no circle.
redirects = st.dictionaries(
    st.one_of(path.map("{}yz".format), path.map("{}yz/".format)),
    st.sampled_from(["/", "/q/", "https://other.example/"]),
)
snippets = st.sampled_from(
    [
        {"http": "map $arg_a $a { default 1; }", "server": "location = /a { return 200 $a; }"},
        {"server": "error_page 502 /sorry.html;\nlocation = /sorry.html { internal; return 200 sorry; }"},
        {"server": "# nothing"},
    ]
)


def seldom(one_of: int) -> st.SearchStrategy[bool]:
    return st.integers(1, one_of).map(lambda number: number == one_of)


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def servers(draw: st.DrawFn, *, backups: bool) -> Any:
    if draw(st.booleans()):
        return draw(st.integers(1, 40))
    keys = optional(weight=weight, max_fails=count, fail_timeout=fail_timeout, max_conns=count)
    down, backup = seldom(4), seldom(4) if backups else st.just(value=False)
    drawn = draw(st.lists(names, min_size=1, max_size=40, unique_by=lambda name: name))
    return [{"name": name, "backup": draw(backup), "down": draw(down), **draw(keys)} for name in drawn]


@st.composite
def stacks(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from(["round_robin", "least_conn", "ip_hash", "hash", "random"]))
    hashed = draw(optional(hash=optional(key=hash_key, consistent=st.booleans()), keepalive=st.integers(1, 65_535)))
    site = draw(
        optional(
            listen=port,
            instance_ports=port,
            client_max_body_size=size,
            proxy_read_timeout=duration,
            connections_per_address=st.integers(0, 65_535),
            access_log=st.booleans(),
            static_url=static_url,
            limit=rate,
            locations=locations,
            headers=headers,
            redirects=redirects,
            robots=st.just("none"),
            auth_basic=st.from_regex(r"\A[!#%-\[\]-~]([ !#%-\[\]-~]{0,98}[!#%-\[\]-~])?\Z").filter(
                lambda text: text != "off"
            ),
            auth_basic_limit=rate,
            snippets=snippets,
        )
    )
    if "auth_basic" not in site:
        site.pop("auth_basic_limit", None)
    backups = method in ("round_robin", "least_conn") or draw(seldom(20))
    values = stack(draw(servers(backups=backups)), upstream={"method": method, **hashed}, **site)
    values["site"]["server_names"] = draw(st.lists(server_name, min_size=1, max_size=20))
    return values


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(values=stacks())
def check_stack(nginx: Nginx, directory: Path, seen: Counter[str], values: dict[str, Any]) -> None:
    config = parse_config(values)
    found = errors(config, nginx)
    seen["stopped" if found else "checked"] += 1
    if not found:
        said = refusal(nginx, config, directory)
        assert said is None, said


def test_no_stack_without_an_error_is_refused_by_nginx(
    nginx: Nginx, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter()
    check_stack(nginx, directory, seen)
    with capsys.disabled():
        print(f"\n{nginx} accepts {seen['checked']} stacks; {seen['stopped']} more were stopped by a lint")
    assert seen["checked"] >= EXAMPLES // 2, "the lints stop nearly everything, so nothing is shown by this test"


def hashed(key: str) -> dict[str, Any]:
    return stack(2, upstream={"method": "hash", "hash": {"key": key}})


BACKUP = [{"name": "app1"}, {"name": "app2", "backup": True}]

#: Stacks that an error stops, and the words by which nginx refuses them.
REFUSED = {
    "backup with ip_hash": (stack(BACKUP, upstream={"method": "ip_hash"}), "backup-with-hash", 'parameter "backup"'),
    "backup with hash": (stack(BACKUP, upstream={"method": "hash"}), "backup-with-hash", 'parameter "backup"'),
    "backup with random": (stack(BACKUP, upstream={"method": "random"}), "backup-with-hash", 'parameter "backup"'),
    "only backups": (stack([{"name": "app1", "backup": True}]), "only-backups", "no servers in upstream"),
    "only backups, one down": (
        stack([{"name": "app1", "backup": True}, {"name": "app2", "backup": True, "down": True}]),
        "only-backups",
        "no servers in upstream",
    ),
    "a fail_timeout of 500ms": (
        stack([{"name": "app1", "fail_timeout": "500ms"}]),
        "fail-timeout-milliseconds",
        'invalid parameter "fail_timeout=500ms"',
    ),
    "a bare $": (hashed("a$"), "hash-key-invalid", "invalid variable name"),
    "a variable that is not closed": (hashed("${uri"), "hash-key-invalid", "variable"),
    "a variable that does not exist": (hashed("$nosuch"), "hash-key-invalid", 'unknown "nosuch" variable'),
    "a capture in braces": (hashed("${1}"), "hash-key-invalid", 'unknown "1" variable'),
    "a long key": (hashed("x" * 4097), "hash-key-invalid", "too long parameter"),
    "a long static_url": (stack(static_url=f"/{'x' * 4097}/"), "static-url-long", "too long parameter"),
    "the runtime's own path": (stack(static_url="/-/"), "static-url-reserved", 'duplicate location "/-/"'),
    "ports beyond 65535": (stack(2, instance_ports=65_535), "instance-ports-beyond", "invalid port"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_lint_says_that_nginx_refuses_is_refused(nginx: Nginx, directory: Path, what: str) -> None:
    values, lint_id, words = REFUSED[what]
    config = parse_config(values)
    said = refusal(nginx, config, directory)
    assert said is not None
    assert words in said
    assert lint_id in errors(config, nginx)


#: Stacks that an error stops although nginx accepts them, and what goes wrong with them.
ACCEPTED = {
    "every server down: 502": (stack([{"name": "app1", "down": True}]), "all-down"),
    "the site's port is an instance's": (stack(2, listen=8001, instance_ports=8000), "same-port"),
    "one name twice: one instance": (stack([{"name": "app1"}, {"name": "app1"}]), "duplicate-server"),
    "a path that never matches": (stack(static_url="/a/../b/"), "static-url-dots"),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_nginx_accepts_although_nothing_can_come_of_it_is_stopped(
    nginx: Nginx, directory: Path, what: str
) -> None:
    values, lint_id = ACCEPTED[what]
    config = parse_config(values)
    assert refusal(nginx, config, directory) is None
    assert errors(config, nginx) == [lint_id]


def test_servers_that_are_down_beside_a_backup_are_accepted(nginx: Nginx, directory: Path) -> None:
    config = parse_config(stack([{"name": "app1", "down": True}, {"name": "app2", "backup": True}]))
    assert refusal(nginx, config, directory) is None
    assert errors(config, nginx) == []


def test_nginx_has_every_variable_that_a_hash_key_may_use(nginx: Nginx, directory: Path) -> None:
    for key in ("".join(f"${{{name}}}" for name in known_variables()), "$1$REQUEST_URI"):
        config = parse_config(hashed(key))
        assert errors(config, nginx) == []
        assert refusal(nginx, config, directory) is None


def test_nginx_accepts_the_largest_cluster_and_thousands_of_names(nginx: Nginx, directory: Path) -> None:
    longest = [{"name": f"{'a' * 27}-{number:03}", "weight": 65_535, "max_conns": 2**31 - 1} for number in range(1000)]
    config = parse_config(
        stack(longest, instance_ports=20_000)
        | {"site": {"server_names": [f"n{number}.example.com" for number in range(3000)]}}
    )
    assert errors(config, nginx) == []
    assert refusal(nginx, config, directory) is None
