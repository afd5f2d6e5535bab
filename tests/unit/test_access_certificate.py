"""The certificate of the address: one that is made, one that is kept, a person's own, and what is refused of it."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from app.access.certificate import Certificate, CertificateError, kept_or_made, load_certificate, make_certificate

NOW = datetime(2026, 3, 1, 12, 30, 15, 250_000, UTC)
DAY = timedelta(days=1)
NAMES, ADDRESSES = ["Node7.", "node7.example.org"], ["10.0.0.7", "fe80:0::1%eth0"]
ALL_NAMES = ("node7", "node7.example.org", "localhost", "10.0.0.7", "fe80::1", "127.0.0.1", "::1")


@pytest.fixture(params=[0o000, 0o077], ids=["open umask", "closed umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def made(folder: Path, now: datetime = NOW, names: list[str] = NAMES) -> Certificate:
    return kept_or_made(folder, names, ADDRESSES, now)


def parsed(found: Certificate) -> x509.Certificate:
    (alone,) = x509.load_pem_x509_certificates(found.certificate_path.read_bytes())
    return alone


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def shake_hands(found: Certificate, host: str, *, strictly: bool = False) -> None:
    """A client that trusts this certificate alone meets a server that has it. Raises SSLCertVerificationError."""
    trusting = ssl.create_default_context(cafile=found.certificate_path)
    if strictly:  # the default from Python 3.13 on
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(found.tls_path)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [trusting.wrap_bio(back, there, server_hostname=host), server.wrap_bio(there, back, server_side=True)]
    while ends:
        ends = [end for end in ends if not done(end)]


def done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.mark.usefixtures("umask")
def test_only_its_owner_can_read_the_key_and_all_the_certificate(tmp_path: Path) -> None:
    found = make_certificate(tmp_path / "tls", NAMES, ADDRESSES, NOW)
    assert modes(tmp_path / "tls") == {"tls.pem": 0o600, "certificate.pem": 0o644}
    assert b"PRIVATE KEY" in found.tls_path.read_bytes()
    assert b"PRIVATE KEY" not in found.certificate_path.read_bytes()
    assert found.tls_path.read_bytes().startswith(found.certificate_path.read_bytes())


def test_what_is_made(tmp_path: Path) -> None:
    found = make_certificate(tmp_path, NAMES, ADDRESSES, NOW, days=90)
    alone = parsed(found)
    assert (found.names, found.self_signed, found.warning) == (ALL_NAMES, True, None)
    assert found.not_after == alone.not_valid_after_utc == NOW.replace(microsecond=0) + 90 * DAY
    assert alone.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert alone.version is x509.Version.v3
    assert not alone.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = alone.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert parsed(make_certificate(tmp_path, NAMES, ADDRESSES, NOW)).serial_number != alone.serial_number


def test_fingerprint_is_as_openssl_prints_it(tmp_path: Path) -> None:
    found = make_certificate(tmp_path, [], [], NOW)
    argv = ["openssl", "x509", "-in", str(found.certificate_path), "-noout", "-fingerprint", "-sha256"]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert printed.strip().partition("=")[2] == found.fingerprint


@pytest.mark.parametrize("host", ALL_NAMES)
def test_a_client_that_trusts_it_alone_verifies_every_name(tmp_path: Path, host: str) -> None:
    found = make_certificate(tmp_path, NAMES, ADDRESSES, datetime.now(UTC))
    shake_hands(found, host)
    shake_hands(found, host, strictly=True)


def test_no_other_name_is_verified(tmp_path: Path) -> None:
    found = make_certificate(tmp_path, NAMES, ADDRESSES, datetime.now(UTC))
    for host in ("node8", "10.0.0.8"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(found, host)


def test_what_it_signs_is_not_trusted(tmp_path: Path) -> None:
    """Who takes its key cannot pose as another host to those who trust it."""
    found = make_certificate(tmp_path / "made", NAMES, ADDRESSES, datetime.now(UTC))
    other = issued(tmp_path, now=datetime.now(UTC), authority=Issuer.of(found))
    joined = load_certificate(other.certificate, other.key, tmp_path / "other")
    joined.certificate_path.write_bytes(found.certificate_path.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        shake_hands(joined, "own.example.org")


@pytest.mark.parametrize("name", ["", "a b", "münchen.example.org", "*", "x" * 64, "http://node7", "a..b"])
def test_a_name_that_no_host_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match=r"cannot name .*: give a host name in ASCII or an IP address"):
        make_certificate(tmp_path, [name], [], NOW)


def test_an_address_among_the_names_is_one(tmp_path: Path) -> None:
    found = make_certificate(tmp_path, ["10.0.0.7"], ["node7", "127.0.0.1"], NOW)
    assert found.names == ("localhost", "node7", "10.0.0.7", "127.0.0.1", "::1")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "tls.pem").mkdir(parents=True)
    for folder in ("file", "folder"):
        with pytest.raises(CertificateError, match=f"{folder}.* cannot be written"):
            made(tmp_path / folder)
    assert modes(tmp_path / "folder").keys() == {"tls.pem", ".lock"}


def test_it_is_kept_while_it_has_all_names_and_30_days(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path, NOW + 334 * DAY) == first
    assert made(tmp_path, names=["node7"]) == first
    later = made(tmp_path, NOW + 335 * DAY)
    assert (later.fingerprint != first.fingerprint, later.not_after) == (True, first.not_after + 335 * DAY)
    more = made(tmp_path, NOW + 335 * DAY, names=[*NAMES, "alias"])
    assert more.names == ("node7", "node7.example.org", "alias", *ALL_NAMES[2:])
    assert modes(tmp_path) == {"tls.pem": 0o600, "certificate.pem": 0o644, ".lock": 0o600}


def test_one_from_the_future_is_not_kept(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path, NOW - DAY).fingerprint != first.fingerprint


def test_one_whose_key_was_open_to_others_or_is_damaged_is_not_kept(tmp_path: Path) -> None:
    first = made(tmp_path)
    first.tls_path.chmod(0o640)
    second = made(tmp_path)
    second.tls_path.write_bytes(second.tls_path.read_bytes()[:-60])
    third = made(tmp_path)
    assert len({each.fingerprint for each in (first, second, third)}) == 3
    assert modes(tmp_path)["tls.pem"] == 0o600


def test_the_clients_file_is_written_again(tmp_path: Path) -> None:
    first = made(tmp_path)
    text = first.certificate_path.read_bytes()
    first.certificate_path.unlink()
    assert made(tmp_path) == first
    assert first.certificate_path.read_bytes() == text


def test_services_that_start_together_have_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: made(tmp_path / "new" / "tls"), range(8)))
    assert len(found) == 1


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = made(Path("tls"))
    assert (found.tls_path, found.certificate_path) == (tmp_path / "tls/tls.pem", tmp_path / "tls/certificate.pem")


@dataclass(frozen=True)
class Issuer:
    """Who signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, found: Certificate) -> Issuer:
        key = load_pem_private_key(found.tls_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(parsed(found), key)


@dataclass(frozen=True)
class Files:
    """A person's own."""

    certificate: Path
    key: Path


def signed(
    subject: str, public: ec.EllipticCurvePublicKey, issuer: Issuer | None, key: ec.EllipticCurvePrivateKey,
    now: datetime = NOW, names: tuple[str, ...] = ("own.example.org",), *, ca: bool = False,
) -> x509.Certificate:  # fmt: skip
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(issuer.certificate.subject if issuer else name, name, public)
    builder = builder.serial_number(7).not_valid_before(now - DAY).not_valid_after(now + 60 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(x509.DNSName, names)), critical=False)
    return builder.sign(key, hashes.SHA256())


