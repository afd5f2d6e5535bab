"""What `corral up` says at last: the address, and who may use it."""

from __future__ import annotations

import pytest

from app.launch import Progress
from app.show import ready_message
from app.state import ServiceState
from deployments.status import ModelState, ModelStatus


def said(capsys: pytest.CaptureFixture[str], address: str, key_file: str = "") -> str:
    state = ServiceState("s", 1, "", "pocket", "/run", address, "serving", key_file=key_file)
    ready_message(Progress(state, {"m": ModelStatus("m", ModelState.READY)}), "s")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("http://127.0.0.1:8000", "any user of this machine"),
        ("https://localhost:8443", "any user of this machine"),
        ("http://[::1]:8000", "any user of this machine"),
        ("http://::1:8000", "any user of this machine"),
        ("http://0.0.0.0:8000", "whoever reaches this address"),
        ("http://node7:8000", "whoever reaches this address"),
    ],
)
def test_that_no_key_is_asked_for_is_said_once_with_the_way_to_ask(
    capsys: pytest.CaptureFixture[str], address: str, who: str
) -> None:
    lines = said(capsys, address).splitlines()
    about = [line for line in lines if "keys" in line.lower()]
    assert about == [
        f"Keys     none: {who} can use the service; `access: {{keys: required}}` in the profile asks for keys"
    ]
    assert not any("Bearer" in line for line in lines)


def test_where_keys_are_asked_for_it_says_how_to_read_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "http://127.0.0.1:8000", "/state/first-key")
    assert "Key      $(cat /state/first-key)\n" in text
    assert "Keys     none" not in text
    assert (
        'curl -s http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $(cat /state/first-key)"' in text
    )
