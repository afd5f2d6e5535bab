"""Whole measurements of a real small server, as the tests of them begin one."""

from __future__ import annotations

from typing import Any

from loadtests.client.drive import drive
from loadtests.records import Calibration, Driven, Plan, Point
from tests.unit.load_client_fakes import MODEL, Endpoint, point, serving, side

CALIBRATED = {MODEL: Calibration(words_per_token=0.5, template_tokens=5)}


def plan(**changes: Any) -> Plan:
    few = {"requests_per_user": 3, "min_requests": 4, "warmup_requests": 1, "calibrations": CALIBRATED}
    return Plan(**{"sides": (), "points": (), **few, **changes})


async def driven(endpoint: Endpoint, at: Point | None = None, repeat: int = 0, **changes: Any) -> Driven:
    async with serving(endpoint) as url:
        return await drive(at or point(), plan(**changes), side(url), repeat)


def texts(endpoint: Endpoint) -> list[str]:
    return [body["messages"][0]["content"] for body in endpoint.measured]
