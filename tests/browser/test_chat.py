"""Asking a model: the answer as it comes, its figures, stopping, limits, and what a reload keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, sent, words
from tests.browser.conftest import OpenChat
from tests.browser.herd import ANSWER, LARGE, QUESTION, SMALL
from tests.serve.service import RunningService
from tests.waiting import until

pytestmark = pytest.mark.serve


def test_an_answer_streams_and_shows_how_fast_it_was(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    answer = chat.answer(QUESTION)
    assert words(answer).inner_text() == ANSWER
    figures = answer.locator(".figures").inner_text()
    assert "tokens/s" in figures
    assert "first token" in figures
    assert "≈" not in figures  # the server counted them
    expect(answer.get_by_role("heading")).to_have_text(LARGE)
    chat.shot("chat-answer")


def test_words_are_seen_before_the_answer_has_ended(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.page.route("**/v1/chat/completions", endless)
    answer = chat.ask(QUESTION)
    expect(words(answer)).to_contain_text(ANSWER)
    assert answer.get_attribute("aria-busy") == "true"
    chat.shot("chat-streaming")
    seen = len(words(answer).inner_text())
    chat.stop.click()
    chat.ended(answer)
    assert len(words(answer).inner_text()) >= seen


def test_the_select_groups_what_can_be_asked_and_shows_its_state(chat: Chat) -> None:
    groups = chat.page.locator("#target optgroup")
    assert [groups.nth(at).get_attribute("label") for at in range(2)] == ["Models", "Tribunals"]
    options = chat.page.locator("#target optgroup[label=Models] option")
    assert options.all_inner_texts() == [f"{SMALL} — ready", f"{LARGE} — ready"]
    chat.page.locator("#states summary").click()
    listed = chat.page.locator("#states li").all_inner_texts()
    assert [each.split("\n")[0] for each in listed][:2] == [SMALL, LARGE]
    assert all("ready" in each for each in listed[:2])
    chat.shot("chat-states")


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stopping_frees_the_engine_and_keeps_what_was_said(chat: Chat, service: RunningService, way: str) -> None:
    until(lambda: service.running(LARGE) == 0, what=f"an idle {LARGE}")
    chat.choose(f"model:{LARGE}")
    chat.page.route("**/v1/chat/completions", endless)
    answer = chat.ask(QUESTION)
    expect(words(answer)).to_contain_text(ANSWER)
    assert service.running(LARGE) == 1
    chat.page.keyboard.press("Escape") if way == "escape" else chat.stop.click()
    expect(answer).to_have_attribute("data-status", "stopped")
    expect(answer.locator(".note")).to_have_text("Stopped: this answer is not complete.")
    until(lambda: service.running(LARGE) == 0, what="a free engine")
    assert words(answer).inner_text().startswith(ANSWER)
    assert "≈" in answer.locator(".figures").inner_text()
    expect(answer.get_by_role("button", name="Retry")).to_be_visible()
    expect(chat.send).to_be_visible()
    chat.shot(f"chat-stopped-by-{way}")


def endless(route: Any) -> None:
    """The same request to the same server, for an answer that never ends by itself."""
    route.continue_(post_data=json.dumps({**sent(route.request), "ignore_eos": True, "max_tokens": 1900}))


def test_a_stopped_answer_can_be_tried_again(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.page.route("**/v1/chat/completions", endless)
    answer = chat.ask(QUESTION)
    expect(words(answer)).to_contain_text(ANSWER)
    chat.stop.click()
    chat.page.unroute("**/v1/chat/completions")
    answer.get_by_role("button", name="Retry").click()
    expect(chat.answers).to_have_count(1)
    expect(words(chat.ended(chat.answers.first))).to_have_text(ANSWER)
    assert chat.answers.first.get_attribute("data-status") == "done"


def test_what_is_cut_off_at_the_token_limit_says_so(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.settings(tokens="4", temperature="0")
    answer = chat.answer(QUESTION)
    expect(answer.locator(".note")).to_have_text("This answer was cut off at the token limit.")
    assert 0 < len(words(answer).inner_text()) < len(ANSWER)
    chat.shot("chat-cut-off")


def test_what_was_said_before_goes_with_the_next_question(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.answer(QUESTION)
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.answer("Thank you.")
    messages = sent(asked.value)["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert [each["content"] for each in messages] == [QUESTION, ANSWER, "Thank you."]


def test_shift_enter_begins_a_new_line_and_enter_sends(chat: Chat) -> None:
    chat.question.press_sequentially("Hello!")
    chat.question.press("Shift+Enter")
    chat.question.press_sequentially("What is Corral?")
    assert chat.question.input_value() == "Hello!\nWhat is Corral?"
    assert chat.answers.count() == 0
    chat.question.press("Enter")
    expect(chat.answers).to_have_count(1)
    assert chat.question.input_value() == ""
    chat.ended(chat.answers.first)


def test_an_empty_question_is_not_sent(chat: Chat) -> None:
    chat.question.fill(" \n ")
    chat.question.press("Enter")
    assert chat.answers.count() == 0


def test_an_answer_can_be_copied(open_chat: OpenChat) -> None:
    chat = open_chat(permissions=["clipboard-read", "clipboard-write"])
    chat.choose(f"model:{LARGE}")
    answer = chat.answer(QUESTION)
    answer.get_by_role("button", name="Copy").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()") == ANSWER


def test_a_reload_keeps_the_conversation_until_a_new_one_begins(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.answer("Hello! What is Corral?")
    chat.answer(QUESTION)
    before = chat.text
    chat.shot("reload-before")
    chat.open()
    assert chat.text == before
    assert chat.target.input_value() == f"model:{LARGE}"
    chat.shot("reload-after")
    chat.page.get_by_role("button", name="New conversation").click()
    expect(chat.answers).to_have_count(0)
    expect(chat.question).to_be_focused()
    chat.open()
    assert chat.answers.count() == 0


def test_a_reload_in_the_middle_keeps_the_part_and_marks_it(chat: Chat) -> None:
    chat.choose(f"model:{LARGE}")
    chat.page.route("**/v1/chat/completions", endless)
    expect(words(chat.ask(QUESTION))).to_contain_text(ANSWER)
    chat.open()
    answer = chat.answers.first
    assert answer.get_attribute("data-status") == "interrupted"
    expect(answer.locator(".note")).to_contain_text("not complete")
    expect(words(answer)).to_contain_text(ANSWER)
    expect(answer.get_by_role("button", name="Retry")).to_be_visible()


def test_a_key_is_sent_with_every_request_and_stays_in_its_tab(chat: Chat) -> None:
    chat.settings(key="secret-key")
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.answer("Hello!")
    assert asked.value.headers["authorization"] == "Bearer secret-key"
    assert "secret-key" not in chat.page.evaluate("JSON.stringify(localStorage)")
    other = chat.page.context.new_page()
    other.goto(chat.url)
    assert other.evaluate("sessionStorage.length") == 0
