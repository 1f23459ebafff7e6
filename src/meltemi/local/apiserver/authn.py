"""Who asks: client certificates of our own authority, and service accounts' tokens.

Tokens are ES256 JWTs with Kubernetes' claims, bound to a pod when asked; a token whose account or
pod is gone is refused. Anonymous callers may ask about health and version only.
"""

import datetime
import ipaddress
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from meltemi.base.clock import Clock
from meltemi.local.apiserver.errors import conflict, invalid, not_found
from meltemi.local.apiserver.operations import User
from meltemi.local.apiserver.store import Resource, Store

Json = dict[str, Any]
ISSUER = "https://kubernetes.default.svc.cluster.local"
_YEARS = datetime.timedelta(days=3650)
_BACKDATED = datetime.timedelta(minutes=5)
_LONGEST = 48 * 3600
_SHORTEST = 600
_ACCOUNTS = Resource("", "serviceaccounts")
_BOUND = {
    "Pod": Resource("", "pods"),
    "Secret": Resource("", "secrets"),
    "Node": Resource("", "nodes"),
}


class Pki:
    """The API's own authority and certificates, under one directory; keys are 0600."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ca_key = self._key("ca")
        self._ca = self._certificate("ca", self._make_ca)
        self.ca_file = directory / "ca.crt"

    def server(self) -> tuple[Path, Path]:
        """Certificate and key files of the API's endpoint."""
        key = self._key("apiserver")
        names: list[x509.GeneralName] = [
            x509.DNSName(n)
            for n in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        ]
        names += [
            x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "10.43.0.1", "10.44.0.1")
        ]
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        self._certificate("apiserver", lambda: self._leaf(key, "kube-apiserver", "", usage, names))
        return self._directory / "apiserver.crt", self._directory / "apiserver.key"

    def admin(self) -> tuple[bytes, bytes]:
        """PEM certificate and key of the administrator the kubeconfig is for."""
        key = self._key("admin")
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        self._certificate(
            "admin", lambda: self._leaf(key, "kubernetes-admin", "system:masters", usage, [])
        )
        return (
            (self._directory / "admin.crt").read_bytes(),
            (self._directory / "admin.key").read_bytes(),
        )

    def sign(
        self, request: x509.CertificateSigningRequest, lifetime: datetime.timedelta
    ) -> x509.Certificate:
        """A client's certificate, of the name and the key that it asks with."""
        now = self._clock.now()
        usage = x509.KeyUsage(
            digital_signature=True, key_encipherment=True, content_commitment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self._ca.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + lifetime)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )

    def token_key(self) -> ECKey:
        """Signs service accounts' tokens."""
        self._key("sa")
        return ECKey.import_key((self._directory / "sa.key").read_bytes())

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self._directory / f"{name}.key"
        if path.exists():
            loaded = serialization.load_pem_private_key(path.read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            return loaded
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_private(path, pem)
        return key

    def _certificate(self, name: str, make: Any) -> x509.Certificate:
        path = self._directory / f"{name}.crt"
        if path.exists():
            return x509.load_pem_x509_certificate(path.read_bytes())
        certificate: x509.Certificate = make()
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return certificate

    def _make_ca(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meltemi-kubernetes-ca")])
        return (
            self._builder(name, name, self._ca_key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._ca_key, hashes.SHA256())
        )

    def _leaf(
        self,
        key: ec.EllipticCurvePrivateKey,
        common_name: str,
        organization: str,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
    ) -> x509.Certificate:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        builder = self._builder(x509.Name(attributes), self._ca.subject, key)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._ca_key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = self._clock.now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _YEARS)
        )


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def user_from_certificate(peer: Any) -> User | None:
    """The user of a verified client certificate, as `ssl` describes it: CN, and O as groups."""
    if not peer:
        return None
    parts = [pair for group in peer.get("subject", ()) for pair in group]
    name = next((v for k, v in parts if k == "commonName"), "")
    groups = tuple(v for k, v in parts if k == "organizationName")
    return User(name, groups=(*groups, "system:authenticated")) if name else None


