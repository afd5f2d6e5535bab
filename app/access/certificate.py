"""The certificate of the address: made here and kept over restarts, or a person's own; in one file as HAProxy reads it.

made = kept_or_made(folder, ["node7", "node7.example.org"], ["10.0.0.7"], now)    # also localhost, 127.0.0.1 and ::1
own = load_certificate(Path("fullchain.pem"), Path("privkey.pem"), folder)        # checked before HAProxy sees it
EdgeSpec(tls_cert=made.tls_path, ...)
httpx.Client(verify=ssl.create_default_context(cafile=made.certificate_path))     # a client that trusts nothing else

One that is made is no authority (CA:FALSE): who trusts it trusts this address alone. It has no keyUsage, without which
OpenSSL before 3.0 would take it for no trust anchor.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.private_files import locked, make_folder, replace_file

TLS_FILE, CERTIFICATE_FILE, LOCK_FILE = "tls.pem", "certificate.pem", ".lock"
LOCAL_NAMES, LOCAL_ADDRESSES = ("localhost",), ("127.0.0.1", "::1")
ORGANISATION = "Corral"
"""By it one that was made here is told from a person's own."""
COMMON_NAME_LENGTH = 64
HOST_NAME = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
RENEW_BEFORE = timedelta(days=30)
WARN_BEFORE = timedelta(days=14)
CLOCKS_DIFFER = timedelta(minutes=5)
MAKE_ONE = "or leave access.tls.certificate and access.tls.key out, and one is made"


class CertificateError(Exception):
    """The certificate cannot be used or made; the message names the file and the way out."""


@dataclass(frozen=True)
class Certificate:
    """What the edge shows. The file at `tls_path` has the key as well; `certificate_path` is for clients.

    `fingerprint` is SHA-256, as openssl prints it. Where it is not self-signed, clients need its authority instead.
    """

    tls_path: Path
    certificate_path: Path
    fingerprint: str
    names: tuple[str, ...]
    not_after: datetime
    self_signed: bool
    warning: str | None = None


@dataclass(frozen=True)
class _Pair:
    """A key and its certificate, which is the first of the chain."""

    chain: list[x509.Certificate]
    key: PrivateKeyTypes

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def public_pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)

    @property
    def private_pem(self) -> bytes:
        return self.public_pem + self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def kept_or_made(folder: Path, names: Sequence[str], addresses: Sequence[str], now: datetime) -> Certificate:
    """The one made before if it has all these names and 30 days left, else a new one. Raises CertificateError.

    `now` has a time zone. Two hosts that share the folder would take turns in making theirs: give each its own.
    """
    _make_own(folder)
    lock = folder / LOCK_FILE  # services that start together would each make one
    with _told(lock), locked(lock):
        return _kept(folder, _hosts(names, addresses), now) or make_certificate(folder, names, addresses, now)


def make_certificate(
    folder: Path, names: Sequence[str], addresses: Sequence[str], now: datetime, days: int = 365
) -> Certificate:
    """A new one, self-signed, for these and this host's loopback. Raises CertificateError."""
    key = ec.generate_private_key(ec.SECP256R1())
    pair = _Pair([_signed(key, _hosts(names, addresses), now, days)], key)
    _store(folder, pair)
    return _described(folder, pair)


def load_certificate(certificate: Path, key: Path, folder: Path, now: datetime | None = None) -> Certificate:
    """A person's own, checked, joined in `folder`. `now` is the clock's unless given. Raises CertificateError."""
    now = now or datetime.now(UTC)
    pair = _pair(certificate, key)
    _refuse_outdated(certificate, pair.leaf, now)
    _store(folder, pair)
    return _described(folder, pair, _warning(certificate, pair.leaf, now))


def _hosts(names: Sequence[str], addresses: Sequence[str]) -> tuple[str, ...]:
    """Each once, as a certificate has them; which of them are addresses shows."""
    hosts = (*names, *LOCAL_NAMES, *addresses, *LOCAL_ADDRESSES)
    return tuple(dict.fromkeys(_address(host) or _host_name(host) for host in hosts))


def _host_name(host: str) -> str:
    name = host.lower().rstrip(".")
    if not HOST_NAME.fullmatch(name):
        raise CertificateError(f"a certificate cannot name {host!r}: give a host name in ASCII or an IP address")
    return name


