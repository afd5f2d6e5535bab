"""What a service answers at its limit, and at twice that: the peak, the overload, the peak again, in turn."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from loadtests.keys import aims
from loadtests.keys.aims import Judged
from loadtests.keys.client import Asking, Request
from loadtests.keys.counters import Counts, read_counts, settled
from loadtests.keys.crew import START_S, Crew
from loadtests.keys.figures import (
    Accounts,
    Window,
    accounts_of,
    codes_of,
    first_texts_ms,
    refusals_ms,
    served_ms,
    shares_of,
    times_of,
)
from loadtests.keys.open_loop import Sent, poisson
from loadtests.keys.processors import Computed, by_process, computed_by, spent_s
from loadtests.keys.service import REQUIRED, made_key, process_id, profile
from loadtests.servers import corral_service

SETTLE_S, WARM_S, PEAK_S = 3.0, 5.0, 20.0


@dataclass(frozen=True)
class Load:
    """users: of the closed loop that finds the peak; more than the engine runs at once. times: of the peak.

    seconds: of each of the rounds. On a machine that others slow down, many short ones say more of the goodput.
    """

    model: str
    words: int
    tokens: int
    keys: int
    users: int
    processes: int
    seconds: float
    rounds: int = 1
    times: float = aims.OFFERED


@dataclass(frozen=True)
class Peak:
    """Whole answers a second, and the service's processor time for each, by process.

    client_share: of all the machine's processors.
    """

    per_s: float
    costs_ms: Mapping[str, float]
    client_share: float

    @property
    def cost_ms(self) -> float:
        return sum(self.costs_ms.values())


@dataclass(frozen=True)
class Service:
    """How a running one is looked at."""

    asking: Asking
    counts: Callable[[], Counts]
    computed: Callable[[], Computed]


@dataclass(frozen=True)
class Overloaded:
    """peaks: before and after. spent_s: of the service's processes meanwhile, by name."""

    peaks: tuple[Peak, Peak]
    window: Window
    sent: Sent
    accounts: Accounts
    keys: tuple[str, ...]
    spent_s: Mapping[str, float]

    @property
    def peak_per_s(self) -> float:
        return sum(each.per_s for each in self.peaks) / 2

    @property
    def costs_ms(self) -> dict[str, float]:
        """The service's processor time for each answer, refusals and all, by process."""
        return costs_ms(self.spent_s, self.accounts.answered)

    @property
    def cost_ms(self) -> float:
        return sum(self.costs_ms.values())

    @property
    def goodput_for_equal_time(self) -> float:
        """Of the peak, if the service had got as much processor time as there; others on the machine are not in it."""
        return sum(each.cost_ms for each in self.peaks) / 2 / self.cost_ms

    @property
    def goodput(self) -> float:
        """Of the peak."""
        return self.window.goodput_per_s(self.sent.answers) / self.peak_per_s

    @property
    def offered(self) -> float:
        """Times the peak that was known when the load began."""
        return self.window.sent_per_s(self.sent.answers) / self.peaks[0].per_s

    @property
    def client_share(self) -> float:
        """Of all the machine's processors over the window."""
        return share_of_machine(self.sent.processor_s, self.window.seconds)

    def lines(self) -> list[str]:
        answers, accounts = self.sent.answers, self.accounts
        first, last = self.peaks
        return [
            f"peak {first.per_s:.1f} answers/s before, {last.per_s:.1f} after; goodput {self.goodput:.2f} of it",
            f"sent {self.window.sent_per_s(answers):.1f} a second for {self.window.seconds:.0f} s, {self.offered:.2f} "
            f"times the first peak",
            f"sent {accounts.sent} = answered {accounts.answered} + refused {accounts.refused} + lost {accounts.lost}; "
            f"the client saw {dict(accounts.statuses)}, the edge {dict(accounts.edge)}; {codes_of(answers)}",
            f"429 after {times_of(refusals_ms(answers))}",
            f"first text after {times_of(first_texts_ms(answers))}; whole answers after {times_of(served_ms(answers))}",
            f"sent behind the schedule by {times_of([each.late_ms for each in answers])}",
            f"answers by key: {', '.join(f'{share:.3f}' for share in shares_of(answers, self.keys))}",
            f"the client took {100 * first.client_share:.1f}% of the processors before, {100 * self.client_share:.1f}% "
            f"meanwhile, {100 * last.client_share:.1f}% after",
            f"an answer cost the service {first.cost_ms:.1f} ms of processor time before, {last.cost_ms:.1f} after, "
            f"{self.cost_ms:.1f} with the refusals: goodput for equal time {self.goodput_for_equal_time:.2f}",
            f"before, with the refusals, after, in ms: {by_process(first.costs_ms, self.costs_ms, last.costs_ms)}",
        ]


