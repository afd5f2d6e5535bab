"""One service and one Chromium for this folder's tests; a new browser profile for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.chat import PATIENCE_MS, Chat, Watch
from tests.browser.herd import write_profile
from tests.ports import own_port
from tests.serve.service import RunningService, running_corral
from tests.slurm import packages

CHROMIUM = "/usr/bin/chromium"
PACKAGE = {"chromium": "chromium"}
EXACT = """try { localStorage["corral.settings"] ??= '{"temperature": 0}'; } catch {}"""
"""Without it the models draw their words, and say something else each time."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not for the session: while Playwright runs, no other test can have an event loop."""
    if reason := packages.why_not(PACKAGE):
        pytest.skip(f"no Chromium here: {reason}")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        # Root has no sandbox; what is opened is only this repository's own page.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def service(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder, port = tmp_path_factory.mktemp("page"), own_port()
    with running_corral("page", write_profile(folder, port), port, folder / "state") as service:
        yield service


OpenChat = Callable[..., Chat]


@pytest.fixture
def open_chat(browser: Browser, service: RunningService) -> Iterator[OpenChat]:
    """Opens the page with options of Browser.new_context. At the end: nothing complained, nothing went elsewhere."""
    chats: list[Chat] = []

    def opened(**options: Any) -> Chat:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(EXACT)
        watch = Watch()
        page = context.new_page()
        watch.attach(page)
        chats.append(Chat(page, service.url, watch))
        return chats[-1].open()

    yield opened
    for chat in chats:
        chat.page.context.close()
    assert [complaint for chat in chats for complaint in chat.watch.complaints] == []
    assert all(chat.watch.hosts() == {service.url.removeprefix("http://")} for chat in chats)


@pytest.fixture
def chat(open_chat: OpenChat) -> Chat:
    return open_chat()
