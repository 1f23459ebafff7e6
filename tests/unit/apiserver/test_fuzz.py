"""Whatever is sent, the API answers; it never crashes and never answers 500."""

import asyncio
import base64
import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.local.apiserver import jsonpath
from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.protobuf import decode
from meltemi.local.apiserver.schema.tables import kind_node
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.shape import shape

from .conftest import APPLY, CONFIG_MAPS, JSON_PATCH, MERGE, PODS, STRATEGIC, Api, Json

often = settings(max_examples=300, deadline=None)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def octets(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def envelope(kind: str, raw: bytes, api_version: str = "v1") -> bytes:
    types = octets(1, api_version.encode()) + octets(2, kind.encode())
    return b"k8s\0" + octets(1, types) + octets(2, raw)


fields = st.recursive(
    st.binary(max_size=12),
    lambda inner: st.lists(st.tuples(st.integers(1, 45), inner), max_size=4).map(
        lambda parts: b"".join(octets(n, b) for n, b in parts)
    ),
    max_leaves=12,
)
mixed = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 45), fields).map(lambda p: octets(*p)),
        st.tuples(st.integers(1, 45), st.integers(0, 1 << 64)).map(
            lambda p: varint(p[0] << 3) + varint(p[1])
        ),
        st.tuples(st.integers(1, 45), st.floats()).map(
            lambda p: varint(p[0] << 3 | 1) + struct.pack("<d", p[1])
        ),
    ),
    max_size=6,
).map(b"".join)
kinds = st.sampled_from(["Pod", "Deployment", "Secret", "Event", "Job", "DeleteOptions", "x/y"])
versions = st.sampled_from(["v1", "apps/v1", "batch/v1", "../v1", "apiextensions.k8s.io/v1"])


@given(kinds, versions, st.one_of(mixed, fields, st.binary(max_size=60)))
@often
def test_no_protobuf_body_crashes_the_decoder(kind: str, version: str, raw: bytes) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(decode(envelope(kind, raw, version)), dict)


@given(st.binary(max_size=80))
@often
def test_no_bytes_crash_the_decoder(raw: bytes) -> None:
    with contextlib.suppress(StatusError):
        decode(b"k8s\0" + raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["metadata", "spec", "containers", "name", "labels", "data", "ports",
                         "apiVersion", "kind", "$patch", "finalizers", "x", "managedFields",
                         "ownerReferences", "annotations", "status", "resources", "limits"]),
        inner, max_size=4,
    ),
    max_leaves=14,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), json_values, max_size=4))
@often
def test_shaping_answers_for_any_body(body: Json) -> None:
    shaped = shape(kind_node("", "v1", "Pod"), body)
    assert isinstance(shaped.value, dict)


@given(st.text(max_size=30), st.text(max_size=30), json_values)
@often
def test_selectors_and_paths_answer_for_any_text(labels: str, field: str, data: Any) -> None:
    with contextlib.suppress(StatusError):
        object_test(labels, field)({"metadata": {"labels": {}}, "x": data})
    jsonpath.find(jsonpath.parse(field), data)


JUNK = [
    None, 0, "x", [], {}, {"metadata": None}, {"metadata": []}, {"metadata": {"name": 7}},
    {"metadata": {"labels": []}}, {"metadata": {"labels": {"a": 1}}}, {"data": {"a": 1}},
    {"metadata": {"managedFields": "x"}}, {"metadata": {"managedFields": [7]}},
    {"metadata": {"managedFields": [{"fieldsV1": 7, "manager": 1}]}},
    {"metadata": {"ownerReferences": {}}}, {"metadata": {"ownerReferences": [None, 1]}},
    {"metadata": {"finalizers": "x"}}, {"metadata": {"finalizers": [1]}}, {"spec": []},
    {"metadata": {"annotations": {"a": None}}}, {"metadata": {"resourceVersion": {}}},
    {"spec": {"containers": {}}}, {"spec": {"containers": [None]}}, {"spec": None},
    {"spec": {"containers": [{"name": "a", "image": 1}]}}, {"status": 1}, {"kind": 1},
    {"$patch": "x"}, {"spec": {"$retainKeys": 1}}, {"data": {"$patch": "replace"}},
    [{"op": "add", "path": "/spec", "value": 1}], [{"op": "remove", "path": ""}], [{}], [1],
    [{"op": "replace", "path": "/metadata", "value": 1}], [{"op": "move", "from": "/x"}],
    [{"op": "add", "path": "/metadata/labels/x", "value": 1}],
    [{"op": "replace", "path": "/metadata/name", "value": []}],
    [{"op": "copy", "from": "", "path": "/spec/x"}], [{"op": "test", "path": "/a/~2", "value": 1}],
    {"deep": json.loads("[" * 60 + "]" * 60)},
]  # fmt: skip


