"""What kubectl sends, on every kind, request by request; and what no kind may get wrong."""

import copy
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from meltemi.kube.kubeconfig import access_from_file, ssl_context

from .conftest import REAL, Cluster

Json = dict[str, Any]
CASES: list[Json] = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text())
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Kind:
    """Where a kind is served, from discovery, and an object of it."""

    def __init__(self, http: "Http", case: Json, resource: Json, namespace: str) -> None:
        self.http = http
        self.case = case
        self.verbs = resource["verbs"]
        self.namespaced = resource["namespaced"]
        root = case["object"]["apiVersion"]
        base = f"/apis/{root}" if "/" in root else f"/api/{root}"
        where = f"/namespaces/{namespace}" if resource["namespaced"] else ""
        self.collection = f"{base}{where}/{resource['name']}"
        self.name = str(case.get("name", f"http-{case['object']['kind'].lower()}"))
        if case["object"]["kind"] == "CustomResourceDefinition":
            self.name = "ships.conformance.example.com"
        self.path = f"{self.collection}/{self.name}"

    def body(self, **meta: Any) -> Json:
        found = copy.deepcopy(self.case["object"])
        found["metadata"] = {"name": self.name, "labels": {"matrix": "http"}, **meta}
        if found["kind"] == "CustomResourceDefinition":
            found["spec"]["names"] = {"plural": "ships", "kind": "Ship"}
        return found


class Http:
    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True)
        )

    async def call(
        self, method: str, path: str, body: Any = None, media: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, Json]:  # fmt: skip
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": media, "Accept": accept}
        async with self.session.request(method, self.url + path, data=data, headers=headers) as r:
            return r.status, await r.json()


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[Http]:
    access = access_from_file(cluster.kubeconfig)
    found = Http(access.server, ssl_context(access))
    yield found
    await found.session.close()


@pytest.mark.parametrize("name", [case["object"]["kind"] for case in CASES])
async def test_a_kinds_whole_life(cluster: Cluster, http: Http, name: str) -> None:
    if REAL and name in ("Node", "Pod"):
        pytest.skip("a real cluster has nodes of its own, and changes pods meanwhile")
    case = next(c for c in CASES if c["object"]["kind"] == name)
    version = case["object"]["apiVersion"]
    _, listed = await http.call("GET", f"/apis/{version}" if "/" in version else f"/api/{version}")
    resource = next(r for r in listed["resources"] if r["kind"] == name and "/" not in r["name"])
    kind = Kind(http, case, resource, cluster.namespace)
    assert {"create", "delete", "get", "list", "patch", "update", "watch"} <= set(kind.verbs)
    await http.call("DELETE", kind.path)
    await born(kind)
    await read(kind)
    await changed(kind)
    await gone(kind)


async def born(kind: Kind) -> None:
    call, body = kind.http.call, kind.body()
    code, tried = await call("POST", f"{kind.collection}?dryRun=All&fieldValidation=Strict", body)
    assert (code, tried.get("kind")) == (201, body["kind"]), tried
    assert (await call("GET", kind.path))[0] == 404
    strange = {**body, "colour": "blue"}
    code, said = await call("POST", f"{kind.collection}?fieldValidation=Strict", strange)
    assert (code, 'unknown field "colour"' in said["message"]) == (400, True)
    code, made = await call("POST", kind.collection, body)
    assert code == 201, made
    meta = made["metadata"]
    assert meta["uid"]
    assert meta["creationTimestamp"]
    assert int(meta["resourceVersion"]) > 0
    assert meta["managedFields"][0]["operation"] == "Update"
    code, said = await call("POST", kind.collection, body)
    assert (code, said["reason"]) == (409, "AlreadyExists")


async def read(kind: Kind) -> None:
    call = kind.http.call
    code, found = await call("GET", kind.path)
    assert (code, found["kind"]) == (200, kind.case["object"]["kind"])
    code, listed = await call("GET", f"{kind.collection}?labelSelector=matrix=http&limit=1")
    assert (code, listed["kind"]) == (200, f"{found['kind']}List")
    assert [i["metadata"]["name"] for i in listed["items"]] == [kind.name]
    code, table = await call("GET", f"{kind.collection}?labelSelector=matrix=http", accept=TABLE)
    assert table["kind"] == "Table"
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
    names = [c["name"] for c in table["columnDefinitions"]]
    assert names[0] in ("Name", "Last Seen")


async def changed(kind: Kind) -> None:
    call = kind.http.call
    is_mesh = bool(kind.case.get("mesh"))
    marks = {
        "application/merge-patch+json": {"metadata": {"labels": {"merge": "x"}}},
        "application/strategic-merge-patch+json": {"metadata": {"labels": {"strategic": "x"}}},
        "application/json-patch+json": [
            {"op": "add", "path": "/metadata/labels/json", "value": "x"}
        ],
    }
    for media, patch in marks.items():
        code, after = await call("PATCH", kind.path, patch, media)
        if is_mesh and "strategic" in media:
            assert code == 415
            continue
        assert code == 200, after
        assert after["metadata"]["labels"][media.split("/")[1].split("-")[0]] == "x"
    owner = f"{kind.path}?fieldManager=http&force=true"
    apply = kind.body()
    code, after = await call("PATCH", owner, apply, "application/apply-patch+yaml")
    assert code == 200, after
    code, again = await call("PATCH", owner, apply, "application/apply-patch+yaml")
    if "stringData" not in apply:
        assert again["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    stale = copy.deepcopy(again)
    again["metadata"]["annotations"] = {"put": "x"}
    code, put = await call("PUT", kind.path, again)
    assert (code, put["metadata"]["annotations"]["put"]) == (200, "x"), put
    code, said = await call("PUT", kind.path, stale)
    assert (code, said["reason"]) == (409, "Conflict")


async def gone(kind: Kind) -> None:
    call = kind.http.call
    held = {"metadata": {"finalizers": ["example.com/hold"]}}
    media = "application/merge-patch+json"
    assert (await call("PATCH", kind.path, held, media))[0] == 200
    code, going = await call("DELETE", kind.path, {"propagationPolicy": "Background"})
    assert code == 200, going
    code, still = await call("GET", kind.path)
    assert (code, "deletionTimestamp" in still["metadata"]) == (200, True)
    free = {"metadata": {"finalizers": None}}
    query = f"?watch=true&fieldSelector=metadata.name={kind.name}&timeoutSeconds=10"
    async with kind.http.session.get(kind.http.url + kind.collection + query) as watch:
        assert (await call("PATCH", kind.path, free, media))[0] in (200, 404)
        async for line in watch.content:
            if json.loads(line)["type"] == "DELETED":
                break
    assert (await call("GET", kind.path))[0] == 404
