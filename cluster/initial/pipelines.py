"""The files that plan pull requests and deploy what is merged, for a repository on GitHub or GitLab."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.forge import FORGES

if TYPE_CHECKING:
    from collections.abc import Sequence

TEMPLATES = Path(__file__).parent / "ci"

#: What of a template is there once for each stack.
EACH = re.compile(r"^# each stack \{\n(.*?)^# \}\n", re.MULTILINE | re.DOTALL)

#: What a branch may be called to be written into YAML in quotes, and matched as it is.
BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A file of the user's repository. what: it does, in words."""

    path: str
    source: str
    what: str


FILES = {
    "github": (
        Template(
            path=".github/workflows/plan.yml",
            source="github-plan.yml",
            what="the plan of each pull request: one comment, and a check that fails on costs that it does not accept",
        ),
        Template(
            path=".github/workflows/deploy.yml",
            source="github-deploy.yml",
            what="what is merged is planned, approved and carried out as planned",
        ),
    ),
    "gitlab": (
        Template(
            path=".gitlab-ci.yml",
            source="gitlab-ci.yml",
            what="the plan of each merge request, as one comment and a check; what is merged is deployed as planned",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pipelines:
    """What is written for some stacks; CommandError where a name can't be written. branch: what is deployed from."""

    forge: str
    stacks: Sequence[str]
    branch: str

    def __post_init__(self) -> None:
        if self.forge not in FORGES:
            raise CommandError(f"--ci: must be one of {', '.join(FORGES)}, got {self.forge}")
        if not BRANCH.fullmatch(self.branch):
            raise CommandError(
                f"branch {self.branch!r} can't be written into a pipeline: letters, digits, - _ . / only"
            )
        jobs = [job_of(stack) for stack in self.stacks]
        twice = next((stack for stack, job in zip(self.stacks, jobs, strict=True) if jobs.count(job) > 1), None)
        if twice is not None:
            raise CommandError(
                f"stack {twice}: another one has the same name, but for characters that no job's may have"
            )

    def texts(self) -> dict[str, str]:
        """Return the files by their paths in the repository."""
        return {one.path: self._filled((TEMPLATES / one.source).read_text(encoding="utf-8")) for one in self.files}

    @property
    def files(self) -> Sequence[Template]:
        """The files, and what they are for."""
        return FILES[self.forge]

    def _filled(self, text: str) -> str:
        def each(block: re.Match[str]) -> str:
            made = [block[1].replace("@STACK@", stack).replace("@JOB@", job_of(stack)) for stack in self.stacks]
            return "".join(made)

        found = EACH.sub(each, text).replace("@STACKS@", " ".join(self.stacks)).replace("@BRANCH@", self.branch)
        return f"{found.rstrip()}\n"

    def to_set(self) -> list[str]:
        """Return what somebody has to set up on the forge, a line each."""
        word = "label" if self.forge == "github" else "tag"
        lines = []
        for stack in self.stacks:
            lines.append(
                f"runner: on the machine of stack {stack}, as who runs `cluster up` there; {word} cluster-{stack}"
            )
            lines.append(f"checkout: the repository, cloned there to /srv/cluster/{stack}; `git fetch` asks nothing")
        environments = ", ".join(self.stacks)
        if self.forge == "github":
            return [
                *lines,
                f"environments: {environments}: required reviewers, and branch {self.branch} alone",
                f"required checks of branch {self.branch}: plan, plan of a fork, plan of a merge group",
                "secrets: none",
            ]
        return [
            *lines,
            "variable GITLAB_TOKEN (masked, of environment plan alone): a project access token, scope api, Developer",
            f"protected environments: {environments}: who may deploy",
            "merge checks: pipelines must succeed",
        ]


def job_of(stack: str) -> str:
    """Return a stack's name as a part of a job's."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", stack)


__all__ = ["Pipelines", "job_of"]
