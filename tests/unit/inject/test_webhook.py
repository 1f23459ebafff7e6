"""The injector answers about the pods that the API server chose."""

import base64
import json
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from meltemi.inject.patch import InjectConfig
from meltemi.inject.webhook import application


async def patched(annotations: dict[str, str]) -> list[dict[str, Any]]:
    """What is changed in a pod whose namespace the injector has never heard of."""
    app = application(lambda _namespace, _labels, *, gateway: InjectConfig())
    pod = {
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"containers": [{"name": "main", "image": "echo"}]},
    }
    review = {"request": {"uid": "1", "namespace": "just-made", "object": pod}}
    async with TestClient(TestServer(app)) as client:
        answer = await (await client.post("/inject", json=review)).json()
    assert answer["response"]["allowed"]
    return list(json.loads(base64.b64decode(answer["response"].get("patch", "W10="))))


async def test_a_pod_gets_its_proxy_however_young_its_namespace_is() -> None:
    assert any("istio-proxy" in json.dumps(step) for step in await patched({}))


async def test_a_pod_may_still_decline() -> None:
    assert await patched({"sidecar.istio.io/inject": "false"}) == []
