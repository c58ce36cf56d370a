"""A real browser, kept on this machine: whatever leads elsewhere fails the test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))  # for local_app.py

from local_app import LocalApp

from pipeline.bark import Bark

_ELSEWHERE = "bark.test"
_ARGUMENTS = [
    "--no-sandbox",  # there is none for root
    "--autoplay-policy=no-user-gesture-required",
    f"--host-resolver-rules=MAP {_ELSEWHERE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


# of a module: while playwright runs, the thread has its event loop, and others can not run theirs
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs a browser: apt install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield started
        started.close()


class Visit:
    """A page, all that it asked for, and all that it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, told: ConsoleMessage) -> None:
        if told.type in ("error", "warning"):
            self.complaints.append(f"{told.text} {told.location.get('url', '')}")

    @property
    def hosts(self) -> set[str]:
        """Where it asked, without what is in the page itself."""
        places = (urlsplit(request.url) for request in self.requests)
        return {place.netloc for place in places if place.scheme != "data"}


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open pages, each in a browser without memories; they may ask the hosts named, and no other.

    Args of the function: the hosts; options of playwright's `new_context`.
    """
    visits: list[tuple[Visit, set[str]]] = []

    def start(*hosts: str, **options: Any) -> Visit:
        visits.append((Visit(browser.new_context(**options).new_page()), set(hosts)))
        return visits[-1][0]

    yield start
    for each, allowed in visits:
        each.page.context.close()
        assert each.hosts <= allowed


@pytest.fixture(scope="session")
def elsewhere() -> str:
    """Return a name that is not known as this machine's own, and leads here all the same."""
    return _ELSEWHERE


@pytest.fixture(scope="module")
def bark() -> Iterator[Bark]:
    with Bark.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def serve(bark: Bark) -> Iterator[Callable[..., str]]:
    """Serve on a free port of loopback; returns a function of a config → url."""
    apps: list[LocalApp] = []

    def start(store: dict[str, Any], **sections: Any) -> str:
        apps.append(LocalApp(bark, {"store": store, "jobs": {"poll_s": 0.2}, **sections}))
        return apps[-1].url

    yield start
    for app in apps:
        app.close()
