"""A model on its own: typed objects in, views out."""

import json
from typing import Any

import pytest
import yaml

from meltemi.base.keys import ObjectKey
from meltemi.flow import Graph
from meltemi.model.build import Domain, Model, build
from meltemi.model.objects import Objects, objects


class World:
    """Applies YAML to a graph and propagates."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.objects: Objects = objects(self.graph, "cluster.local")
        self.model: Model = build(self.graph, self.objects, Domain())
        self._clock = 0

    def apply(self, text: str) -> None:
        """Set every document's object; each is younger than the one before."""
        for document in yaml.safe_load_all(text):
            if document:
                self.put(document)
        self.graph.propagate()

    def put(self, document: dict[str, Any]) -> None:
        meta = document["metadata"]
        meta.setdefault("namespace", "default")
        self._clock += 1
        meta.setdefault("creationTimestamp", f"2026-01-01T00:00:{self._clock:02d}Z")
        key = ObjectKey(document["kind"], meta["namespace"], meta["name"])
        self.objects.raw[key.kind].set(key, json.dumps(document).encode())

    def drop(self, kind: str, name: str, namespace: str = "default") -> None:
        self.objects.raw[kind].drop(ObjectKey(kind, namespace, name))
        self.graph.propagate()


@pytest.fixture
def world() -> World:
    return World()
