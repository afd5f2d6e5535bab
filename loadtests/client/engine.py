"""What vLLM's engines say of themselves while a load runs: /metrics, read again and again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp

from loadtests.client.exchange import trusting
from loadtests.records import EngineFigures

EVERY_S = 0.5
SHARE, LONGEST_PAUSE_S = 10, 2.0
"""A reading that takes long is made less often: the pause after it is so many times as long, but no longer than 2 s."""
TIMEOUT_S = 5
LONGEST = 16 << 20
GAUGES = {"num_requests_running": "running", "num_requests_waiting": "waiting", "kv_cache_usage_perc": "kv_cache"}
COUNTERS = {
    "request_queue_time_seconds_sum": "queue_s",
    "request_queue_time_seconds_count": "queued",
    "prefix_cache_queries_total": "prefix_queries",
    "prefix_cache_hits_total": "prefix_hits",
    "num_preemptions_total": "preemptions",
    "prompt_tokens_total": "prompt_tokens",
    "generation_tokens_total": "generation_tokens",
}
UNREAD = "no reading of /metrics fell into this measurement"
COUNTED = ("prefix_queries", "prefix_hits", "preemptions", "prompt_tokens", "generation_tokens")
NAMES = GAUGES | COUNTERS
SERIES = re.compile(rf"^vllm:({'|'.join(NAMES)})(?:\{{(.*)\}})? (\S+)", re.MULTILINE)
MODEL = re.compile(r'(?:^|,)(model_name|corral_model)="((?:[^"\\]|\\.)*)"')
Series = Mapping[str, float]
"""Labels -> value."""


@dataclass(frozen=True)
class Snapshot:
    """One reading: the figures' names to their series."""

    series: Mapping[str, Series]

    def total(self, name: str) -> float | None:
        found = self.series.get(name)
        return sum(found.values()) if found else None

    def most(self, name: str) -> float | None:
        return max(self.series.get(name, {}).values(), default=None)


def snapshot(text: str, model: str | None) -> Snapshot:
    """The series of one model; of all if `model` is None, or if there is but one and it is named otherwise."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, labels, value in SERIES.findall(text):
        if (number := _number(value)) is not None:
            found.setdefault(_model(labels, model), {}).setdefault(NAMES[name], {})[labels] = number
    if model is not None and model in found:
        return Snapshot(found[model])
    if model is not None and len(found) > 1:
        return Snapshot({})
    merged: dict[str, dict[str, float]] = {}
    for series in found.values():
        for name, values in series.items():
            merged.setdefault(name, {}).update(values)
    return Snapshot(merged)


def _model(labels: str, wanted: str | None) -> str:
    """The model that labels name: the wanted one if any of them does."""
    named = [value for _, value in MODEL.findall(labels)]
    return wanted if wanted is not None and wanted in named else next(iter(named), "")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def figures(before: Snapshot | None, during: Iterable[Snapshot], after: Snapshot | None) -> EngineFigures | None:
    """Gauges over the readings during the load, counters as differences of the two around it. None: nothing at all."""
    gauges = list(during)
    queue_s, queued = (_grown(before, after, each) for each in ("queue_s", "queued"))
    read = EngineFigures(
        running_mean=_mean(gauges, "running"),
        running_max=_most(gauges, "running"),
        waiting_mean=_mean(gauges, "waiting"),
        waiting_max=_most(gauges, "waiting"),
        kv_cache_max=max((most for each in gauges if (most := each.most("kv_cache")) is not None), default=None),
        queue_time_mean_ms=1000 * queue_s / queued if queue_s is not None and queued else None,
        **{name: _grown(before, after, name) for name in COUNTED},
    )
    return read if any(value is not None for _, value in read) else None


def _mean(snapshots: list[Snapshot], name: str) -> float | None:
    values = [total for each in snapshots if (total := each.total(name)) is not None]
    return sum(values) / len(values) if values else None


def _most(snapshots: list[Snapshot], name: str) -> float | None:
    return max((total for each in snapshots if (total := each.total(name)) is not None), default=None)


def _grown(before: Snapshot | None, after: Snapshot | None, name: str) -> float | None:
    """Over all series. One that is new began at nothing, and so did one that fell: its engine began anew."""
    if before is None or after is None or name not in after.series:
        return None
    earlier = before.series.get(name, {})
    values = ((value, earlier.get(labels, 0.0)) for labels, value in after.series[name].items())
    return sum(value - was if value >= was else value for value, was in values)


def pause_s(every_s: float, took_s: float) -> float:
    """Until the next reading, if the last one took so long."""
    return min(LONGEST_PAUSE_S, max(every_s, SHARE * took_s))


@dataclass
class EngineWatch:
    """Reads `url`/metrics before, while and after the block runs. Whatever goes wrong is a notice."""

    url: str
    model: str | None
    key: str | None = None
    certificate: str = ""
    every_s: float = EVERY_S
    _during: list[Snapshot] = field(default_factory=list)
    _failures: list[str] = field(default_factory=list)
    _readings: int = 0
    _took_s: float = 0.0

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting(self.certificate)),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        )
        self._after: Snapshot | None = None
        try:
            self._before = await self._read()
        except BaseException:
            await self._session.close()
            raise
        self._task = asyncio.create_task(self._go_on()) if self._before else None
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
                self._after = await self._read()
        finally:
            await self._session.close()

    @property
    def figures(self) -> EngineFigures | None:
        """Once the block has ended."""
        return figures(self._before, self._during, self._after)

    @property
    def notices(self) -> list[str]:
        if self._before is None:
            return [f"no engine figures: {self.url}/metrics: {self._failures[0]}"]
        if not self._before.series:
            return [f"no engine figures: {self.url}/metrics has none of vLLM's for {self.model or 'any model'}"]
        if self._failures:
            return [f"{len(self._failures)} of {self._readings} readings of /metrics failed: {self._failures[0]}"]
        if not self._during and any(self._before.series.get(name) for name in GAUGES.values()):
            return [f"{UNREAD}: it was too short to tell what was running, waiting and in the KV cache"]
        return []

    async def _go_on(self) -> None:
        await asyncio.sleep(self.every_s / 5)  # or a short measurement has none
        while True:
            if (read := await self._read()) is not None:
                self._during.append(read)
            await asyncio.sleep(pause_s(self.every_s, self._took_s))

    async def _read(self) -> Snapshot | None:
        began = time.perf_counter()
        self._readings += 1
        try:
            async with self._session.get(f"{self.url}/metrics") as response:
                if response.status != 200:
                    self._failures.append(f"it answered {response.status}")
                    return None
                raw = await response.content.read(LONGEST)
                while not response.content.at_eof() and len(raw) < LONGEST:
                    raw += await response.content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._failures.append(str(error) or type(error).__name__)
            return None
        finally:
            self._took_s = time.perf_counter() - began
        return snapshot(raw.decode(errors="replace"), self.model)
