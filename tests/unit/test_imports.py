"""What may import what, where import-linter cannot say it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LLM = re.compile(r"^\s*(from|import) (ray\.serve\.llm|ray\.llm|vllm)", re.M)


def test_only_the_replica_imports_ray_serve_llm_and_vllm() -> None:
    """models.py builds it, server.py is it, lone_worker.py is the worker of its CPU engine."""
    found = {path.name for path in (ROOT / "deployments").rglob("*.py") if LLM.search(path.read_text())}
    assert found == {"models.py", "server.py", "lone_worker.py", "warm_engine.py", "warm_engine_imports.py"}
    assert not [path for path in (ROOT / "app").rglob("*.py") if LLM.search(path.read_text())]


@pytest.mark.parametrize(
    "module", ["app.cli", "app.web", "app.edge", "app.plan", "deployments.herd", "deployments.gate"]
)
def test_what_answers_quickly_imports_no_ray(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('ray', 'vllm', 'torch') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.strip() == "[]"
