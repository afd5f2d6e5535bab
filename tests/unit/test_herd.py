"""Serve's status in our words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.config import ModelSpec
from deployments.herd import ServeHerd, model_status, short_reason
from deployments.status import ModelState

SPEC = ModelSpec(id="m", source="pocket:pocket-1b")


def application(status: str, replicas: dict[str, int], message: str = "") -> Any:
    deployment = SimpleNamespace(replica_states=replicas, message=message)
    return SimpleNamespace(status=status, message="", deployments={"m": deployment})


@pytest.mark.parametrize(
    ("status", "replicas", "state"),
    [
        ("RUNNING", {"RUNNING": 1}, ModelState.READY),
        ("RUNNING", {}, ModelState.IDLE),
        ("RUNNING", {"STARTING": 1}, ModelState.STARTING),
        ("DEPLOYING", {"STARTING": 1}, ModelState.STARTING),
        ("DEPLOYING", {}, ModelState.STARTING),
        ("DEPLOY_FAILED", {}, ModelState.FAILED),
        ("DEPLOY_FAILED", {"RUNNING": 1}, ModelState.READY),
        ("UNHEALTHY", {"STARTING": 1}, ModelState.STARTING),
        ("DELETING", {"RUNNING": 1}, ModelState.STOPPING),
    ],
)
def test_states(status: str, replicas: dict[str, int], state: ModelState) -> None:
    assert model_status(SPEC, application(status, replicas), None).state is state


def test_a_model_without_a_place_waits_for_resources() -> None:
    assert model_status(SPEC, application("DEPLOYING", {}), None).phase == "waiting for resources"


def test_the_phase_is_the_engines_while_it_starts_only() -> None:
    starting = model_status(SPEC, application("DEPLOYING", {"STARTING": 1}), "loading weights")
    ready = model_status(SPEC, application("RUNNING", {"RUNNING": 1}), "loading weights")
    assert (starting.phase, ready.phase) == ("loading weights", None)


def test_the_reason_is_the_line_that_says_why() -> None:
    message = (
        'The deployment failed to start 3 times in a row.\n  File "x.py", line 1, in f\n'
        "safetensors_rust.SafetensorError: Error while deserializing header\n\nDuring handling ...\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert short_reason(message).startswith("RuntimeError: Engine core")


async def test_what_could_not_be_deployed_has_failed_and_says_why() -> None:
    herd = ServeHerd((SPEC,), {"m": "ValueError: Unknown engine argument: x"}, read=_nothing)
    status = (await herd.statuses())["m"]
    assert (status.state, status.reason) == (ModelState.FAILED, "ValueError: Unknown engine argument: x")


async def test_serve_is_asked_once_for_many_readers() -> None:
    asked: list[int] = []
    now = [0.0]

    def read() -> Any:
        asked.append(1)
        return SimpleNamespace(applications={"model-m": application("RUNNING", {"RUNNING": 1})})

    herd = ServeHerd((SPEC,), read=read, clock=lambda: now[0])
    for _ in range(5):
        assert (await herd.statuses())["m"].state is ModelState.READY
    now[0] = 1.0
    await herd.statuses()
    assert len(asked) == 2


def _nothing() -> Any:
    return SimpleNamespace(applications={})
