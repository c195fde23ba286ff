"""What runs on the host of a Docker stack, run against a program called docker that says what it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from cluster.render.nginx import NginxConfig
from platforms.docker.delivery import delivery
from platforms.docker.engine import read_live
from platforms.docker.scripts import HOST, Variable, script, with_words

if TYPE_CHECKING:
    from pathlib import Path

#: Keeps its arguments, a line a call, and answers the nth call of a command by the nth line of the file of its name, or
#: by the last one: a status, and what it prints, to standard error where the status is not 0.
DOCKER = r"""#!/bin/sh
here=${0%/*}/..
for word in "$@"; do
    printf '%s\037' "$word"
done >>"$here/calls"
echo >>"$here/calls"
[ -e "$here/answers/$1" ] || exit 0
[ -e "$here/answers/$1.calls" ] && read -r before <"$here/answers/$1.calls"
call=$((${before:-0} + 1))
echo "$call" >"$here/answers/$1.calls"
while [ "$call" -gt 0 ] && read -r status text; do
    call=$((call - 1))
    last=$status said=$text
done <"$here/answers/$1"
[ "$last" = 0 ] || exec >&2
[ -z "$said" ] || printf '%s\n' "$said"
exit "$last"
"""

STACK = "django-cluster/dev"
OURS, OLD, OLDER = ("a" * 64, "b" * 64, "c" * 64)

Answer = tuple[int, str]


@dataclass(frozen=True)
class Done:
    """What a script did. calls: the arguments of each call of docker. waited: the seconds that it slept, in turn."""

    status: int
    error: str
    calls: list[list[str]]
    waited: list[str]

    def of(self, verb: str) -> list[list[str]]:
        return [call for call in self.calls if call[0] == verb]


@dataclass(frozen=True)
class Host:
    """A host where `docker` and `sleep` are what the test says."""

    root: Path

    def run(self, name: str, environment: dict[str, str], *words: str | Variable, **answers: list[Answer]) -> Done:
        """Run a script as Pulumi's provider does, in a directory that is not the repository's.

        answers: of each command of docker's, in turn, the last one again and again.
        """
        programs = {"docker": DOCKER, "sleep": '#!/bin/sh\necho "$1" >>"${0%/*}/../waited"\n'}
        for directory in ("bin", "answers"):
            (self.root / directory).mkdir()
        for called, text in programs.items():
            (self.root / "bin" / called).write_text(text)
            (self.root / "bin" / called).chmod(0o755)
        for verb, said in answers.items():
            lines = [f"{status} {text}" for status, text in said]
            (self.root / "answers" / verb).write_text("\n".join([*lines, ""]))
        done = subprocess.run(
            ["/bin/sh", "-c", script(name, *words)],
            cwd=self.root,
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == "", "what a command prints would lie in Pulumi's state"
        return Done(done.returncode, done.stderr, self.lines("calls"), [line[0] for line in self.lines("waited")])

    def lines(self, name: str) -> list[list[str]]:
        path = self.root / name
        found = path.read_text().splitlines() if path.exists() else []
        return [line.removesuffix("\037").split("\037") for line in found]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def filters(call: list[str]) -> set[str]:
    return {value for flag, value in pairwise(call) if flag == "--filter"}


# --- what all of them have in common


SCRIPTS = sorted(path.name for path in HOST.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_stands_alone_so_that_its_text_is_all_that_pulumi_s_state_needs(name: str) -> None:
    text = script(name)
    assert text.startswith("#!/bin/sh\n#"), "its arguments are set after the first line"
    assert "\nset -eu\n" in text
    assert not re.search(r"\$\{?0|\$\(dirname|BASH_SOURCE", text.replace('$(dirname "$held")', "")), "it has no path"
    assert not [other for other in SCRIPTS if other in text], "there is no other one beside it"


NASTY = ("a b", "", "it's", '"$HOME"', "$(id)", "`id`", "a\nb", "--", "*", "\\")


def test_a_script_gets_its_words_whatever_is_in_them_and_variables_as_they_are_when_it_runs(tmp_path: Path) -> None:
    text = with_words("#!/bin/sh\nset -eu\nprintf '%s\\037' \"$@\"\n", *NASTY, Variable("TURN"), "last")
    environment = {"PATH": "/usr/bin:/bin", "TURN": "3  $(id)"}
    done = subprocess.run(
        ["/bin/sh", "-c", text], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\037")[:-1] == [*NASTY, "3  $(id)", "last"]
    assert with_words(text) == text, "a script without words is what it is"


# --- task.sh


TASK = {"STACK": STACK, "IMAGE": "app@sha256:0", "NETWORK": "none", "MEMORY": "1", "VOLUMES": "a:/a b:/b:ro"}


def test_a_task_is_told_its_words_and_the_turn_that_it_has_by_then(host: Host) -> None:
    words = ("--lock", "/srv/static/lock", "show", "--turn", Variable("TURN"))
    done = host.run("task.sh", {**TASK, "TURN": "7"}, *words)
    assert (done.status, done.error) == (0, "")
    (call,) = done.calls
    told = ["--lock", "/srv/static/lock", "show", "--turn", "7"]
    assert call[-9 - 1 :] == ["app@sha256:0", "python", "-P", "-m", "cluster_runtime.prepare", *told]
    assert "--volume a:/a --volume b:/b:ro " in " ".join(call)


AWAIT = {**TASK, "CONTAINERS": "app1/aaa app2/bbb", "RELEASE": "r", "STATES": "ready|serving", "WAIT": "1"}


def test_a_task_that_waits_starts_what_a_failed_up_has_stopped_and_is_told_for_what_it_waits(host: Host) -> None:
    words = ("--once-healthy", "--lock", "/srv/static/lock", "show")
    done = host.run("task.sh", {**AWAIT, "RUN": "/run/cluster"}, *words)
    assert (done.status, done.error) == (0, "")
    assert done.of("start") == [["start", "aaa"], ["start", "bbb"]]
    program = ["python", "-P", "-m", "cluster_runtime.prepare", "--lock", "/srv/static/lock", "show"]
    assert done.calls[-1] == ['exec "$@" 3<&-', "await", *program]
    (call,) = done.of("run")
    passed = [value for flag, value in pairwise(call) if flag == "--env"]
    assert passed == ["CONTAINERS", "RELEASE", "RUN", "STATES", "WAIT"]
    assert not [path for path in host.root.iterdir() if path.name.startswith("tmp.")], "what holds it open has no name"


def test_a_task_is_told_who_is_to_take_a_name_by_variables_which_an_old_release_passes_over(host: Host) -> None:
    words = ("--once-healthy", "--lock", "/srv/static/lock", "show")
    done = host.run("task.sh", {**AWAIT, "RUN": "/run/cluster", "SERVE": "yes"}, *words)
    assert (done.status, done.error) == (0, "")
    (call,) = done.of("run")
    passed = [value for flag, value in pairwise(call) if flag == "--env"]
    assert passed == ["CONTAINERS", "RELEASE", "RUN", "STATES", "WAIT", "CLUSTER_SERVE", "CLUSTER_SOCKETS"]
    assert done.calls[-1][-3:] == ["--lock", "/srv/static/lock", "show"], "a word that it does not know would end it"


@pytest.mark.parametrize(("serve", "told"), [("yes", "/run/cluster| app1/r.aaa app2/r.bbb"), ("no", "|"), (None, "|")])
def test_those_take_their_names_that_were_waited_for(serve: str | None, told: str, tmp_path: Path) -> None:
    states = {"app1/r.aaa": "ready", "app2/r.bbb": "ready"}
    program = 'echo "${CLUSTER_SOCKETS-}|${CLUSTER_SERVE-}"'
    asked = {} if serve is None else {"SERVE": serve}
    done = awaited(tmp_path, states, program, HELD="yes", **asked)
    assert (done.returncode, done.stdout.replace(str(tmp_path / "run"), "/run/cluster")) == (0, f"{told}\n")


#: Stands for docker where a container's words are run here. HELD: its standard input is the script's, which lives on;
#: else it ends, as where the script was killed.
RUNS = """#!/bin/sh
[ "$1" = run ] || exit 0
while [ "$1" != app@sha256:0 ]; do shift; done
shift
if [ "$HELD" = yes ]; then exec "$@"; fi
exec "$@" </dev/null
"""

#: A moment's rest that is seen, and in which what else there is may do something.
RESTS = """#!/bin/sh
echo >>{root}/waited
exec /bin/sleep 0.02
"""


def awaited(
    tmp_path: Path, states: dict[str, str], program: str = "echo done", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a task that waits for app1 and app2, which say these states; program: what its own does then."""
    programs = {"docker": RUNS, "python": f"#!/bin/sh\n{program}\n", "sleep": RESTS.format(root=tmp_path)}
    for called, text in programs.items():
        path = tmp_path / "bin" / called
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for process, state in states.items():
        path = tmp_path / "run" / f"{process}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"release": "r", "state": state, "since": 0}))
    known = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path), "RUN": str(tmp_path / "run")}
    done = subprocess.Popen(
        ["/bin/sh", "-c", script("task.sh", "--once-healthy", "show")],
        env={**AWAIT, **known, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = done.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)  # what a container would end with its first process
    return subprocess.CompletedProcess([], done.returncode, out, err)


@pytest.mark.parametrize(
    ("states", "status", "waited"),
    [
        ({"app1/r.aaa": "ready", "app2/r.bbb": "serving"}, 0, 0),
        ({"app1/r.aaa": "ready", "app2/r.bbb": "starting"}, 1, 9),
        ({"app1/r.aaa": "ready"}, 1, 9),
        ({"app1/r.aaa": "ready", "app2/r.old": "ready"}, 1, 9),
        ({"app1/r.aaa": "ready", "app2/s.bbb": "ready"}, 1, 9),
        ({"app1/r.aaa": "ready", "app2/r.bbb": 'starting", "message": "\\"state\\": \\"ready\\"'}, 1, 9),
    ],
    ids=["all of them", "one starts", "one says nothing", "another container", "another release", "words"],
)
def test_a_task_waits_until_all_instances_are_healthy(
    states: dict[str, str], status: int, waited: int, tmp_path: Path
) -> None:
    done = awaited(tmp_path, states, HELD="yes")
    said = "app2: release r did not get healthy within 1 s\n" if status else ""
    assert (done.returncode, done.stdout, done.stderr) == (status, "" if status else "done\n", said)
    found = (tmp_path / "waited").read_text().count("\n") if waited else (tmp_path / "waited").exists()
    assert found == waited


def test_one_that_was_healthy_and_starts_again_is_waited_for_again(tmp_path: Path) -> None:
    """app1 falls back as app2 is looked at the first time, and gets healthy with it as that is looked at again."""
    one, two = (tmp_path / "run" / name for name in ("app1/r.aaa.json", "app2/r.bbb.json"))
    look = f"""#!/bin/sh
/bin/grep "$@" && exit
case $3 in
*/app2/*)
    if [ -e {tmp_path}/looked ]; then
        echo '{{"state": "ready"}}' >{two}
        [ ! -e {tmp_path}/again ] || echo '{{"state": "ready"}}' >{one}
        : >{tmp_path}/again
    else
        echo '{{"state": "starting"}}' >{one}
        : >{tmp_path}/looked
    fi
    ;;
*) [ ! -e {tmp_path}/looked ] || echo '{{"state": "ready"}}' >{one} ;;
esac
exit 1
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "grep").write_text(look)
    (tmp_path / "bin" / "grep").chmod(0o755)
    program = f"/bin/cat {one} {two}"
    done = awaited(tmp_path, {"app1/r.aaa": "ready", "app2/r.bbb": "starting"}, program, HELD="yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"state": "ready"}\n' * 2, "app1 would be let serve as it starts"


@pytest.mark.parametrize("state", ["starting", "ready"])
def test_a_task_that_waits_ends_with_the_script_that_has_begun_it(state: str, tmp_path: Path) -> None:
    """Else one of an `up` that was killed would show the files of a release that somebody has given up since."""
    late = '#!/bin/sh\n/bin/sleep 2\nexec /bin/grep "$@"\n'  # by then it has noticed
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "grep").write_text(late)
    (tmp_path / "bin" / "grep").chmod(0o755)
    done = awaited(tmp_path, {"app1/r.aaa": state, "app2/r.bbb": state}, HELD="no", WAIT="600")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


# --- shared.sh


def test_what_a_project_writes_is_made_of_what_it_holds_there(host: Host, tmp_path: Path) -> None:
    (tmp_path / "my project" / "media").mkdir(parents=True)
    environment = {"STACK": STACK, "IMAGE": "app@sha256:0", "VOLUME": "v", "SHARED": "/srv/shared"}
    done = host.run("shared.sh", {**environment, "PROJECT": "my project"}, *("media", "media", "logs", "logs/x"))
    assert (done.status, done.error) == (0, "")
    held, lacking = done.calls
    assert held[-2:] == ["sh", "media"], "unpacked from the project's directory"
    assert lacking[-4:] == ["-c", 'mkdir -p -m 0750 "$1"', "sh", "logs"]


# --- serve.sh


SERVE = {
    "STACK": STACK,
    "CONTAINER": OURS,
    "INSTANCE": "app1",
    "RELEASE": "0123456789ab",
    "TURN": "3",
    "WAIT": "60",
    "GRACE": "48",
    "SOCKETS": "sockets-a1b2c3d",
    "SERVED": f"app1/0123456789ab.{OURS[:12]}/2",
}


def test_a_name_that_was_taken_in_this_turn_already_costs_nothing(host: Host) -> None:
    done = host.run("serve.sh", {**SERVE, "SERVED": f"app1/0123456789ab.{OURS[:12]}/3", "ALONE": "no"})
    assert (done.status, done.error, done.calls) == (0, "", [])


@pytest.mark.parametrize(
    "served",
    [
        "",
        f"app1/0123456789ab.{OURS[:12]}/2",
        f"app1/0123456789ab.{OURS[:12]}/33",
        f"app1/0123456789ab.{OURS[:12]}/",
        f"app1/0123456789ab.{OLD[:12]}/3",
        f"app1/ba9876543210.{OURS[:12]}/3",
        f"app11/0123456789ab.{OURS[:12]}/3",
    ],
    ids=["nothing", "an earlier turn", "a later one", "none", "another container", "another release", "another name"],
)
def test_a_name_is_taken_whatever_else_was_taken(served: str, host: Host) -> None:
    done = host.run("serve.sh", {**SERVE, "SERVED": served, "ALONE": "no"})
    assert [call[0] for call in done.calls] == ["start", "exec"]


def test_a_name_is_taken_in_the_container_itself_once_that_runs_and_it_may_wait_until_it_is_healthy(host: Host) -> None:
    done = host.run("serve.sh", {**SERVE, "ALONE": "no"})
    assert (done.status, done.error) == (0, "")
    start, taken = done.calls
    assert start == ["start", OURS]
    assert taken[:2] == ["exec", OURS]
    words = " ".join(taken[2:])
    assert words.startswith("python -P -m cluster_runtime.instance serve --container --sockets /run/cluster ")
    assert words.endswith("--instance app1 --release 0123456789ab --turn 3 --wait 60")


def test_where_memory_is_short_who_held_the_name_before_is_stopped_and_not_killed(host: Host) -> None:
    done = host.run("serve.sh", {**SERVE, "ALONE": "yes"}, ps=[(0, f"{OURS} {OLD} {OLDER}")])
    assert (done.status, done.error) == (0, "")
    assert [call[0] for call in done.calls] == ["start", "exec", "ps", "stop", "stop"]
    assert done.of("stop") == [["stop", "--time", "48", one] for one in (OLD, OLDER)]
    (asked,) = done.of("ps")
    assert "--no-trunc" in asked, "the container itself would not be known by a short id, and be stopped"
    assert "--all" not in asked
    assert filters(asked) == {
        f"label=django-cluster.stack={STACK}",
        "label=django-cluster.instance=app1",
        "volume=sockets-a1b2c3d",  # another checkout's stack of the same name has other ones
    }


@pytest.mark.parametrize("found", [OURS, ""], ids=["alone already", "gone"])
def test_where_nobody_else_held_the_name_nobody_is_stopped(host: Host, found: str) -> None:
    done = host.run("serve.sh", {**SERVE, "ALONE": "yes"}, ps=[(0, found)])
    assert done.status == 0
    assert done.of("stop") == []


@pytest.mark.parametrize("verb", ["start", "exec", "ps", "stop"])
def test_whatever_goes_wrong_while_a_name_is_taken_ends_it_there_in_the_engine_s_own_words(
    host: Host, verb: str
) -> None:
    refused = (9, "app1: release 0123456789ab is starting")
    answers = {"ps": [(0, f"{OLD} {OLDER}")], verb: [refused]}
    done = host.run("serve.sh", {**SERVE, "ALONE": "yes"}, **answers)
    assert done.status != 0, "`up` would go on as if the name had been taken"
    assert done.error == f"{refused[1]}\n"
    steps = ["start", "exec", "ps", "stop"]
    assert [call[0] for call in done.calls] == steps[: steps.index(verb) + 1], "the former one would be stopped"


# --- ports.sh


PORTS = {
    "STACK": STACK,
    "IMAGE": "nginx-image@sha256:0",
    "NGINX_HOME": "nginx-a1b2c3d",
    "PORTS": "0.0.0.0:8090 127.0.0.1:8100",
}
IN_USE = "docker: Error response from daemon: Bind for 127.0.0.1:8100 failed: port is already allocated."


def published(done: Done) -> list[str]:
    return [call[call.index("--publish") + 1] for call in done.of("run")]


def test_each_port_is_published_once_by_a_container_that_ends_at_once(host: Host) -> None:
    done = host.run("ports.sh", PORTS)
    assert (done.status, done.error) == (0, "")
    assert published(done) == ["0.0.0.0:8090:8090", "127.0.0.1:8100:8100"]
    for call in done.of("run"):
        assert call[-2:] == [PORTS["IMAGE"], "true"]
        words = " ".join(call)
        for flag in ("--rm", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges:true"):
            assert f" {flag} " in words, flag
        assert f"--label django-cluster.stack={STACK} --label django-cluster.role=task" in words, "nobody would find it"


def test_a_port_that_another_program_has_ends_it_in_the_engine_s_own_words(host: Host) -> None:
    done = host.run("ports.sh", PORTS, run=[(0, ""), (125, IN_USE)])
    assert done.status == 125
    assert done.error == f"{IN_USE}\n"
    stack, role = f"label=django-cluster.stack={STACK}", "label=django-cluster.role=nginx"
    assert filters(done.calls[0]) == {stack, role, "volume=nginx-a1b2c3d"}, "another checkout's would be taken for it"


@pytest.mark.parametrize(
    ("ours", "asked"),
    [
        (":8090: :8090: ", ["127.0.0.1:8100:8100"]),
        (":8090: :8100: ", []),
        (":18090: ", ["0.0.0.0:8090:8090", "127.0.0.1:8100:8100"]),
        (":80: ", ["0.0.0.0:8090:8090", "127.0.0.1:8100:8100"]),
    ],
    ids=["the site's", "all", "another's with the same end", "another's that leads there"],
)
def test_a_port_that_the_former_nginx_of_the_stack_has_is_not_asked_for(
    host: Host, ours: str, asked: list[str]
) -> None:
    done = host.run("ports.sh", PORTS, ps=[(0, "0123456789ab")], inspect=[(0, ours)])
    assert done.status == 0
    assert published(done) == asked


@pytest.mark.parametrize(
    ("ours", "asked"),
    [
        ("", ["0.0.0.0:8443:8443", "0.0.0.0:8443:8443/udp"]),
        (":8443: ", ["0.0.0.0:8443:8443/udp"]),
        (":8443/udp: ", ["0.0.0.0:8443:8443"]),
        (":8443: :8443/udp: ", []),
    ],
)
def test_a_port_by_udp_is_another_one_than_that_by_tcp(host: Host, ours: str, asked: list[str]) -> None:
    ports = "0.0.0.0:8443 0.0.0.0:8443/udp"
    done = host.run("ports.sh", {**PORTS, "PORTS": ports}, ps=[(0, "0123456789ab")], inspect=[(0, ours)])
    assert done.status == 0
    assert published(done) == asked


def test_ports_of_the_former_nginx_that_follow_each_other_are_not_asked_for(host: Host) -> None:
    ours = ":8090: :8100: :8101: :8102: :8103: "
    ports = " ".join(["0.0.0.0:8090", *(f"127.0.0.1:{port}" for port in range(8100, 8104))])
    done = host.run("ports.sh", {**PORTS, "PORTS": ports}, ps=[(0, "0123456789ab")], inspect=[(0, ours)])
    assert published(done) == [], "the stack's own nginx would be in its own way"


def test_an_engine_that_is_away_is_no_engine_whose_ports_are_free(host: Host) -> None:
    done = host.run("ports.sh", PORTS, ps=[(1, "Cannot connect to the Docker daemon")])
    assert done.status == 1
    assert done.of("run") == []


# --- restore.sh


RESTORE = {"STACK": STACK, "NODE": "memcached1"}
YES, NO, AWAY = (0, '{"restored": true}'), (0, '{"restored": false, "missing": 7}'), (1, "no instance answers")


def test_where_no_nginx_runs_no_node_is_waited_for(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "")])
    assert (done.status, done.waited) == (0, [])
    (asked,) = done.calls
    assert filters(asked) == {f"label=django-cluster.stack={STACK}", "label=django-cluster.role=nginx"}


def test_a_node_is_waited_for_until_an_instance_says_that_it_holds_what_it_should(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "0123456789ab")], exec=[NO, AWAY, NO, YES])
    assert (done.status, done.waited) == (0, ["1", "1", "1"])
    assert done.of("exec") == [["exec", "0123456789ab", "/usr/local/lib/cluster/ask", "/-/probe/restore"]] * 4


def test_of_two_containers_of_nginx_s_the_first_is_asked(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "0123456789ab ba9876543210")], exec=[YES])
    assert done.status == 0
    assert [call[1] for call in done.of("exec")] == ["0123456789ab"]


def test_an_nginx_that_goes_meanwhile_ends_the_waiting(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "0123456789ab"), (0, "0123456789ab"), (0, "")], exec=[NO])
    assert (done.status, len(done.of("exec"))) == (0, 2)


def test_where_no_instance_answers_it_is_given_up_without_a_word_after_a_while(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "0123456789ab")], exec=[AWAY])
    assert done.status == 0, "no instance serves: there is nobody who could give the node anything"
    assert len(done.waited) == 20


def test_a_node_that_never_gets_its_sessions_is_named_and_the_next_one_is_not_touched(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(0, "0123456789ab")], exec=[NO])
    assert done.status == 1, "the other node would be started anew, and its sessions would be gone too"
    assert re.fullmatch(
        r"a memcached node \(memcached1\) was started again and does not get its sessions.*\n", done.error
    )
    assert len(done.waited) == 60


def test_an_engine_that_is_away_is_not_taken_for_one_without_nginx(host: Host) -> None:
    done = host.run("restore.sh", RESTORE, ps=[(1, "Cannot connect to the Docker daemon")])
    assert done.status != 0


# --- database-data.sh


DATA = {"STACK": STACK, "IMAGE": "postgres-image@sha256:0", "DATA": "database-a1b2c3d"}
OTHER_VERSION = "the data are of PostgreSQL 15, this image has 17: name an image of the former in cluster:images"


@pytest.mark.parametrize("answer", [(0, ""), (1, OTHER_VERSION)], ids=["readable", "of another version"])
def test_whether_postgresql_can_read_the_data_is_said_by_its_own_image_as_its_own_user(
    host: Host, answer: Answer
) -> None:
    done = host.run("database-data.sh", DATA, run=[answer])
    assert done.status == answer[0]
    assert done.error == ("" if answer[0] == 0 else f"{OTHER_VERSION}\n")
    (call,) = done.calls
    assert call[-3:] == [DATA["IMAGE"], "/usr/local/lib/cluster/start", "--check"]
    words = " ".join(call)
    for flag in ("--rm", "--network none", "--read-only", "--cap-drop ALL", "--user 10003:10001"):
        assert f" {flag} " in words, flag
    assert "--volume database-a1b2c3d:/var/lib/cluster " in words


# --- what nginx's container tells of the instances

LIVE = HOST.parent / "nginx" / "live"
DIGEST = "d" * 64


def told(root: Path) -> str:
    """Run `live` where /run/cluster and the others are below `root`."""
    text = LIVE.read_text()
    for path in ("/run/cluster", "/srv/static", "/var/lib/cluster", "/usr/local/lib/cluster"):
        text = text.replace(path, f"{root}{path}")
    done = subprocess.run(["perl", "-"], input=text, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


@pytest.fixture
def container(tmp_path: Path) -> Path:
    for path in ("run/cluster/app1", "srv/static", "var/lib/cluster", "usr/local/lib/cluster"):
        (tmp_path / path).mkdir(parents=True)
    ask = tmp_path / "usr/local/lib/cluster/ask"
    ask.write_text(f"#!/bin/sh\necho {DIGEST}\n")
    ask.chmod(0o755)
    (tmp_path / "var/lib/cluster/turn").write_text("7\n")
    (tmp_path / "var/lib/cluster/private.json").write_text('{"message": "private"}')
    (tmp_path / "srv/static/current").symlink_to("0123456789ab")
    (tmp_path / "srv/static/turn").write_text("3")
    app1 = tmp_path / "run/cluster/app1"
    (app1 / "http.sock").symlink_to("0123456789ab.fedcba987654.sock")
    (app1 / "turn").write_text("2")
    (app1 / "given").write_text("0123456789ab.fedcba987654")
    (app1 / "0123456789ab.fedcba987654.json").write_text('{"state": "serving"}')
    return tmp_path


def test_what_runs_is_told_of_each_instance(container: Path) -> None:
    live = read_live(told(container))
    process = "0123456789ab.fedcba987654"
    assert (live.nginx, live.nginx_generation, live.static, live.static_generation) == (DIGEST, 7, "0123456789ab", 3)
    assert (live.holders, live.generations, live.given) == ({"app1": process}, {"app1": 2}, {"app1": process})
    assert live.statuses == {("app1", process): {"state": "serving"}}


def test_an_instance_can_say_nothing_for_nginx_and_show_nothing_of_its_container(container: Path) -> None:
    run = container / "run/cluster"
    forged = f"x\nnginx {'e' * 64} 99\nstatic forged 99\n"
    for name in (forged.replace("/", "_"), "a b", "\x0bnginx"):
        (run / name).mkdir()
    app1 = run / "app1"
    (app1 / "turn").write_text(f"1 {forged}")
    (app1 / "given").unlink()
    (app1 / "given").symlink_to(container / "var/lib/cluster/private.json")
    (app1 / "http.sock").unlink()
    (app1 / "http.sock").symlink_to(forged)
    (app1 / "linked.json").symlink_to(container / "var/lib/cluster/private.json")
    os.mkfifo(app1 / "pipe.json")
    (app1 / "long.json").write_text('"' + "x" * 2_000_000)
    (app1 / "lines.json").write_text(f'{{"message": "\x0bnginx {"e" * 64} 99\u2028static forged 99"}}\n{forged}')
    (app1 / f"{forged}.json".replace("/", "_")).write_text("{}")
    (container / "srv/static/turn").write_text(forged)
    text = told(container)
    live = read_live(text)
    assert (live.nginx, live.nginx_generation, live.static, live.static_generation) == (DIGEST, 7, "0123456789ab", 0)
    assert (live.holders, live.generations, live.given) == ({"app1": None}, {"app1": 0}, {"app1": None})
    assert "private" not in text
    assert not any("\x0b" in str(status) for status in live.statuses.values())


def test_a_line_that_makes_no_sense_is_passed_over() -> None:
    lines = [
        "nginx",
        f"nginx {DIGEST} x",
        "instance app1",
        "instance app1 - x - -",
        "status app1 p {",
        "status app1 p [1]",
    ]
    live = read_live("\n".join([*lines, f"nginx {DIGEST} 4"]))
    assert (live.nginx, live.nginx_generation, live.holders, live.statuses) == (DIGEST, 4, {}, {})


# --- how an account comes to its renewer


@pytest.mark.parametrize("binding", ["", "dGhlIGtleQ=="])
def test_an_account_and_what_binds_it_are_files_of_their_own_that_the_renewer_alone_reads(
    tmp_path: Path, binding: str
) -> None:
    inside = (HOST / "account.sh").read_text().partition("sh -euc '")[2].rpartition("'")[0]
    key = "-----BEGIN PRIVATE KEY-----\nx\\y\n-----END PRIVATE KEY-----\n"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chown").write_text('#!/bin/sh\n[ "$1" = 10002:10001 ]\n')
    (tmp_path / "bin" / "chown").chmod(0o755)
    place = tmp_path / "account"
    place.mkdir()
    for _ in range(2):
        subprocess.run(
            ["/bin/sh", "-euc", inside.replace("/srv/account", str(place))],
            input=key + (f"# binding {binding}\n" if binding else ""),
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TRUSTED": "a\nb"},
            text=True,
            timeout=60,
            check=True,
        )
    found = {path.name: path.read_text() for path in place.iterdir()}
    assert found == {"account.key": key, "eab.key": f"{binding}\n" if binding else "", "ca.pem": "a\nb"}
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o400}


# --- how a configuration comes into nginx's container

RELOADED = 3

DELIVER = HOST.parent / "nginx" / "deliver"

#: A file that looks like another delivery, and one that has no line at all.
NASTY_FILES = {
    "nginx.conf": "events {}\n",
    "snippets/server.conf": "# file nginx.conf\nuser x;\n# link current /etc\n # file x\n\n\t\\n 'a  b' \n  \nend\n",
    "sites-available/cluster": "\n",
}


def deliver(
    root: Path, text: str, reload: str = f"exit {RELOADED}", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `deliver` where nginx's directory is below `root`, with an nginx that takes everything.

    Its status is RELOADED where it tells nginx to reload, by `reload`.
    """
    for name, answer in {"nginx": "exit 0", "lib/ask": f"echo {DIGEST}"}.items():
        (root / "bin" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "bin" / name).write_text(f"#!/bin/sh\n{answer}\n")
        (root / "bin" / name).chmod(0o755)
    (root / "home").mkdir(exist_ok=True)
    reloading = DELIVER.with_name("reloading").read_text().replace("kill -HUP 1", reload)
    (root / "bin" / "lib" / "reloading").write_text(reloading.replace("/var/lib/cluster", f"{root}/home"))
    program = DELIVER.read_text().replace("/usr/local/lib/cluster", f"{root}/bin/lib")
    return subprocess.run(
        ["/bin/sh", "-c", program, "deliver", "1", DIGEST, "no"],
        input=text,
        env={"PATH": f"{root}/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


#: A site's file, where nginx asks for a user and where it does not.
ASKING, OPEN = (
    delivery(NginxConfig(files={"nginx.conf": "\n", "sites-available/cluster": text}, links={}, digest=DIGEST))
    for text in ("server {\n    auth_basic_user_file /users;\n}\n", "server {\n}\n")
)


def test_who_may_enter_is_read_by_nginx_alone_and_others_are_another_reload(tmp_path: Path) -> None:
    users = tmp_path / "home" / "users"
    assert deliver(tmp_path, ASKING, USERS="ann:$6$x\nzoe:$6$y\n").returncode == 0
    assert (users.read_text(), users.stat().st_mode & 0o777) == ("ann:$6$x\nzoe:$6$y\n", 0o600)
    assert not list((tmp_path / "home" / "current").glob("users*")), "a former worker could not read it any more"
    before = users.stat().st_ino
    assert deliver(tmp_path, ASKING, USERS="ann:$6$x\nzoe:$6$y\n").returncode == 0, "nothing is another, no reload"
    assert users.stat().st_ino == before
    assert deliver(tmp_path, ASKING, USERS="ann:$6$z\n").returncode == RELOADED
    assert users.read_text() == "ann:$6$z\n"


def test_who_may_enter_goes_once_nginx_has_taken_the_configuration_that_asks_nobody(tmp_path: Path) -> None:
    users = tmp_path / "home" / "users"
    assert deliver(tmp_path, ASKING, USERS="ann:$6$x\n").returncode == 0
    there = tmp_path / "there"
    assert deliver(tmp_path, OPEN, f"cp {users} {there}").returncode == 0
    assert there.exists(), "former workers still asked by it"
    assert not users.exists()


def test_who_may_enter_is_removed_by_the_next_delivery_where_the_one_that_asks_nobody_was_killed(
    tmp_path: Path,
) -> None:
    users = tmp_path / "home" / "users"
    assert deliver(tmp_path, ASKING, USERS="ann:$6$x\n").returncode == 0
    assert deliver(tmp_path, OPEN).returncode == RELOADED
    assert users.exists()
    deliver(tmp_path, OPEN)
    assert not users.exists()


def test_whatever_stands_in_a_file_it_is_delivered_as_that_file_and_no_other(tmp_path: Path) -> None:
    links = {"sites-enabled/cluster": "../sites-available/cluster"}
    done = deliver(tmp_path, delivery(NginxConfig(files=NASTY_FILES, links=links, digest=DIGEST)))
    assert (done.returncode, done.stderr) == (0, "")
    current = tmp_path / "home" / "current"
    found = {str(path.relative_to(current)): path for path in current.rglob("*") if not path.is_dir()}
    assert found.keys() == {*NASTY_FILES, *links}
    assert {name: found[name].read_text() for name in NASTY_FILES} == NASTY_FILES
    assert str(found["sites-enabled/cluster"].readlink()) == links["sites-enabled/cluster"]


@pytest.mark.parametrize("line", ["user root;", "", "#file x", "\tx"])
def test_a_line_that_is_none_of_a_delivery_ends_it(tmp_path: Path, line: str) -> None:
    done = deliver(tmp_path, f"# file nginx.conf\n events {{}}\n{line}\n")
    assert done.returncode != 0
    assert done.stderr == f"not a line of a delivery: {line}\n"
    assert not (tmp_path / "home" / "current").exists()
