"""What `corral up` says at last: the address, and who may use it."""

from __future__ import annotations

import pytest

from app.launch import Progress
from app.show import ready_message
from app.state import ServiceState
from deployments.status import ModelState, ModelStatus


def said(
    capsys: pytest.CaptureFixture[str], address: str, key_file: str = "", certificate: str = "", fingerprint: str = ""
) -> str:
    state = ServiceState(
        "s", 1, "", "pocket", "/run", address, "serving",
        key_file=key_file, certificate=certificate, fingerprint=fingerprint,
    )  # fmt: skip
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


def test_a_certificate_that_was_made_is_told_by_its_fingerprint_and_for_curl(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = said(capsys, "https://node7:8443", fingerprint="AB:CD", certificate="/tls/certificate.pem").splitlines()
    first = lines.index("TLS      AB:CD (SHA-256)")
    assert lines[first + 1] == "         curl --cacert /tls/certificate.pem"


def test_of_a_persons_own_certificate_only_the_fingerprint_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "https://node7:8443", fingerprint="AB:CD")
    assert "\nTLS      AB:CD (SHA-256)\n" in text
    assert "--cacert" not in text


def test_without_tls_no_fingerprint_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "http://node7:8000")
    assert not any(word in text for word in ("TLS", "SHA-256", "--cacert"))
