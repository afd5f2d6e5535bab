"""What is missing or doubtful about a measurement, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from loadtests.client.pace import GIVE_UP
from loadtests.client.prompts import RandomWorkload, Workload
from loadtests.records import EngineFigures, Kind, Plan, Point, Sample

OFF = 0.1
"""Token counts may be so far from what was asked."""
BUSY = 0.85
"""Of one core: a client that takes more may itself be what is slow."""
CACHED = 0.05
"""So much of random prompts may be in a prefix cache, chat template apart."""
ONE_MODEL = (Kind.CHAT, Kind.SINGLE, Kind.BULK)


def on_warm_up(samples: Sequence[Sample], asked: int) -> list[str]:
    said = []
    if faults := Counter(str(each.fault) for each in samples if each.fault):
        what = ", ".join(f"{number} {fault}" for fault, number in faults.most_common())
        said.append(f"{faults.total()} of {len(samples)} warm-up requests failed ({what})")
    if len(samples) < asked:
        said.append(f"{asked - len(samples)} of {asked} warm-up requests were not sent in time")
    return said


def on_silence() -> list[str]:
    return ["no request of the warm-up was answered, so nothing was measured: these are the warm-up's own figures"]


def on_end(cut: int, silent: int, waited_s: float) -> list[str]:
    """`silent`: of those that were cut off, how many had no text yet."""
    if not cut:
        return []
    return [
        f"{cut} requests were still under way {waited_s:.1f} s after the begin, when the longest time of a measurement "
        f"was over, {silent} of them without any text yet; they were cut off and count as failed (timeout)"
    ]


def on_unsent(gave_up: bool, unsent: int) -> list[str]:
    if gave_up:
        return [f"the first {GIVE_UP} requests all failed to connect, so no more were sent"]
    return [f"{unsent} arrivals were not sent: the client itself fell too far behind"] if unsent else []


def on_answers(samples: Sequence[Sample], kind: Kind, inputs: int | None, outputs: int | None) -> list[str]:
    """`inputs`, `outputs`: tokens that every prompt and every answer should have had; None: they differ."""
    if kind not in ONE_MODEL:
        return []
    good, said = [each for each in samples if each.ok], []
    told = mean(each.output_tokens for each in good)
    if outputs and told is not None and told < (1 - OFF) * outputs:
        said.append(f"answers had {told:.0f} tokens on average where {outputs} were asked: they ended earlier")
    told = mean(each.input_tokens for each in good)
    if inputs and told is not None and abs(told / inputs - 1) > OFF:
        said.append(f"prompts had {told:.0f} tokens on average where {inputs} were asked")
    return said


def on_cache(engine: EngineFigures | None, workload: Workload, requests: int) -> list[str]:
    """Prompts that were asked before, as by an earlier run. What the chat template adds is in the cache anyway."""
    if (
        engine is None
        or not engine.prefix_queries
        or not engine.prefix_hits
        or not isinstance(workload, RandomWorkload)
    ):
        return []
    share = (engine.prefix_hits - requests * workload.template_tokens) / engine.prefix_queries
    if share <= CACHED:
        return []
    return [
        f"the engine had {share:.0%} of the prompts' tokens in its prefix cache, though no two prompts begin alike: "
        "the same were asked before, as by an earlier run; another --seed or an engine that has just started helps"
    ]


def on_number(samples: Sequence[Sample], point: Point, plan: Plan) -> list[str]:
    if point.rate is None or len(samples) >= plan.min_requests:
        return []
    return [f"only {len(samples)} requests arrived at {point.load} in {plan.max_seconds:g} s"]


def on_client(busy_s: float, wall_s: float) -> list[str]:
    """`busy_s`: processor time of this process."""
    if wall_s < 1 or busy_s < BUSY * wall_s:
        return []
    return [f"the client itself took {busy_s / wall_s:.0%} of a core: what it shows may be its own slowness"]


def mean(values: Iterable[int | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None
