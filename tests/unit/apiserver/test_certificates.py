"""Certificate requests: asked for, decided about, signed, and good for this API."""

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meltemi.local.apiserver.server import Running

from .conftest import Api, Json
from .test_security import CLUSTER_BINDINGS, CLUSTER_ROLES, bob  # noqa: F401

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client"


class Asked:
    """A key, and the request for its certificate."""

    def __init__(self, name: str = "ann", group: str = "sailors") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
        pem = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.pem = base64.b64encode(pem).decode()

    def body(self, **spec: Any) -> Json:
        wanted = {"request": self.pem, "signerName": SIGNER, "usages": ["client auth"], **spec}
        return {"metadata": {"name": "ann"}, "spec": wanted}

    def context(self, certificate: str, server: Running, directory: Path) -> ssl.SSLContext:
        """TLS as the owner of the certificate."""
        file = directory / "client.pem"
        form = serialization.PrivateFormat.PKCS8
        plain = serialization.NoEncryption()
        key = self.key.private_bytes(serialization.Encoding.PEM, form, plain)
        file.write_bytes(base64.b64decode(certificate) + key)
        context = ssl.create_default_context(cafile=str(server.kubeconfig.parent / "pki/ca.crt"))
        context.load_cert_chain(file)
        return context


async def decide(api: Api, word: str = "Approved") -> Any:
    found = await api.get(f"{REQUESTS}/ann")
    condition = {"type": word, "status": "True", "reason": "Test"}
    found["status"] = {"conditions": [condition]}
    return await api.call("PUT", f"{REQUESTS}/ann/approval", found)


async def outcome(api: Api, *wanted: str) -> Json:
    """The status once it has one of these fields or conditions."""
    async with api.watch(REQUESTS, "fieldSelector=metadata.name=ann") as events:
        async for event in events:
            status: Json = event["object"].get("status") or {}
            words = {*status, *(c["type"] for c in status.get("conditions") or ())}
            if words & set(wanted):
                return status
    raise AssertionError("the watch ended")


async def test_an_approved_request_becomes_a_certificate_that_opens_the_api(
    api: Api, server: Running, tmp_path: Path
) -> None:
    asked = Asked()
    made = await api.post(REQUESTS, asked.body(expirationSeconds=600, username="liar"))
    assert made["spec"]["username"] == "kubernetes-admin"
    assert "system:masters" in made["spec"]["groups"]
    assert "certificate" not in made.get("status", {})
    assert (await decide(api)).status == 200
    status = await outcome(api, "certificate")
    signed = x509.load_pem_x509_certificate(base64.b64decode(status["certificate"]))
    assert (signed.not_valid_after_utc - signed.not_valid_before_utc).total_seconds() < 7200
    ann = Api(api.url, asked.context(status["certificate"], server, tmp_path))
    review = await ann.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert review["status"]["userInfo"]["username"] == "ann"
    assert "sailors" in review["status"]["userInfo"]["groups"]
    assert (await ann.call("GET", REQUESTS)).status == 403
    await ann.session.close()


async def test_decisions_are_made_by_approval_alone_and_stay(api: Api) -> None:
    await api.post(REQUESTS, Asked().body())
    sneaky = {"status": {"conditions": [{"type": "Approved", "status": "True"}]}}
    found = await api.patch(f"{REQUESTS}/ann/status", sneaky)
    assert not found["status"].get("conditions")
    assert (await decide(api, "Denied")).status == 200
    answer = await decide(api, "Approved")
    assert (answer.status, "exclude" in answer.message) == (422, True)
    changed = await api.patch(f"{REQUESTS}/ann", {"spec": {"username": "eve", "usages": ["any"]}})
    assert changed["spec"] == found["spec"], "what was asked for stays"
    shown = await api.call("GET", f"{REQUESTS}/ann", accept="application/json;as=Table;v=v1")
    assert shown.body["rows"][0]["cells"][-1] == "Denied"


@pytest.mark.parametrize(
    ("asked", "usages", "said"),
    [
        (Asked(group="system:masters"), ["client auth"], "system:masters"),
        (Asked(), ["server auth"], "client auth"),
        (Asked(), ["client auth", "code signing"], "code signing"),
    ],
)
async def test_what_the_signer_does_not_sign_fails(
    api: Api, asked: Asked, usages: list[str], said: str
) -> None:
    await api.post(REQUESTS, asked.body(usages=usages))
    await decide(api)
    status = await outcome(api, "Failed")
    assert "certificate" not in status
    assert said in status["conditions"][-1]["message"]


async def test_who_approves_needs_the_right_to_for_this_signer(
    api: Api,
    bob: Api,  # noqa: F811
) -> None:
    await api.post(REQUESTS, Asked().body())
    group = ["certificates.k8s.io"]
    own = "certificatesigningrequests"
    rules = [{"apiGroups": group, "resources": [own, f"{own}/approval"], "verbs": ["*"]}]
    await api.post(CLUSTER_ROLES, {"metadata": {"name": "approver"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "bob", "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"}
    await api.post(CLUSTER_BINDINGS, {"metadata": {"name": "approver"}, "roleRef": role,
                                      "subjects": [subject]})  # fmt: skip
    answer = await decide(bob)
    assert (answer.status, "signers" in answer.message) == (403, True)
    rules.append({"apiGroups": group, "resources": ["signers"], "verbs": ["approve"],
                  "resourceNames": [SIGNER]})  # fmt: skip
    await api.patch(f"{CLUSTER_ROLES}/approver", {"rules": rules})
    assert (await decide(bob)).status == 200
    assert "certificate" in await outcome(api, "certificate")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"request": "bm9uZQ=="}, "spec.request"),
        ({"signerName": "kubernetes.io/kubelet-serving"}, "spec.signerName"),
        ({"signerName": "me"}, "spec.signerName"),
        ({"usages": []}, "spec.usages"),
        ({"expirationSeconds": 5}, "spec.expirationSeconds"),
    ],
)
async def test_mistakes_are_named(api: Api, spec: Json, field: str) -> None:
    answer = await api.call("POST", REQUESTS, Asked().body(**spec))
    assert (answer.status, field in answer.message) == (422, True)
