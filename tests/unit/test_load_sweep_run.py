"""Runs of a synthetic endpoint with a queueing law on a virtual clock: order, stop rule, resuming, early ends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.records import Driven, Fault, Limits, Measurement, Plan, Point, Run, Sample, Side
from loadtests.sweep.aggregate import aggregates, saturations
from loadtests.sweep.errors import BenchError, PlanError
from loadtests.sweep.folder import HEAD, LINES, RunFolder, read_run
from loadtests.sweep.plan import points_of
from loadtests.sweep.run import ASK_AGAIN_S, run_plan
from loadtests.sweep.side_by_side import ratios
from tests.unit.load_sweep_fakes import MACHINE, Queue, plan, point

UP = tuple(point(users) for users in (1, 2, 4, 8, 16, 32, 64, 128))


class Recorder:
    """A board that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, plan: Plan, done: Sequence[Measurement]) -> None:
        self.told.append(f"begin, {len(done)} done")

    def measuring(self, point: Point, side: str, repeat: int) -> None:
        self.told.append(f"{side} {point.load} {repeat}")

    def measured(self, measurement: Measurement) -> None:
        self.told.append("measured")

    def stopped(self, notice: str) -> None:
        self.told.append(notice)

    def end(self, run: Run) -> None:
        self.told.append(f"end, {run.record.ended_because or 'whole'}")


