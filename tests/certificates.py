"""Certificates that tests make for themselves: an authority, and what it signs."""

import base64
import datetime
from typing import NamedTuple

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Signed(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs leaves for names."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(_PEM)

    def sign(self, *names: str, key: Key | None = None) -> Signed:
        """A leaf for DNS names (and SPIFFE URIs)."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        general = [
            x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names
        ]
        certificate = (
            _builder(subject, self._name, own)
            .add_extension(x509.SubjectAlternativeName(general), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = own.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Signed(certificate.public_bytes(_PEM), private)

    def revoke(self, *signed: Signed) -> bytes:
        """The list of these as revoked, in PEM."""
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - datetime.timedelta(minutes=5))
            .next_update(now + datetime.timedelta(days=1))
        )
        for one in signed:
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(x509.load_pem_x509_certificate(one.certificate).serial_number)
                .revocation_date(now - datetime.timedelta(minutes=1))
                .build()
            )
            made = made.add_revoked_certificate(revoked)
        return made.sign(self._key, hashes.SHA256()).public_bytes(_PEM)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def tls_secret(
    name: str, signed: Signed | None, *, authority: bytes = b"", namespace: str = "istio-system"
) -> str:
    """A Secret as YAML."""
    data = {}
    if signed is not None:
        data |= {"tls.crt": signed.certificate, "tls.key": signed.key}
    if authority:
        data["ca.crt"] = authority
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls" if signed is not None else "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    return "---\n" + yaml.safe_dump(body)