def authority(now: datetime = NOW) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    return Issuer(signed("Authority", key.public_key(), None, key, now, ca=True), key)


def issued(
    folder: Path, now: datetime = NOW, authority: Issuer | None = None, names: tuple[str, ...] = ("own.example.org",),
    encryption: KeySerializationEncryption | None = None,
) -> Files:  # fmt: skip
    """A certificate and, before it, as many people have them, that of its issuer if it has one."""
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = signed("own", key.public_key(), authority, authority.key if authority else key, now, names)
    files = Files(folder / "own crt.pem", folder / "own key.pem")
    chain = [authority.certificate, leaf] if authority else [leaf]
    files.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    files.key.touch(0o600)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    return files


def load(files: Files, now: datetime = NOW) -> Certificate:
    return load_certificate(files.certificate, files.key, files.key.parent / "joined", now)


@pytest.mark.usefixtures("umask")
def test_a_persons_own_is_joined_with_the_keys_certificate_first(tmp_path: Path) -> None:
    root = authority()
    found = load(issued(tmp_path, authority=root))
    joined = x509.load_pem_x509_certificates(found.tls_path.read_bytes())
    assert [each.subject.rfc4514_string() for each in joined] == ["CN=own", "CN=Authority"]
    assert found.fingerprint == joined[0].fingerprint(hashes.SHA256()).hex(":").upper()
    assert (found.names, found.self_signed, found.warning) == (("own.example.org",), False, None)
    assert found.not_after == NOW.replace(microsecond=0) + 60 * DAY
    assert modes(tmp_path / "joined") == {"tls.pem": 0o600, "certificate.pem": 0o644}
    assert found.certificate_path.read_text().count("BEGIN") == 2
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.tls_path)


