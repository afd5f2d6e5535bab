"""The ways to a service in an allocation, as shells take them, where its address has a certificate of its own."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.access.certificate import kept_or_made
from app.allocation.records import Address
from app.submission.connect import COPY, OwnKey, Ways, ways
from tests.unit.tls_service import CARDS, KEY, tls_service

LOGIN = "me@login"
FETCHED = 'curl -s --cacert "$SSL_CERT_FILE" "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY"'


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Ways]:
    """To a service that runs here; its files have names that a shell would split."""
    shared = tmp_path / "my scratch"
    certificate = kept_or_made(shared / "tls", ["node7"], [], datetime.now(UTC))
    (shared / "first-key").write_text(KEY)
    with tls_service(certificate) as port:
        file, fingerprint = str(certificate.certificate_path), certificate.fingerprint
        address = Address(7, "node7", "127.0.0.1", port, 0.0, "https", file, fingerprint)
        yield ways(address, LOGIN, port, OwnKey(shared / "first-key"))


def shell(line: str, folder: Path) -> bytes:
    """What it prints. `ssh HOST COMMAND` is that command here; nothing but the line says what to trust."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\n[ "$1" = {LOGIN} ] && exec sh -c "$2"\n')
    ssh.chmod(0o700)
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment = {**inherited, "PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    environment.pop("SSL_CERT_FILE", None)
    return subprocess.run(
        ["bash", "-euc", line], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, timeout=30
    ).stdout


def test_the_line_for_the_login_node_works_as_it_is(found: Ways, tmp_path: Path) -> None:
    assert shell(found.curl, tmp_path) == CARDS


def test_the_lines_for_a_laptop_work_as_they_are(found: Ways, tmp_path: Path) -> None:
    told = dict(line.split("  ", 1) for line in found.lines().splitlines())
    there = [told[title].strip() for title in ("and then there", "and what it trusts")]
    assert shell("\n".join([*there, FETCHED]), tmp_path) == CARDS
    assert (tmp_path / COPY).read_text() == Path(found.address.certificate).read_text()


def test_corrals_commands_are_told_what_to_trust(found: Ways, tmp_path: Path) -> None:
    assert found.trust_export in found.lines()
    assert found.to_json()["certificate"] == found.address.certificate
    trusted = shell(f'{found.trust_export}\nprintf %s "$SSL_CERT_FILE"', tmp_path)
    assert trusted.decode() == found.address.certificate


def test_the_fingerprint_is_that_of_the_certificate_which_the_port_shows(found: Ways) -> None:
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((found.address.host, found.address.port), timeout=30))
    fingerprint = hashlib.sha256(shown).digest().hex(":").upper()
    assert f"TLS fingerprint      {fingerprint} (SHA-256)\n" in found.lines()
    assert found.to_json()["fingerprint"] == fingerprint


def test_the_fingerprint_of_a_persons_own_certificate_is_told_too() -> None:
    own = ways(Address(7, "node7", "10.0.0.7", 8443, 0.0, "https", fingerprint="AB:CD"), LOGIN, 9000)
    assert "TLS fingerprint      AB:CD (SHA-256)\n" in own.lines()
    assert (own.to_json()["certificate"], own.to_json()["fingerprint"]) == (None, "AB:CD")


def test_where_authorities_say_whom_to_trust_nothing_is_told() -> None:
    plain = ways(Address(7, "node7", "10.0.0.7", 8443, 0.0, "https"), LOGIN, 9000)
    assert plain.curl == "curl -s https://10.0.0.7:8443/v1/models"
    assert not any(word in plain.lines() for word in ("cacert", "SSL_CERT_FILE", COPY, "fingerprint"))
    assert (plain.to_json()["certificate"], plain.to_json()["fingerprint"]) == (None, None)
