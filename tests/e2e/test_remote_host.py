"""What else a host may meet: a boot, a hand, a killed `up`, other sites on its nginx, who must not know a secret."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from platforms.remote.host.releases import KEPT
from tests.conformance import assert_nothing_lost, assert_up
from tests.e2e.remote import Host, RemoteStand, remote_stand
from tests.e2e.tools import docker
from tests.load import Load
from tests.local.stand import kill_at_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A word of a secret that must stand nowhere but where the instances read it.
CANARY = "canary-0123456789"

#: Other sites on the host's nginx, as people write them.
FOREIGN = {
    "blog": "server { listen 8080 default_server; server_name blog.test; return 200 blog; }\n",
    "plain": "upstream other { server 127.0.0.1:8081; }\n"
    "server { listen 8080; server_name plain.test; location / { proxy_pass http://other; } }\n",
    "maps": 'map $host $cluster_port { default "a"; }\n'
    "server { listen 8081; server_name maps.test; return 200 $cluster_port; }\n",
}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    with remote_stand(tmp_path_factory.mktemp("host"), upstream={"servers": 2}) as stand:
        for name, text in FOREIGN.items():
            stand.host_there.write(f"/etc/nginx/sites-available/{name}", text)
            stand.host_there.run("ln", "-s", f"../sites-available/{name}", f"/etc/nginx/sites-enabled/{name}")
        stand.host_there.run("systemctl", "restart", "nginx")
        stand.foreign_before = foreign(stand)  # type: ignore[attr-defined]
        assert_up(stand)
        stand.pulumi("config", "set", "--secret", "cluster:secret_environment", json.dumps({"TOKEN": CANARY}))
        assert_up(stand)
        yield stand


def no_changes(stand: RemoteStand) -> None:
    result = stand.up()
    assert (result.status, "no changes" in result.output) == (0, True), result.output


def get(stand: RemoteStand, path: str = "/whoami", *, host: str = "cluster", port: int = 8080) -> httpx.Response:
    with httpx.Client(trust_env=False, headers={"Host": host}, timeout=30) as client:
        return client.get(f"http://{stand.address[0]}:{port}{path}")


def foreign(stand: RemoteStand) -> list[Any]:
    """What visitors of the other sites get, and their files."""
    seen = [get(stand, "/", host=host, port=port) for host, port in (("blog.test", 8080), ("maps.test", 8081))]
    seen += [get(stand, "/", host=host) for host in ("plain.test", "nobody.test")]
    files = [stand.host_there.run("cat", f"/etc/nginx/sites-available/{name}") for name in FOREIGN]
    return [[(one.status_code, one.text) for one in seen], files, stand.host_there.run("cat", "/etc/nginx/nginx.conf")]


def test_other_sites_of_the_same_nginx_stay_what_they_are(stand: RemoteStand) -> None:
    assert foreign(stand) == stand.foreign_before  # type: ignore[attr-defined]
    assert get(stand).status_code == 200


def test_the_secrets_are_root_s_and_each_unit_s_that_is_given_them_and_nowhere_else(stand: RemoteStand) -> None:
    host, name = stand.host_there, stand.name
    (unit,), (other,) = stand.units("app1"), stand.units("app2")
    given = [f"/run/credentials/{one}/" for one in (unit, other)]
    key = stand.pulumi("config", "get", "cluster:secret_key").stdout.strip()
    for word in (CANARY, key):
        found = host.run("grep", "-rlsF", "-e", word, "/etc", "/srv", "/var", "/run", "/home", "/root", check=False)
        places = set(found.splitlines())
        assert places, "what is looked for is there"
        at_rest = {place for place in places if place.startswith(f"/etc/cluster/{name}/secrets/{stand.release()}/")}
        assert len(at_rest) == 1, places
        assert all(place.startswith(tuple(given)) for place in places - at_rest), places
        assert word not in host.run("journalctl", "--no-pager")
        assert word not in host.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert word not in host.run("systemctl", "show", f"cluster-{name}@*.service")
        state = [path.read_text() for path in (stand.root / "state").rglob("*.json")]
        assert state
        assert not any(word in text for text in state)
    modes = host.run("find", f"/etc/cluster/{name}", "-not", "-type", "l", "-printf", "%y %m %u\\n").splitlines()
    assert set(modes) == {"d 700 root", "f 600 root"}
    assert host.run("sh", "-c", f"ls -d /var/lib/cluster-{name}/secrets", check=False) == ""
    as_instances = ("setpriv", f"--reuid=cluster-{name}", f"--regid=cluster-{name}", "--clear-groups")
    assert (
        host.run(*as_instances, "cat", f"/etc/cluster/{name}/secrets/{stand.release()}/secret_key", check=False) == ""
    )
    # What an instance sees of them: its own, and no other's, though both are the same user's.
    seen = f"/proc/{host.run('systemctl', 'show', unit, '--property=MainPID', '--value')}/root"
    assert host.run(*as_instances, "ls", f"{seen}/run/credentials").split() == [unit]
    assert host.run(*as_instances, "cat", f"{seen}{given[0]}cluster_secret_key") == key


def test_an_instance_can_do_little_else_than_serve(stand: RemoteStand) -> None:
    (unit, *_rest) = stand.units("app1")
    said = stand.host_there.run("systemd-analyze", "security", "--no-pager", unit)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None
    print(f"systemd-analyze security: {level[1]}")
    assert float(level[1]) <= 1.6


def test_a_boot_brings_the_serving_release_back_without_a_hand(stand: RemoteStand) -> None:
    before = stand.release()
    began = time.monotonic()
    docker("restart", "--time", "60", stand.host_there.container)
    stand.address = (stand.host_there.address, 8080)
    Host.until(lambda: _answers(stand), 120)
    print(f"serving {time.monotonic() - began:.1f} s after the reboot began")
    stand.wait_healthy()
    assert stand.release() == before
    no_changes(stand)


def _answers(stand: RemoteStand) -> bool:
    try:
        return get(stand).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_boot_in_the_middle_of_a_release_brings_back_what_served(stand: RemoteStand) -> None:
    before = stand.release()
    stand.edit_code("visits/apps.py", "# in the middle\n")
    process = stand.start("up", stand.name)
    # Its line is there before the host has heard of it.
    Host.until(lambda: len(stand.units("app1", "active,activating")) > 1 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before"
    Host.until(lambda: len(stand.units("app1")) == 2)
    docker("kill", stand.host_there.container)
    docker("start", stand.host_there.container)
    Host.until(lambda: _answers(stand), 120)
    stand.wait_healthy()
    assert stand.release() == before
    assert_up(stand)
    assert stand.release() != before
    no_changes(stand)


DRIFT: dict[str, Callable[[str], list[str]]] = {
    "an instance was stopped": lambda name: ["systemctl", "stop", f"cluster-{name}@app1-*"],
    "an instance does not start at boot": lambda name: [
        *("sh", "-c", f"rm /etc/systemd/system/multi-user.target.wants/cluster-{name}@app2-*")
    ],
    "the unit was edited": lambda name: ["sh", "-c", f"echo '#' >>/etc/systemd/system/cluster-{name}@.service"],
    "nginx's file was edited": lambda name: ["sh", "-c", f"echo '#' >>/etc/nginx/sites-available/zz-cluster-{name}"],
    "the site was disabled": lambda name: [
        *("sh", "-c", f"rm /etc/nginx/sites-enabled/zz-cluster-{name}; systemctl reload nginx")
    ],
}


@pytest.mark.parametrize("what", DRIFT)
def test_what_was_changed_by_hand_is_put_right(stand: RemoteStand, what: str) -> None:
    stand.host_there.run(*DRIFT[what](stand.name))
    result = stand.up()
    assert result.status == 0, result.output
    assert "no changes" not in result.output
    no_changes(stand)
    assert stand.status()["ok"]


@pytest.mark.parametrize(
    "line",
    ["sending the release", "one instance that proves it healthy", "starting instances", "to serve", "draining"],
)
def test_an_up_that_is_killed_costs_nothing_and_the_next_one_ends_it(stand: RemoteStand, line: str) -> None:
    words = {"to serve": "letting release"}.get(line, line)
    stand.edit_code("visits/apps.py", f"# killed at {line}\n")
    with Load(stand.address, clients=6, slow=1) as load:
        load.wait_for(100)
        kill_at_line(stand.start("up", stand.name), words)
        load.wait_for(100)
        result = stand.up()
        assert result.status == 0, result.output
        no_changes(stand)
        load.wait_for(100)
    print(f"killed at `{line}`: {load.counts}")
    assert_nothing_lost(load.counts)


#: What somebody who got into the site may leave where its own user writes, seen from the instances' directories.
PLANTED = """
ln -s /srv/precious .services
mkdir -p gone/inner closed && chmod 0 closed
mkfifo app1/pipe.json
ln -s /etc/shadow app1/link.json
head -c 50000000 /dev/zero >app1/huge.json
echo x >app2/closed.json && chmod 0 app2/closed.json
test ! -e "$HOME"/../secrets
"""


def test_whatever_the_site_s_own_user_plants_the_next_releases_replace_it(stand: RemoteStand) -> None:
    host, name = stand.host_there, stand.name
    home = f"/var/lib/cluster-{name}/home"
    host.run("mkdir", "-p", "/srv/precious/data")
    host.run(
        "sh",
        "-c",
        f"cd /run/cluster-{name} && setpriv --reuid=cluster-{name} --regid=cluster-{name} "
        f"--clear-groups env HOME={home} sh -ec '{PLANTED}'",
    )
    assert stand.status()["ok"]
    for number in range(5):
        stand.edit_code("visits/apps.py", f"# planted {number}\n")
        assert_up(stand)
    assert host.run("ls", "/srv/precious") == "data"
    assert "gone" not in host.run("ls", f"/run/cluster-{name}")
    assert len(host.run("ls", f"/srv/cluster/{name}/releases").split()) <= KEPT + 1
    host.run("sh", "-c", f"rm -r /srv/precious /run/cluster-{name}/.services /run/cluster-{name}/closed")


def test_nobody_else_on_the_host_reads_the_site_s_own_or_holds_its_commands(stand: RemoteStand) -> None:
    host, name = stand.host_there, stand.name
    for path in (
        f"/run/cluster-{name}-nginx/internal.sock",
        f"/run/cluster-{name}/app1/http.sock",
        f"/srv/cluster/{name}/releases",
        f"/var/lib/cluster-{name}/shared",
        f"/etc/nginx/cluster-{name}",
    ):
        assert host.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "ls", path, check=False) == ""
    host.run(
        "sh",
        "-c",
        f"touch /run/lock/cluster-{name}.lock; chmod 666 /run/lock/cluster-{name}.lock; "
        f"setpriv --reuid=nobody --regid=nogroup --clear-groups flock /run/lock/cluster-{name}.lock sleep 600 "
        ">/dev/null 2>&1 &",
    )
    stand.edit_code("visits/apps.py", "# nobody waits\n")
    assert_up(stand)


def test_uploads_and_data_outlive_down(stand: RemoteStand) -> None:
    host, name = stand.host_there, stand.name
    host.run("sh", "-c", f"echo kept >/var/lib/cluster-{name}/shared/upload.txt")
    tables = host.run("stat", "--format", "%s", f"/var/lib/cluster-{name}/data/db.sqlite3")
    result = stand.run("down", name)
    assert result.status == 0, result.output
    assert foreign(stand) == stand.foreign_before  # type: ignore[attr-defined]
    assert host.run("cat", f"/var/lib/cluster-{name}/shared/upload.txt") == "kept"
    held = host.run("stat", "--format", "%s", f"/var/lib/cluster-{name}/data/db.sqlite3")
    assert int(held) >= int(tables)
    left = host.run(
        "sh", "-c", "ls -d /srv/cluster /run/cluster-* /etc/nginx/*cluster* /etc/systemd/system/*cluster*", check=False
    )
    assert left == ""
    assert_up(stand)
    assert host.run("cat", f"/var/lib/cluster-{name}/shared/upload.txt") == "kept"
    result = stand.run("down", name, "--delete-data", "--yes")
    assert result.status == 0, result.output
    assert host.run("sh", "-c", f"ls -d /var/lib/cluster-{name}; id cluster-{name}", check=False) == ""
    assert_up(stand)