def judged(rounds: Sequence[Overloaded]) -> list[Judged]:
    """Goodput: the median. All else: of all rounds together."""
    refused = times_of([each for found in rounds for each in refusals_ms(found.sent.answers)])
    lost = sum(found.accounts.lost for found in rounds)
    disagreement = sum(found.accounts.disagreement for found in rounds)
    offered, goodput = min(found.offered for found in rounds), median(found.goodput for found in rounds)
    return [
        Judged("times the peak were sent:", offered, aims.OFFERED - aims.OFFERED_SLACK, at_most=False),
        Judged("goodput, of the peak,", goodput, aims.GOODPUT, at_most=False),
        Judged("ms to a 429 (p99)", refused.p99, aims.REFUSAL_MS),
        Judged("requests lost", lost, 0),
        Judged("requests that the edge counts otherwise", disagreement, 0),
    ]


def overload(load: Load, state_folder: Path, stack: ExitStack) -> list[Judged]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    path = profile(folder, load.model, REQUIRED)
    url = stack.enter_context(corral_service(str(path)))
    keys = tuple(made_key(path, f"user-{number}") for number in range(load.keys))
    reading = made_key(path, "reader", "--scopes", "metrics")
    time.sleep(SETTLE_S)
    request, pid = Request(url, load.model, load.words, load.tokens), process_id(state_folder)
    counts, computed = partial(read_counts, url, reading, load.model), partial(computed_by, pid)
    service = Service(Asking(request, keys), counts, computed)
    rounds = list[Overloaded]()
    with Crew(load.processes) as crew:
        crew.closed(service.asking, load.processes, START_S)  # its processes are there for the peak
        last = peak(crew, service, load.users)
        for seed in range(load.rounds):
            rounds.append(measured(load, service, crew, last, seed))
            last = rounds[-1].peaks[1]
            print("\n".join(rounds[-1].lines()), flush=True)
    return judged(rounds)


def measured(load: Load, service: Service, crew: Crew, first: Peak, seed: int) -> Overloaded:
    """One round after a peak."""
    schedule = poisson(load.times * first.per_s, load.seconds, load.keys, seed)
    before, computed = service.counts(), service.computed()
    began_s, sent = crew.open(service.asking, schedule)
    spent = spent_s(computed, service.computed())
    accounts = accounts_of(sent.answers, settled(service.counts, before, len(sent.answers)))
    last, window = peak(crew, service, load.users), Window(began_s, began_s + load.seconds)
    return Overloaded((first, last), window, sent, accounts, service.asking.keys, spent)


def peak(crew: Crew, service: Service, users: int) -> Peak:
    """Of more users than the engine runs at once. RuntimeError where nothing is answered."""
    began_s, computed = time.perf_counter() + WARM_S, service.computed()
    sent = crew.closed(service.asking, users, WARM_S + PEAK_S)
    spent = spent_s(computed, service.computed())
    per_s = Window(began_s, began_s + PEAK_S).goodput_per_s(sent.answers)
    if not per_s:
        raise RuntimeError(f"none of {len(sent.answers)} requests was answered: {codes_of(sent.answers)}")
    costs = costs_ms(spent, sum(each.good for each in sent.answers))
    return Peak(per_s, costs, share_of_machine(sent.processor_s, WARM_S + PEAK_S))


def share_of_machine(processor_s: float, seconds: float) -> float:
    return processor_s / (seconds * (os.cpu_count() or 1))


def costs_ms(spent: Mapping[str, float], answers: int) -> dict[str, float]:
    """Of each answer, by process."""
    return {name: 1000 * seconds / answers if answers else float("nan") for name, seconds in spent.items()}
