"""Keeps the control plane's webhooks registered, with the roots that prove it."""

import asyncio
import base64
import logging
from collections.abc import Callable

from meltemi.api import names
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import KubeError

log = logging.getLogger(__name__)

_CHECK_EVERY = 60.0
_RETRY = 1.0
_ISTIO_GROUPS = (
    "security.istio.io",
    "networking.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
)


class Endpoint:
    """How the API server reaches the webhook: by URL, or through a Service."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace

    def config(self, path: str, roots: bytes) -> JsonObject:
        bundle = base64.b64encode(roots).decode()
        if self._url:
            return {"url": f"{self._url}{path}", "caBundle": bundle}
        service = {"name": "istiod", "namespace": self._namespace, "path": path, "port": 443}
        return {"service": service, "caBundle": bundle}


def injector(endpoint: Endpoint, roots: bytes) -> JsonObject:
    """The MutatingWebhookConfiguration of the default revision (mesh-semantics 1.17)."""
    outside = {"key": "kubernetes.io/metadata.name", "operator": "NotIn"}
    ignored = {**outside, "values": list(names.IGNORED_NAMESPACES)}
    enabled = {"key": names.NAMESPACE_LABEL, "operator": "In", "values": ["enabled"]}
    unlabelled = [
        {"key": names.NAMESPACE_LABEL, "operator": "DoesNotExist"},
        {"key": names.REVISION_LABEL, "operator": "DoesNotExist"},
    ]
    not_refused = {"key": names.INJECT_LABEL, "operator": "NotIn", "values": ["false"]}
    asked = {"key": names.INJECT_LABEL, "operator": "In", "values": ["true"]}
    no_revision = {"key": names.REVISION_LABEL, "operator": "DoesNotExist"}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "istio-sidecar-injector", "labels": {"app": "sidecar-injector"}},
        "webhooks": [
            _hook(
                "namespace.sidecar-injector.istio.io",
                endpoint.config("/inject", roots),
                namespace=[ignored, enabled],
                pod=[not_refused],
            ),
            _hook(
                "object.sidecar-injector.istio.io",
                endpoint.config("/inject", roots),
                namespace=[ignored, *unlabelled],
                pod=[asked, no_revision],
            ),
        ],
    }


def _hook(
    name: str, client_config: JsonObject, *, namespace: list[JsonObject], pod: list[JsonObject]
) -> JsonObject:
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client_config,
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "Never",
        "sideEffects": "None",
        "timeoutSeconds": 10,
        "namespaceSelector": {"matchExpressions": namespace},
        "objectSelector": {"matchExpressions": pod},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
                "scope": "*",
            }
        ],
    }


def validator(endpoint: Endpoint, roots: bytes) -> JsonObject:
    """The ValidatingWebhookConfiguration for Istio's kinds."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istio-validator", "labels": {"app": "istiod"}},
        "webhooks": [
            {
                "name": "validation.istio.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": endpoint.config("/validate", roots),
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": 5,
                "rules": [
                    {
                        "apiGroups": list(_ISTIO_GROUPS),
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["*"],
                        "scope": "*",
                    }
                ],
            }
        ],
    }


class Registration:
    """Applies both configurations, now and whenever someone else changed them."""

    def __init__(self, client: Client, endpoint: Endpoint, roots: Callable[[], bytes]) -> None:
        self._client = client
        self._endpoint = endpoint
        self._roots = roots
        self.done = asyncio.Event()
        """Set once pods are injected."""

    async def run(self) -> None:
        while True:
            try:
                roots = self._roots()
                for body in (injector(self._endpoint, roots), validator(self._endpoint, roots)):
                    await self._client.apply(body, manager="meltemi-control-plane")
                self.done.set()
                await asyncio.sleep(_CHECK_EVERY)
            except KubeError as error:
                log.warning("webhooks cannot be registered: %s; trying again", error)
                await asyncio.sleep(_RETRY)
