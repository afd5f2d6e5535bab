"""The client goes before the service for the processors where it may, and says so where it may not."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadtests.keys.priority import EQUAL_NOTE, FIRST, first

NOBODY = 65534
TELLING = f"""
import os
from loadtests.keys.priority import first
os.geteuid() or os.setuid({NOBODY})
with first():
    print(os.sched_getscheduler(0))
"""


def mine() -> int:
    return os.sched_getscheduler(0)


def test_it_is_first_within_with_the_threads_that_it_starts_there(capsys: pytest.CaptureFixture[str]) -> None:
    before, root = mine(), os.geteuid() == 0
    with first(), ThreadPoolExecutor(1) as pool:
        within = {mine(), pool.submit(mine).result()}
    assert within == {FIRST if root else before}
    assert mine() == before
    assert (EQUAL_NOTE in capsys.readouterr().out) != root


def test_another_user_is_told_that_its_delays_are_in_the_figures() -> None:
    told = subprocess.run([sys.executable, "-c", TELLING], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [EQUAL_NOTE, str(mine())]
