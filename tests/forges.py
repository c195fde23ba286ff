"""Forges for tests, within this process: what of their published REST APIs a plan's comment meets.

https://docs.github.com/en/rest/issues/comments, /rest/pulls, /rest/collaborators; https://docs.gitlab.com/api/notes,
/api/merge_requests, /api/resource_label_events, /api/members.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN = "ghs_0123456789secret"

#: Pages have at most so many rows, and as many where nothing is asked for.
MOST, DEFAULT = 100, 30

Answer = tuple[int, Any]


@dataclass
class Comment:
    id: int
    user: int
    body: str


@dataclass
class Fault:
    """An answer that stands in for the next one. carried_out: whether what was asked for is done all the same."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: object = None
    carried_out: bool = False


@dataclass
class Server:
    """What both have: comments, pages, faults. between: is called before each request, as other runs come between."""

    comments: list[Comment] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    head: str = "c0ffee"
    description: str = ""
    labels: list[str] = field(default_factory=list)
    author: int = 1
    limit: int = 65_536
    between: Callable[[str, str], None] = lambda _method, _path: None
    next_id: int = 1000

    #: Users by their numbers. 1 writes here, 2 is a stranger, 7 is who the token is of.
    me = 7

    def add(self, body: str, user: int | None = None) -> Comment:
        self.next_id += 1
        self.comments.append(Comment(self.next_id, self.me if user is None else user, body))
        return self.comments[-1]

    def mine(self) -> list[str]:
        return [one.body for one in self.comments if one.user == self.me]

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(self.root)
        self.between(request.method, path)
        self.asked.append(f"{request.method} {path}")
        if not self.known(request):
            return httpx.Response(401, json={"message": "Bad credentials"})
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and not fault.carried_out:
            return httpx.Response(fault.status, headers=fault.headers, json=fault.content)
        content = json.loads(request.content) if request.content else {}
        status, found = self.do(request.method, path, content)
        if fault is not None:
            return httpx.Response(fault.status, headers=fault.headers, json=fault.content)
        if isinstance(found, list):
            return self.page(request.url, found)
        return httpx.Response(status, json=found) if found is not None else httpx.Response(status)

    def page(self, url: httpx.URL, rows: list[Any]) -> httpx.Response:
        size = min(int(url.params.get("per_page", DEFAULT)), MOST)
        at = int(url.params.get("page", 1))
        headers = {}
        if at * size < len(rows):
            headers["Link"] = f'<{url.copy_set_param("page", at + 1)}>; rel="next", <{url}>; rel="first"'
        return httpx.Response(200, json=rows[(at - 1) * size : at * size], headers=headers)

    root = ""

    def known(self, request: httpx.Request) -> bool:
        raise NotImplementedError

    def do(self, method: str, path: str, content: dict[str, Any]) -> Answer:
        raise NotImplementedError

    def write(self, comment: int | None, body: str, too_long: Answer) -> Answer | Comment:
        if len(body) > self.limit:
            return too_long
        if comment is None:
            return self.add(body)
        found = next((one for one in self.comments if one.id == comment), None)
        if found is None:
            return 404, {"message": "Not Found"}
        if found.user != self.me:
            return 403, {"message": "not yours"}
        found.body = body
        return found

    def remove(self, comment: int) -> Answer:
        found = [one for one in self.comments if one.id == comment]
        if not found:
            return 404, {"message": "Not Found"}
        if found[0].user != self.me:
            return 403, {"message": "not yours"}
        self.comments.remove(found[0])
        return 204, None


LOGINS = {1: "octocat", 2: "stranger", 7: "github-actions[bot]"}


