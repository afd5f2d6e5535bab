"""/openapi.json against the app that it describes: whatever follows from it is answered as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.asgi import gateway
from tests.unit.fakes import FakeModel, FakeTribunals

APP = gateway(FakeModel("a"), FakeModel("b"), tribunals=FakeTribunals("default"))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
for asked, field in (("RagChatBody", "question"), ("RagSearchBody", "query")):
    # texts of a pattern that may be this long take seconds to draw, and none is drawn that is too long
    assert SCHEMA.raw_schema["components"]["schemas"][asked]["properties"][field].pop("maxLength") > 10_000
CHECKED = [status_code_conformance, content_type_conformance, response_schema_conformance]
ERRORS = ("400", "401", "403", "404", "408", "413", "429", "503", "default")


@SCHEMA.parametrize()
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_what_is_described_is_what_is_answered(case: schemathesis.Case[Any]) -> None:
    response = case.call()
    assert response.status_code != 500
    case.validate_response(
        response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
    )


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, told) for path, methods in SCHEMA.raw_schema["paths"].items() for method, told in methods.items()
    ]


@pytest.mark.parametrize(("path", "method", "told"), operations(), ids=lambda value: str(value)[:40])
def test_every_route_tells_its_answers_and_its_errors(path: str, method: str, told: dict[str, Any]) -> None:
    responses = told["responses"]
    assert told["summary"]
    assert any(status.startswith("2") for status in responses), path
    if path not in ("/health", "/"):
        assert {*ERRORS} <= {*responses}
        shapes = {json.dumps(responses[status].get("content")) for status in ERRORS if status != "503"}
        assert all("ErrorBody" in shape for shape in shapes)