async def test_no_body_and_no_patch_is_answered_with_500(api: Api, pod: Json) -> None:
    await api.post(PODS, pod)
    await api.post(CONFIG_MAPS, {"metadata": {"name": "one"}})
    pdbs = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    collections = [PODS, CONFIG_MAPS, "/api/v1/namespaces", "/api/v1/namespaces/default/services",
                   "/apis/apps/v1/namespaces/default/deployments", pdbs,
                   "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                   "/apis/networking.istio.io/v1/namespaces/default/virtualservices",
                   "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                   "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                   "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
                   "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                   "/apis/authentication.k8s.io/v1/tokenreviews",
                   f"{PODS}/web/binding", f"{PODS}/web/eviction",
                   "/api/v1/namespaces/default/serviceaccounts/default/token"]  # fmt: skip
    calls = [("POST", c, j, "application/json") for c in collections for j in JUNK]
    calls += [
        ("POST", c, {"metadata": {"name": "junk"}, **j}, "application/json")
        for c in collections for j in JUNK if isinstance(j, dict) and "metadata" not in j
    ]  # fmt: skip
    for path in (f"{PODS}/web?dryRun=All", f"{CONFIG_MAPS}/one?dryRun=All"):
        calls += [("PUT", path, j, "application/json") for j in JUNK]
        calls += [("DELETE", path, j, "application/json") for j in JUNK]
        for media in (MERGE, STRATEGIC, JSON_PATCH, APPLY):
            named = f"{path}&fieldManager=me" if media == APPLY else path
            calls += [("PATCH", named, j, media) for j in JUNK]
    await answered(api, calls)


URLS = [
    "/", "/api", "//api", "/api/", "/api/v1/", "/api/v2", "/api/v1/pods/x", "/apis/apps",
    "/apis/apps/v1/namespaces/default/deployments/x/y/z/a", "/api/v1/namespaces/%2e%2e/pods",
    "/api/v1/namespaces/default/pods/%00", "/api/v1/namespaces/default/pods/a%2Fb",
    "/api/v1/namespaces/%F0%9F%98%80/pods", "/api/v1/namespaces/default/pods/%ff",
    "/api/v1/watch/pods", "/api/v1/nodes/x/proxy/y", f"{PODS}/web/log?tailLines=x",
    f"{PODS}?limit=-1", f"{PODS}?limit=99999999999999999999", f"{PODS}?continue=%00",
    f"{PODS}?fieldSelector=a.b.c=d", f"{PODS}?fieldSelector=%00", f"{PODS}?labelSelector=a in (",
    f"{PODS}?resourceVersion=-1", f"{PODS}?watch=true&resourceVersion=abc",
    f"{PODS}?watch=true&timeoutSeconds=x", f"{PODS}/web/scale", f"{PODS}/web/status",
    "/apis/apps/v1/namespaces/default/deployments/none/scale", "/openapi/v3/apis/../../x",
    "/openapi/v3/apis/apps/v9", "/apis/metrics.k8s.io/v1beta1/pods", "/version/", "/apis/%20/v1",
    "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/..", "/api/v1/namespaces//",
]  # fmt: skip


async def test_no_url_is_answered_with_500(api: Api, pod: Json) -> None:
    await api.post(PODS, pod)
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
    await answered(api, [(m, u, None, MERGE) for u in URLS for m in methods])


async def test_random_bodies_are_answered(api: Api) -> None:
    bodies: list[Any] = []

    @given(json_values)
    @settings(max_examples=150, deadline=None, database=None)
    def collect(value: Any) -> None:
        bodies.append(value)

    collect()
    collections = (PODS, CONFIG_MAPS, "/apis/apps/v1/namespaces/default/deployments")
    calls = [
        ("POST", f"{c}?dryRun=All", b, "application/json") for b in bodies for c in collections
    ]
    await answered(api, calls)


async def answered(api: Api, calls: list[tuple[str, str, Any, str]]) -> None:
    """Every call is answered by something else than a 500 (503: there is no node here)."""
    gate = asyncio.Semaphore(16)

    async def one(method: str, path: str, body: Any, media: str) -> None:
        raw = None if body is None and method != "POST" else json.dumps(body).encode()
        async with gate:
            answer = await api.call(method, path, raw, media=media)
        said = base64.b64encode(raw or b"")[:80]
        assert answer.status < 500 or answer.status in (503, 504), (method, path, body, said)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(*call))


def test_known_bodies_decode_to_what_kubectl_means() -> None:
    port = octets(1, b"http") + varint(3 << 3) + varint(8080) + octets(4, b"TCP")
    container = octets(1, b"main") + octets(2, b"echo:1") + octets(6, port)
    spec = octets(2, container) + varint(4 << 3) + varint(0)
    pod = decode(envelope("Pod", octets(1, octets(1, b"web")) + octets(2, spec)))
    assert pod["metadata"] == {"name": "web"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 0
    [found] = pod["spec"]["containers"]
    assert found["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    with pytest.raises(StatusError, match="not known in protobuf"):
        decode(envelope("Mystery", b""))
