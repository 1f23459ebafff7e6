"""The mesh's own settings from its ConfigMap, and the namespaces it reaches.

mesh-semantics 1.1 (exportTo, discoverySelectors) and 1.7.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar, cast

import msgspec

from meltemi.api.core import ConfigMap, Namespace, Service
from meltemi.api.mesh_config import (
    CONFIG_MAP,
    DATA_KEY,
    DiscoverySelector,
    MeshConfig,
    mesh_config,
)
from meltemi.api.meta import Object
from meltemi.api.networking import DestinationRule, VirtualService
from meltemi.api.service_entry import ServiceEntry
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Graph, View

O = TypeVar("O", bound=Object)  # noqa: E741

MESH = "mesh"
"""The one key of views that hold one value for the mesh."""


SCOPE_ANNOTATION = "meltemi.dev/scope"
ON_DEMAND = "on-demand"
"""The annotation's value for proxies that learn what they use; `full` is the other one."""


class ExportDefaults(msgspec.Struct, frozen=True):
    """`exportTo` where an object has none."""

    services: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


class MeshViews(NamedTuple):
    config: View[str, MeshConfig]
    """Empty without a ConfigMap; the last good one while the newest is bad."""
    exports: View[str, ExportDefaults]
    scoping: View[str, str]
    """What a namespace's annotation says of its proxies' scope."""
    whole: View[str, str]
    """What the mesh's ConfigMap says of it."""
    hidden: View[str, bool]
    """The namespaces that discoverySelectors leave out: nothing in them is seen."""


def mesh_views(
    graph: Graph,
    config_maps: View[ObjectKey, ConfigMap],
    namespaces: View[ObjectKey, Namespace],
    root: str,
) -> MeshViews:
    """Add the views of the ConfigMap `istio` in the root namespace."""
    config = graph.derive(
        "mesh config", config_maps, lambda _f, key, found: _config(key, found, root)
    )
    selectors = graph.derive(
        "discovery selectors",
        config,
        lambda _f, key, c: {key: Outcome(c.discovery_selectors)},
    )
    return MeshViews(
        config=config,
        scoping=graph.derive(
            "scoping of namespaces", namespaces, lambda _f, key, n: _scoping(key.name, n)
        ),
        whole=graph.derive(
            "scoping of the mesh",
            config_maps,
            lambda _f, key, found: (
                _scoping(MESH, found) if (key.namespace, key.name) == (root, CONFIG_MAP) else {}
            ),
        ),
        exports=graph.derive("export defaults", config, _exports),
        hidden=graph.derive(
            "hidden namespaces",
            namespaces,
            lambda fetch, _k, space: _hidden(fetch.get(selectors, MESH) or (), space, root),
            reads=(selectors,),
        ),
    )


def _config(key: ObjectKey, found: ConfigMap, root: str) -> Mapping[str, Outcome[MeshConfig]]:
    if (key.namespace, key.name) != (root, CONFIG_MAP):
        return {}
    outcome = mesh_config(found.data.get(DATA_KEY, ""), key)
    config = outcome.value
    if config is not None and config.root_namespace not in ("", root):
        problem = Problem(
            Code.BAD_VALUE,
            Severity.WARNING,
            key,
            f"data.{DATA_KEY}.rootNamespace",
            f"the root namespace is {root!r}, where this ConfigMap is, and fixed when the mesh "
            f"starts; {config.root_namespace!r} is ignored",
        )
        outcome = Outcome(config, (*outcome.problems, problem))
    return {MESH: outcome}


def _scoping(key: str, obj: Object) -> Mapping[str, Outcome[str]]:
    wish = obj.metadata.annotations.get(SCOPE_ANNOTATION, "")
    return {key: Outcome(wish)} if wish else {}


def _exports(_fetch: Fetch, key: str, config: MeshConfig) -> Mapping[str, Outcome[ExportDefaults]]:
    defaults = ExportDefaults(
        config.default_service_export_to,
        config.default_virtual_service_export_to,
        config.default_destination_rule_export_to,
    )
    return {key: Outcome(defaults)}


def _hidden(
    selectors: tuple[DiscoverySelector, ...], space: Namespace, root: str
) -> Mapping[str, Outcome[bool]]:
    name = space.metadata.name
    if not selectors or name == root:
        return {}
    if any(selector.selects(space.metadata.labels) for selector in selectors):
        return {}
    return {name: Outcome(True)}


EXPORT_TO = "networking.istio.io/exportTo"
"""A Service's way to say `exportTo`."""


def exported(obj: O, defaults: ExportDefaults | None) -> O:
    """The object, with the mesh's `exportTo` where it says none itself."""
    if defaults is None:
        return obj
    match obj:
        case Service() if defaults.services and EXPORT_TO not in obj.metadata.annotations:
            annotations = {**obj.metadata.annotations, EXPORT_TO: ",".join(defaults.services)}
            meta = msgspec.structs.replace(obj.metadata, annotations=annotations)
            return cast(O, msgspec.structs.replace(obj, metadata=meta))
        case ServiceEntry() if not obj.spec.export_to:
            entry = msgspec.structs.replace(obj.spec, export_to=defaults.services)
            return cast(O, msgspec.structs.replace(obj, spec=entry))
        case VirtualService() if not obj.spec.export_to:
            spec = msgspec.structs.replace(obj.spec, export_to=defaults.tables)
            return cast(O, msgspec.structs.replace(obj, spec=spec))
        case DestinationRule() if not obj.spec.export_to:
            rule = msgspec.structs.replace(obj.spec, export_to=defaults.policies)
            return cast(O, msgspec.structs.replace(obj, spec=rule))
    return obj
