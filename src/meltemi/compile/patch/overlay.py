"""The patched copies of sets, beside the shared ones.

A proxy with patches sees an overlay of every set in its view: the same resources, patched where a
patch touches them. Proxies with equal patches share their overlays; all others notice nothing.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.base.resource import Change, ProxyView, Resource, SetKey
from meltemi.compile.patch.apply import KINDS, Patcher
from meltemi.compile.patch.select import Patch, PatchSet
from meltemi.protos.pool import Protos

Resources = dict[str, Resource]
Changes = dict[SetKey, dict[str, Resource | None]]


class Layer(NamedTuple):
    """One base set under one set of patches."""

    base: SetKey
    patches: str
    """A PatchSet's id."""
    gateway: bool

    @property
    def key(self) -> SetKey:
        kind = "gateway" if self.gateway else "sidecar"
        return SetKey(self.base.type_url, f"{self.base.owner}~{self.patches}~{kind}")


class Overlay:
    """Turns the assembler's changes into those that proxies see."""

    def __init__(self, protos: Protos) -> None:
        self._protos = protos
        self._base: dict[SetKey, Resources] = {}
        """What the assembler's sets hold; the resources are shared, not copied."""
        self._views: dict[str, ProxyView] = {}
        self._patches: dict[str, PatchSet] = {}
        """By node."""
        self._by_id: dict[str, tuple[Patch, ...]] = {}
        self._layers: dict[Layer, Resources] = {}
        self._by_base: dict[SetKey, set[Layer]] = {}
        self._failures: dict[Layer, dict[tuple[ObjectKey, str], str]] = {}

    def change(self, change: Change, patches: Mapping[str, PatchSet | None]) -> Change:
        """`patches`: the nodes whose patches changed, with their new ones."""
        for key, resources in change.resources.items():
            self._take(key, resources)
        out: Changes = {key: dict(resources) for key, resources in change.resources.items()}
        for key, resources in change.resources.items():
            for layer in self._by_base.get(key, ()):
                self._refresh(layer, resources, out)
        views = dict(change.views)
        for node, view in change.views.items():
            if view is None:
                self._views.pop(node, None)
            else:
                self._views[node] = view
        for node, found in patches.items():
            if found is None:
                self._patches.pop(node, None)
            else:
                self._patches[node] = found
        for node in change.views.keys() | patches.keys():
            if node in self._views:
                views[node] = self._view(self._views[node], out)
        if patches or change.views:
            self._drop_unused(out)
        return Change(change.revision, out, views)

    def problems(self) -> Iterable[Problem]:
        """Patches that could not be applied."""
        seen: set[tuple[ObjectKey, str]] = set()
        for failures in self._failures.values():
            for (about, path), reason in failures.items():
                if (about, path) not in seen:
                    seen.add((about, path))
                    message = f"the patch cannot be applied, and is skipped there: {reason}"
                    yield Problem(Code.BAD_VALUE, Severity.ERROR, about, path, message)

    def _take(self, key: SetKey, resources: Mapping[str, Resource | None]) -> None:
        held = self._base.setdefault(key, {})
        for name, resource in resources.items():
            if resource is None:
                held.pop(name, None)
            else:
                held[name] = resource
        if not held:
            del self._base[key]

    def _view(self, view: ProxyView, out: Changes) -> ProxyView:
        found = self._patches.get(view.proxy)
        if found is None:
            return view
        gateway = view.proxy.startswith("router~")
        kinds = {p.apply_to for p in found.patches}
        sets = list(view.sets)
        for i, key in enumerate(sets):
            if kinds & set(KINDS.get(key.type_url, ())):
                layer = Layer(key, found.id, gateway)
                self._open(layer, found.patches, out)
                sets[i] = layer.key
        for type_url in self._adding(found):
            layer = Layer(SetKey(type_url, _ADDED), found.id, gateway)
            self._open(layer, found.patches, out)
            sets.append(layer.key)
        return msgspec.structs.replace(view, sets=tuple(sets))

    def _adding(self, found: PatchSet) -> list[str]:
        patcher = Patcher(self._protos, gateway=False, failed=lambda _p, _r: None)
        return sorted({resource.type_url for resource in patcher.added(found.patches)})

    def _open(self, layer: Layer, patches: tuple[Patch, ...], out: Changes) -> None:
        if layer in self._layers:
            return
        self._layers[layer] = {}
        self._failures[layer] = {}
        self._by_id[layer.patches] = patches
        self._by_base.setdefault(layer.base, set()).add(layer)
        if layer.base.owner == _ADDED:
            patcher = self._patcher(layer)
            added = [r for r in patcher.added(patches) if r.type_url == layer.base.type_url]
            self._put(layer, {r.name: r for r in added}, out)
        else:
            self._refresh(layer, self._base.get(layer.base, {}), out)

    def _patcher(self, layer: Layer) -> Patcher:
        failures = self._failures[layer]

        def failed(patch: Patch, reason: str) -> None:
            failures[patch.source, patch.path] = reason

        return Patcher(self._protos, gateway=layer.gateway, failed=failed)

    def _refresh(
        self, layer: Layer, resources: Mapping[str, Resource | None], out: Changes
    ) -> None:
        patcher, patches = self._patcher(layer), self._by_id[layer.patches]
        changed: dict[str, Resource | None] = {}
        for name, resource in resources.items():
            changed[name] = None if resource is None else patcher.patched(resource, patches)
        self._put(layer, changed, out)

    def _put(self, layer: Layer, changed: Mapping[str, Resource | None], out: Changes) -> None:
        held = self._layers[layer]
        for name, resource in changed.items():
            if resource is None:
                if held.pop(name, None) is not None:
                    out.setdefault(layer.key, {})[name] = None
            elif held.get(name) != resource:
                held[name] = resource
                out.setdefault(layer.key, {})[name] = resource

    def _drop_unused(self, out: Changes) -> None:
        used = set()
        for node, found in self._patches.items():
            view = self._views.get(node)
            gateway = node.startswith("router~")
            for key in view.sets if view else ():
                used.add(Layer(key, found.id, gateway))
            for type_url in self._adding(found):
                used.add(Layer(SetKey(type_url, _ADDED), found.id, gateway))
        for layer in [found for found in self._layers if found not in used]:
            gone = self._layers.pop(layer)
            self._failures.pop(layer)
            self._by_base[layer.base].discard(layer)
            if gone:
                out.setdefault(layer.key, {}).update(dict.fromkeys(gone))


_ADDED = "added"
"""The owner of the sets that hold what patches add."""
