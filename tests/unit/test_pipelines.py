"""The files of `cluster init --ci`: what they may, what judges say of them, and that none is overwritten unasked."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.pipelines import run_init_ci
from cluster.errors import CommandError
from cluster.initial.pipelines import FILES, Pipelines, job_of

ROOT = Path(__file__).resolve().parents[2]

STACKS = ("staging", "prod", "1.x")

#: A label of a machine is nobody's but the user's.
ACTIONLINT = "self-hosted-runner:\n  labels: ['cluster-*']\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stacks").mkdir()
    for stack in STACKS:
        (tmp_path / "stacks" / f"Pulumi.{stack}.yaml").write_text("")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tool(name: str) -> str:
    """Return a program of the tests' own packages, or the system's."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


def judged(*command: str, directory: Path) -> tuple[int, str]:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def workflow(name: str) -> dict[str, Any]:
    found = yaml.safe_load(
        Pipelines(forge="github", stacks=STACKS, branch="main").texts()[f".github/workflows/{name}.yml"]
    )
    return {("on" if key is True else key): value for key, value in found.items()}  # YAML 1.1's `on`


# --- what they may


def test_a_pull_request_gets_no_secret_and_reaches_no_machine() -> None:
    text = Pipelines(forge="github", stacks=STACKS, branch="main").texts()[".github/workflows/plan.yml"]
    assert "secrets." not in text
    found = workflow("plan")
    assert list(found["on"]) == ["pull_request", "merge_group"]
    assert found["permissions"] == {}
    for job in found["jobs"].values():
        assert job["runs-on"].startswith("ubuntu-")
        assert all(
            re.search("""--against ('git:HEAD\\^1'|"git:\\$BASE") """, step["run"])
            for step in job["steps"]
            if "cluster plan" in step.get("run", "")
        )