def test_a_clients_trust_in_its_authority_is_enough(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    shake_hands(load(issued(tmp_path, now, authority(now)), now), "own.example.org")


def test_both_in_one_file(tmp_path: Path) -> None:
    files = issued(tmp_path)
    files.key.write_bytes(files.key.read_bytes() + files.certificate.read_bytes())
    found = load(Files(files.key, files.key))
    assert found.self_signed
    assert "PRIVATE" not in found.certificate_path.read_text()


def test_a_key_of_its_own_curve_parameters_as_openssl_writes_it(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    key.touch(0o600)
    for line in (
        f"openssl ecparam -name prime256v1 -genkey -out {key}",
        f"openssl req -x509 -new -key {key} -subj /CN=own -addext subjectAltName=DNS:own -out {certificate}",
    ):
        subprocess.run(line.split(), check=True)
    assert "EC PARAMETERS" in key.read_text()
    assert load_certificate(certificate, key, tmp_path / "joined").names == ("own",)


def test_a_persons_own_is_not_taken_for_one_that_was_made(tmp_path: Path) -> None:
    files = issued(tmp_path, names=ALL_NAMES[:3])
    own = load(files)
    assert kept_or_made(own.tls_path.parent, NAMES, [], NOW).fingerprint != own.fingerprint


def test_one_that_expires_soon_is_warned_of(tmp_path: Path) -> None:
    files = issued(tmp_path)
    assert load(files, NOW + 45 * DAY).warning is None
    warning = load(files, NOW + 46 * DAY).warning
    assert warning == f"{files.certificate} expires on 2026-04-30 at 12:30 UTC; renew it, then start again"


def test_one_without_names_is_warned_of(tmp_path: Path) -> None:
    files = issued(tmp_path, names=())
    found = load(files)
    assert found.names == ()
    assert found.warning == (
        f"{files.certificate} has no subjectAltName, so clients refuse it; have it issued with the host's names"
    )
    assert (load(files, NOW + 50 * DAY).warning or "").count(str(files.certificate)) == 2


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            NOW + 60 * DAY,
            r"own crt\.pem expired on 2026-04-30 at 12:30 UTC; renew it, or leave access\.tls\.",
        ),
        (NOW - 2 * DAY, r"own crt\.pem is not valid before 2026-02-28 at 12:30 UTC; look at this machine's clock"),
    ],
    ids=["expired", "not yet"],
)
def test_one_that_is_not_valid_now_is_refused(tmp_path: Path, now: datetime, message: str) -> None:
    files = issued(tmp_path)
    with pytest.raises(CertificateError, match=message):
        load(files, now)
    assert not (tmp_path / "joined").exists()


def test_files_of_two_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = issued(tmp_path), issued(tmp_path / "other")
    with pytest.raises(CertificateError, match=r"own key\.pem is not the key of .*/own crt\.pem: their public keys"):
        load(Files(one.certificate, other.key))


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    files = issued(tmp_path, encryption=BestAvailableEncryption(b"secret"))
    with pytest.raises(CertificateError, match=r"is encrypted.*openssl pkey -in '.*/own key\.pem' -out key\.pem"):
        load(files)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    files = issued(tmp_path)
    files.key.chmod(mode)
    with pytest.raises(CertificateError, match=r"others on this machine.*`chmod 600 '.*/own key\.pem'` closes it"):
        load(files)


def test_anothers_key_may_be_shared_through_a_group_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = issued(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: files.key.stat().st_uid + 1)
    files.key.chmod(0o640)
    assert load(files).names == ("own.example.org",)
    files.key.chmod(0o644)
    with pytest.raises(CertificateError, match=r"`chmod o= '.*/own key\.pem'` closes it"):
        load(files)


def test_what_is_no_pem_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    files, key = issued(tmp_path), tmp_path / "text"
    key.touch(0o600)
    with pytest.raises(CertificateError, match=r"text has no private key in PEM.*openssl pkey -inform der"):
        load(Files(files.certificate, key))
    files.certificate.write_bytes(
        x509.load_pem_x509_certificate(files.certificate.read_bytes()).public_bytes(Encoding.DER)
    )
    with pytest.raises(CertificateError, match=r"own crt\.pem has no certificate in PEM.*openssl x509 -inform der"):
        load(files)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    files = issued(tmp_path)
    with pytest.raises(CertificateError, match=r"none: No such file or directory; name a file that you can read, or"):
        load(Files(tmp_path / "none", files.key))
    with pytest.raises(CertificateError, match=f"{tmp_path}: Is a directory"):
        load(Files(files.certificate, tmp_path))