class Bench:
    """Runs plans into one folder without a wait, a terminal or a look at this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = Recorder()
        self.slept: list[float] = []

    async def __call__(self, plan: Plan, drive: Queue, resume: bool = False) -> Run:
        self.board = Recorder()
        return await run_plan(
            plan, self.folder, drive=drive, board=self.board, resume=resume, machine=MACHINE, sleep=self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run")


def loads(run: Run, side: str = "corral") -> list[int | None]:
    return list(dict.fromkeys(each.point.concurrency for each in run.measurements if each.side == side))


async def test_sides_are_measured_in_turn_repeat_by_repeat(bench: Bench) -> None:
    queue = Queue()
    run = await bench(plan(point(1), point(4), sides=("a", "b"), repeats=2), queue)
    assert queue.calls == [(side, users, repeat) for users in (1, 4) for repeat in (0, 1) for side in ("a", "b")]
    assert [(each.side, each.point.concurrency, each.repeat) for each in run.measurements] == queue.calls
    assert bench.board.told[:4] == ["begin, 0 done", "a 1 user 0", "measured", "b 1 user 0"]
    assert bench.board.told[-1] == "end, whole"


async def test_what_is_returned_lies_in_the_folder(bench: Bench) -> None:
    asked = plan(point(1), point(4))
    run = await bench(asked, Queue())
    assert read_run(bench.folder) == run
    assert run.record.plan == asked
    assert run.record.ended_at is not None
    assert run.record.machine == MACHINE
    assert run.measurements[0].figures.output_tokens_per_s_per_gpu is not None


async def test_a_measurement_is_on_the_disk_before_the_next_begins(bench: Bench) -> None:
    lines: list[int] = []

    class Looking(Queue):
        async def __call__(
            self, point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None
        ) -> Driven:
            lines.append(len(read_run(bench.folder).measurements))
            return await super().__call__(point, plan, side, repeat, key=key)

    await bench(plan(point(1), repeats=3), Looking())
    assert lines == [0, 1, 2]


async def test_a_sweep_stops_where_more_users_only_wait(bench: Bench) -> None:
    run = await bench(plan(*UP), Queue(slots=16, knee=8))
    # beyond its 16 slots users wait for their first token
    assert loads(run) == [1, 2, 4, 8, 16, 32, 64]
    (told,) = run.record.notices
    assert told == (
        "m, chat, 8:10 tokens, users: not measured from 128 users on, as throughput no longer grew at 32 users and "
        "64 users, and answers only got slower"
    )
    assert bench.board.told.count(told) == 1
    (saturation,) = saturations(run)
    assert saturation.concurrency == 16
    rates = {each.point.concurrency: each.figures["output_tokens_per_s"].value for each in aggregates(run)}
    # ten tokens after 50 ms and nine gaps of 20 ms, for each of 16 users
    assert rates[16] == pytest.approx(16 * 10 / 0.23, rel=0.02)


async def test_a_plan_may_go_to_its_end(bench: Bench) -> None:
    run = await bench(plan(*UP).model_copy(update={"stop": "never"}), Queue())
    assert loads(run) == [each.concurrency for each in UP]
    assert run.record.notices == ()


async def test_growing_throughput_is_not_stopped_by_slow_answers(bench: Bench) -> None:
    run = await bench(plan(*UP), Queue(slots=1000, knee=1000))
    assert loads(run) == [each.concurrency for each in UP]


async def test_a_falling_goodput_stops_a_series_too(bench: Bench) -> None:
    limits = Limits(itl_ms=25)
    run = await bench(plan(*UP, limits=limits), Queue(slots=1000, knee=8, ttft_s=0.0))
    # no wait for the first token ever; at 32 users gaps are 40 ms
    assert loads(run) == [1, 2, 4, 8, 16, 32, 64]
    (saturation,) = saturations(run)
    assert saturation.holds == 16
    assert saturation.sentence.startswith("holds 16 concurrent users under 25 ms ITL p95; throughput saturates at 8 ")


async def test_the_first_side_decides_and_the_other_is_measured_as_far(bench: Bench) -> None:
    queue = Queue(slots=16, knee=8, slower={"b": 3})
    run = await bench(plan(*UP, sides=("a", "b")), queue)
    assert loads(run, "a") == loads(run, "b") == [1, 2, 4, 8, 16, 32, 64]
    found = [each for each in ratios(run, "a", "b") if each.figure == "output_tokens_per_s"]
    assert len(found) == 7
    for each in found:
        assert each.ratio.low is not None
        assert each.ratio.high is not None
        assert each.ratio.low < 3 < each.ratio.high


async def test_where_over_half_fails_it_goes_no_higher(bench: Bench) -> None:
    run = await bench(plan(*UP), Queue(fails_above=4))
    assert loads(run) == [1, 2, 4, 8]
    assert run.record.notices[0].endswith("not measured from 16 users on, as 48 of 72 requests failed at 8 users")
    assert run.measurements[-1].figures.faults == {"overload": 16}


async def test_every_series_stops_by_itself(bench: Bench) -> None:
    queue = Queue(fails_above=1)
    run = await bench(plan(*points_of(["a", "b"], (1, 2, 4)), repeats=1), queue)
    assert [call[1] for call in queue.calls] == [1, 2, 1, 2]
    assert [notice.partition(",")[0] for notice in run.record.notices] == ["a", "b"]


async def test_without_token_counts_a_sweep_goes_by_requests(bench: Bench) -> None:
    run = await bench(plan(*UP), Queue(slots=16, knee=8, counts=False))
    assert loads(run) == [1, 2, 4, 8, 16, 32, 64]
    assert "output_tokens_per_s" not in aggregates(run)[0].figures


async def test_a_dead_endpoint_is_asked_again_and_ends_the_run_with_what_there_is(bench: Bench) -> None:
    queue = Queue(dead={"corral"}, dies_at=4)
    run = await bench(plan(point(1), point(2), point(4), repeats=2), queue)
    assert len(run.measurements) == 4
    # as one user, and with prompts of no other repeat
    assert queue.calls[4:] == [("corral", 4, 0), ("corral", 1, 2)]
    assert bench.slept == [ASK_AGAIN_S]
    assert run.record.ended_because == (
        "'corral' at http://corral.example does not answer: all 4 requests failed (4 connection) at 4 users (m, chat, "
        "8:10 tokens, users), and so did one 5 s later (refused); that measurement is not kept, and is made when the "
        "run goes on"
    )
    assert bench.board.told[-2:] == [run.record.ended_because, f"end, {run.record.ended_because}"]
    assert read_run(bench.folder) == run


async def test_nobody_at_the_address_ends_a_real_run(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        asked = plan(repeats=1).model_copy(update={"sides": (Side(name="corral", url=address),)})
        # bound and not listening: every connection is refused
        run = await run_plan(asked, bench.folder, board=Recorder(), sleep=bench.sleep)
    assert run.measurements == ()
    assert run.record.machine.same_machine
    assert run.record.ended_because.startswith(f"'corral' at {address} does not answer: all ")


async def test_an_endpoint_that_is_back_is_measured_and_that_is_said(bench: Bench) -> None:
    run = await bench(plan(point(2), repeats=2), Queue(refuses={("corral", 2, 1)}))
    assert bench.slept == [ASK_AGAIN_S]
    assert [each.figures.failed for each in run.measurements] == [0, 0]
    assert run.measurements[1].notices == ("before, all 2 requests failed (2 connection); these are from 5 s later",)


async def test_an_endpoint_that_only_times_out_under_load_is_not_called_dead(bench: Bench) -> None:
    class Slow(Queue):
        """Whole answers, each of which takes too long where many ask."""

        async def __call__(
            self, point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None
        ) -> Driven:
            driven = await super().__call__(point, plan, side, repeat, key=key)
            if (point.concurrency or 0) < 2:
                return driven
            return replace(driven, samples=(Sample(0, 0, 9, fault=Fault.TIMEOUT),) * 4)

    queue = Slow()
    run = await bench(plan(point(1), point(2), point(4), repeats=1), queue)
    assert loads(run) == [1, 2]
    assert run.record.ended_because == ""
    assert run.measurements[1].figures.faults == {"timeout": 4}
    assert queue.calls == [("corral", 1, 0), ("corral", 2, 0), ("corral", 1, 1), ("corral", 2, 0), ("corral", 1, 1)]


async def test_a_silent_endpoint_is_dead_too(bench: Bench) -> None:
    asked: list[tuple[int | None, int, int]] = []

    async def silent(point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None) -> Driven:
        asked.append((point.concurrency, plan.warmup_requests, plan.min_requests))
        return Driven((Sample(0, 0, 9, fault=Fault.TIMEOUT, detail="cut off"),) * 4, 9.0, "")

    run = await run_plan(plan(point(4)), bench.folder, drive=silent, board=Recorder(), sleep=bench.sleep)
    assert asked == [(4, 2, 8), (1, 0, 1)]
    assert run.measurements == ()
    assert "all 4 requests failed (4 timeout) at 4 users" in run.record.ended_because


@pytest.mark.parametrize(("alive_again", "measured"), [(False, 1), (True, 3)])
async def test_an_endpoint_that_dies_in_a_measurement_is_asked_again(
    bench: Bench, alive_again: bool, measured: int
) -> None:
    class Dying(Queue):
        """Half of its second measurement is answered."""

        async def __call__(
            self, point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None
        ) -> Driven:
            if len(self.calls) > 1 and not alive_again:
                self.dead, self.dies_at = {"corral"}, 0
            driven = await super().__call__(point, plan, side, repeat, key=key)
            if len(self.calls) != 2:
                return driven
            gone = Sample(driven.seconds, driven.seconds, driven.seconds + 1, fault=Fault.CONNECTION, detail="refused")
            return replace(driven, samples=(*driven.samples[:4], *[gone] * 4))

    asked = plan(point(1), repeats=3)
    run = await bench(asked, Dying())
    assert [each.repeat for each in run.measurements] == list(range(measured))
    assert bench.slept == [ASK_AGAIN_S]
    if alive_again:
        assert run.measurements[1].figures.failed == 4
        assert run.record.ended_because == ""
        return
    assert "does not answer: 4 of 8 requests failed (4 connection) at 1 user" in run.record.ended_because
    resumed = await bench(asked, Queue(), resume=True)
    assert [(each.repeat, each.figures.failed) for each in resumed.measurements] == [(0, 0), (1, 0), (2, 0)]


async def test_the_death_of_one_side_ends_the_pair(bench: Bench) -> None:
    run = await bench(plan(point(1), point(2), sides=("a", "b"), repeats=1), Queue(dead={"b"}, dies_at=2))
    assert [(each.side, each.point.concurrency) for each in run.measurements] == [("a", 1), ("b", 1), ("a", 2)]
    assert run.record.ended_because.startswith("'b' at http://b.example does not answer")


async def test_a_run_goes_on_where_it_ended(bench: Bench) -> None:
    asked = plan(point(1), point(2), sides=("a", "b"), repeats=2)
    await bench(asked, Queue(dead={"b"}, dies_at=3))
    queue = Queue()
    run = await bench(asked, queue, resume=True)
    # the third was measured; the fourth of the first point is next
    assert queue.calls[0] == ("b", 1, 1)
    assert bench.board.told[0] == "begin, 3 done"
    assert len({(each.side, each.point, each.repeat) for each in run.measurements}) == 8 == len(run.measurements)
    assert (run.record.ended_because, run.record.ended_at is None) == ("", False)
    assert read_run(bench.folder) == run


async def test_a_whole_run_that_is_resumed_measures_nothing(bench: Bench) -> None:
    asked = plan(*UP)
    first = await bench(asked, Queue())
    queue = Queue()
    again = await bench(asked, queue, resume=True)
    assert queue.calls == []
    assert again.measurements == first.measurements
    assert again.record.notices == first.record.notices


async def test_resuming_an_empty_folder_begins(bench: Bench) -> None:
    assert len((await bench(plan(), Queue(), resume=True)).measurements) == 3


async def test_going_on_elsewhere_is_said(bench: Bench) -> None:
    asked = plan(point(1))
    await bench(asked, Queue(dead={"corral"}, dies_at=1))
    other = MACHINE.model_copy(update={"cpu": "Slide rule"})
    run = await run_plan(asked, bench.folder, drive=Queue(), board=Recorder(), resume=True, machine=other)
    assert run.record.machine == MACHINE
    assert "on another machine or other versions: Slide rule" in run.record.notices[0]


async def test_a_run_is_neither_overwritten_nor_mixed_with_another(bench: Bench) -> None:
    run = await bench(plan(), Queue())
    with pytest.raises(BenchError, match="holds a run already: resume it"):
        await bench(plan(), Queue())
    with pytest.raises(BenchError, match=r"another plan \(repeats: 3 there, 4 asked for\)"):
        await bench(plan(repeats=4), Queue(), resume=True)
    assert read_run(bench.folder) == run


async def test_a_folder_that_is_measured_into_is_refused(bench: Bench) -> None:
    asked = plan()
    await bench(asked, Queue())
    with RunFolder(bench.folder) as other:
        other.resume(asked)
        with pytest.raises(BenchError, match="another process measures into"):
            await bench(asked, Queue(), resume=True)


async def test_a_plan_that_cannot_be_measured_makes_no_folder(bench: Bench) -> None:
    with pytest.raises(PlanError, match="points: 'm, chat, 1 user, 8:10 tokens' is there 2 times"):
        await bench(plan(point(), point()), Queue())
    assert not bench.folder.exists()


async def test_an_interrupted_run_says_so_and_is_gone_on_with(bench: Bench) -> None:
    asked = plan(point(1), point(2), repeats=2)
    queue = Queue(hold=asyncio.Event())
    task = asyncio.create_task(bench(asked, queue))
    while len(queue.calls) < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.board.told[-1] == "end, interrupted"
    kept = read_run(bench.folder)
    assert (kept.record.ended_because, len(kept.measurements)) == ("interrupted", 2)
    assert len((await bench(asked, Queue(), resume=True)).measurements) == 4


async def test_a_fault_of_the_bench_itself_is_written_down_and_raised(bench: Bench) -> None:
    class Broken(Queue):
        async def __call__(
            self, point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None
        ) -> Driven:
            raise RuntimeError("no such workload")

    with pytest.raises(RuntimeError):
        await bench(plan(), Broken())
    assert read_run(bench.folder).record.ended_because == "RuntimeError: no such workload"


async def test_a_full_disk_ends_the_run_with_the_folders_name(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / LINES).symlink_to("/dev/full")
    with pytest.raises(BenchError, match=f"{bench.folder} cannot be written: No space left on device"):
        await bench(plan(), Queue())
    assert "No space left" in json.loads((bench.folder / HEAD).read_text())["ended_because"]
    assert bench.board.told[-1].startswith(f"end, {bench.folder} cannot be written")


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, [None, None]), ("k", ["k", "k"]), ({"a": "k"}, ["k", None])],
)
async def test_each_side_gets_its_own_key(tmp_path: Path, key: str | dict[str, str] | None, expected: object) -> None:
    keys: list[str | None] = []
    queue = Queue()

    async def drive(point: Point, plan: Plan, side: Side, repeat: int, *, key: str | None = None) -> Driven:
        keys.append(key)
        return await queue(point, plan, side, repeat)

    asked = plan(sides=("a", "b"), repeats=1)
    run = await run_plan(asked, tmp_path, drive=drive, board=Recorder(), key=key, configuration={"profile": "pocket"})
    assert keys == expected
    assert run.record.configuration == {"profile": "pocket"}
    # this machine was looked at, and no key is kept
    assert run.record.machine.cores >= 1
    assert "'k'" not in str(run.record.model_dump())
