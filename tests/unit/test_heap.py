"""What the garbage collector looks at once a replica is loaded."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import gc
from deployments.heap import freeze_heap

class Knot:
    def __init__(self):
        self.me = self

passes = []
gc.callbacks.append(lambda phase, seen: passes.append(seen["generation"]) if phase == "stop" else None)

def under_way():
    passes.clear()
    kept = [Knot() for _ in range(400_000)]
    return passes.count(2), passes.count(1)

print(*under_way(), gc.get_freeze_count())
freeze_heap()
print(*under_way(), gc.get_freeze_count())
knots = sum(isinstance(each, Knot) for each in gc.get_objects())
under_way()
gc.collect()
print(knots > 0, sum(isinstance(each, Knot) for each in gc.get_objects()))
"""


def test_all_that_is_under_way_is_seldom_looked_at_and_garbage_still_goes() -> None:
    told = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout
    before, after, end = told.splitlines()
    (often, passes, nothing), (seldom, as_many, frozen) = (map(int, line.split()) for line in (before, after))
    assert nothing == 0
    assert frozen > 1000
    assert as_many > 0.9 * passes > 0
    assert seldom < often
    assert end.split()[1] == "0"