@dataclass
class GitHubServer(Server):
    """of_job: whether the token is a job's, which may not ask for its user. writes: whether it may write."""

    of_job: bool = True
    writes: bool = True
    root = "/api"

    def known(self, request: httpx.Request) -> bool:
        return bool(request.headers.get("authorization") == f"Bearer {TOKEN}")

    def environment(self, event: Path, run: int = 10, attempt: int = 1, head: str | None = None) -> dict[str, str]:
        pull = {"number": 5, "head": {"sha": head or self.head}}
        event.write_text(json.dumps({"action": "synchronize", "pull_request": pull}))
        return {
            "GITHUB_REPOSITORY": "octo/site",
            "GITHUB_API_URL": "https://forge.example/api",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_RUN_ID": str(run),
            "GITHUB_RUN_ATTEMPT": str(attempt),
            "GITHUB_TOKEN": TOKEN,
        }

    def shown(self, one: Comment) -> dict[str, Any]:
        login = LOGINS[one.user]
        return {"id": one.id, "body": one.body, "user": {"login": login, "type": "Bot" if "[" in login else "User"}}

    def do(self, method: str, path: str, content: dict[str, Any]) -> Answer:  # noqa: PLR0911 - an answer for each path
        if path == "/user":
            refused = {"message": "Resource not accessible by integration"}
            return (403, refused) if self.of_job else (200, {"login": LOGINS[self.me]})
        if path == "/graphql":
            return 200, {"data": {"viewer": {"login": LOGINS[self.me].removesuffix("[bot]")}}}
        if path == "/repos/octo/site/pulls/5":
            user = {"login": LOGINS[self.author]}
            labels = [{"name": name} for name in self.labels]
            return 200, {"head": {"sha": self.head}, "body": self.description or None, "labels": labels, "user": user}
        if found := re.fullmatch(r"/repos/octo/site/collaborators/(\w+)/permission", path):
            return 200, {"permission": "write" if found[1] == "octocat" else "read"}
        if method != "GET" and not self.writes:
            return 403, {"message": "Resource not accessible by integration"}
        if path == "/repos/octo/site/issues/5/comments":
            if method == "GET":
                return 200, [self.shown(one) for one in self.comments]
            return self.told(self.write(None, content["body"], TOO_LONG), 201)
        if found := re.fullmatch(r"/repos/octo/site/issues/comments/(\d+)", path):
            if method == "DELETE":
                return self.remove(int(found[1]))
            return self.told(self.write(int(found[1]), content["body"], TOO_LONG), 200)
        return 404, {"message": "Not Found"}

    def told(self, done: Answer | Comment, status: int) -> Answer:
        return (status, self.shown(done)) if isinstance(done, Comment) else done


TOO_LONG: Answer = (
    422,
    {"message": "Validation Failed", "errors": [{"message": "Body is too long (maximum is 65536 characters)"}]},
)


@dataclass
class GitLabServer(Server):
    """put_on: who put which label on, by events; of one that came with the merge request there is none."""

    limit: int = 1_000_000
    put_on: list[tuple[str, int]] = field(default_factory=list)
    levels: dict[int, int] = field(default_factory=lambda: {1: 30, 7: 30})
    root = "/api/v4"

    def known(self, request: httpx.Request) -> bool:
        return bool(request.headers.get("private-token") == TOKEN)

    def environment(self, _event: Path, run: int = 10, attempt: int = 1, head: str | None = None) -> dict[str, str]:
        return {
            "CI_API_V4_URL": "https://forge.example/api/v4",
            "CI_PROJECT_ID": "3",
            "CI_MERGE_REQUEST_IID": "5",
            "CI_PIPELINE_ID": str(run),
            "CI_JOB_ID": str(attempt),
            "CI_COMMIT_SHA": head or self.head,
            "GITLAB_TOKEN": TOKEN,
        }

    def shown(self, one: Comment) -> dict[str, Any]:
        return {"id": one.id, "body": one.body, "author": {"id": one.user}, "system": False}

    def do(self, method: str, path: str, content: dict[str, Any]) -> Answer:  # noqa: PLR0911 - an answer for each path
        if path == "/user":
            return 200, {"id": self.me}
        request = "/projects/3/merge_requests/5"
        if path == request:
            found = {"sha": self.head, "description": self.description or None, "labels": self.labels}
            return 200, {**found, "author": {"id": self.author}}
        if path == f"{request}/resource_label_events":
            return 200, [
                {"id": at, "action": "add", "user": {"id": user}, "label": {"name": name}}
                for at, (name, user) in enumerate(self.put_on)
            ]
        if of := re.fullmatch(r"/projects/3/members/all/(\d+)", path):
            level = self.levels.get(int(of[1]))
            return (404, {"message": "404 Not found"}) if level is None else (200, {"access_level": level})
        if path == f"{request}/notes":
            if method == "GET":
                return 200, [self.shown(one) for one in self.comments]
            return self.told(self.write(None, content["body"], NOTE_TOO_LONG), 201)
        if of := re.fullmatch(rf"{request}/notes/(\d+)", path):
            if method == "DELETE":
                return self.remove(int(of[1]))
            return self.told(self.write(int(of[1]), content["body"], NOTE_TOO_LONG), 200)
        return 404, {"message": "404 Not found"}

    def told(self, done: Answer | Comment, status: int) -> Answer:
        return (status, self.shown(done)) if isinstance(done, Comment) else done


NOTE_TOO_LONG: Answer = (400, {"message": {"note": ["is too long (maximum is 1000000 characters)"]}})
