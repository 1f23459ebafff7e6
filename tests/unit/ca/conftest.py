"""A Kubernetes API with objects in a dict, and clocks that stand still."""

import asyncio
import base64
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.ca import sign
from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import Access

# Real peers check certificates against the real clock, so the fixed one starts there.
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

COLLECTIONS = ("/api/v1/namespaces", "/api/v1/configmaps")


class FixedClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.time = NOW
        self.seconds = 0.0

    def now(self) -> datetime.datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds


class DictApi:
    """GET, POST and TokenReview over a dict of objects by path."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.reviews = 0
        self.written: asyncio.Queue[str] = asyncio.Queue()
        self.events: dict[str, asyncio.Queue[dict[str, Any]]] = {
            path: asyncio.Queue() for path in COLLECTIONS
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        if request.method == "PATCH":
            self.objects[request.path] |= await request.json()
            self.written.put_nowait(request.path)
            return web.json_response(self.objects[request.path])
        if request.method == "GET" and request.path in COLLECTIONS:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        if request.path.endswith("/tokenreviews"):
            return self._review(await request.json())
        if request.method == "POST":
            body = await request.json()
            path = f"{request.path}/{body['metadata']['name']}"
            if path in self.objects:
                return web.json_response({"code": 409, "reason": "AlreadyExists"}, status=409)
            self.objects[path] = body
            self.written.put_nowait(path)
            return web.json_response(body, status=201)
        found = self.objects.get(request.path)
        if found is None:
            return web.json_response({"code": 404, "reason": "NotFound"}, status=404)
        return web.json_response(found)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        while True:
            event = await self.events[request.path].get()
            await reply.write(json.dumps(event).encode() + b"\n")

    def _review(self, body: dict[str, Any]) -> web.Response:
        self.reviews += 1
        known = self.tokens.get(body["spec"]["token"])
        wanted = body["spec"]["audiences"]
        status: dict[str, Any] = {"authenticated": False, "error": "unknown token"}
        if known is not None and not set(known["audiences"]) & set(wanted):
            status = {"authenticated": False, "error": "wrong audience"}
        elif known is not None:
            status = {
                "authenticated": True,
                "user": known["user"],
                "audiences": [a for a in known["audiences"] if a in wanted],
            }
        return web.json_response({"status": status}, status=201)

    def add_pod(self, name: str, *, account: str = "reviews", uid: str = "u1") -> str:
        """A pod of Deployment reviews-v1; returns a token bound to it."""
        self.objects[f"/api/v1/namespaces/default/pods/{name}"] = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": "u1",
                "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "abc"},
                "ownerReferences": [
                    {"kind": "ReplicaSet", "name": "reviews-v1-abc", "controller": True}
                ],
            },
            "spec": {"serviceAccountName": "reviews"},
        }
        return self.add_token(account, pod=name, uid=uid)

    def add_token(
        self, account: str, *, audience: str = "istio-ca", pod: str = "", uid: str = ""
    ) -> str:
        payload = json.dumps({"sub": account, "aud": audience, "n": len(self.tokens)})
        text = base64.urlsafe_b64encode(payload.encode()).decode()
        token = f"e30.{text}.c2ln"
        prefix = "authentication.kubernetes.io/pod-"
        extra = {f"{prefix}name": [pod], f"{prefix}uid": [uid]} if pod else {}
        user = {"username": f"system:serviceaccount:default:{account}", "extra": extra}
        self.tokens[token] = {"user": user, "audiences": [audience]}
        return token


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def api() -> DictApi:
    return DictApi()


@pytest.fixture
async def client(api: DictApi) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        async with Client(Access(server=url)) as client:
            yield client


@pytest.fixture
def root() -> sign.Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return sign.self_signed(key, "cluster.local", now=NOW, serial=1)


@pytest.fixture
def make_csr() -> Any:
    """`make_csr(key, uri)`: a CSR that asks for a name of its own."""

    def make(key: Any = None, uri: str = "spiffe://cluster.local/ns/x/sa/admin") -> bytes:
        key = key or ec.generate_private_key(ec.SECP256R1())
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False
            )
            .sign(key, hashes.SHA256())
        )
        return csr.public_bytes(serialization.Encoding.PEM)

    return make
