"""Webhooks: which are asked, what they may change, and what their failure means."""

import asyncio
import base64
import datetime
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .conftest import CONFIG_MAPS, PODS, Api, Json

CONFIGS = "/apis/admissionregistration.k8s.io/v1"
Answer = Callable[[Json], Json]


def config(name: str = "one", **data: str) -> Json:
    return {"metadata": {"name": name}, "data": data}


class Hook:
    """A webhook whose answers a test writes; `seen` holds the requests."""

    def __init__(self) -> None:
        self.seen: list[Json] = []
        self.answer: Answer = lambda _: {}
        self.gate: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.port = 0
        self.bundle = ""

    async def handle(self, request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        self.seen.append(asked)
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()
        response = {"uid": asked["uid"], "allowed": True, **self.answer(asked)}
        patch = response.pop("change", None)
        if patch is not None:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        return web.json_response({"response": response})

    def webhook(self, name: str = "a.example.com", **fields: Any) -> Json:
        rule = {
            "operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["configmaps"],
        }  # fmt: skip
        client = {"url": f"https://127.0.0.1:{self.port}/hook", "caBundle": self.bundle}
        return {
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [rule], "clientConfig": client, **fields,
        }  # fmt: skip


def certificate(directory: Path, names: list[x509.GeneralName]) -> tuple[Path, bytes]:
    """A self-signed server certificate with its key, and its PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = made.public_bytes(serialization.Encoding.PEM)
    path = directory / "hook.pem"
    path.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path, pem


@pytest.fixture
async def hook(tmp_path: Path) -> AsyncIterator[Hook]:
    import ipaddress

    found = Hook()
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.DNSName("hook.default.svc"),
    ]
    path, pem = certificate(tmp_path, names)
    found.bundle = base64.b64encode(pem).decode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    app = web.Application()
    app.router.add_post("/hook", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert site._server is not None
    found.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield found
    await runner.cleanup()


async def install(api: Api, *hooks: Json, kind: str = "mutating", name: str = "c") -> None:
    body = {"metadata": {"name": name}, "webhooks": list(hooks)}
    await api.post(f"{CONFIGS}/{kind}webhookconfigurations", body)


def add(name: str, value: str = "x") -> Answer:
    return lambda asked: {"change": [{"op": "add", "path": f"/data/{name}", "value": value}]}


async def test_a_patch_is_applied_and_the_request_tells_everything(api: Api, hook: Hook) -> None:
    hook.answer = add("b")
    await install(api, hook.webhook())
    made = await api.post(f"{CONFIG_MAPS}?dryRun=All", config(a="1"))
    assert made["data"] == {"a": "1", "b": "x"}
    [asked] = hook.seen
    assert (asked["operation"], asked["name"], asked["namespace"]) == ("CREATE", "one", "default")
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["userInfo"]["username"] == "kubernetes-admin"
    assert (asked["dryRun"], asked["oldObject"]) == (True, None)


async def test_selectors_and_conditions_choose(api: Api, hook: Hook) -> None:
    labelled = {"matchLabels": {"ask": "yes"}}
    await install(
        api,
        hook.webhook("object.example.com", objectSelector=labelled),
        hook.webhook(
            "space.example.com",
            namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            matchConditions=[{"name": "n", "expression": "object.metadata.name == 'cel'"}],
        ),
        hook.webhook("never.example.com", namespaceSelector={"matchLabels": {"no": "such"}}),
    )
    await api.post(CONFIG_MAPS, config("plain"))
    assert not hook.seen
    await api.post(CONFIG_MAPS, config("cel"))
    assert len(hook.seen) == 1
    body = config("labelled")
    body["metadata"]["labels"] = {"ask": "yes"}
    await api.post(CONFIG_MAPS, body)
    assert len(hook.seen) == 2
    await api.patch(f"{CONFIG_MAPS}/labelled", {"metadata": {"labels": None}})
    assert len(hook.seen) == 3, "the old object was meant"


async def test_a_denial_is_told_as_it_was_said(api: Api, hook: Hook) -> None:
    status = {"message": "not on Mondays", "code": 403}
    hook.answer = lambda _: {"allowed": False, "status": status}
    await install(api, hook.webhook(), kind="validating")
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert answer.status == 403
    assert answer.message == (
        'admission webhook "a.example.com" denied the request: not on Mondays'
    )


async def test_deletion_can_be_refused(api: Api, hook: Hook) -> None:
    await api.post(CONFIG_MAPS, config())
    hook.answer = lambda asked: {"allowed": asked["operation"] != "DELETE"}
    await install(api, hook.webhook(), kind="validating")
    answer = await api.call("DELETE", f"{CONFIG_MAPS}/one")
    assert (answer.status, "without explanation" in answer.message) == (403, True)
    assert hook.seen[0]["object"] is None
    assert hook.seen[0]["oldObject"]["metadata"]["name"] == "one"


async def test_warnings_reach_the_client(api: Api, hook: Hook) -> None:
    hook.answer = lambda _: {"warnings": ["mind the gap"]}
    await install(api, hook.webhook())
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert answer.warnings == ['299 - "mind the gap"']


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
async def test_failure_is_fatal_or_ignored(api: Api, hook: Hook, policy: str) -> None:
    broken = hook.webhook(failurePolicy=policy)
    broken["clientConfig"]["url"] = "https://127.0.0.1:1/hook"
    await install(api, broken)
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert answer.status == (500 if policy == "Fail" else 201)
    if policy == "Fail":
        assert 'failed calling webhook "a.example.com"' in answer.message


async def test_a_slow_webhook_is_cut_off(api: Api, hook: Hook) -> None:
    hook.gate = asyncio.Event()
    await install(api, hook.webhook(timeoutSeconds=1))
    answer = await api.call("POST", CONFIG_MAPS, config())
    hook.gate.set()
    assert (answer.status, "deadline exceeded" in answer.message) == (500, True)


async def test_earlier_webhooks_are_asked_again_when_wanted(api: Api, hook: Hook) -> None:
    hook.answer = lambda asked: (
        {"change": [{"op": "add", "path": "/data/late", "value": "x"}]}
        if asked["object"]["data"].get("late") is None and len(hook.seen) == 2
        else {}
    )
    await install(api, hook.webhook("first.example.com", reinvocationPolicy="IfNeeded"), name="a")
    await install(api, hook.webhook("second.example.com"), name="b")
    await api.post(CONFIG_MAPS, config(a="1"))
    assert ["late" in asked["object"]["data"] for asked in hook.seen] == [False, False, True]


async def test_dry_run_is_refused_by_side_effects(api: Api, hook: Hook) -> None:
    answer = await api.call(
        "POST",
        f"{CONFIGS}/mutatingwebhookconfigurations",
        {"metadata": {"name": "c"}, "webhooks": [hook.webhook(sideEffects="Some")]},
    )
    assert (answer.status, "sideEffects" in answer.message) == (422, True)


async def test_versions_are_equivalent_unless_exact(api: Api, hook: Hook) -> None:
    rule = {
        "operations": ["CREATE"], "apiGroups": ["networking.istio.io"],
        "apiVersions": ["v1beta1"], "resources": ["destinationrules"],
    }  # fmt: skip
    await install(
        api,
        hook.webhook("equivalent.example.com", rules=[rule]),
        hook.webhook("exact.example.com", rules=[rule], matchPolicy="Exact"),
    )
    path = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
    await api.post(path, {"metadata": {"name": "r"}, "spec": {"host": "a"}})
    [asked] = hook.seen
    assert asked["kind"]["version"] == asked["object"]["apiVersion"].rpartition("/")[2] == "v1beta1"
    assert asked["requestKind"]["version"] == "v1"


async def test_a_service_leads_to_its_endpoint_with_its_name(api: Api, hook: Hook) -> None:
    service = {"namespace": "default", "name": "hook", "path": "/hook", "port": 443}
    client = {"service": service, "caBundle": hook.bundle}
    await install(api, hook.webhook(clientConfig=client))
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert 'service "hook" not found' in answer.message
    await api.post(
        "/api/v1/namespaces/default/services",
        {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}},
    )
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert 'no endpoints available for service "hook"' in answer.message
    await api.post(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        {
            "metadata": {"name": "h", "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
            "ports": [{"port": hook.port}],
        },
    )
    await api.post(CONFIG_MAPS, config())
    assert len(hook.seen) == 1


async def test_containers_a_webhook_adds_get_the_token(api: Api, hook: Hook, pod: Json) -> None:
    added = {"name": "side", "image": "x"}
    hook.answer = lambda _: {
        "change": [{"op": "add", "path": "/spec/containers/-", "value": added}]
    }
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"]}  # fmt: skip
    await install(api, hook.webhook(rules=[rule]))
    made = await api.post(PODS, pod)
    [volume] = made["spec"]["volumes"]
    mounted = [c["volumeMounts"][0]["name"] for c in made["spec"]["containers"]]
    assert mounted == [volume["name"]] * 2
    assert hook.seen[0]["object"]["spec"]["containers"][0]["volumeMounts"]


async def test_many_writers_across_a_webhook_lose_nothing(api: Api, hook: Hook) -> None:
    """Each writer adds keys of its own; a 409 says that there were too many at once."""
    await api.post(CONFIG_MAPS, config(a="1"))
    hook.answer = add("hooked")
    await install(api, hook.webhook())
    path, done = f"{CONFIG_MAPS}/one", 0

    async def write(writer: int) -> None:
        nonlocal done
        for step in range(5):
            body = {"data": {f"w{writer}-{step}": "x"}}
            while True:
                answer = await api.call("PATCH", path, body, media="application/merge-patch+json")
                if answer.status == 200:
                    break
                assert (answer.status, answer.body["reason"]) == (409, "Conflict")
            done += 1

    async with asyncio.TaskGroup() as group:
        for writer in range(6):
            group.create_task(write(writer))
    after = await api.get(path)
    assert len(after["data"]) == done + 2 == 32
    assert len(hook.seen) > done


async def test_no_update_is_lost_while_a_webhook_thinks(api: Api, hook: Hook) -> None:
    await api.post(CONFIG_MAPS, config(a="1"))
    hook.gate = asyncio.Event()
    path = f"{CONFIG_MAPS}/one"
    await install(
        api,
        hook.webhook(matchConditions=[{"name": "slow", "expression": "has(object.data.slow)"}]),
    )
    slow = asyncio.create_task(api.patch(path, {"data": {"slow": "1"}}))
    await hook.arrived.wait()
    await api.patch(path, {"data": {"fast": "1"}})
    hook.gate.set()
    after = await slow
    assert after["data"] == {"a": "1", "slow": "1", "fast": "1"}
    assert len(hook.seen) == 2
