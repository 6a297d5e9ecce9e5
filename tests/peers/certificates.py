"""Authorities of a test's own, and what they sign for 127.0.0.1 and localhost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DAYS: Final = 2


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files: whom to trust, and a certificate with its key; anybody may read them."""

    ca: Path
    cert: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """Of a new authority, in a folder that is made."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name(f"authority of {folder.name}")
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    ca = _builder(issuer, issuer, authority).add_extension(constraints, critical=True)
    cert = _builder(_name("localhost"), issuer, server).add_extension(names, critical=False)
    encoding = serialization.Encoding.PEM
    made.ca.write_bytes(ca.sign(authority, hashes.SHA256()).public_bytes(encoding))
    made.cert.write_bytes(cert.sign(authority, hashes.SHA256()).public_bytes(encoding))
    made.key.write_bytes(
        server.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=_DAYS))
        .not_valid_after(now + timedelta(days=_DAYS))
    )
