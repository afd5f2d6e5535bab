"""From an address to a folder with figures: looks at the service, lets the load run, writes what it comes to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loadtests.client.ask import ChatAsker
from loadtests.client.clock import Clock, ClockWatch, Stopwatch
from loadtests.client.endpoint import calibrate, look, require
from loadtests.client.exchange import hiding, open_session
from loadtests.client.prompts import WORDS_PER_TOKEN, workload_of
from loadtests.records import Calibration, Point, Side
from loadtests.scaling.crowd import Crowd
from loadtests.scaling.errors import ScalingError
from loadtests.scaling.figures import PhaseFigures, aim_of, figures_of
from loadtests.scaling.folder import ScalingFolder
from loadtests.scaling.plot import drawn
from loadtests.scaling.report import markdown
from loadtests.scaling.run import Runner
from loadtests.scaling.schedule import Course, Pattern, phases_of
from loadtests.scaling.timeline import Head, Tick
from loadtests.scaling.watch import Watch
from loadtests.sweep.machine import on_this_machine, this_machine

CLOCK = Clock()


@dataclass(frozen=True)
class Asking:
    """What is measured, and what is asked."""

    url: str
    model: str
    patterns: tuple[Pattern, ...]
    course: Course = field(default_factory=Course)
    input_tokens: int = 64
    output_tokens: int = 64
    think_s: float = 0.0
    timeout_s: float = 120.0
    limit_ms: float = 1000.0
    target: float | None = None
    most: int | None = None
    seed: int = 1
    command: str = ""


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    head: Head
    figures: list[PhaseFigures]

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.figures)


async def measure(
    asking: Asking,
    folder: Path,
    *,
    key: str | None = None,
    stopped: asyncio.Event | None = None,
    tell: Callable[[Tick], None] = lambda _: None,
    clock: Clock = CLOCK,
) -> Measured:
    """Run the patterns in turn into a new folder. Set `stopped` to end it with what it has.

    Raises EndpointError for a service that is not there or has no such model, and ScalingError for one that does not
    tell its replicas and for a folder that cannot be had.
    """
    side = await look(asking.url, key=key, models=[asking.model])
    require(side, asking.model)
    calibration = await calibrate(side, asking.model, key=key)
    with ScalingFolder(folder) as kept, hiding(key):
        async with open_session(key, asking.timeout_s) as session, _watching(side, asking, key) as watch:
            if await watch.replicas() is None:
                raise ScalingError(f"{side.url} does not tell how many replicas serve {asking.model}: {watch.blind[0]}")
            head = await _head(asking, side, calibration, clock)
            return await _Run(asking, head, kept, session, watch, stopped or asyncio.Event(), clock, tell).run()


async def _head(asking: Asking, side: Side, calibration: Calibration | None, clock: Clock) -> Head:
    return Head(
        side=side,
        model=asking.model,
        patterns=asking.patterns,
        base=asking.course.base,
        users=asking.course.users,
        input_tokens=asking.input_tokens,
        output_tokens=asking.output_tokens,
        think_s=asking.think_s,
        limit_ms=asking.limit_ms,
        target=asking.target,
        most=asking.most,
        calibration=calibration,
        machine=await asyncio.to_thread(this_machine, on_this_machine([side])),
        began_at=clock.stamp(),
        command=asking.command,
    )  # fmt: skip


@asynccontextmanager
async def _watching(side: Side, asking: Asking, key: str | None) -> AsyncGenerator[Watch, None]:
    """A Watch with a session of its own, that follows the engines while the block runs."""
    async with open_session(key) as session:
        watch = Watch(session, side.url, asking.model)
        following = asyncio.create_task(watch.follow_engines())
        try:
            yield watch
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@dataclass
class _Run:
    """The parts of one run, put together."""

    asking: Asking
    head: Head
    kept: ScalingFolder
    session: aiohttp.ClientSession
    watch: Watch
    stopped: asyncio.Event
    clock: Clock
    tell: Callable[[Tick], None]

    async def run(self) -> Measured:
        now, jumps, asking = Stopwatch(self.clock), ClockWatch(self.clock), self.asking
        point = Point(
            model=asking.model, concurrency=asking.course.users, input_tokens=asking.input_tokens,
            output_tokens=asking.output_tokens,
        )  # fmt: skip
        asker = ChatAsker(self.session, self.head.side, point, 0.0, now)
        async with Crowd(asker, self._bodies(asker, point), now, asking.think_s, asking.seed) as crowd:
            self.runner = Runner(
                phases_of(asking.patterns, asking.course), crowd, self.watch.replicas, lambda: self.watch.engines,
                self.kept, now, self.tell, self.stopped,
            )  # fmt: skip
            try:
                await self.runner.run(lambda: self._write([]))
            except asyncio.CancelledError:
                self.runner.because = "it was broken off"
                self._finish(jumps)
                raise
        return self._finish(jumps)

    def _bodies(self, asker: ChatAsker, point: Point) -> Iterator[bytes]:
        told = self.head.calibration
        words, template = (told.words_per_token, told.template_tokens) if told else (WORDS_PER_TOKEN, 0)
        workload = workload_of("random", point, self.asking.seed, words, template_tokens=template)
        return (asker.body(workload.prompt(number)) for number in itertools.count())

    def _finish(self, jumps: ClockWatch) -> Measured:
        notices = [*self.runner.notices, *self.watch.notices, *jumps.notices()]
        self.head = self.head.model_copy(update={"ended_at": self.clock.stamp(), "ended_because": self.runner.because})
        figures = self._write(notices)
        title = f"{self.head.model}: {', '.join(self.head.patterns)}, up to {self.head.users} users"
        aim = aim_of(self.runner.timeline, self.head.target, self.head.most)
        pictures = drawn(self.runner.timeline, title, limit_ms=self.head.limit_ms, aim=aim)
        for name, content in pictures.items():
            self.kept.content(name, content)
        return Measured(self.head, figures)

    def _write(self, notices: Sequence[str]) -> list[PhaseFigures]:
        self.head = self.head.model_copy(update={"notices": tuple(notices)})
        timeline = self.runner.timeline
        head = self.head
        figures = figures_of(timeline, limit_ms=head.limit_ms, target=head.target, most=head.most)
        self.kept.result(self.head, timeline.spans, figures)
        self.kept.text("report.md", markdown(self.head, figures))
        return figures
