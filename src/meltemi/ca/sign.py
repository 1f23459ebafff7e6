"""X.509, pure: who signs, for which key, under which name, from when to when.

Only the public key is taken from a CSR. Names come from the authenticated caller, as in Istio
(security/pkg/server/ca) and SPIFFE's X.509-SVID. Time and serial numbers are parameters.
"""

import datetime
import ipaddress
import re
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meltemi.base.identity import Identity
from meltemi.ca.errors import BadAuthority, BadRequest

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DEFAULT_LIFETIME = datetime.timedelta(hours=24)
LONGEST_LIFETIME = datetime.timedelta(days=90)
ROOT_LIFETIME = datetime.timedelta(days=3650)
BACKDATE = datetime.timedelta(minutes=2)
"""Certificates start this much earlier, for peers whose clocks are behind."""

_LARGEST_CSR = 16 * 1024
_SMALLEST_RSA, _LARGEST_RSA = 2048, 8192
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_SUBJECT_VALUE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Authority(msgspec.Struct, frozen=True):
    """A signing certificate with its key, and the way from it to the roots."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """Sent after the leaf: the signing certificate and its issuers, without the root.

    Empty when the root itself signs.
    """
    roots: bytes
    """PEM of what peers trust."""

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()})"


class Subject(msgspec.Struct, frozen=True):
    """What the subject of a workload's certificate tells its peers for their metrics."""

    workload: str = ""
    namespace: str = ""
    app: str = ""
    version: str = ""


class Names(msgspec.Struct, frozen=True):
    """The alternative names of a leaf: at most one identity, and a server's names."""

    identity: Identity | None = None
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


def public_key_from_csr(pem: bytes) -> PublicKey:
    """The key of a CSR that is well-formed, proves possession, and is strong. Or BadRequest."""
    if len(pem) > _LARGEST_CSR:
        raise BadRequest(f"the CSR is larger than {_LARGEST_CSR} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        key = csr.public_key()
        valid = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise BadRequest("the CSR is not a PEM certificate request with a known key") from e
    if not valid:
        raise BadRequest("the CSR is not signed by its own key")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and _SMALLEST_RSA <= key.key_size <= _LARGEST_RSA:
        return key
    raise BadRequest("the CSR's key must be P-256, P-384, or RSA of 2048 to 8192 bits")


def lifetime_from_request(
    seconds: int,
    default: datetime.timedelta = DEFAULT_LIFETIME,
    longest: datetime.timedelta = LONGEST_LIFETIME,
) -> datetime.timedelta:
    """The asked lifetime; 0 or less asks for the default, too much is refused."""
    if seconds <= 0:
        return default
    if seconds > longest.total_seconds():
        raise BadRequest(f"a lifetime of {seconds} s is more than the {longest.days} days allowed")
    return datetime.timedelta(seconds=seconds)


def leaf(
    authority: Authority,
    public_key: PublicKey,
    names: Names,
    subject: Subject,
    *,
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    serial: int,
) -> x509.Certificate:
    """Sign a certificate for servers and clients. It never outlives its issuer."""
    issuer = authority.certificate
    end = min(now + lifetime, issuer.not_valid_after_utc)
    name = _subject_name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(max(now - BACKDATE, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(_alternative_names(names), critical=not list(name))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(authority.key)),
            critical=False,
        )
    )
    return builder.sign(authority.key, hashes.SHA256())


def self_signed(
    key: PrivateKey,
    organization: str,
    *,
    now: datetime.datetime,
    serial: int,
    lifetime: datetime.timedelta = ROOT_LIFETIME,
) -> Authority:
    """A root that signs leaves itself, as Istio's self-signed CA does."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    public_key = _public(key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate, (), pem([certificate]))


def authority_from_pem(
    certificate: bytes, key: bytes, *, chain: bytes = b"", roots: bytes = b"", where: str
) -> Authority:
    """Read a signing certificate; `where` names it in errors. Without roots it is the root."""
    try:
        signing = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, password=None)
        above = tuple(x509.load_pem_x509_certificates(chain)) if chain.strip() else ()
        trusted = x509.load_pem_x509_certificates(roots) if roots.strip() else [signing]
        constraints = signing.extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as e:
        raise BadAuthority(f"{where}: {type(e).__name__} in its PEM; see its keys") from e
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadAuthority(f"{where}: the key must be EC or RSA")
    if _public_bytes(_public(private)) != _public_bytes(signing.public_key()):
        raise BadAuthority(f"{where}: the key does not belong to the certificate")
    if not constraints.value.ca:
        raise BadAuthority(f"{where}: the certificate may not sign (basicConstraints CA:FALSE)")
    if signing in trusted:
        return Authority(private, signing, (), pem(trusted))
    between = [c for c in above if c not in trusted]
    full = tuple(between) if signing in between else (signing, *between)
    return Authority(private, signing, full, pem(trusted))


def check_valid_at(authority: Authority, now: datetime.datetime, where: str) -> None:
    """Raise BadAuthority when the signing certificate isn't valid now."""
    certificate = authority.certificate
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise BadAuthority(
            f"{where}: valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}; replace it"
        )


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _subject_name(subject: Subject) -> x509.Name:
    """CN, O, OU, L; values that are not plain label text are left out, never escaped."""
    pairs = (
        (NameOID.COMMON_NAME, subject.workload[:64]),
        (NameOID.ORGANIZATION_NAME, subject.namespace),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, subject.app),
        (NameOID.LOCALITY_NAME, subject.version),
    )
    return x509.Name(
        [x509.NameAttribute(oid, value) for oid, value in pairs if _SUBJECT_VALUE.fullmatch(value)]
    )


def _alternative_names(names: Names) -> x509.SubjectAlternativeName:
    uris = [names.identity.uri] if names.identity is not None else []
    return x509.SubjectAlternativeName(
        [
            *(x509.UniformResourceIdentifier(uri) for uri in uris),
            *(x509.DNSName(name) for name in names.dns),
            *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in names.ips),
        ]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _public(key: PrivateKey) -> PublicKey:
    return key.public_key()


def _public_bytes(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
