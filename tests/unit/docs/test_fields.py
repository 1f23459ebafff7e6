"""docs/fields lists every field of the API, and every test it names is there."""

import re
from pathlib import Path

import pytest

from .fields import leaves, message_of, rows, tables

ROOT = Path(__file__).parents[3]
TABLES = tables()
_REFERENCE = re.compile(r"tests/[\w./-]+(?:::\w+)?")


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_lists_every_field_in_order(kind: str) -> None:
    message = message_of(kind)
    assert message is not None, f"{TABLES[kind].name}: no kind of that name has a Struct"
    wanted = leaves(message)
    listed = [row.field for row in rows(TABLES[kind])]
    missing = [field for field in wanted if field not in listed]
    unknown = [field for field in listed if field not in wanted]
    assert not missing, f"{TABLES[kind].name} lacks {missing}"
    assert not unknown, f"{TABLES[kind].name} lists what the API has not: {unknown}"
    assert listed == wanted, f"{TABLES[kind].name} is not in the order of the API"


@pytest.mark.parametrize("kind", TABLES)
def test_every_row_says_what_and_names_tests_that_exist(kind: str) -> None:
    found = []
    for row in rows(TABLES[kind]):
        if not row.does:
            found.append(f"{row.field}: says nothing")
        references = _REFERENCE.findall(row.test)
        if not references:
            found.append(f"{row.field}: names no test (tests/...::name, or a file of tests/sim)")
        found += [f"{row.field}: {text}" for text in references if not _exists(text)]
    assert not found, "\n".join(found)


REQUIRED = frozenset(
    {
        "VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "WorkloadEntry",
        "WorkloadGroup", "Sidecar", "ProxyConfig", "EnvoyFilter", "MeshConfig",
    }
)  # fmt: skip


def test_every_kind_of_traffic_management_has_a_table() -> None:
    missing = REQUIRED - TABLES.keys()
    assert not missing, f"docs/fields has no table of {sorted(missing)}"


def _exists(reference: str) -> bool:
    path, _, name = reference.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    return not name or re.search(rf"def {name}\b", file.read_text()) is not None


def test_leaves_are_found_through_lists_and_unions() -> None:
    message = message_of("VirtualService")
    assert message is not None
    found = leaves(message)
    assert {"hosts", "http[].match[].uri", "http[].fault.delay.fixedDelay", "exportTo"} <= set(
        found
    )
    assert found.index("hosts") < found.index("http[].name") < found.index("exportTo")
    assert "http[].route[].destination.host" in found
    assert "http[].mirror" in found, "a message spelled out before is one row"
