"""A replica that finds no room in Ray, told from one whose worker is slow to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from app.change.serve_side import ServeSide
from tests.waiting import until

pytestmark = pytest.mark.serve


@pytest.fixture
def one_cpu() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_only_a_replica_that_waits_for_room_is_unplaced(one_cpu: None) -> None:
    side, models = ServeSide("127.0.0.1", 8000), ["model-a", "model-a:1", "model-b"]
    placed = placement_group([{"CPU": 1}], name="SERVE_REPLICA::model-a#a#x1")
    ray.get(placed.ready())
    assert side.unplaced(models) == []
    placement_group([{"CPU": 1}], name="SERVE_REPLICA::model-a:1#a#x2")
    assert until(lambda: side.unplaced(models)) == ["model-a:1"]
    remove_placement_group(placed)
    until(lambda: side.unplaced(models) == [], what="the room for the other one")
