"""docs/security.md promises nothing without a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| (?P<promise>[^|]+) \| `(?P<path>[^:`]+)::(?P<name>\w+)` \|$")


def promises() -> list[tuple[str, str, str]]:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    return [m.group("promise", "path", "name") for line in lines if (m := ROW.match(line))]


def test_every_row_names_a_test() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    heads = [row for row in rows if row == "| what holds | test |"]
    assert len(promises()) == len(rows) - len(heads) > 20


@pytest.mark.parametrize(("promise", "path", "name"), promises())
def test_a_promise_is_kept_by_a_test_that_exists(promise: str, path: str, name: str) -> None:
    text = (ROOT / path).read_text()
    assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), promise
