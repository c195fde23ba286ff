"""GitHub, and whatever speaks its API (Gitea, Forgejo): where a job of its Actions runs, and the comments there."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster.errors import CommandError
from cluster.forge.api import Api, ForgeError
from cluster.forge.forge import Pull, required
from cluster.plan.comment import Posted, Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Of a comment, characters (docs.github.com, and its answer: "Body is too long (maximum is 65536 characters)").
LIMIT = 65_536

VERSION = "2022-11-28"

MEANINGS = {
    "GITHUB_REPOSITORY": "the repository, OWNER/NAME (GitHub Actions sets it)",
    "GITHUB_API_URL": "where its API is (GitHub Actions sets it)",
    "GITHUB_EVENT_PATH": "the file that says which pull request it is (GitHub Actions sets it)",
    "GITHUB_TOKEN": "the job's token: say `env: {GITHUB_TOKEN: ${{ github.token }}}` at the step",
}

HINTS = {
    401: "the token is not, or not any more, one of this forge's",
    403: "the job needs `permissions: {pull-requests: write}`; the token of a pull request from a fork may only read",
    404: "it is not there, or the token may not see it",
}

#: Who may write, in the words of the permission of a collaborator; `owner` is Gitea's.
WRITERS = frozenset({"admin", "write", "maintain", "owner"})

NO_RIGHT = (403, 404)

#: The branch on which a merge queue has made what it would merge: it names the pull request that is merged last.
QUEUED = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-(?P<number>[0-9]+)-[0-9a-f]+")

VIEWER = "query { viewer { login } }"


class GitHub:
    """A pull request on GitHub."""

    name = "GitHub"
    limit = LIMIT

    def __init__(self, environment: Mapping[str, str], read: Path, **options: Any) -> None:
        """Find out which pull request the job is for; CommandError with a line for each thing that is missing.

        read: the file of GITHUB_EVENT_PATH. options: of Api.
        """
        self.repository = environment["GITHUB_REPOSITORY"].strip()
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise CommandError(f"GITHUB_REPOSITORY: must be OWNER/NAME, got {self.repository}")
        self.number, self.head = _pull_of(read)
        self.run = Run(number=_number(environment, "GITHUB_RUN_ID"), attempt=_number(environment, "GITHUB_RUN_ATTEMPT"))
        url, token = environment["GITHUB_API_URL"].strip(), environment["GITHUB_TOKEN"].strip()
        self.graphql = environment.get("GITHUB_GRAPHQL_URL", "").strip() or f"{url.rstrip('/')}/graphql"
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": VERSION,
        }
        self.api = Api(name=self.name, url=url, headers=headers, token=token, hints=HINTS, **options)

    def pull(self) -> Pull:
        """Return the pull request."""
        found = self._pull()
        return Pull(
            head=str(found["head"]["sha"]),
            description=str(found.get("body") or ""),
            author=str(found["user"]["login"]),
        )

    def labels(self) -> frozenset[str]:
        """Return its labels: whoever puts one on needs the right to triage."""
        return frozenset(str(one["name"]) for one in self._pull().get("labels") or ())

    def _pull(self) -> dict[str, Any]:
        return dict(self.api.ask("GET", f"repos/{self.repository}/pulls/{self.number}"))

    def may_push(self, author: str) -> bool:
        """Tell whether somebody may write to the repository."""
        if not re.fullmatch(r"[\w.-]+", author):
            return False  # an app (`dependabot[bot]`): it accepts nothing
        try:
            found = self.api.ask("GET", f"repos/{self.repository}/collaborators/{author}/permission")
        except ForgeError as error:
            if error.status in NO_RIGHT:
                return False
            raise
        return str(found.get("permission")) in WRITERS

    def comments(self) -> list[Posted]:
        """Return our own comments, those of all pages: anybody may write the mark into one of his."""
        found = self.api.pages(f"repos/{self.repository}/issues/{self.number}/comments?per_page=100")
        return [
            Posted(id=int(one["id"]), body=str(one.get("body") or ""))
            for one in found
            if _same(one.get("user") or {}, self.login)
        ]

    @cached_property
    def login(self) -> str:
        """Who the token is of. The token of a job may not ask for its user, but GraphQL says it."""
        try:
            return str(self.api.ask("GET", "user")["login"])
        except ForgeError as error:
            if error.status not in NO_RIGHT:
                raise
        found = self.api.ask("POST", self.graphql, {"query": VIEWER}, reads=True)
        try:
            return str(found["data"]["viewer"]["login"])
        except (KeyError, TypeError):
            raise CommandError(f"{self.name}: nobody says who the token is of: no comment is touched") from None

    def create(self, body: str) -> None:
        """Write a new comment."""
        self.api.ask("POST", f"repos/{self.repository}/issues/{self.number}/comments", {"body": body})

    def edit(self, comment: int, body: str) -> None:
        """Let a comment say something else."""
        self.api.ask_if_there("PATCH", f"repos/{self.repository}/issues/comments/{comment}", {"body": body})

    def delete(self, comment: int) -> None:
        """Delete a comment."""
        self.api.ask_if_there("DELETE", f"repos/{self.repository}/issues/comments/{comment}")


def _same(user: Mapping[str, Any], login: str) -> bool:
    """Tell whether a comment's author is who the token is of; GraphQL calls a bot without `[bot]`, REST with it."""
    named = str(user.get("login") or "")
    return named == login or (user.get("type") == "Bot" and named == f"{login}[bot]")


def _pull_of(path: Path) -> tuple[int, str]:
    """Return the number of the pull request that an event is of, and its commit; in a merge queue the group's."""
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
        queued = QUEUED.fullmatch(str((event.get("merge_group") or {}).get("head_ref")))
        if queued is not None:
            return int(queued["number"]), str(event["merge_group"]["head_sha"])
        found = event["pull_request"]
        return int(found["number"]), str(found["head"]["sha"])
    except (OSError, ValueError) as error:
        raise CommandError(f"GITHUB_EVENT_PATH: {path}: can't be read: {error}") from error
    except (AttributeError, KeyError, TypeError):
        raise CommandError(
            f"GITHUB_EVENT_PATH: {path}: is no event of a pull request: run it `on: pull_request`, or `on: merge_group`"
        ) from None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "").strip() or "0"
    if not text.isdigit():
        raise CommandError(f"{name}: must be a number, got {text}")
    return int(text)


def missing(environment: Mapping[str, str]) -> list[str]:
    """Return what is said of variables that are missing."""
    return required(environment, MEANINGS)


__all__ = ["GitHub", "missing"]
