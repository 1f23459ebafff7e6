"""Credentials from Secrets: `tls.crt`, `tls.key`, `ca.crt`, `ca.crl`, or `cert`, `key`, `cacert`.

What a proxy could not load is found here, so that it never gets there. Messages say what is wrong
and never what was read.
"""

import base64
import binascii
from collections.abc import Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meltemi.api.core import Secret
from meltemi.api.decode import decode
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Outcome
from meltemi.base.redacted import Redacted
from meltemi.flow import Fetch
from meltemi.model.credential import Credential, Pair

_CHAIN, _KEY = ("tls.crt", "cert"), ("tls.key", "key")
_AUTHORITY, _REVOKED = ("ca.crt", "cacert"), ("ca.crl", "crl")
_WORDS = frozenset((*_CHAIN, *_KEY, *_AUTHORITY, *_REVOKED))
_SHORTEST_RSA = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class BadCredential(ValueError):
    """Why a Secret cannot be used for TLS; the text names its entry, and nothing of its value."""


def credentials(
    _fetch: Fetch, key: ObjectKey, raw: bytes
) -> Mapping[ObjectKey, Outcome[Credential]]:
    """A Secret's credential. A broken one keeps the last good; `faults` says why."""
    try:
        found = credential_from_raw(raw)
    except BadCredential:
        return {key: Outcome(None)}
    return {} if found is None else {key: Outcome(found)}


def faults(_fetch: Fetch, key: ObjectKey, raw: bytes) -> Mapping[ObjectKey, Outcome[str]]:
    """Why a Secret that is meant for TLS cannot be used."""
    try:
        credential_from_raw(raw)
    except BadCredential as error:
        return {key: Outcome(str(error))}
    return {}


def credential_from_raw(raw: bytes) -> Credential | None:
    """None for a Secret that has nothing to do with TLS. Raises BadCredential."""
    secret = decode("Secret", raw).value
    if not isinstance(secret, Secret) or not _WORDS & secret.data.keys():
        return None
    chain, key = _entry(secret, _CHAIN), _entry(secret, _KEY)
    authority, revoked = _entry(secret, _AUTHORITY), _entry(secret, _REVOKED)
    if authority:
        _certificates(authority, "the authority (ca.crt)")
    if revoked:
        _revocations(revoked)
    if bool(chain) != bool(key):
        missing = "key (tls.key)" if chain else "certificate (tls.crt)"
        raise BadCredential(f"it has no {missing}")
    pair = _pair(chain, key) if chain else None
    if pair is None and not authority:
        raise BadCredential("it has neither a certificate nor an authority")
    return Credential(pair, authority, revoked)


def _entry(secret: Secret, names: tuple[str, ...]) -> bytes:
    for name in names:
        if secret.data.get(name):
            try:
                return base64.b64decode(secret.data[name], validate=True)
            except (ValueError, binascii.Error):
                raise BadCredential(f"{name} is not base64") from None
    return b""


def _pair(chain: bytes, key: bytes) -> Pair:
    leaf = _certificates(chain, "the certificate (tls.crt)")[0]
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadCredential("the key (tls.key) is not an unencrypted PEM key") from None
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    forms = [k.public_bytes(serialization.Encoding.DER, public)
             for k in (private.public_key(), leaf.public_key())]  # fmt: skip
    if forms[0] != forms[1]:
        raise BadCredential("the key (tls.key) does not belong to the certificate (tls.crt)")
    match private:
        case rsa.RSAPrivateKey():
            if private.key_size < _SHORTEST_RSA:
                raise BadCredential(f"an RSA key needs {_SHORTEST_RSA} bits or more")
            return Pair(chain, Redacted(key), "RSA")
        case ec.EllipticCurvePrivateKey() if isinstance(private.curve, _CURVES):
            return Pair(chain, Redacted(key), "ECDSA")
    raise BadCredential("the key is neither RSA nor ECDSA on P-256, P-384 or P-521")


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BadCredential(f"{what} is not PEM of certificates") from None


def _revocations(pem: bytes) -> None:
    try:
        x509.load_pem_x509_crl(pem)
    except ValueError:
        raise BadCredential("the revocation list (ca.crl) is not PEM") from None
