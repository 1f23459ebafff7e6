"""The console's first page in headless Chromium, on a real Bookinfo."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import DANGLING, ROOT, Mesh

pytestmark = pytest.mark.browser

WEB = ROOT / "web"
BUDGET = 400 * 1024
"""Bytes of scripts and styles that a first load may transfer."""
EDGES = 11
"""Calls in Bookinfo with its three reviews, through services."""
FRAMES = {"productpage": 1, "details": 1, "reviews": 3, "ratings": 1}
"""Versions that stand in each application's frame."""


def browse(mesh: Mesh, script: str, *argv: str) -> Any:
    """What a browser saw; without one the tests are skipped, but never in CI."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None or not (WEB / "node_modules").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs chromium and web/node_modules: run `make setup` with CI=true")
        pytest.skip("needs chromium (WITH_BROWSER=1 make setup)")
    program = ("node", str(WEB / "e2e" / script), f"{mesh.console}/", *argv)
    return json.loads(mesh.run("env", f"CHROMIUM={browser}", *program))


@pytest.fixture(scope="module")
def seen(bookinfo: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return browse(bookinfo, "graph.mjs", str(tmp_path_factory.mktemp("pictures")), str(EDGES))


def places(graph: Any) -> dict[str, tuple[int, int]]:
    return {node["id"]: (node["x"], node["y"]) for node in graph["nodes"]}


def test_versions_stand_in_the_frame_of_their_application(seen: Any) -> None:
    inside = [n["parent"] for n in seen["graph"]["nodes"] if n["kind"] == "app"]
    assert {app: inside.count(app) for app in FRAMES} == FRAMES


def test_edges_show_rates_and_locks(seen: Any) -> None:
    edges = seen["graph"]["edges"]
    assert len(edges) == EDGES
    assert all(edge["label"].endswith("/s") for edge in edges)
    assert all(edge["mtls"] == 1 for edge in edges)


def test_new_numbers_never_move_a_node(seen: Any) -> None:
    assert seen["later"]["edges"]
    assert places(seen["graph"]) == places(seen["later"])


def test_the_age_of_the_data_is_visible(seen: Any) -> None:
    assert seen["age"].startswith("Live, ")


def test_the_table_shows_the_same_and_is_reached_by_keyboard(seen: Any) -> None:
    assert seen["rows"] == len(seen["graph"]["edges"])
    assert "show=table" in seen["address"]


def test_nothing_offends_accessibility_rules(seen: Any) -> None:
    assert seen["violations"] == []
    assert seen["tableViolations"] == []


def test_no_request_leaves_the_machine_and_nothing_complains(seen: Any) -> None:
    assert seen["elsewhere"] == []
    assert seen["complaints"] == []


def test_the_first_load_is_small(seen: Any) -> None:
    assert seen["transferred"] <= BUDGET
    assert seen["overflow"] == 0
    assert all(Path(picture).stat().st_size > 10_000 for picture in seen["pictures"])


def test_problems_are_listed_behind_the_chip(seen: Any, bookinfo: Mesh, tmp_path: Path) -> None:
    bookinfo.apply(DANGLING, "virtualservice/dangling")
    shown = browse(bookinfo, "problems.mjs", str(tmp_path))
    bookinfo.kubectl("delete", "virtualservice", "dangling")
    assert "1 problem" in shown["chip"]
    for words in ("VirtualService dangling.default", "MSH0201", "no service has the host nowhere"):
        assert words in shown["list"]
    assert "spec.http[0].route[0].destination.host" in shown["list"]
    assert shown["violations"] == []
