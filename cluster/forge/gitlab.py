"""GitLab: where a job of a merge request's pipeline runs, and the comments (notes) there."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster.errors import CommandError
from cluster.forge.api import GONE, Api, ForgeError
from cluster.forge.forge import Pull, required
from cluster.plan.comment import Posted, Run

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Of a note, characters (docs.gitlab.com/api/notes: limited to 1,000,000 characters).
LIMIT = 1_000_000

MEANINGS = {
    "CI_API_V4_URL": "where the API is (GitLab sets it)",
    "CI_PROJECT_ID": "the project's number (GitLab sets it)",
    "CI_MERGE_REQUEST_IID": "the merge request's number: GitLab sets it where `rules` run the job for merge requests",
    "GITLAB_TOKEN": "a project access token with the scope `api` and the role Developer, a masked variable of the "
    "project; CI_JOB_TOKEN may write no comment",
}

HINTS = {
    401: "the token is not, or not any more, one of this forge's",
    403: "the token needs the scope `api` and the role Developer",
    404: "it is not there, or the token may not see it",
}

#: Access levels from which on somebody may push: Developer.
DEVELOPER = 30


class GitLab:
    """A merge request on GitLab."""

    name = "GitLab"
    limit = LIMIT

    def __init__(self, environment: Mapping[str, str], **options: Any) -> None:
        """Find out which merge request the job is for; CommandError where a variable makes no sense."""
        project, number = _number(environment, "CI_PROJECT_ID"), _number(environment, "CI_MERGE_REQUEST_IID")
        self.request = f"projects/{project}/merge_requests/{number}"
        self.project = project
        self.run = Run(number=_number(environment, "CI_PIPELINE_ID"), attempt=_number(environment, "CI_JOB_ID"))
        # Of a pipeline for merged results, CI_COMMIT_SHA is the commit that the merge would make.
        names = ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_COMMIT_SHA")
        self.head = next((environment[name].strip() for name in names if environment.get(name, "").strip()), "")
        token = environment["GITLAB_TOKEN"].strip()
        self.api = Api(
            name=self.name,
            url=environment["CI_API_V4_URL"].strip(),
            headers={"PRIVATE-TOKEN": token},
            token=token,
            hints=HINTS,
            **options,
        )

    def pull(self) -> Pull:
        """Return the merge request."""
        found = self.api.ask("GET", self.request)
        return Pull(
            head=str(found["sha"]),
            description=str(found.get("description") or ""),
            author=str(found["author"]["id"]),
        )

    def labels(self) -> frozenset[str]:
        """Return those of its labels that somebody put on who may push.

        Whoever opens a merge request may give it labels, a stranger too.
        """
        found = self.api.ask("GET", self.request)
        put_on: dict[str, str] = {}
        events = self.api.pages(f"{self.request}/resource_label_events?per_page=100")
        for event in sorted(events, key=lambda one: int(one.get("id") or 0)):
            label, user = event.get("label") or {}, event.get("user") or {}
            if event.get("action") == "add" and "name" in label:
                put_on[str(label["name"])] = str(user.get("id", ""))
        author = str(found["author"]["id"])
        names = {str(name) for name in found.get("labels") or ()}
        return frozenset(name for name in names if self.may_push(put_on.get(name, author)))

    def may_push(self, author: str) -> bool:
        """Tell whether somebody may push to the project, by his number."""
        if not author.isdigit():
            return False
        if author not in self._levels:
            try:
                found = self.api.ask("GET", f"projects/{self.project}/members/all/{author}")
                self._levels[author] = int(found["access_level"]) if found.get("state", "active") == "active" else 0
            except ForgeError as error:
                if error.status not in GONE:
                    raise
                self._levels[author] = 0
        return self._levels[author] >= DEVELOPER

    @cached_property
    def _levels(self) -> dict[str, int]:
        return {}

    def comments(self) -> list[Posted]:
        """Return our own notes, those of all pages: anybody may write the mark into one of his."""
        found = self.api.pages(f"{self.request}/notes?per_page=100&order_by=created_at&sort=asc")
        return [
            Posted(id=int(one["id"]), body=str(one.get("body") or ""))
            for one in found
            if (one.get("author") or {}).get("id") == self.user and not one.get("system")
        ]

    @cached_property
    def user(self) -> int:
        """Who the token is of, by number."""
        return int(self.api.ask("GET", "user")["id"])

    def create(self, body: str) -> None:
        """Write a new note."""
        self.api.ask("POST", f"{self.request}/notes", {"body": body})

    def edit(self, comment: int, body: str) -> None:
        """Let a note say something else."""
        self.api.ask_if_there("PUT", f"{self.request}/notes/{comment}", {"body": body})

    def delete(self, comment: int) -> None:
        """Delete a note."""
        self.api.ask_if_there("DELETE", f"{self.request}/notes/{comment}")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "").strip() or "0"
    if not text.isdigit():
        raise CommandError(f"{name}: must be a number, got {text}")
    return int(text)


def missing(environment: Mapping[str, str]) -> list[str]:
    """Return what is said of variables that are missing."""
    return required(environment, MEANINGS)


__all__ = ["GitLab", "missing"]
