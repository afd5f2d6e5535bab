"""The pocket herd's text: split, seed, references, tokenizer, chat template."""

from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.pocket import CHECKPOINTS, NOT_TOLD, SIZES
from deployments.pocket.chat import paraphrases
from deployments.pocket.handbook import Split, Style, draw_passage, split_of
from deployments.pocket.names import ENTITIES, UNSEEN
from deployments.pocket.packing import Packer, header, opening
from deployments.pocket.tasks import Bundle, Mix, draw_bundle
from deployments.pocket.tokenizer import load_tokenizer


@cache
def tokens() -> Any:
    return load_tokenizer(CHECKPOINTS / SIZES[0])


def bundles(split: Split, count: int = 300) -> list[Bundle]:
    rng = Random(f"test-{split}")
    return [draw_bundle(rng, Mix(), split) for _ in range(count)]


def test_train_and_held_out_passages_share_no_pairing() -> None:
    for split in ("train", "held_out"):
        rng = Random(1)
        for _ in range(300):
            facts = draw_passage(rng, 4, split, Style()).facts
            assert {split_of(f.entity, f.value) for f in facts} == {split}


def test_train_and_held_out_paraphrases_are_disjoint() -> None:
    train, held = ({prompt for prompt, _ in paraphrases(s)} for s in ("train", "held_out"))
    assert train
    assert held
    assert not train & held


def test_unseen_names_are_in_no_training_text() -> None:
    assert not set(UNSEEN) & set(ENTITIES)


def test_same_seed_same_text() -> None:
    assert bundles("train") == bundles("train")


def test_every_answer_occurs_in_its_passage() -> None:
    rng = Random(2)
    for _ in range(300):
        passage = draw_passage(rng, rng.randint(1, 6), "held_out", Style())
        assert all(fact.value in passage.text and fact.entity in passage.text for fact in passage.facts)


def test_answers_name_the_value_and_refusals_say_so() -> None:
    for bundle in bundles("held_out"):
        for turn in (turn for branch in bundle.branches for turn in branch):
            assert (NOT_TOLD in turn.reference) == (turn.task == "refuse") or turn.task == "judge"
            if turn.task == "answer":
                value = turn.reference.split(" is ", 1)[1].removesuffix(".")
                assert value in bundle.head or value in turn.prompt


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_tokenizer_round_trips(text: str) -> None:
    ids = tokens().encode(text, add_special_tokens=False)
    assert tokens().decode(ids, skip_special_tokens=False) == text


def test_packed_branches_are_exactly_the_chat_templates_tokens() -> None:
    """What training sees, branch by branch, is what the template renders."""
    packer = Packer(tokens())
    for bundle in bundles("train", 60):
        packed = packer.pack(bundle, read=False)
        trunk = [t for t, s in zip(packed.tokens, packed.segments, strict=True) if s == 0]
        for number in range(len(bundle.branches)):
            own = [t for t, s in zip(packed.tokens, packed.segments, strict=True) if s == number + 1]
            messages = bundle.messages(number)
            text = tokens().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            said = f"{text}{bundle.branches[number][-1].reference}<|eot_id|>"
            assert trunk + own == tokens().encode(said, add_special_tokens=False)


def test_positions_go_on_from_the_trunk() -> None:
    bundle = next(b for b in bundles("train") if b.head and len(b.branches) > 2)
    packed = Packer(tokens()).pack(bundle, read=False)
    rows = list(zip(packed.segments, packed.positions, strict=True))
    trunk = packed.segments.count(0)
    for number in range(len(bundle.branches) + 1):
        own = [position for segment, position in rows if segment == number]
        start = trunk if number else 0
        assert own == list(range(start, start + len(own)))


@pytest.mark.parametrize("size", SIZES)
def test_template_renders_llama_3s_format(size: str) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Answer from the passage."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": " Bye "},
    ]
    text = load_tokenizer(CHECKPOINTS / size).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\nAnswer from the passage.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_template_renders_tools_and_their_results() -> None:
    tool = {
        "type": "function",
        "function": {"name": "limit", "description": "A limit.", "parameters": {"type": "object", "properties": {}}},
    }
    call = {"id": "1", "type": "function", "function": {"name": "limit", "arguments": {"partition": "willow"}}}
    messages = [
        {"role": "user", "content": "How long?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "48 hours"},
        {"role": "assistant", "content": "It is 48 hours."},
    ]
    text = tokens().apply_chat_template(messages, tools=[tool], tokenize=False, add_generation_prompt=True)
    assert text.startswith(
        f"<|begin_of_text|>{header('system')}Environment: ipython\n\n<|eot_id|>{header('user')}Given"
    )
    assert '"name": "limit"' in text
    assert f'{header("assistant")}{{"name": "limit", "parameters": {{"partition": "willow"}}}}<|eot_id|>' in text
    assert f"{header('ipython')}48 hours<|eot_id|>" in text
    assert text.endswith(header("assistant"))


def test_opening_is_the_templates_beginning() -> None:
    bundle = next(b for b in bundles("train") if b.system and b.head)
    text = tokens().apply_chat_template(bundle.messages(0), tokenize=False)
    assert text.startswith(opening(bundle))
