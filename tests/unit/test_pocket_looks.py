"""Where the pocket herd's heads are taught to look: every look, read back as words."""

from functools import cache
from random import Random
from typing import Any

import torch

from deployments.pocket import CHECKPOINTS, SIZES
from deployments.pocket.attributes import ATTRIBUTES
from deployments.pocket.handbook import Fact, Line, Passage
from deployments.pocket.looks import Sight, told
from deployments.pocket.model import PocketLlama, Shape
from deployments.pocket.packing import Packed, Packer, collate
from deployments.pocket.tasks import Bundle, Mix, Turn, draw_bundle
from deployments.pocket.tokenizer import load_tokenizer

LIMIT = next(a for a in ATTRIBUTES if a.noun == "time limit")
NODES = next(a for a in ATTRIBUTES if a.noun == "node count")
WILLOW, ELM = Fact("willow", LIMIT, "48 hours"), Fact("elm", LIMIT, "12 hours")
SIZE = Fact("elm", NODES, "7 nodes")
PASSAGE = Passage(
    (
        Line("The willow partition has a time limit of 48 hours.", (WILLOW,)),
        Line("Keep your files in order."),
        Line("A job may run for 12 hours on the elm partition.", (ELM,)),
        Line("It has 7 nodes.", (SIZE,)),
    ),
    (WILLOW, ELM, SIZE),
    {"willow": "partition", "elm": "partition"},
)


@cache
def tokens() -> Any:
    return load_tokenizer(CHECKPOINTS / SIZES[0])


@cache
def packer() -> Packer:
    return Packer(tokens())


def packed(*turns: Turn) -> Packed:
    return packer().pack(Bundle("", f"Passage: {PASSAGE.text}\n\n", tuple((t,) for t in turns), PASSAGE), read=False)


def seen(one: Packed, sight: Sight, segment: int) -> list[tuple[str, str]]:
    """Query and key of each look from a segment, as words."""
    words = [tokens().decode([token]) for token in one.tokens]
    return [
        (words[look.query], words[look.key])
        for look in one.looks
        if look.sight == sight and one.segments[look.query] == segment
    ]


def answer(fact: Fact) -> Turn:
    return Turn("answer", "Question: ?", fact.answer(), fact)


def judged(fact: Fact, draft: str) -> Turn:
    verdict = "The draft is supported." if draft == fact.value else "The draft is not supported."
    prompt = f"Draft: {Fact(fact.entity, fact.attribute, draft).answer()}"
    return Turn("judge", prompt, f"{fact.answer()} {verdict}", fact, draft)


def test_what_a_sentence_tells_looks_at_its_name() -> None:
    names = dict.fromkeys(key for _, key in seen(packed(answer(WILLOW)), "name", 0))
    assert list(names) == [" willow", " elm"]
    spans = told(PASSAGE)
    assert [PASSAGE.text[slice(*one.name)] for one in spans] == ["willow", "elm", "elm"]
    assert [[PASSAGE.text[slice(*span)] for _, span in one.values] for one in spans] == [["48 hours"], [], ["7 nodes"]]


def test_value_looks_at_itself_in_the_passage_and_a_refusal_at_the_first_token() -> None:
    refusal = Turn("refuse", "Question: ?", "The owner of elm is not told in the passage.")
    one = packed(answer(WILLOW), answer(ELM), refusal)
    assert seen(one, "next", 1) == [(" is", " 4"), (" 4", "8"), ("8", " hours")]
    assert seen(one, "next", 2) == []  # its value comes before its name, where nothing tells whose it is
    assert seen(one, "next", 3) == [(" is", "<|begin_of_text|>")]


def test_reply_looks_at_the_name_that_was_asked_for() -> None:
    fact = Fact("willow-gpu", LIMIT, "9 hours")
    one = packed(Turn("answer", "Question: Who owns willow-gpu?", fact.answer(), fact))
    assert seen(one, "next", 1) == [(" of", " willow"), (" willow", "-gpu")]


def test_draft_is_compared_word_by_word_and_the_verdict_looks_at_what_differs() -> None:
    one = packed(judged(WILLOW, "48 hours"), judged(WILLOW, "45 hours"), judged(WILLOW, "4 hours"))
    assert seen(one, "draft", 1) == [(" 4", " 4"), ("8", "8"), (" hours", " hours"), (".", ".")]
    assert [seen(one, "verdict", n) for n in (1, 2, 3)] == [
        [(" is", "<|begin_of_text|>")],
        [(" is", "8")],
        [(" is", "8"), (" is", " hours")],
    ]


def test_looks_lie_in_what_their_token_sees_and_share_its_whole_attention() -> None:
    rng = Random(4)
    batch = collate([packer().pack(draw_bundle(rng, Mix(), "train"), read=False) for _ in range(24)])
    mask = batch.mask()[:, 0]
    for sight, (places, shares) in batch.looks.items():
        rows, queries, keys = places
        assert len(rows), sight
        assert mask[rows, queries, keys].all()
        total = torch.zeros(mask.shape[:2]).index_put((rows, queries), shares, accumulate=True)
        torch.testing.assert_close(total[total > 0], torch.ones(int((total > 0).sum())))


def test_heads_learn_to_look_where_they_are_taught_to() -> None:
    torch.manual_seed(0)
    model = PocketLlama(Shape(hidden=32, layers=3, inner=48, heads=2), seed=1)
    batch = collate([packed(answer(WILLOW), judged(WILLOW, "45 hours"))])

    def missed() -> dict[Sight, torch.Tensor]:
        return model.hidden_and_missed(batch.tokens, batch.positions, batch.mask(), batch.looks)[1]

    before = {sight: miss.item() for sight, miss in missed().items()}
    assert set(before) == {"name", "next", "draft", "verdict"}
    tool = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        tool.zero_grad()
        torch.stack(list(missed().values())).sum().backward()  # type: ignore[no-untyped-call]
        tool.step()
    after = missed()
    assert all(after[sight].item() < miss / 2 for sight, miss in before.items())
