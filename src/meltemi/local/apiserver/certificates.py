"""CertificateSigningRequests: who asks, who approves, and what the API's authority signs.

Only `kubernetes.io/kube-apiserver-client` is signed here: client certificates for this API, once
somebody has approved them. Requests to signers of other names are kept for whoever serves them.
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import base64
import datetime
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

Json = dict[str, Any]
Cause = tuple[str, str]
GROUP = "certificates.k8s.io"
SIGNER = "kubernetes.io/kube-apiserver-client"
_MASTERS = "system:masters"
_USAGES = frozenset(("digital signature", "key encipherment", "client auth"))
_SHORTEST = 600
_LONGEST = 365 * 86400
_DECISIONS = frozenset(("Approved", "Denied"))


def request_causes(data: Json, _before: Json | None) -> Iterator[Cause]:
    spec = data.get("spec") or {}
    try:
        parsed(spec)
    except (ValueError, TypeError, InvalidSignature) as error:
        yield "spec.request", f"Invalid value: not a certificate request in PEM: {error}"
    signer = str(spec.get("signerName") or "")
    if not signer:
        yield "spec.signerName", "Required value"
    elif "/" not in signer or "." not in signer.partition("/")[0]:
        yield "spec.signerName", f'Invalid value: "{signer}": must be a domain, a slash and a path'
    elif signer.startswith("kubernetes.io/") and signer != SIGNER:
        yield "spec.signerName", f'Unsupported value: "{signer}": supported values: "{SIGNER}"'
    if not spec.get("usages"):
        yield "spec.usages", "Required value"
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _SHORTEST:
        yield "spec.expirationSeconds", f"Invalid value: {seconds}: may not be less than 600"
    decided = {c.get("type") for c in (data.get("status") or {}).get("conditions") or ()}
    if decided >= _DECISIONS:
        yield (
            "status.conditions",
            "Invalid value: Approved and Denied conditions exclude each other",
        )


def parsed(spec: Json) -> x509.CertificateSigningRequest:
    """The request itself, its signature checked. Raises ValueError and InvalidSignature."""
    request = x509.load_pem_x509_csr(base64.b64decode(spec.get("request") or "", validate=True))
    if not request.is_signature_valid:
        raise ValueError("its signature does not fit its key")
    return request


def decided(before: Json, wanted: Json, subresource: str, now: str) -> Json:
    """A status after a write: decisions come by `approval` alone, and stay."""
    old, new = before.get("status") or {}, wanted.get("status") or {}
    taken = {c["type"]: c for c in old.get("conditions") or () if c["type"] in _DECISIONS}
    given = new.get("conditions") or []
    present = {c.get("type") for c in given}
    conditions = [c for kind, c in taken.items() if kind not in present]
    for condition in given:
        kind = condition.get("type")
        if kind in taken:
            conditions.append(taken[kind])
        elif kind not in _DECISIONS or subresource == "approval":
            conditions.append({"lastUpdateTime": now, "lastTransitionTime": now, **condition})
    base = old if subresource == "approval" else new
    return {**base, "conditions": conditions}


def is_approved(data: Json) -> bool:
    """Whether a certificate is due: approved, not denied, not signed, not failed."""
    status = data.get("status") or {}
    found = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    return (
        "Approved" in found and not found & {"Denied", "Failed"} and not status.get("certificate")
    )


def lifetime(spec: Json) -> datetime.timedelta:
    """How long a certificate lasts: as asked for, a year at most."""
    return datetime.timedelta(seconds=min(spec.get("expirationSeconds") or _LONGEST, _LONGEST))


def refusal(spec: Json) -> str:
    """Why the signer does not sign a request that was approved; empty when it does."""
    groups = {
        attribute.value
        for attribute in parsed(spec).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    }
    usages = set(spec.get("usages") or ())
    if _MASTERS in groups:
        return f"the group {_MASTERS} is not given out by certificates"
    if "client auth" not in usages:
        return 'usages must include "client auth"'
    if usages - _USAGES:
        return f"usages are not allowed: {', '.join(sorted(usages - _USAGES))}"
    return ""


def with_certificate(data: Json, certificate: x509.Certificate) -> Json:
    """The status of a request that has been signed."""
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return {**(data.get("status") or {}), "certificate": base64.b64encode(pem).decode()}


def failed(data: Json, why: str, now: str) -> Json:
    """The status of a request that cannot be signed."""
    status = data.get("status") or {}
    condition = {"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                 "message": why, "lastUpdateTime": now, "lastTransitionTime": now}  # fmt: skip
    return {**status, "conditions": [*(status.get("conditions") or ()), condition]}