def _address(host: str) -> str | None:
    """An IP address as it is written shortest, without its zone; None if it is none."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def _signed(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime, days: int) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:COMMON_NAME_LENGTH]),
        ]
    )
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _address(host) else x509.DNSName(host)


def _kept(folder: Path, hosts: Sequence[str], now: datetime) -> Certificate | None:
    try:
        pair = _pair(folder / TLS_FILE, folder / TLS_FILE)
        found = _described(folder, pair)
    except CertificateError:
        return None
    made_here = found.self_signed and _organisation(pair.leaf) == ORGANISATION
    if not made_here or not set(hosts) <= set(found.names):
        return None
    if pair.leaf.not_valid_before_utc > now or found.not_after - now <= RENEW_BEFORE:
        return None
    _write(found.certificate_path, pair.public_pem, 0o644)  # whatever became of it
    return found


def _pair(certificate: Path, key: Path) -> _Pair:
    """What the two files have, the key's own certificate first. Raises CertificateError."""
    chain, secret = _read_certificates(certificate), _read_key(key)
    leaf = next((each for each in chain if _belongs(each, secret)), None)
    if leaf is None:
        raise CertificateError(
            f"{key} is not the key of {certificate}: their public keys differ; give the two that were issued together"
        )
    return _Pair([leaf, *(each for each in chain if each is not leaf)], secret)


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise CertificateError(
            f"{path} has no certificate in PEM, text with -----BEGIN CERTIFICATE-----; "
            f"`openssl x509 -inform der -in {shlex.quote(str(path))} -out certificate.pem` makes it of one in DER"
        ) from None


def _read_key(path: Path) -> PrivateKeyTypes:
    quoted = shlex.quote(str(path))
    try:
        return load_pem_private_key(_read(path, private=True), None)
    except TypeError:
        raise CertificateError(
            f"{path} is encrypted, and HAProxy cannot ask for its password; "
            f"`(umask 077; openssl pkey -in {quoted} -out key.pem)` writes one that is not"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"{path} has no private key in PEM, text with -----BEGIN PRIVATE KEY-----; "
            f"`(umask 077; openssl pkey -inform der -in {quoted} -out key.pem)` makes it of one in DER"
        ) from None


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            if private:
                _refuse_readable(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}; name a file that you can read, {MAKE_ONE}") from None


def _refuse_readable(path: Path, status: os.stat_result) -> None:
    """Who owns a key keeps it from the group as well; another's may be shared with us through a group."""
    closed_to = 0o077 if status.st_uid == os.geteuid() else 0o007
    if status.st_mode & closed_to:
        raise CertificateError(
            f"{path} is a private key that others on this machine can read or change; "
            f"`chmod {'600' if closed_to == 0o077 else 'o='} {shlex.quote(str(path))}` closes it"
        )


def _belongs(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    try:
        public_keys = certificate.public_key(), key.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a kind that only others in the chain may be of
        return False
    first, second = (each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in public_keys)
    return first == second


def _refuse_outdated(path: Path, leaf: x509.Certificate, now: datetime) -> None:
    if leaf.not_valid_after_utc <= now:
        raise CertificateError(f"{path} expired on {_day(leaf.not_valid_after_utc)}; renew it, {MAKE_ONE}")
    if leaf.not_valid_before_utc > now:
        raise CertificateError(
            f"{path} is not valid before {_day(leaf.not_valid_before_utc)}; look at this machine's clock, {MAKE_ONE}"
        )


def _warning(path: Path, leaf: x509.Certificate, now: datetime) -> str | None:
    found = []
    if leaf.not_valid_after_utc - now <= WARN_BEFORE:
        found.append(f"{path} expires on {_day(leaf.not_valid_after_utc)}; renew it, then start again")
    if not _names(leaf):
        found.append(f"{path} has no subjectAltName, so clients refuse it; have it issued with the host's names")
    return ". ".join(found) or None


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d at %H:%M} UTC"


def _described(folder: Path, pair: _Pair, warning: str | None = None) -> Certificate:
    folder = folder.absolute()  # HAProxy works in another one
    return Certificate(
        tls_path=folder / TLS_FILE,
        certificate_path=folder / CERTIFICATE_FILE,
        fingerprint=pair.leaf.fingerprint(hashes.SHA256()).hex(":").upper(),
        names=_names(pair.leaf),
        not_after=pair.leaf.not_valid_after_utc,
        self_signed=_is_self_signed(pair.leaf),
        warning=warning,
    )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _is_self_signed(leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(leaf)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _organisation(leaf: x509.Certificate) -> str | None:
    found = leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else None


def _store(folder: Path, pair: _Pair) -> None:
    _make_own(folder)
    _write(folder / TLS_FILE, pair.private_pem, 0o600)
    _write(folder / CERTIFICATE_FILE, pair.public_pem, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    with _told(path):
        replace_file(path, content, mode)


def _make_own(folder: Path) -> None:
    with _told(folder):
        make_folder(folder)
    if folder.stat().st_uid != os.getuid():
        raise CertificateError(f"{folder} belongs to somebody else, who could give us another key: have it removed")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk refuses, as CertificateError."""
    try:
        yield
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be written: {error.strerror}; make room, or give yourself the right to"
        ) from None