def test_what_is_planned_of_a_fork_may_write_nothing() -> None:
    jobs = workflow("plan")["jobs"]
    own, fork = jobs["plan"], jobs["plan-of-fork"]
    assert own["if"].replace("full_name ==", "full_name !=") == fork["if"]
    assert own["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert fork["permissions"] == {"contents": "read", "pull-requests": "read"}
    assert "--post github" in str(own)
    assert "--post" not in str(fork)
    for job in (own, fork):
        assert "--gate github" in str(job)
        (checkout,) = [step for step in job["steps"] if "uses" in step]
        assert checkout["with"]["persist-credentials"] is False
        with_token = [step["name"] for step in job["steps"] if "GITHUB_TOKEN" in step.get("env", {})]
        assert with_token == ["Plan"], "only the step that asks the forge has the token"


def test_a_merge_queue_plans_what_it_would_merge_and_asks_what_the_pull_request_accepts() -> None:
    """A required check that a queue's run does not report keeps the queue waiting: of a job that is skipped it does."""
    found = workflow("plan")
    assert found["on"]["merge_group"] == {"branches": ["main"], "types": ["checks_requested"]}
    jobs = found["jobs"]
    job = jobs.pop("plan-of-merge-group")
    assert job["if"] == "github.event_name == 'merge_group'"
    assert all(other["if"].startswith("github.event_name == 'pull_request' && ") for other in jobs.values())
    assert job["permissions"] == jobs["plan-of-fork"]["permissions"]
    assert "--post" not in str(job)
    step = job["steps"][-1]
    assert '--against "git:$BASE" --markdown --gate github' in step["run"]
    assert step["env"]["BASE"] == "${{ github.event.merge_group.base_sha }}"
    (line,) = [
        line for line in Pipelines(forge="github", stacks=STACKS, branch="main").to_set() if "required ch" in line
    ]
    for one in (job, *jobs.values()):
        assert one["name"] in line


@pytest.mark.parametrize(
    ("variables", "base"),
    [
        ({"CI_MERGE_REQUEST_DIFF_BASE_SHA": "base"}, "base"),
        ({"CI_MERGE_REQUEST_DIFF_BASE_SHA": "base", "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "target"}, "target"),
    ],
    ids=["of its own branch", "of merged results, or in a train"],
)
def test_on_gitlab_a_request_is_compared_with_what_it_is_merged_into(variables: dict[str, str], base: str) -> None:
    found = yaml.safe_load(Pipelines(forge="gitlab", stacks=STACKS, branch="main").texts()[".gitlab-ci.yml"])
    *_installed, line = found[".compare"]["before_script"]
    said = subprocess.run(
        ["sh", "-euc", f'{line}\necho "$BASE"'], env=variables, capture_output=True, text=True, check=True
    ).stdout
    assert said == f"{base}\n"
    for job in ("plan", "plan of a fork"):
        assert '--against "git:$BASE"' in found[job]["script"][0]


@pytest.mark.parametrize("forge", FILES)
def test_every_action_is_pinned_by_its_commit_with_its_tag_beside_it(forge: str) -> None:
    for text in Pipelines(forge=forge, stacks=STACKS, branch="main").texts().values():
        for line in re.findall(r"^.*\buses:.*$", text, re.MULTILINE):
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_what_is_merged_is_deployed_once_at_a_time_as_it_was_planned_and_approved() -> None:
    found = workflow("deploy")
    assert found["on"] == {"push": {"branches": ["main"]}}
    assert found["permissions"] == {}
    assert list(found["jobs"]) == [f"{what}-{job}" for job in ("staging", "prod", "1-x") for what in ("plan", "deploy")]
    for stack in STACKS:
        plan, deploy = found["jobs"][f"plan-{job_of(stack)}"], found["jobs"][f"deploy-{job_of(stack)}"]
        assert "environment" not in plan
        assert deploy["environment"] == stack
        assert deploy["needs"] == f"plan-{job_of(stack)}"
        assert deploy["concurrency"] == {"group": f"deploy-{stack}", "cancel-in-progress": False}
        (step,) = deploy["steps"]
        assert step["run"].endswith(f""".venv/bin/cluster up '{stack}' --plan-digest "$DIGEST\"""")
        assert step["env"] == {"DIGEST": f"${{{{ needs.plan-{job_of(stack)}.outputs.digest }}}}"}
        assert "'true'" in deploy["if"]


def test_on_gitlab_the_token_is_of_an_environment_that_a_fork_s_job_does_not_name() -> None:
    found = yaml.safe_load(Pipelines(forge="gitlab", stacks=STACKS, branch="main").texts()[".gitlab-ci.yml"])
    assert found["plan"]["environment"]["name"] == "plan"
    assert "environment" not in found["plan of a fork"]
    assert "--post" not in str(found["plan of a fork"])
    (own,), (fork,) = found["plan"]["rules"], found["plan of a fork"]["rules"]
    assert own["if"].replace("SOURCE_PROJECT_ID ==", "SOURCE_PROJECT_ID !=") == fork["if"]
    for stack in STACKS:
        deploy = found[f"deploy {stack}"]
        assert (deploy["resource_group"], deploy["environment"]["name"], deploy["needs"]) == (
            stack,
            stack,
            [f"plan {stack}"],
        )
        assert deploy["rules"][0]["when"] == "manual"
        assert '--plan-digest "$plan_digest"' in deploy["script"][0]


# --- what judges say


@pytest.fixture
def written(repository: Path) -> Path:
    run_init_ci(STACKS, "github", force=False)
    run_init_ci(STACKS, "gitlab", force=False)
    return repository


def zizmor(written: Path) -> tuple[int, str]:
    return judged(tool("zizmor"), "--offline", "--no-progress", "--persona", "pedantic", ".github", directory=written)


def test_zizmor_finds_nothing(written: Path) -> None:
    status, said = zizmor(written)
    assert status == 0, said


@pytest.mark.parametrize(
    ("what", "to"),
    [
        ("pull_request: #", "pull_request_target: #"),
        ("permissions: {}", "permissions: write-all"),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1", "@main"),
        ('"$GITHUB_STEP_SUMMARY"', '"${{ github.event.pull_request.title }}"'),
    ],
)
def test_zizmor_would_find_what_is_unsafe(what: str, to: str, written: Path) -> None:
    """The saboteur of the test before."""
    path = written / ".github" / "workflows" / "plan.yml"
    text = path.read_text()
    assert what in text
    path.write_text(text.replace(what, to))
    assert zizmor(written)[0] != 0


@pytest.mark.parametrize("name", ["github-workflows", "gitlab-ci"])
def test_the_schema_of_each_forge_takes_them(name: str, written: Path) -> None:
    paths = sorted(
        map(str, written.glob(".github/workflows/*.yml" if name == "github-workflows" else ".gitlab-ci.yml"))
    )
    assert paths
    transform = ["--data-transform", "gitlab-ci"] if name == "gitlab-ci" else []
    command = [tool("check-jsonschema"), "--builtin-schema", f"vendor.{name}", *transform]
    status, said = judged(*command, *paths, directory=written)
    assert status == 0, said
    path = Path(paths[0])
    path.write_text(path.read_text().replace("permissions: {}", "permissions: 7").replace("stage: plan", "stage: {}"))
    assert judged(*command, *paths, directory=written)[0] != 0, "the saboteur"


def test_actionlint_finds_nothing(written: Path) -> None:
    (written / "actionlint.yaml").write_text(ACTIONLINT)
    status, said = judged(tool("actionlint"), "-config-file", "actionlint.yaml", directory=written)
    assert status == 0, said


# --- what is written


def test_what_is_written_and_what_is_to_be_set_is_told(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_init_ci(["prod"], "github", force=False)
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("wrote .github/workflows/plan.yml: ")
    for words in ("cluster-prod", "/srv/cluster/prod", "environments: prod", "required checks", "secrets: none"):
        assert words in said
    assert {str(path.relative_to(repository)) for path in repository.glob(".github/**/*.yml")} == {
        ".github/workflows/plan.yml",
        ".github/workflows/deploy.yml",
    }
    run_init_ci(["prod"], "gitlab", force=False)
    said = capsys.readouterr().out
    assert "GITLAB_TOKEN" in said
    assert "secrets: none" not in said


def test_no_file_that_is_there_is_overwritten_and_then_none_is_written(repository: Path) -> None:
    own = repository / ".github" / "workflows" / "deploy.yml"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(CommandError, match=r"^\.github/workflows/deploy\.yml is there already; --force overwrites it$"):
        run_init_ci(["prod"], "github", force=False)
    assert own.read_text() == "mine"
    assert not own.with_name("plan.yml").exists()
    run_init_ci(["prod"], "github", force=True)
    assert own.read_text() != "mine"


def test_a_link_is_a_file_that_is_there(repository: Path) -> None:
    (repository / ".gitlab-ci.yml").symlink_to(repository / "nowhere")
    with pytest.raises(CommandError, match="is there already"):
        run_init_ci(["prod"], "gitlab", force=False)


def test_the_origin_s_own_branch_is_deployed_from(repository: Path) -> None:
    subprocess.run(
        ["git", "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk"], cwd=repository, check=True
    )
    run_init_ci(["prod"], "github", force=False)
    assert "branches: ['trunk']" in (repository / ".github" / "workflows" / "deploy.yml").read_text()


@pytest.mark.parametrize(
    ("stacks", "forge", "words"),
    [
        (["prod", "nothing"], "github", "stacks/Pulumi.nothing.yaml is not there"),
        (["prod"], "bitbucket", "--ci: must be one of github, gitlab, got bitbucket"),
    ],
)
def test_what_can_not_be_written_is_told(repository: Path, stacks: list[str], forge: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        run_init_ci(stacks, forge, force=False)
    assert not (repository / ".github").exists()


def test_two_stacks_whose_jobs_would_have_one_name_are_told() -> None:
    with pytest.raises(CommandError, match=r"stack a\.b: another one has the same name"):
        Pipelines(forge="github", stacks=["a.b", "a-b"], branch="main")
    with pytest.raises(CommandError, match="can't be written into a pipeline"):
        Pipelines(forge="github", stacks=["a"], branch="x'\n")


# --- the checkout that stays


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone whose origin has a commit more than it: `second` is in its file."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    (origin / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "at", origin / "scripts" / "at")
    (origin / "Makefile").write_text(".venv/installed:\n\t@echo installing\n")
    (origin / "file").write_text("first")
    (origin / ".gitignore").write_text(".cluster/\n")

    def git(*words: str) -> None:
        subprocess.run(
            [
                "git",
                "-c",
                "user.name=n",
                "-c",
                "user.email=e@example.org",
                "-c",
                "uploadpack.allowAnySHA1InWant=true",
                *words,
            ],
            cwd=origin,
            check=True,
        )

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
    (origin / "file").write_text("second")
    (origin / "scripts" / "at").write_text("#!/bin/sh\necho replaced\n")
    git("commit", "-qam", "second")
    return clone


def head(origin: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=origin, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def at(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(clone / "scripts" / "at"), *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_command_runs_at_the_commit_and_what_is_kept_stays(checkout: Path) -> None:
    (checkout / ".cluster").mkdir()
    (checkout / ".cluster" / "secret").write_text("kept")
    done = at(checkout, head(checkout.parent / "origin"), "sh", "-c", "cat file; exit 3")
    assert (done.returncode, done.stdout) == (3, "second"), done.stderr
    assert "installing" in done.stderr
    assert (checkout / ".cluster" / "secret").read_text() == "kept"


def test_what_is_no_commit_is_refused_and_so_is_a_change_by_hand(checkout: Path) -> None:
    for word in ("--upload-pack=x", "main", ""):
        assert at(checkout, word, "true").returncode == 1
    (checkout / "file").write_text("by hand")
    done = at(checkout, head(checkout.parent / "origin"), "true")
    assert done.returncode != 0
    assert "file" in done.stderr
    assert (checkout / "file").read_text() == "by hand"


def waits(process: int) -> bool:
    """Tell whether a script is at its `flock`."""
    with contextlib.suppress(OSError):  # whoever has ended does not wait
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return any(Path(f"/proc/{child}/comm").read_text() == "flock\n" for child in children)
    return False


def test_one_waits_for_another_but_not_for_what_it_leaves_running(checkout: Path, tmp_path: Path) -> None:
    commit, script = head(checkout), tmp_path / "at"
    shutil.copy(checkout / "scripts" / "at", script)
    left = "sleep 60 >/dev/null 2>&1 & echo $!"
    process = at(checkout, commit, "sh", "-c", left).stdout.strip()
    try:
        words = [str(checkout / "scripts" / "at"), commit, "sh", "-c"]
        with subprocess.Popen(
            [*words, "echo began >> order; read line; echo ended >> order"], stdin=subprocess.PIPE
        ) as first:
            while not (checkout / "order").exists():
                assert first.poll() is None
                time.sleep(0.01)
            with subprocess.Popen([*words, "echo next >> order"]) as second:
                while not (waits(second.pid) or "next" in (checkout / "order").read_text()):
                    time.sleep(0.01)
                assert first.stdin is not None
                first.stdin.write(b"go\n")
                first.stdin.close()
                assert (first.wait(60), second.wait(60)) == (0, 0)
        assert (checkout / "order").read_text().split() == ["began", "ended", "next"]
    finally:
        subprocess.run(["kill", process], check=True)