class Tokens:
    """Issues and verifies service accounts' tokens."""

    def __init__(self, key: ECKey, store: Store, clock: Clock) -> None:
        self._key = key
        self._store = store
        self._clock = clock

    def request(self, namespace: str, account: str, body: Any) -> Json:
        """The answered TokenRequest. Raises 404s and 422s."""
        spec = (body.get("spec") or {}) if isinstance(body, dict) else {}
        seconds = spec.get("expirationSeconds") or 3600
        if not isinstance(seconds, int) or seconds < _SHORTEST:
            raise invalid(
                "TokenRequest",
                "authentication.k8s.io",
                account,
                [("spec.expirationSeconds", f"Invalid value: {seconds}: may not specify a "
                  f"duration less than {_SHORTEST // 60} minutes")],
            )  # fmt: skip
        token, ends = self.issue(namespace, account, spec)
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account, "namespace": namespace, "creationTimestamp": None},
            "spec": {
                **spec,
                "audiences": spec.get("audiences") or [ISSUER],
                "expirationSeconds": min(seconds, _LONGEST),
            },
            "status": {"token": token, "expirationTimestamp": ends},
        }

    def issue(self, namespace: str, account: str, spec: Json) -> tuple[str, str]:
        """A token for a TokenRequest's spec, and when it expires. Raises 404s."""
        found = self._store.get(_ACCOUNTS, namespace, account)
        if found is None:
            raise not_found("serviceaccounts", "", account)
        now = int(self._clock.now().timestamp())
        seconds = min(max(int(spec.get("expirationSeconds") or 3600), 600), _LONGEST)
        details: Json = {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": found.data["metadata"]["uid"]},
        }
        bound = spec.get("boundObjectRef")
        if bound:
            details.update(self._bound(namespace, bound))
        claims: Json = {
            "iss": ISSUER,
            "aud": spec.get("audiences") or [ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "kubernetes.io": details,
        }
        token = jwt.encode({"alg": "ES256"}, claims, self._key)
        ends = datetime.datetime.fromtimestamp(now + seconds, datetime.UTC)
        return token, ends.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _bound(self, namespace: str, bound: Json) -> Json:
        """What a token dies with: a Pod, a Secret or a Node."""
        kind, name = str(bound.get("kind", "")), str(bound.get("name", ""))
        if kind not in _BOUND:
            raise invalid(
                "TokenRequest",
                "authentication.k8s.io",
                name,
                [("spec.boundObjectRef.kind", f'Unsupported value: "{kind}": supported values: '
                  '"Node", "Pod", "Secret"')],
            )  # fmt: skip
        resource = _BOUND[kind]
        place = "" if kind == "Node" else namespace
        found = self._store.get(resource, place, name)
        if found is None:
            raise not_found(resource.plural, "", name)
        uid = found.data["metadata"]["uid"]
        if bound.get("uid") and bound["uid"] != uid:
            why = f"the UID in the bound object reference ({bound['uid']}) is not that of {uid}"
            raise conflict(resource.plural, "", name, why)
        details = {kind.lower(): {"name": name, "uid": uid}}
        node = found.data.get("spec", {}).get("nodeName") if kind == "Pod" else None
        known = self._store.get(_BOUND["Node"], "", node) if node else None
        if known is not None:
            details["node"] = {"name": node, "uid": known.data["metadata"]["uid"]}
        return details

    def verify(self, token: str, audiences: tuple[str, ...]) -> tuple[User, tuple[str, ...]] | None:
        """The user a token is for and the audiences it shares; None when it is not good.

        Without audiences it has to be for the API itself: a token made for somebody else opens
        nothing here.
        """
        try:
            claims = jwt.decode(token, self._key, algorithms=["ES256"]).claims
        except (JoseError, ValueError):
            return None
        now = self._clock.now().timestamp()
        if claims.get("iss") != ISSUER or not claims.get("nbf", 0) - 60 <= now < claims["exp"]:
            return None
        own = claims.get("aud") or ()
        own = (own,) if isinstance(own, str) else own
        shared = tuple(a for a in own if a in (audiences or (ISSUER,)))
        details = claims.get("kubernetes.io") or {}
        if not shared or not self._still_there(details):
            return None
        namespace = details["namespace"]
        pod = details.get("pod")
        extra = {}
        if pod:
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        )
        return User(claims["sub"], details["serviceaccount"]["uid"], groups, extra), shared

    def _still_there(self, details: Json) -> bool:
        namespace, account = details.get("namespace", ""), details.get("serviceaccount") or {}
        found = self._store.get(_ACCOUNTS, namespace, account.get("name", ""))
        if found is None or found.data["metadata"]["uid"] != account.get("uid"):
            return False
        for kind, resource in _BOUND.items():
            bound = details.get(kind.lower())
            if not bound or (kind == "Node" and "pod" in details):
                continue
            place = "" if kind == "Node" else namespace
            known = self._store.get(resource, place, bound["name"])
            if known is None or known.data["metadata"]["uid"] != bound["uid"]:
                return False
        return True
