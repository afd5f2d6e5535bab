"""/openapi.json of a service against itself: what follows from it is answered as it says, what does not is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.service import RunningService
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.serve

CHECKED = [status_code_conformance, content_type_conformance, response_schema_conformance]
COLLECTION = "described"
BY_ITEM = ("/bulk",)
"""What is wrong with an item is told in an answer of 200."""
KEPT = {"name": COLLECTION, "model": "pocket-1b", "base": "pocket-1b"}
"""What the service has, or a test may change, in place of a word that nobody knows."""
FEW = settings(
    max_examples=3, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture
def described(service: RunningService) -> Iterator[Any]:
    """The description, as anybody gets it."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    schema.config.generation.update(with_security_parameters=False)
    yield schema
    httpx.delete(f"{service.url}/v1/rag/collections/{COLLECTION}", timeout=PATIENCE_S, trust_env=False)


def known(case: schemathesis.Case[Any]) -> None:
    """Where something is named, let it be there; answers are short."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = KEPT.get(name, case.path_parameters[name])
    if isinstance(case.body, dict) and "model" in case.body:
        case.body.update(model=KEPT["model"], max_tokens=2)


def faults(operation: Any, mode: GenerationMode) -> list[str]:
    """What is not as described, of a few requests."""
    found: list[str] = []
    refuses = mode.is_negative and operation.path not in BY_ITEM
    checks = [*CHECKED, *([negative_data_rejection] if refuses else [])]

    @FEW
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        if mode.is_positive:
            known(case)
        response = case.call(timeout=PATIENCE_S)
        if response.status_code == 500:
            found.append(f"{operation.label}: 500 {case.body!r}")
        try:
            case.validate_response(response, checks=checks)
        except FailureGroup as wrong:
            found.extend(f"{operation.label}: {each}" for each in wrong.exceptions)

    with suppress(Unsatisfiable):  # without parameters and body nothing is wrong
        ask()
    return found


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_service_is_as_it_describes_itself(described: Any, mode: GenerationMode) -> None:
    operations = [each.ok() for each in described.get_all_operations()]
    assert len(operations) > 20
    found = [fault for operation in operations for fault in faults(operation, mode)]
    assert found == [], "\n\n".join(found)
