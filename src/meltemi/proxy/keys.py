"""A workload's key: P-256, made here, never written down."""

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted


class KeyPair(msgspec.Struct, frozen=True):
    private: Redacted
    """PKCS #8 PEM."""
    public: bytes
    """SubjectPublicKeyInfo, DER; to recognize the certificate that is for this key."""
    csr: bytes
    """PEM. It names the identity for other authorities; ours looks at the key only."""


def new_key_pair(identity: Identity) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return KeyPair(
        Redacted(private),
        public_der(key.public_key()),
        csr.public_bytes(serialization.Encoding.PEM),
    )


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
