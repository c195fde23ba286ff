"""Two people in Django's admin, each in a real browser, while the cluster is changed under them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from typing import TYPE_CHECKING

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium is not here (apt-get install chromium chromium-driver)"
)

PASSWORD = "correct horse battery staple"
PEOPLE = ("anna", "boris")


@pytest.fixture
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand(instances=4)) as found:
        assert found.up().status == 0
        for name in PEOPLE:
            create = ("createsuperuser", "--noinput", "--username", name, "--email", f"{name}@example.com")
            result = found.run("manage", found.name, "--", *create, DJANGO_SUPERUSER_PASSWORD=PASSWORD)
            assert result.status == 0, result.output
        yield found


class Person:
    """Somebody with a browser of their own, logged in to the admin."""

    def __init__(self, stand: Stand, name: str, stack: ExitStack) -> None:
        self.name = name
        self.site = f"http://localhost:{stand.port}"
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
            options.add_argument(word)
        self.browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        stack.callback(self.browser.quit)
        self.browser.get(f"{self.site}/admin/login/?next=/admin/")
        self.browser.find_element(By.NAME, "username").send_keys(name)
        self.browser.find_element(By.NAME, "password").send_keys(PASSWORD)
        self.browser.find_element(By.CSS_SELECTOR, "input[type=submit]").click()

    def is_logged_in(self) -> bool:
        """Open the admin's first page; tell whether it greets this person, and keeps what only its own user may see."""
        self.browser.get(f"{self.site}/admin/")
        greeting = self.browser.find_elements(By.CSS_SELECTOR, "#user-tools strong")
        return [one.text.lower() for one in greeting] == [self.name]

    def cookie(self) -> dict[str, object]:
        found = self.browser.get_cookie("sessionid")
        assert found is not None, "the browser has dropped the session's cookie"
        return dict(found)


@pytest.mark.wide
def test_two_people_stay_logged_in_through_engine_key_release_and_three_dead_instances(stand: Stand) -> None:
    with contextlib.ExitStack() as stack:
        people = [Person(stand, name, stack) for name in PEOPLE]

        def still(after: str) -> None:
            found = {person.name: person.is_logged_in() for person in people}
            print(f"{after}: {sum(found.values())} of {len(found)} still logged in")
            assert all(found.values()), (after, found)

        def changed(after: str, *command: str, **sessions: object) -> None:
            stand.edit_stack(lambda stack: stack["sessions"].update(sessions))
            result = stand.run(*(command or ("up",)), stand.name)
            assert result.status == 0, result.output
            still(after)

        still("logged in")
        for person in people:
            assert (person.cookie()["httpOnly"], person.cookie()["sameSite"]) == (True, "Lax")
        changed("engine changed to cache", engine="cache", previous="cached_db")
        changed("key rotated", "rotate-key")
        stand.edit_code("visits/apps.py", "# a release\n")
        changed("released")
        for name in ("app1", "app2", "app3"):
            for pid in stand.processes(name).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        still("three of four instances killed")


@pytest.mark.wide
def test_somebody_with_another_key_is_logged_out(stand: Stand) -> None:
    """The saboteur: the key is replaced and not rotated."""
    with contextlib.ExitStack() as stack:
        person = Person(stand, PEOPLE[0], stack)
        assert person.is_logged_in()
        (stand.paths.secrets / "secret_key").write_text("y" * 50)
        assert "everybody would be logged out" in stand.up().output
        stand.edit_stack(lambda stack: stack["sessions"].update(discard=True))
        assert stand.up().status == 0
        assert not person.is_logged_in()
