"""A tribunal's run belongs to the key that began it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deployments.errors import UnknownRun
from deployments.principal import CURRENT, Principal
from tests.unit.tribunal_fakes import asked, tribunals_over, trio


@contextmanager
def acting(key: str) -> Iterator[None]:
    token = CURRENT.set(Principal(key))
    try:
        yield
    finally:
        CURRENT.reset(token)


async def told(envelopes: Any) -> list[dict[str, Any]]:
    return [envelope async for envelope in envelopes]


@pytest.mark.parametrize("other", ["bob", ""])
async def test_a_run_is_as_unknown_to_others_as_none(other: str) -> None:
    tribunals = tribunals_over(trio())
    with acting("ana"):
        envelopes = await told(tribunals.events(asked()))
    run_id = envelopes[0]["id"]
    with acting(other):
        with pytest.raises(UnknownRun) as at_run:
            await told(tribunals.resume(run_id))
        with pytest.raises(UnknownRun):
            await tribunals.cancel(run_id)
        with pytest.raises(UnknownRun) as at_none:
            await told(tribunals.resume("tri-none"))
    assert at_run.value.message.replace(run_id, "") == at_none.value.message.replace("tri-none", "")
    with acting("ana"):
        assert await told(tribunals.resume(run_id)) == envelopes
