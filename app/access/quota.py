"""How much keys and groups may still ask for: what is admitted is charged at once, and corrected when it is known.

One object admits all requests of a service, from one thread. Tokens are reserved for the longest answer; the charge,
max(reserved, used), is that of the moment of admission, and what was not used is given back when the request ends.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from app.access.limits import Limits
from app.access.window import SPAN, Window, seconds_until, tick_of

Whose = Literal["key", "group"]
Owner = tuple[Whose, str]
LimitsOf = Callable[[str, str], tuple[Limits, Limits]]
"""Id of a key and its group -> the limits of the key and those of the group, as they are now."""

FORGET_S = 2 * 3600.0
"""A request that never told its end is taken for ended then: longer than any may take."""
TOO_MANY_TOKENS = "quota_tokens_too_many"
ITEMS_RETRY_S = 5.0
"""Nobody knows when bulk items are answered."""


@dataclass(frozen=True)
class Refusal:
    """reason: a word for machines, stable. retry_after_s: None if it can never be admitted.

    When several limits refuse, this is the one to wait for longest.
    """

    reason: str
    message: str
    retry_after_s: float | None


@dataclass(frozen=True)
class _Ask:
    """whole: the tokens are all that the request may take, with what is reserved for it already."""

    requests: int = 0
    tokens: int = 0
    items: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        _counted(self.tokens)
        _counted(self.items)


@dataclass(slots=True)
class _Account:
    """Of a key or a group. It is there while a request holds it."""

    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    items: int = 0
    holders: int = 0


@dataclass(slots=True)
class _Request:
    """reserved: what is given back at the end if it was not used. items: that are not answered yet."""

    owners: tuple[Owner, Owner]
    tick: int
    reserved: int = 0
    actual: int = 0
    items: int = 0
    ended: bool = False

    @property
    def charge(self) -> int:
        return max(self.reserved, self.actual)


class Quota:
    """The id of a request is its alone while it runs and for a minute after."""

    def __init__(self, limits_of: LimitsOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits_of, self._clock = limits_of, clock
        self._accounts: dict[Owner, _Account] = {}
        self._recent: OrderedDict[str, _Request] = OrderedDict()
        """Whose admission is in the window, ended or not, from the oldest on."""
        self._long: OrderedDict[str, _Request] = OrderedDict()
        """Those that run on after their admission has left the window; they are charged no more."""

    @property
    def size(self) -> int:
        """Entries of all tables: 0 when nothing runs and nothing was admitted for a minute."""
        self._advance()
        buckets = sum(len(account.requests) + len(account.tokens) for account in self._accounts.values())
        return len(self._recent) + len(self._long) + len(self._accounts) + buckets

    def admit(self, request: str, key: str, group: str, tokens: int) -> Refusal | None:
        """Counts a request and reserves tokens, of the key and the group; what is refused costs nothing.

        A request that is there already gets so much more.
        """
        return self._admit(request, _owners(key, group), _Ask(requests=1, tokens=tokens))

    def admit_items(self, request: str, key: str, group: str, items: int, tokens: int) -> Refusal | None:
        """Reserves items of a bulk call, until they are answered, and tokens: what was reserved for it is one part.

        It counts no request; else as admit.
        """
        return self._admit(request, _owners(key, group), _Ask(items=items, tokens=tokens, whole=True))

    def used(self, request: str, prompt_tokens: int, completion_tokens: int) -> None:
        """So many more. They count too if they are told a little after the end; nothing happens if it is unknown."""
        spent = _counted(prompt_tokens) + _counted(completion_tokens)
        now_s = self._advance()
        if spent and (held := self._long.get(request)):  # it counts for the minute in which it is told
            self._take(request, held, _Ask(), tick_of(now_s))
        if held := self._recent.get(request):
            self._charge(held, held.reserved, held.actual + spent)

    def items_done(self, request: str, count: int) -> None:
        """So many more are answered."""
        count = _counted(count)
        self._advance()
        if held := self._recent.get(request) or self._long.get(request):
            self._free_items(held, min(count, held.items))

    def ended(self, request: str) -> None:
        """Gives back what was not used and all items. Nothing happens the second time."""
        self._advance()
        if held := self._recent.get(request):
            self._charge(held, held.actual, held.actual)
            self._free_items(held, held.items)
            held.ended = True
        elif held := self._long.pop(request, None):
            self._let_go(held)

    def headroom(self, key: str, group: str) -> dict[str, float]:
        """Names of headers, as OpenAI has them, and numbers: of the key or the group, whichever has less left.

        reset: seconds until all of it is there again. What is not bounded has no header.
        """
        now_s = self._advance()
        found: dict[str, float] = {}
        for what in ("requests", "tokens"):
            if rooms := list(self._rooms(what, key, group, now_s)):
                left, limit, reset_s = min(rooms)
                found |= {
                    f"x-ratelimit-limit-{what}": limit,
                    f"x-ratelimit-remaining-{what}": left,
                    f"x-ratelimit-reset-{what}": reset_s,
                }
        return found

    def _rooms(self, what: str, key: str, group: str, now_s: float) -> Iterator[tuple[int, int, float]]:
        """What is left, of how much, and seconds until all is; for the key and the group, if they are bounded."""
        for owner, limits in zip(_owners(key, group), self._limits_of(key, group), strict=True):
            limit: int | None = getattr(limits, f"{what}_per_minute")
            if limit is None:
                continue
            account, tick = self._accounts.get(owner) or _Account(), tick_of(now_s)
            window = account.requests if what == "requests" else account.tokens
            empty_at = window.empty_at(tick)
            reset_s = seconds_until(empty_at, now_s) if empty_at > tick else 0.0
            yield max(0, limit - window.total(tick)), limit, reset_s

    def _admit(self, request: str, owners: tuple[Owner, Owner], ask: _Ask) -> Refusal | None:
        now_s = self._advance()
        held = self._recent.get(request) or self._long.get(request)
        own = held if held and ask.whole and held.owners == owners else None
        before = own.charge if own else 0
        ask = replace(ask, tokens=max(ask.tokens, before))
        with self._without(own):
            refusals = list(self._all_refusals(owners, ask, now_s))
        if refusals:
            return max(refusals, key=_patience_s)
        if held and held.owners != owners:
            self._displace(request, held, tick_of(now_s))
            held = None
        more = replace(ask, tokens=ask.tokens - before)
        self._take(request, held or self._new(owners), more, tick_of(now_s))
        return None

    def _all_refusals(self, owners: tuple[Owner, Owner], ask: _Ask, now_s: float) -> Iterator[Refusal]:
        limits = self._limits_of(owners[0][1], owners[1][1])
        for owner, its_limits in zip(owners, limits, strict=True):
            yield from _refusals(owner, self._accounts.get(owner) or _Account(), its_limits, ask, now_s)

    @contextmanager
    def _without(self, held: _Request | None) -> Iterator[None]:
        """As if this request were charged nothing."""
        windows = [account.tokens for account in self._accounts_of(held)] if held else []
        tick, charge = (held.tick, held.charge) if held else (0, 0)
        for window in windows:
            window.change(tick, -charge)
        try:
            yield
        finally:
            for window in windows:
                window.change(tick, charge)

    def _displace(self, request: str, held: _Request, tick: int) -> None:
        """Its key has another group now. The former one stays charged for a minute, under a name that nobody has."""
        self._free_items(held, held.items)
        self._take(f"{request}\0{id(held)}", held, _Ask(), tick)
        held.ended = True

    def _new(self, owners: tuple[Owner, Owner]) -> _Request:
        for owner in owners:
            self._accounts.setdefault(owner, _Account()).holders += 1
        return _Request(owners, tick=0)

    def _take(self, request: str, held: _Request, ask: _Ask, tick: int) -> None:
        """What it was charged before moves into the bucket of now, so that it never leaves too early."""
        charge = held.charge + ask.tokens
        for account in self._accounts_of(held):
            account.tokens.change(held.tick, -held.charge)
            account.tokens.add(tick, charge)
            account.items += ask.items
            if ask.requests:
                account.requests.add(tick, ask.requests)
        held.tick, held.reserved, held.ended = tick, charge, False
        held.items += ask.items
        self._long.pop(request, None)
        self._recent[request] = held
        self._recent.move_to_end(request)

    def _charge(self, held: _Request, reserved: int, actual: int) -> None:
        before = held.charge
        held.reserved, held.actual = reserved, actual
        for account in self._accounts_of(held):
            account.tokens.change(held.tick, held.charge - before)

    def _free_items(self, held: _Request, count: int) -> None:
        held.items -= count
        for account in self._accounts_of(held):
            account.items -= count

    def _advance(self) -> float:
        """The time, once all that it ends is forgotten."""
        now_s = self._clock()
        tick = tick_of(now_s)
        while self._recent and next(iter(self._recent.values())).tick + SPAN <= tick:
            request, held = self._recent.popitem(last=False)
            held.reserved = held.actual = 0
            if held.ended:
                self._let_go(held)
            else:
                self._long[request] = held
        while self._long and next(iter(self._long.values())).tick <= tick_of(now_s - FORGET_S):
            self._let_go(self._long.popitem(last=False)[1])
        return now_s

    def _let_go(self, held: _Request) -> None:
        """Nothing that it was charged is in the window any more."""
        self._free_items(held, held.items)
        for owner in held.owners:
            self._accounts[owner].holders -= 1
            if not self._accounts[owner].holders:
                del self._accounts[owner]

    def _accounts_of(self, held: _Request) -> Iterator[_Account]:
        return (self._accounts[owner] for owner in held.owners)


def _owners(key: str, group: str) -> tuple[Owner, Owner]:
    return ("key", key), ("group", group)


def _refusals(owner: Owner, account: _Account, limits: Limits, ask: _Ask, now_s: float) -> Iterator[Refusal]:
    """One for each limit that has no room for all that is asked."""
    most = limits.requests_per_minute
    if ask.requests and (wait_s := _wait_s(account.requests, ask.requests, most, now_s)):
        yield _too_many_requests(owner, most, wait_s)
    most = limits.tokens_per_minute
    if wait_s := _wait_s(account.tokens, ask.tokens, most, now_s):
        yield _too_many_tokens(owner, most, ask, wait_s)
    most = limits.bulk_items
    if most is not None and ask.items and account.items + ask.items > most:
        yield _too_many_items(owner, most, ask.items, account.items)


def _wait_s(window: Window, amount: int, most: int | None, now_s: float) -> float:
    """Until there is room for so much more: 0 if there is, infinite if there never will be."""
    if most is None:
        return 0.0
    tick = tick_of(now_s)
    at = window.fits_at(amount, most, tick)
    if at is None:
        return math.inf
    return seconds_until(at, now_s) if at > tick else 0.0


def _patience_s(refusal: Refusal) -> float:
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s


def _too_many_requests(owner: Owner, most: int | None, wait_s: float) -> Refusal:
    message = f"{_who(owner)} may make {most} requests in any minute."
    return Refusal("quota_requests", message, wait_s)


def _too_many_tokens(owner: Owner, most: int | None, ask: _Ask, wait_s: float) -> Refusal:
    may = f"{_who(owner)} may use {most} tokens in any minute, prompts and answers together"
    this, advice = ("call", "send fewer items at once") if ask.whole else ("request", "shorten the prompt")
    if wait_s == math.inf:
        message = f"{may}, and this {this} may take {ask.tokens}: {advice}, or set max_tokens lower."
        return Refusal(TOO_MANY_TOKENS, message, None)
    message = f"{may}; there is no room now for the {ask.tokens} that this {this} may take."
    return Refusal("quota_tokens", message, wait_s)


def _too_many_items(owner: Owner, most: int, items: int, waiting: int) -> Refusal:
    may = f"{_who(owner)} may have {most} items of bulk calls that are not answered yet"
    if items > most:
        message = f"{may}, and this call has {items}: send fewer at once."
        return Refusal("quota_bulk_items_too_many", message, None)
    message = f"{may}; there are {waiting}, and this call has {items}."
    return Refusal("quota_bulk_items", message, ITEMS_RETRY_S)


def _who(owner: Owner) -> str:
    whose, name = owner
    return "This key" if whose == "key" else f"The group {name!r}"


def _counted(number: int) -> int:
    if number < 0:
        raise ValueError(f"a number of tokens or items must be 0 or more, not {number}")
    return number
