"""What goes wrong is told to a person, with a way on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, words
from tests.browser.conftest import OpenChat
from tests.browser.herd import ANSWER, LARGE, QUESTION

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"


def test_a_full_queue_says_when_to_come_back_and_retry_then_works(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.refuse(CHAT, 429, {"message": "The queue of pocket-8b is full.", "code": "overloaded"}, retry_after="6")
    answer = chat.answer(QUESTION)
    expect(answer.locator(".problem")).to_contain_text("Too many are asking at once")
    expect(answer.locator(".problem")).to_contain_text("The queue of pocket-8b is full.")
    waiting = answer.get_by_role("button", name="Retry in")
    assert waiting.is_disabled()
    chat.shot("trouble-429")
    chat.page.unroute(f"**{CHAT}")
    answer.get_by_role("button", name="Retry", exact=True).click()
    expect(words(chat.ended(chat.answers.first))).to_have_text(ANSWER)


@pytest.mark.parametrize(
    ("status", "error", "title"),
    [
        (401, {"message": "Invalid key."}, "An API key is needed"),
        (503, {"message": "pocket-8b is starting."}, "It does not answer at the moment"),
        (500, {}, "The server failed on this question"),
        (418, {}, "This did not work"),
    ],
)
def test_each_status_has_words_of_its_own(chat: Chat, status: int, error: dict[str, str], title: str) -> None:
    chat.refuse(CHAT, status, error)
    problem = chat.answer(QUESTION).locator(".problem")
    expect(problem.locator("strong")).to_have_text(title)
    expect(problem).to_contain_text(error.get("message", str(status)))
    expect(problem.get_by_role("button", name="Retry")).to_be_enabled()
    chat.shot(f"trouble-{status}")


def test_what_is_no_json_is_an_error_as_well(chat: Chat) -> None:
    chat.page.route(f"**{CHAT}", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    problem = chat.answer(QUESTION).locator(".problem")
    expect(problem).to_contain_text("The server answered with status 502.")


def test_a_conversation_that_is_too_long_can_go_on_without_its_beginning(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.answer("Hello! " + "llama " * 900)
    answer = chat.answer("Hello! " + "llama " * 900)
    expect(answer.locator(".problem strong")).to_have_text("The question was not accepted")
    expect(answer.locator(".problem")).to_contain_text("2048")
    chat.shot("trouble-too-long")


def test_a_lost_network_is_told_and_the_page_goes_on_afterwards(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.page.context.set_offline(True)
    answer = chat.answer(QUESTION)
    expect(answer.locator(".problem strong")).to_have_text("The connection was lost")
    expect(chat.page.locator("#trouble")).to_contain_text("The connection was lost")
    chat.shot("trouble-network")
    chat.page.context.set_offline(False)
    answer.get_by_role("button", name="Retry").click()
    expect(words(chat.ended(chat.answers.first))).to_have_text(ANSWER)


def streamed(*pieces: str) -> bytes:
    return "".join(f"data: {piece}\n\n" for piece in pieces).encode()


def told(text: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        ([json.dumps({"error": {"message": "The engine died.", "code": "engine_failed"}})], "The engine died."),
        ([], "The stream ended before the answer did."),
        (["{half"], "A piece of the answer could not be read."),
    ],
)
def test_a_stream_that_breaks_off_keeps_its_part(chat: Chat, last: list[str], shown: str) -> None:
    body = streamed(told("The time limit "), told("of willow"), *last)
    chat.page.route(f"**{CHAT}", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    answer = chat.answer(QUESTION)
    expect(words(answer)).to_have_text("The time limit of willow")
    expect(answer.locator(".problem")).to_contain_text("The answer broke off")
    expect(answer.locator(".problem")).to_contain_text(shown)


def test_a_key_that_is_asked_for_at_the_start_is_told_at_the_top(chat: Chat) -> None:
    chat.refuse("/v1/models", 401, {"message": "No key."})
    chat.page.reload()
    expect(chat.page.locator("#trouble")).to_contain_text("An API key is needed")
    chat.page.unroute("**/v1/models")
    chat.settings(key="right")
    expect(chat.page.locator("#trouble")).to_be_hidden()


BROKEN = {
    "forbidden": "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }});"
    "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('no'); }});",
    "full": "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };",
    "no JSON": "localStorage.setItem('corral.conversation', '{');localStorage.setItem('corral.settings', '[');",
    "another shape": "localStorage.setItem('corral.conversation', JSON.stringify({turns: [1, {}, null, {question: 'q',"
    "target: 'model:x', answer: {text: 'kept', status: 'done', steps: [{}], citations: [{}, 7], ranking: 5,"
    "figures: 3}}], target: 9, sessions: [4]}));",
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_broken_storage_does_not_break_the_page(open_chat: OpenChat, script: str) -> None:
    chat = open_chat()
    chat.page.add_init_script(script)
    chat.open()
    chat.watch.complaints.clear()  # a turn that cannot be shown is warned of
    chat.choose(f"model:{LARGE}")
    answer = chat.answer(QUESTION)
    assert words(answer).inner_text().startswith("The time limit of willow is")
    chat.settings(key="kept-while-it-is-open")
    with chat.page.expect_request("**/v1/models") as asked:
        chat.settings()
    assert asked.value.headers["authorization"] == "Bearer kept-while-it-is-open"


def test_what_is_kept_is_bounded(chat: Chat) -> None:
    turn: dict[str, Any] = {"question": "q" * 50_000, "target": "model:x", "answer": {"text": "a", "status": "done"}}
    kept = json.dumps({"turns": [turn] * 90, "target": f"model:{LARGE}", "answerer": "", "sessions": {}})
    chat.page.add_init_script(f"localStorage.setItem('corral.conversation', {json.dumps(kept)});")
    chat.open()
    expect(chat.answers).to_have_count(90)
    chat.choose(f"model:{LARGE}")  # which is kept
    assert 1_000_000 < chat.page.evaluate("localStorage.getItem('corral.conversation').length") < 1_600_000
