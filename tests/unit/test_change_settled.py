"""Whether everybody has taken what a change told them, from Serve's words."""

from __future__ import annotations

import pytest

from app.change.serve_side import SYSTEM, ServeSide
from deployments.serve_state import ApplicationState, DeploymentState, ServeState


def told(status: str, deployment: str = "HEALTHY", **replicas: int) -> ApplicationState:
    return ApplicationState(status, "", {"d": DeploymentState(deployment, "", replicas, 1)})


@pytest.mark.parametrize(
    ("last", "settled"),
    [
        (told("RUNNING", RUNNING=2), True),
        (told("RUNNING"), True),
        (told("DEPLOYING", RUNNING=2), False),
        (told("RUNNING", RUNNING=1, UPDATING=1), False),
        (told("RUNNING", "UPDATING", RUNNING=2), False),
    ],
    ids=["taken", "asleep", "the controller has not looked yet", "a replica is at it", "the deployment is"],
)
def test_all_have_taken_it(monkeypatch: pytest.MonkeyPatch, last: ApplicationState, settled: bool) -> None:
    *others, name = SYSTEM
    state = ServeState({**{each: told("RUNNING", RUNNING=1) for each in others}, name: last})
    monkeypatch.setattr("app.change.serve_side.read_status", lambda: state)
    side = ServeSide("127.0.0.1", 8000)
    assert side.settled([]) is settled
    assert side.settled([name]) is settled
    assert side.settled(list(others))
    assert not side.settled(["unknown"])
