"""One run: the phases in turn, a tick a second, everything kept as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtests.records import Fault
from loadtests.scaling.crowd import Crowd
from loadtests.scaling.folder import ScalingFolder
from loadtests.scaling.schedule import Phase, Settling
from loadtests.scaling.timeline import Asked, Span, Tick, Timeline
from loadtests.scaling.watch import Engines, Replicas

STEP_S = 0.1
"""The number of users follows the schedule so often."""
TICK_S = 1.0
SETTLED_TICKS = 3
"""So many ticks in a row have the replicas that there should be before a phase ends for it."""
LATE_S = 1.0
"""A client that comes later to its own next step did not run, and the load was less than it should have been."""
DEAD_S = 10.0
"""A service that refuses every connection for so long ends the run."""
DEAD_REQUESTS = 8


@dataclass
class Runner:
    """Conducts the crowd through the phases. `now`: seconds since the run's begin, of the event loop's clock."""

    phases: Sequence[Phase]
    crowd: Crowd
    look: Callable[[], Awaitable[Replicas | None]]
    engines: Callable[[], Engines]
    folder: ScalingFolder
    now: Callable[[], float]
    tell: Callable[[Tick], None] = lambda _: None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever wants it to end; it then ends within a step and the grace of what is under way."""
    timeline: Timeline = field(default_factory=Timeline)
    notices: list[str] = field(default_factory=list)
    because: str = ""
    _kept: int = 0
    _stood_s: list[float] = field(default_factory=list)
    _refused: list[Asked] = field(default_factory=list)
    """Connections that were refused since anything else came."""

    async def run(self, phase_ended: Callable[[], object] = lambda: None) -> None:
        """Returns when all phases are over, or it was stopped, or the service is gone. Raises ScalingError."""
        ticking = asyncio.create_task(self._ticks())
        try:
            for phase in self.phases:
                await self._conduct(phase, ticking)
                phase_ended()
                if self.because:
                    break
            await self._wind_up()
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            self._keep_requests()

    async def _wind_up(self) -> None:
        if self._stood_s:
            self.notices.append(
                f"the client itself stood still for up to {max(self._stood_s):.1f} s, {sum(self._stood_s):.1f} s in "
                "all: the machine was busy otherwise, the load was less than it says, and the latencies are longer"
            )
        if late := await self.crowd.leave():
            self.notices.append(
                f"{late} requests were still under way long after the load had ended: they were cut off, and count as "
                f"failed ({Fault.TIMEOUT})"
            )

    async def _conduct(self, phase: Phase, ticking: asyncio.Task[None]) -> None:
        began, enough = self.timeline.spans[-1].ended_s if self.timeline.spans else self.now(), False
        while not enough and (at := self.now() - began) < phase.seconds:
            self.crowd.resize(phase.users(at))
            self.because = self._why_end()
            enough = bool(self.because) or (at >= phase.settling_s + TICK_S and self._settled(phase.settles))
            if ticking.done():
                ticking.result()
            await self._step()
        self.timeline.spans.append(_span(phase, began, self.now()))

    async def _step(self) -> None:
        due = self.now() + STEP_S
        await asyncio.sleep(STEP_S)
        if (late := self.now() - due) > LATE_S:
            self._stood_s.append(late)

    def _why_end(self) -> str:
        if self.stopped.is_set():
            return "it was interrupted"
        refused = self._refused
        if len(refused) < DEAD_REQUESTS or refused[-1].ended_s - refused[0].ended_s < DEAD_S:
            return ""
        return f"the service refuses every connection ({refused[-1].detail})"

    def _settled(self, settling: Settling | None) -> bool:
        """Whether the replicas have been what they should be for some ticks."""
        told = [each for each in self.timeline.ticks if each.replicas is not None]
        last = told[-SETTLED_TICKS:]
        if settling is None or len(last) < SETTLED_TICKS:
            return False
        if settling is Settling.UP:
            return all((each.replicas or 0) >= (each.wanted or 0) for each in last)
        floor = told[0].replicas or 0
        return all(max(each.replicas or 0, each.wanted or 0) <= floor for each in last)

    async def _ticks(self) -> None:
        due = self.now()
        while True:
            replicas = await self.look()
            self._tick(replicas)
            due = due + TICK_S if due + TICK_S > self.now() else self.now() + TICK_S
            await asyncio.sleep(due - self.now())

    def _tick(self, replicas: Replicas | None) -> None:
        engines = self.engines()
        tick = Tick(
            at_s=round(self.now(), 3),
            users=self.crowd.wanted,
            in_flight=self.crowd.in_flight,
            replicas=replicas.serving if replicas else None,
            wanted=replicas.wanted if replicas else None,
            running=engines.running,
            waiting=engines.waiting,
        )
        self.timeline.ticks.append(tick)
        self.folder.tick(tick)
        self._keep_requests()
        self.tell(tick)

    def _keep_requests(self) -> None:
        fresh = [Asked.of(each) for each in self.crowd.samples[self._kept :]]
        self._kept += len(fresh)
        self.timeline.asked += fresh
        for each in fresh:
            self._refused = [*self._refused, each] if each.fault is Fault.CONNECTION else []
        self.folder.asked(fresh)


def _span(phase: Phase, began: float, ended: float) -> Span:
    def moment(at: float | None) -> float | None:
        return None if at is None or began + at > ended else round(began + at, 3)

    return Span(
        pattern=phase.pattern,
        began_s=round(began, 3),
        ended_s=round(ended, 3),
        up_s=moment(phase.up_s),
        down_s=moment(phase.down_s),
    )
