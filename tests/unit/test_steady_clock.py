"""Serve's controller goes by a clock that nobody sets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.steady_clock import CALLBACK
from loadtests.faults.clock import Clock

HOUR_S = 3600
PROGRAM = """
import sys, time
from ray.serve import autoscaling_policy
from ray.serve._private import deployment_state, proxy_state, utils
utils.call_function_from_import_path(sys.argv[1])
timer = proxy_state.Timer()
for _ in sys.stdin:
    steady = deployment_state.time, timer, autoscaling_policy.time
    print(time.time(), *[each.time() for each in steady], deployment_state.time.monotonic(), flush=True)
"""


def test_an_hour_back_is_none_for_what_serve_measures(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    clock, pipe = Clock.made(tmp_path), subprocess.PIPE
    words = [sys.executable, "-c", PROGRAM, CALLBACK]
    environment = {**os.environ, **clock.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True) as controller:
        assert controller.stdin
        assert controller.stdout
        controller.stdin.write("\n")
        controller.stdin.flush()
        assert len(controller.stdout.readline().split()) == 5
        clock.set(-HOUR_S)
        told, _ = controller.communicate("\n")
    wall, replicas, proxies, delays, monotonic = map(float, told.split())
    assert wall - time.time() == pytest.approx(-HOUR_S, abs=60)
    assert replicas - time.time() == pytest.approx(0, abs=60)
    assert proxies - time.time() == pytest.approx(0, abs=60)
    assert delays - time.time() == pytest.approx(0, abs=60)
    assert monotonic - time.monotonic() == pytest.approx(0, abs=60)
