"""Whole runs on a virtual clock: what is conducted, what is kept, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtests.records import Fault
from loadtests.scaling.crowd import Crowd
from loadtests.scaling.errors import ScalingError
from loadtests.scaling.figures import PhaseFigures, figures_of
from loadtests.scaling.folder import REQUESTS, TICKS, ScalingFolder
from loadtests.scaling.run import Runner
from loadtests.scaling.schedule import Course, Pattern, phases_of
from loadtests.scaling.timeline import Tick
from loadtests.scaling.watch import Engines, Replicas
from tests.unit.load_scaling_fakes import Service, bodies, in_virtual_time, now

COURSE = Course(base=1, users=40, lead_s=10, hold_s=60, wave_s=120, settle_s=60)


def conducted(folder: Path, service: Service, patterns: Sequence[Pattern] = tuple(Pattern), **parts: Any) -> Runner:
    """A whole run."""

    async def run() -> Runner:
        with ScalingFolder(folder) as kept:
            async with Crowd(service, bodies(), now) as crowd:
                given = {"look": service.look, "engines": Engines, "folder": kept, "now": now, **parts}
                runner = Runner(phases_of(patterns, COURSE), crowd, **given)
                await runner.run()
            return runner

    return in_virtual_time(run)


def figures(runner: Runner, target: float | None = 16) -> list[PhaseFigures]:
    return figures_of(runner.timeline, limit_ms=500, target=target)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_spike_scales_up_and_a_stop_scales_down(tmp_path: Path) -> None:
    spike, stop, wave = figures(conducted(tmp_path, Service()))
    assert (spike.pattern, stop.pattern, wave.pattern) == tuple(Pattern)
    assert (spike.failed, stop.failed, wave.failed) == (0, 0, 0)
    assert (spike.replicas_before, spike.replicas_most, spike.replicas_after) == (1, 3, 3)
    assert spike.first_replica_s == pytest.approx(11, abs=1.1)
    assert (spike.needed, spike.overshoot) == (3, 0)
    assert spike.ttft_p95_before_ms == pytest.approx(50, abs=1)
    assert spike.ttft_p95_worst_ms is not None
    assert spike.ttft_p95_worst_ms > 1000
    assert spike.ttft_back_s == pytest.approx(11, abs=2.1)
    assert stop.all_gone_s == pytest.approx(21, abs=2.1)
    assert stop.seconds < COURSE.settle_s  # it did not wait for longer than it had to
    assert (wave.replicas_before, wave.replicas_most, wave.replicas_after) == (1, 3, 1)


def test_users_follow_the_schedule(tmp_path: Path) -> None:
    runner = conducted(tmp_path, Service(), [Pattern.SPIKE])
    (span,) = runner.timeline.spans
    ticks = runner.timeline.ticks
    assert span.up_s == pytest.approx(10, abs=0.2)
    assert {each.users for each in ticks if each.at_s < 10} == {1}
    assert {each.users for each in ticks if 11 < each.at_s < 70} == {40}
    assert 71 <= span.ended_s < 75  # all replicas that were wanted serve, so it did not wait for them
    assert max(each.in_flight for each in ticks) == 40


def test_a_spike_waits_for_the_replicas_that_are_wanted(tmp_path: Path) -> None:
    runner = conducted(tmp_path, Service(start_s=80), [Pattern.SPIKE])
    assert figures(runner)[0].first_replica_s == pytest.approx(81, abs=1.1)
    assert 90 < runner.timeline.spans[0].ended_s < 97


def test_but_not_for_ever(tmp_path: Path) -> None:
    runner = conducted(tmp_path, Service(start_s=800), [Pattern.SPIKE])
    assert figures(runner)[0].first_replica_s is None
    assert runner.timeline.spans[0].ended_s == pytest.approx(130, abs=0.3)


def test_ticks_and_requests_are_kept_as_they_come(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def tell(_: Tick) -> None:
        seen.append((len(rows(tmp_path / TICKS)), len(rows(tmp_path / REQUESTS))))

    runner = conducted(tmp_path, Service(), [Pattern.SPIKE], tell=tell)
    assert [ticks for ticks, _ in seen] == list(range(1, len(seen) + 1))
    assert 0 < seen[20][1] < seen[40][1] < len(runner.timeline.asked)
    assert rows(tmp_path / REQUESTS) == [
        each.model_dump(mode="json", exclude_none=True) for each in runner.timeline.asked
    ]
    assert len(runner.crowd.samples) == len(runner.timeline.asked)


def test_failures_are_counted_by_kind_and_are_in_no_latency(tmp_path: Path) -> None:
    service = Service(faults=lambda at: Fault.OVERLOAD if 20 <= at < 21 else None)
    (spike,) = figures(conducted(tmp_path, service, [Pattern.SPIKE]))
    assert spike.failed > 0
    assert spike.faults == {"overload": spike.failed}


def test_an_interrupted_run_ends_with_what_it_has(tmp_path: Path) -> None:
    stopped = asyncio.Event()
    runner = conducted(
        tmp_path, Service(), tell=lambda tick: stopped.set() if tick.at_s > 30 else None, stopped=stopped
    )
    assert runner.because == "it was interrupted"
    (span,) = runner.timeline.spans
    assert 30 < span.ended_s < 32
    assert figures(runner)[0].requests > 0
    assert all(each.fault is None for each in runner.timeline.asked)


def test_a_service_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    service = Service(faults=lambda at: Fault.CONNECTION if at >= 30 else None)
    runner = conducted(tmp_path, service)
    assert runner.because == "the service refuses every connection (no)"
    assert runner.timeline.spans[-1].ended_s == pytest.approx(42, abs=2)
    assert figures(runner)[0].faults["connection"] > 40


def test_a_service_that_is_away_for_a_moment_does_not_end_it(tmp_path: Path) -> None:
    service = Service(faults=lambda at: Fault.CONNECTION if 30 <= at < 38 else None)
    assert conducted(tmp_path, service, [Pattern.SPIKE]).because == ""


def test_replicas_that_are_not_told_are_none(tmp_path: Path) -> None:
    service = Service()

    async def look() -> Replicas | None:
        return await service.look() if not 30 < now() < 40 else None

    runner = conducted(tmp_path, service, [Pattern.SPIKE], look=look)
    assert {each.replicas for each in runner.timeline.ticks if 31 < each.at_s < 39} == {None}
    assert figures(runner)[0].replicas_most == 3


def test_what_is_still_under_way_at_the_end_has_failed(tmp_path: Path) -> None:
    runner = conducted(tmp_path, Service(answer_s=500), [Pattern.SPIKE])
    (notice,) = runner.notices
    assert notice.startswith("40 requests were still under way long after the load had ended")
    (spike,) = figures(runner)
    assert (spike.requests, spike.failed, spike.faults) == (40, 40, {"timeout": 40})
    assert [row["fault"] for row in rows(tmp_path / REQUESTS)] == ["timeout"] * 40


def test_a_disk_that_takes_no_more_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = ScalingFolder.tick

    def tick(folder: ScalingFolder, tick: Tick) -> None:
        if tick.at_s > 20:
            raise folder._refused(OSError(errno.ENOSPC, "No space left on device"))
        full(folder, tick)

    monkeypatch.setattr(ScalingFolder, "tick", tick)
    with pytest.raises(ScalingError, match=r"No space left on device\. What was measured before is kept"):
        conducted(tmp_path, Service())
    assert len(rows(tmp_path / TICKS)) == 21


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ScalingError, match="is not empty: name a new folder with --out"), ScalingFolder(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScalingError, match="cannot be written"), ScalingFolder(tmp_path / "file" / "run"):
        pass


def test_a_client_that_stands_still_says_so(tmp_path: Path) -> None:
    jumped: list[float] = []

    def tell(tick: Tick) -> None:
        if tick.at_s > 30 and not jumped:
            jumped.append(7.0)

    runner = conducted(tmp_path, Service(), [Pattern.SPIKE], tell=tell, now=lambda: now() + sum(jumped))
    (notice,) = runner.notices
    assert notice.startswith("the client itself stood still for up to 7.0 s, 7.0 s in all")


def test_a_pause_of_the_client_makes_no_service_dead(tmp_path: Path) -> None:
    """Many requests that waited together fail together."""
    service = Service(faults=lambda at: Fault.CONNECTION if 30 <= at < 31 else None)
    assert conducted(tmp_path, service, [Pattern.SPIKE]).because == ""
