"""The paper's figures beside ours. Of the paper we know its abstract's claims alone, and quote no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from loadtests.records import Aggregate, Interval, Kind, Record, Saturation
from loadtests.report import words
from loadtests.report.document import Cell, Column, Row, Section, Table

NAME = "arXiv 2508.17814"
UNKNOWN = (
    f"Of {NAME} only its abstract's claims are known to us. Its GPU types, its token limits and its load tool are not, "
    "nor is what its latency is the latency of. The table says what it says and what we measured, and no more: the two "
    "are not the same experiment."
)
READINGS = (
    "Latency: 50 ms would be 50 tokens at 1 ms each, hardly a whole answer of several sentences, so it may be the time "
    "for a token, or that of a very short answer. Both readings stand in the table.",
    "Load: ours are users that each ask again at once; how the paper's requests arrived, and with which tool, is not "
    "known to us.",
    "Statistic: ours are 95th percentiles; which the paper's are is not known to us.",
)
NO_FIGURE = "Not measured here, or not answered: see every point."
NOTHING = "No model of this run has 1B, 3B, 8B or 70B in its name and a load in users: nothing stands beside the paper."
SMALL_USERS, LARGE_USERS = 128, 2


class Claim(Record):
    """What the paper says of one size."""

    size: str
    users: int
    latency_ms: float
    bound: Literal["below", "above"]
    sentence: str


_SMALL = Claim(size="1b", users=SMALL_USERS, latency_ms=50, bound="below", sentence="128 at once below 50 ms")
_LARGE = Claim(size="8b", users=LARGE_USERS, latency_ms=2000, bound="above", sentence="saturates at 2, more than 2 s")
CLAIMS = {
    "1b": _SMALL,
    "3b": _SMALL.model_copy(update={"size": "3b"}),
    "8b": _LARGE,
    "70b": _LARGE.model_copy(update={"size": "70b"}),
}


class Claimed(Record):
    """One model of ours at a load of which the paper speaks; milliseconds, None where it was not measured."""

    claim: Claim
    side: str
    model: str
    input_tokens: int
    output_tokens: int
    own_lengths: bool = False
    users: int
    requests: int = 0
    failed: int = 0
    itl_p95: Interval | None = None
    ttft_p95: Interval | None = None
    e2e_p95: Interval | None = None
    saturation: str
    """Where ours saturates and what it holds, in words."""

    @property
    def per_token(self) -> str:
        """The paper's latency read as the time between two tokens."""
        return _beside(self.itl_p95, self.claim.latency_ms)

    @property
    def whole_answer(self) -> str:
        """The paper's latency read as the time of a whole answer."""
        return _beside(self.e2e_p95, self.claim.latency_ms)


def beside_the_paper(aggregates: Sequence[Aggregate], saturations: Sequence[Saturation]) -> tuple[Claimed, ...]:
    """Ours at 2 and at 128 users, measured or not, where a model's name tells a size of the paper's."""
    ours = [each for each in saturations if each.kind is Kind.CHAT and words.size_of(each.model) in CLAIMS]
    return tuple(
        _claimed(each, users, _measured(each, users, aggregates))
        for size in CLAIMS
        for each in ours
        for users in (LARGE_USERS, SMALL_USERS)
        if words.size_of(each.model) == size
    )


def _measured(ours: Saturation, users: int, aggregates: Sequence[Aggregate]) -> Aggregate | None:
    def same(each: Aggregate) -> bool:
        at = each.point
        key = (each.side, at.model, at.kind, at.input_tokens, at.output_tokens, at.concurrency)
        return key == (ours.side, ours.model, ours.kind, ours.input_tokens, ours.output_tokens, users)

    return next((each for each in aggregates if same(each)), None)


def _claimed(ours: Saturation, users: int, found: Aggregate | None) -> Claimed:
    figures = found.figures if found else {}
    return Claimed(
        claim=CLAIMS[words.size_of(ours.model)],
        side=ours.side,
        model=ours.model,
        input_tokens=ours.input_tokens,
        output_tokens=ours.output_tokens,
        own_lengths=ours.own_lengths,
        users=users,
        requests=found.requests if found else 0,
        failed=found.failed if found else 0,
        itl_p95=figures.get("itl_p95"),
        ttft_p95=figures.get("ttft_p95"),
        e2e_p95=figures.get("e2e_p95"),
        saturation=saturation_words(ours),
    )


def saturation_words(ours: Saturation) -> str:
    """Its own sentence, or its figures where it has none."""
    if ours.sentence:
        return ours.sentence
    return f"saturates at {words.counted(ours.concurrency, 'user')}" if ours.concurrency else "does not saturate"


def _beside(interval: Interval | None, bound_ms: float) -> str:
    if interval is None:
        return words.MISSING
    bound = f"{bound_ms:g} ms" if bound_ms < 1000 else f"{bound_ms / 1000:g} s"
    return f"{words.time(interval.value)}: {'below' if interval.value < bound_ms else 'above'} {bound}"


def section(claimed: Sequence[Claimed], differences: Sequence[str], *, sides: bool) -> Section:
    """The table, and the differences in set-up, of which `differences` are this run's. `sides`: there are several."""
    if not claimed:
        return Section("Beside the paper", "paper", (UNKNOWN, NOTHING))
    figures = (Column(each, "Ours, 95th percentile") for each in ("ITL", "TTFT", "End to end"))
    readings = (
        Column(each, "Ours, if the paper's latency is", text=True) for each in ("of a token", "of a whole answer")
    )
    heads = (Column("The paper", text=True), *figures, *readings, Column("Ours failed"))
    table = Table(f"{NAME} beside ours", "Users", heads, tuple(_row(each, sides) for each in claimed))
    missing = any(cell.notes for row in table.rows for cell in row.cells)
    return Section(
        title="Beside the paper",
        anchor="paper",
        texts=(UNKNOWN,),
        points=(*differences, *READINGS),
        tables=(table,),
        notes=(NO_FIGURE,) if missing else (),
    )


def _row(each: Claimed, sides: bool) -> Row:
    said = each.claim.sentence if each.users == each.claim.users else "not said"
    failed = f"{each.failed:,} of {each.requests:,}" if each.requests else "not measured"
    texts = (said, *_times(each), each.per_token, each.whole_answer, failed)
    of = f"{each.claim.size.upper()}: {each.model}" + (f" by {each.side}" if sides else "")
    group = f"{of}, {words.lengths(each)}: {each.saturation}"
    return Row(f"{each.users}", tuple(Cell(text, (1,) if text == words.MISSING else ()) for text in texts), group)


def _times(each: Claimed) -> Iterator[str]:
    for one in (each.itl_p95, each.ttft_p95, each.e2e_p95):
        yield words.MISSING if one is None else words.time(one.value)
