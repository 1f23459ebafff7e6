"""The descriptions of kinds, and the OpenAPI documents made from them."""

from collections.abc import Iterator

import pytest

from meltemi.api.kinds import KINDS, Kind
from meltemi.local.apiserver.registry import Registry, is_mesh
from meltemi.local.apiserver.schema.node import Node

from .conftest import Api, Json

STORED = [k for k in KINDS.values() if not is_mesh(k) or k.struct is not None]


@pytest.mark.parametrize("kind", STORED, ids=lambda k: k.name)
def test_every_kind_is_described(kind: Kind) -> None:
    registry = Registry()
    for version in kind.versions:
        node = registry.node(kind, version)
        assert node is not None
        assert {"apiVersion", "kind", "metadata"} <= node.fields.keys()
        check(node, set())


def check(node: Node, seen: set[int]) -> None:
    """A list of type map has its keys, and what they point to exists."""
    if id(node.fields) in seen:
        return
    if node.fields:
        seen.add(id(node.fields))
    if node.word == "list":
        assert node.item is not None
        if node.list_type == "map":
            assert node.keys
            assert set(node.keys) <= node.item.fields.keys()
    for number, name in node.numbers.items():
        assert number
        assert name in node.fields or name in node.parts
    for inner in (*node.fields.values(), *([node.item] if node.item is not None else [])):
        check(inner, seen)


async def test_documents_hold_together(api: Api) -> None:
    """Every reference leads somewhere, and every kind says which it is."""
    index = await api.get("/openapi/v3")
    known = set()
    for entry in index["paths"].values():
        document = await api.get(entry["serverRelativeURL"])
        schemas = document["components"]["schemas"]
        for reference in references(document):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
        for schema in schemas.values():
            for own in schema.get("x-kubernetes-group-version-kind", ()):
                known.add((own["group"], own["version"], own["kind"]))
    assert {(k.group, v, k.name) for k in KINDS.values() for v in k.versions} <= known


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [r for inner in value.values() for r in references(inner)]
    if isinstance(value, list):
        return [r for inner in value for r in references(inner)]
    return []


@pytest.mark.parametrize(
    ("group", "schema", "field", "word"),
    [
        ("api/v1", "core.v1.Probe", "periodSeconds", "10 by default"),
        ("api/v1", "core.v1.Container", "livenessProbe", "started anew"),
        ("apis/apps/v1", "apps.v1.DeploymentSpec", "replicas", "How many pods"),
        ("apis/networking.istio.io/v1", "io.istio.networking.v1.HTTPRoute", "route", "by weight"),
    ],
)
async def test_fields_say_what_they_mean(
    api: Api, group: str, schema: str, field: str, word: str
) -> None:
    document = await api.get(f"/openapi/v3/{group}")
    found: Json = document["components"]["schemas"][schema]["properties"][field]
    assert word in found["description"]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_field_of_a_kind_says_what_it_is(name: str) -> None:
    registry, kind = Registry(), KINDS[name]
    for version in kind.versions:
        node = registry.node(kind, version)
        assert node is not None
        assert sorted(undescribed(node, name, set())) == []


def undescribed(node: Node, path: str, seen: set[int]) -> Iterator[str]:
    """Paths of fields without a word about them; types that contain themselves once."""
    if id(node.fields) in seen:
        return
    seen.add(id(node.fields))
    for field, inner in node.fields.items():
        if not inner.doc:
            yield f"{path}.{field}"
        yield from undescribed(inner, f"{path}.{field}", seen)
    if node.item is not None:
        yield from undescribed(node.item, path, seen)
