"""How much of docs/fields is shown by what happens, not by the shape of what is compiled.

A row is shown by traffic, statistics or bytes (a simulation case, which runs on a real Envoy too,
a test beside those, a feature test or a real mesh), or it is told: the object's problems say that
the field does nothing here. What is neither stands in `NEITHER`, each with its reason.
"""

import re
from collections import Counter

import pytest

from .fields import Row, rows, tables

TABLES = tables()
_HAPPENS = re.compile(r"\btests/(sim|feature|real|conformance)/")
_FOR_REAL = (
    "test_probes_ask_by_http_connection_and_command",
    "test_probes_follow_their_thresholds",
)
"""Unit tests that do the thing itself: they ask servers on sockets, and run commands."""
_TELLS = (
    "test_what_a_virtual_service_may_not_say",
    "test_what_has_no_effect_is_said",
    "test_what_a_destination_rule_says_in_vain",
    "test_what_may_not_be_said",
    "test_parameters_of_an_ingress_class_have_no_effect",
    "test_resource_backends_are_not_supported",
    "test_fields_that_change_nothing_are_reported",
    "test_a_bad_patch_is_told_and_skipped",
)
"""Tests that hold an object's problems against what it says."""

_OF_ENTRIES = "each member's entry has it; cases/services/endpoints.yaml shows what entries do"
_ZONES = "tests/sim/test_zones.py shows the DestinationRule's setting; this is the same plan"
_NETWORKS = "tests/sim has one network; the row of WorkloadEntry shows what a network changes"
NEITHER: dict[str, dict[str, str]] = {
    "Gateway": {"servers[].name": "a name for people"},
    "DestinationRule": {"trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority": _ZONES},
    "MeshConfig": {
        "zoneAwareLbSetting.enabled": _ZONES,
        "zoneAwareLbSetting.failover": _ZONES,
        "zoneAwareLbSetting.failoverPriority": _ZONES,
        "zoneAwareLbSetting.minClusterSize": _ZONES,
    },
    "ServiceEntry": {"endpoints[].network": _NETWORKS},
    "WorkloadGroup": {
        "metadata.annotations": "for people; nothing here reads them",
        "template.labels": _OF_ENTRIES,
        "template.locality": _OF_ENTRIES,
        "template.network": _NETWORKS,
        "template.weight": _OF_ENTRIES,
    },
}

SHOWN = {
    "DestinationRule": 79,
    "EnvoyFilter": 34,
    "Gateway": 24,
    "Ingress": 10,
    "IngressClass": 1,
    "MeshConfig": 106,
    "ProxyConfig": 4,
    "ServiceEntry": 17,
    "Sidecar": 45,
    "VirtualService": 82,
    "WorkloadEntry": 7,
    "WorkloadGroup": 15,
}
"""Rows that are shown by what happens, of each table, at least; the rest is told or excused."""


def _kind(table: str, row: Row) -> str:
    if _HAPPENS.search(row.test) or any(name in row.test for name in _FOR_REAL):
        return "shown"
    if row.field in NEITHER.get(table, {}):
        return "neither"
    return "told" if any(name in row.test for name in _TELLS) else "shape only"


@pytest.mark.parametrize("table", TABLES)
def test_every_field_is_shown_or_told(table: str) -> None:
    found = rows(TABLES[table])
    shapes = [row.field for row in found if _kind(table, row) == "shape only"]
    assert not shapes, f"{TABLES[table].name} names only tests of a shape for {shapes}"


@pytest.mark.parametrize("table", TABLES)
def test_how_many_rows_are_shown(table: str) -> None:
    assert table in SHOWN, f"say in SHOWN how many rows of {TABLES[table].name} are shown"
    shown = Counter(_kind(table, row) for row in rows(TABLES[table]))["shown"]
    assert shown >= SHOWN[table], f"{shown} rows of {TABLES[table].name} are shown: fewer than ever"


def test_what_is_excused_is_still_there_and_still_needs_it() -> None:
    for table, fields in NEITHER.items():
        found = {row.field: row for row in rows(TABLES[table])}
        assert fields.keys() <= found.keys(), table
        needless = [field for field in fields if _kind(table, found[field]) != "neither"]
        assert not needless, f"{table}: {needless} are shown by a test: take them out of NEITHER"
