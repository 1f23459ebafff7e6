"""Patches on messages: one function for each kind of resource.

A patch that cannot be applied is told by `PatchFailed` and changes nothing; one that matches
nothing is no mistake.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from meltemi.base.resource import (
    CLUSTER,
    EXTENSION,
    LISTENER,
    ROUTE,
    VIRTUAL_HOST,
    Resource,
    seal,
)
from meltemi.compile.patch import matching
from meltemi.compile.patch.merge import merge, pack, unpack
from meltemi.compile.patch.select import MESSAGES, Patch
from meltemi.protos.pool import Protos, UnknownMessage

_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_OF_LISTENERS = ("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "LISTENER_FILTER", "HTTP_FILTER")
_OF_ROUTES = ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE")
KINDS = {
    CLUSTER: ("CLUSTER",),
    LISTENER: (*_OF_LISTENERS, *_OF_ROUTES),
    ROUTE: _OF_ROUTES,
    VIRTUAL_HOST: ("VIRTUAL_HOST", "HTTP_ROUTE"),
}
"""The kinds of patches that can change a type of resource; listeners hold routes too."""

OWN, USUAL_NAME = "meltemi", "virtual_host"
"""Where a virtual host that was asked for by name keeps the name it has elsewhere, as metadata."""

_WILDCARD = (
    "proxies in on-demand scope ask for hosts by name, and a wildcard domain would take them all "
    "unasked: name the domains, or give these proxies full scope"
)
Failed = Callable[[Patch, str], None]


class Patcher:
    """Applies patches for one kind of proxy. `failed(patch, reason)` hears of what cannot be."""

    def __init__(self, protos: Protos, *, gateway: bool, failed: Failed) -> None:
        self._protos = protos
        self._gateway = gateway
        self._failed = failed

    def added(self, patches: Iterable[Patch]) -> list[Resource]:
        """Clusters, listeners and extensions that patches add."""
        found: dict[tuple[str, str], Resource] = {}
        kinds = {"CLUSTER": CLUSTER, "LISTENER": LISTENER, "EXTENSION_CONFIG": EXTENSION}
        for patch in patches:
            type_url = kinds.get(patch.apply_to)
            if type_url is None or patch.operation != "ADD":
                continue
            message = self._message(patch)
            if not message.name:
                self._failed(patch, "what is added needs a name")
            elif (type_url, message.name) in found:
                self._failed(patch, f"{message.name!r} is added twice: the first one stays")
            else:
                body = message.SerializeToString(deterministic=True)
                found[type_url, message.name] = seal(type_url, message.name, body)
        return list(found.values())

    def patched(self, resource: Resource, patches: Sequence[Patch]) -> Resource | None:
        """A resource under patches; None: it is removed; the same object: nothing touches it."""
        kinds = KINDS.get(resource.type_url, ())
        mine = [p for p in patches if p.apply_to in kinds and self._concerns(p, resource)]
        if not mine:
            return resource
        message = self._protos.message(resource.type_url.rpartition("/")[2])()
        message.ParseFromString(resource.body)
        touched: list[Patch] = []
        for patch in mine:
            before = message.SerializeToString(deterministic=True)
            try:
                stays = self._one(resource.type_url, message, patch)
            except (UnknownMessage, DecodeError, ValueError, TypeError) as error:
                self._failed(patch, f"{resource.name}: {error}")
                message.ParseFromString(before)
                continue
            if not stays:
                return None
            if message.SerializeToString(deterministic=True) != before:
                touched.append(patch)
        if not touched:
            return resource
        made = seal(resource.type_url, resource.name, message.SerializeToString(deterministic=True))
        sources = tuple(dict.fromkeys(p.source for p in touched))
        return Resource(made.type_url, made.name, made.version, made.body, resource, sources)

    def _concerns(self, patch: Patch, resource: Resource) -> bool:
        """A quick look, before anything is parsed."""
        if resource.type_url == CLUSTER:
            context = matching.context_of_cluster(resource.name, gateway=self._gateway)
            return matching.in_context(patch, context) and matching.cluster(patch, resource.name)
        if resource.type_url in (ROUTE, VIRTUAL_HOST):
            configuration = resource.name.partition("/")[0]
            context = matching.GATEWAY if self._gateway else matching.SIDECAR_OUTBOUND
            wanted = patch.match.route_configuration
            return matching.in_context(patch, context) and matching.route_configuration(
                wanted, configuration
            )
        return True

    def _one(self, type_url: str, message: Any, patch: Patch) -> bool:
        """Apply one patch; answers whether the resource stays."""
        if type_url == CLUSTER:
            return self._whole(message, patch)
        if type_url == ROUTE:
            self._routes(message, patch)
            return True
        if type_url == VIRTUAL_HOST:
            self._single_host(message, patch)
            return True
        context = matching.context_of_listener(message, gateway=self._gateway)
        if not matching.in_context(patch, context):
            return True
        if patch.apply_to in _OF_ROUTES:
            self._inline_routes(message, patch)
            return True
        if not matching.listener(patch.match.listener, message):
            return True
        return self._listener(message, patch)

    def _message(self, patch: Patch) -> Any:
        message = self._protos.message(MESSAGES[patch.apply_to])()
        message.ParseFromString(patch.value)
        return message

    def _merge(self, target: Any, patch: Patch) -> None:
        replaces = patch.operation == "MERGE_AND_REPLACE_LIST"
        merge(self._protos, target, self._message(patch), replace_lists=replaces)

    def _whole(self, message: Any, patch: Patch) -> bool:
        if patch.operation == "REMOVE":
            return False
        if patch.operation.startswith("MERGE"):
            name = message.name
            self._merge(message, patch)
            message.name = name  # A resource's name is what others know it by.
        return True

    def _listener(self, message: Any, patch: Patch) -> bool:
        if patch.apply_to == "LISTENER":
            return self._whole(message, patch)
        if patch.apply_to == "LISTENER_FILTER":
            wanted = patch.match.listener
            anchor = wanted.listener_filter if wanted else ""
            self._list(message.listener_filters, patch, anchor)
            return True
        if patch.apply_to == "FILTER_CHAIN":
            self._chains(message, patch)
            return True
        for chain in self._chains_of(message, patch):
            if patch.apply_to == "NETWORK_FILTER":
                self._list(chain.filters, patch, matching.filter_name(patch.match.listener))
            else:
                self._http_filters(chain, patch)
        return True

    def _chains_of(self, message: Any, patch: Patch) -> list[Any]:
        chains = list(message.filter_chains)
        if message.HasField("default_filter_chain"):
            chains.append(message.default_filter_chain)
        return [c for c in chains if matching.chain(patch.match.listener, c, message.name)]

    def _chains(self, message: Any, patch: Patch) -> None:
        wanted = patch.match.listener
        if patch.operation == "ADD":
            message.filter_chains.add().CopyFrom(self._message(patch))
            return
        if patch.operation == "REMOVE":
            kept = [c for c in message.filter_chains if not matching.chain(wanted, c, message.name)]
            _refill(message.filter_chains, kept)
            if message.HasField("default_filter_chain") and matching.chain(
                wanted, message.default_filter_chain, message.name
            ):
                message.ClearField("default_filter_chain")
            return
        for chain in self._chains_of(message, patch):
            self._merge(chain, patch)

    def _http_filters(self, chain: Any, patch: Patch) -> None:
        for found in chain.filters:
            if found.typed_config.type_url != _MANAGER:
                continue
            manager = unpack(self._protos, found.typed_config)
            anchor = matching.sub_filter_name(patch.match.listener)
            self._list(manager.http_filters, patch, anchor, has_end=True)
            pack(found.typed_config, manager)

    def _list(self, items: Any, patch: Patch, anchor: str, *, has_end: bool = False) -> None:
        """Edit a list of named things. `has_end`: its last one must stay last, so ADD goes before.

        Without an anchor INSERT_BEFORE is the first place and INSERT_AFTER the last.
        """
        kept = [_copy(item) for item in items]
        hits = [i for i, item in enumerate(kept) if not anchor or item.name == anchor]
        last = len(kept) - 1 if has_end and kept else len(kept)
        match patch.operation:
            case "REMOVE":
                if not anchor:
                    raise ValueError("REMOVE needs the name of what is removed in its match")
                kept = [item for i, item in enumerate(kept) if i not in hits]
            case "REPLACE":
                kept = [self._message(patch) if i in hits else k for i, k in enumerate(kept)]
            case "MERGE" | "MERGE_AND_REPLACE_LIST":
                for i in hits:
                    self._merge(kept[i], patch)
            case "ADD":
                kept.insert(last, self._message(patch))
            case "INSERT_FIRST":
                kept.insert(0, self._message(patch))
            case "INSERT_BEFORE" if hits:
                kept.insert(hits[0] if anchor else 0, self._message(patch))
            case "INSERT_AFTER" if hits:
                kept.insert(hits[0] + 1 if anchor else last, self._message(patch))
        _refill(items, kept)

    def _inline_routes(self, message: Any, patch: Patch) -> None:
        """The routes of a sidecar's inbound side stand inside its listener."""
        chains = [*message.filter_chains, message.default_filter_chain]
        for found in [f for chain in chains for f in chain.filters]:
            if found.typed_config.type_url != _MANAGER:
                continue
            manager = unpack(self._protos, found.typed_config)
            if manager.WhichOneof("route_specifier") != "route_config":
                continue
            if matching.route_configuration(
                patch.match.route_configuration, manager.route_config.name
            ):
                self._routes(manager.route_config, patch)
                pack(found.typed_config, manager)

    def _routes(self, message: Any, patch: Patch) -> None:
        wanted = patch.match.route_configuration
        if patch.apply_to == "ROUTE_CONFIGURATION":
            name = message.name
            self._merge(message, patch)
            message.name = name
            return
        if patch.apply_to == "VIRTUAL_HOST":
            self._virtual_hosts(message, patch)
            return
        for host in message.virtual_hosts:
            if matching.virtual_host(wanted, host):
                self._host_routes(host, patch)

    def _single_host(self, message: Any, patch: Patch) -> None:
        """A virtual host on its own, which patches know by its usual name. One that they remove
        stays, and answers 404: the request that asked for it waits for an answer."""
        if patch.apply_to == "VIRTUAL_HOST" and patch.operation == "ADD":
            return
        name = message.name
        whole = self._protos.new(MESSAGES["ROUTE_CONFIGURATION"])
        host = whole.virtual_hosts.add()
        host.CopyFrom(message)
        host.name = message.metadata.filter_metadata[OWN].fields[USUAL_NAME].string_value
        self._routes(whole, patch)
        if whole.virtual_hosts:
            message.CopyFrom(whole.virtual_hosts[0])
        else:
            del message.routes[:]
        message.name = name

    def _virtual_hosts(self, message: Any, patch: Patch) -> None:
        wanted = patch.match.route_configuration
        if patch.operation == "ADD":
            added = self._message(patch)
            if message.HasField("vhds") and any("*" in domain for domain in added.domains):
                raise ValueError(_WILDCARD)
            message.virtual_hosts.add().CopyFrom(added)
        elif patch.operation == "REMOVE":
            kept = [h for h in message.virtual_hosts if not matching.virtual_host(wanted, h)]
            _refill(message.virtual_hosts, kept)
        else:
            for host in message.virtual_hosts:
                if matching.virtual_host(wanted, host):
                    self._merge(host, patch)

    def _host_routes(self, host: Any, patch: Patch) -> None:
        wanted = patch.match.route_configuration
        routes = [_copy(route) for route in host.routes]
        hits = [i for i, route in enumerate(routes) if matching.route(wanted, route)]
        match patch.operation:
            case "REMOVE":
                routes = [route for i, route in enumerate(routes) if i not in hits]
            case "ADD":
                routes.append(self._message(patch))
            case "INSERT_FIRST":
                routes.insert(0, self._message(patch))
            case "INSERT_BEFORE" if hits:
                routes.insert(hits[0], self._message(patch))
            case "INSERT_AFTER" if hits:
                routes.insert(hits[-1] + 1, self._message(patch))
            case "MERGE" | "MERGE_AND_REPLACE_LIST":
                for i in hits:
                    self._merge(routes[i], patch)
        _refill(host.routes, routes)


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _refill(items: Any, kept: Sequence[Any]) -> None:
    """Replace a repeated field's elements; protobuf has no insertion."""
    copies = [_copy(item) for item in kept]
    del items[:]
    for item in copies:
        items.add().CopyFrom(item)
