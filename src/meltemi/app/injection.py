"""What the mesh says about a pod's proxy when it is injected: settings, and bootstrap patches."""

import json
from collections.abc import Mapping

import msgspec

from meltemi.api.proxy_config import proxy_settings
from meltemi.app.engine import Engine
from meltemi.base.resource import NodeInfo
from meltemi.compile.patch.select import MESSAGES, bootstrap_patches
from meltemi.inject.patch import InjectConfig
from meltemi.protos import Protos
from meltemi.proxy.node import ISTIO_VERSION


class Injection:
    """Answers the webhook, from the graph as it is now."""

    def __init__(self, engine: Engine, protos: Protos, base: InjectConfig) -> None:
        self._engine = engine
        self._protos = protos
        self._base = base

    def config(self, namespace: str, labels: Mapping[str, str], *, gateway: bool) -> InjectConfig:
        objects = self._engine.objects
        mesh = objects.mesh.config.get("mesh")
        settings = proxy_settings(
            mesh.default_config if mesh else {},
            objects.proxy_configs.values(),
            namespace=namespace,
            labels=labels,
            root=self._base.root_namespace,
        )
        merges = mesh.enable_prometheus_merge if mesh else None
        return msgspec.structs.replace(
            self._base,
            proxy=settings,
            merges_metrics=self._base.merges_metrics if merges is None else merges,
            bootstrap=self._bootstrap(namespace, labels, gateway),
        )

    def _bootstrap(self, namespace: str, labels: Mapping[str, str], gateway: bool) -> str:
        """EnvoyFilters that patch the bootstrap, as a JSON list; empty without any."""
        kind = "router" if gateway else "sidecar"
        node = NodeInfo(
            id=f"{kind}~~.{namespace}~{namespace}",
            kind=kind,
            ip="",
            namespace=namespace,
            name="",
            domain="",
            labels=labels,
            metadata={"ISTIO_VERSION": ISTIO_VERSION},
        )
        found = bootstrap_patches(
            node, self._engine.compiled.filters.values(), self._base.root_namespace
        )
        patches = []
        for body in found:
            message = self._protos.message(MESSAGES["BOOTSTRAP"])()
            message.ParseFromString(body)
            patches.append(self._protos.to_dict(message))
        return json.dumps(patches, sort_keys=True) if patches else ""
