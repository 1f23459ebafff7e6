"""kubectl's verbs on the kinds that are served.

Every verb runs on the kinds of FULL; those that go through code of a kind's own (its fields, its
columns, its patches) run on all kinds. test_http_matrix.py has the rest of the grid without the
cost of a process for each request.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import REAL, Cluster

Json = dict[str, Any]
CASES: list[Json] = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text())
FULL = ("ConfigMap", "Deployment", "Role", "CustomResourceDefinition", "VirtualService")
EVERYWHERE = (
    "get_in_every_form", "describe", "apply_again_and_changed", "apply_on_the_server", "explain",
)  # fmt: skip
VERBS: dict[str, Callable[["Subject"], None]] = {}


class Subject:
    """One object of a kind, made when it is first needed."""

    def __init__(self, cluster: Cluster, case: Json) -> None:
        self.cluster = cluster
        self.case = case
        self.kind = str(case["object"]["kind"])
        group = case["object"]["apiVersion"].partition("/")[0]
        self.word = f"{self.kind.lower()}.{group}" if "." in group else self.kind.lower()
        self.name = str(case.get("name", f"one-{self.kind.lower()}"))
        meta = {"name": self.name, "labels": {"matrix": self.kind}}
        self.object = {**case["object"], "metadata": meta}
        self.target = f"{self.word}/{self.name}"

    @property
    def path(self) -> str:
        return str(self.case.get("path", "metadata.annotations.b"))

    @property
    def value(self) -> str:
        return str(self.case.get("value", "two"))

    def changed(self) -> Json:
        """The object with the change that patches make."""
        copied: Json = json.loads(json.dumps(self.object))
        _set(copied, self.path, self.value)
        return copied

    def make(self) -> None:
        if self.cluster.run("get", self.target)[0]:
            self.cluster.kubectl("apply", "-f", "-", text=json.dumps(self.object))

    def get(self) -> Json:
        found: Json = json.loads(self.cluster.kubectl("get", self.target, "-o", "json"))
        return found

    def run(self, *argv: str, text: str | None = None, **env: str) -> str:
        return self.cluster.kubectl(*argv, text=text, **env)


def _set(data: Any, path: str, value: str) -> None:
    steps = path.replace("[0]", ".0").split(".")
    for step in steps[:-1]:
        data = data[int(step)] if isinstance(data, list) else data.setdefault(step, {})
    data[steps[-1]] = value


def _at(data: Any, path: str) -> Any:
    for step in path.replace("[0]", ".0").split("."):
        if data is None:
            return None
        data = data[int(step)] if isinstance(data, list) else data.get(step)
    return data


def verb(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    VERBS[function.__name__] = function
    return function


@verb
def create_and_delete(it: Subject) -> None:
    other = {**it.object, "metadata": {"name": it.name}}
    it.cluster.run("delete", it.target, "--ignore-not-found")
    assert "created" in it.run("create", "-f", "-", text=json.dumps(other))
    assert "already exists" in it.cluster.refused("create", "-f", "-", text=json.dumps(other))
    assert "deleted" in it.run("delete", it.target, "--now")
    assert "not found" in it.cluster.refused("get", it.target).lower()


@verb
def get_in_every_form(it: Subject) -> None:
    header, row = it.run("get", it.target).splitlines()[:2]
    assert header.startswith("LAST SEEN" if it.kind == "Event" else "NAME")
    assert row.split()[0] == it.name or it.kind == "Event"
    assert len(it.run("get", it.word, "-l", f"matrix={it.kind}", "-o", "wide").splitlines()) >= 2
    if it.kind not in FULL:
        return
    assert it.name in it.run("get", it.word, "--field-selector", f"metadata.name={it.name}",
                             "-o", "custom-columns=N:.metadata.name")  # fmt: skip
    assert it.run("get", it.word, "--chunk-size=1", "--show-labels")
    assert it.run("get", it.word, "-A", "--sort-by=.metadata.name")


@verb
def describe(it: Subject) -> None:
    assert it.name in it.run("describe", it.target)


@verb
def explain(it: Subject) -> None:
    text = it.run("explain", it.kind.lower(), "--api-version", it.object["apiVersion"])
    assert f"KIND:       {it.kind}" in text
    assert "metadata" in text


@verb
def label_and_annotate(it: Subject) -> None:
    it.run("label", it.target, "colour=blue", "--overwrite")
    it.run("annotate", it.target, "example.com/note=yes", "--overwrite")
    meta = it.get()["metadata"]
    assert meta["labels"]["colour"] == "blue"
    assert meta["annotations"]["example.com/note"] == "yes"
    it.run("label", it.target, "colour-")
    assert "colour" not in it.get()["metadata"]["labels"]


@verb
def patch_merge(it: Subject) -> None:
    change: Json = {}
    if "[0]" in it.path:
        field = it.path.partition("[")[0]
        change = {"spec": {field.rpartition(".")[2]: _at(it.changed(), field)}}
    else:
        _set(change, it.path, it.value)
    it.run("patch", it.target, "--type=merge", "-p", json.dumps(change))
    if "stored" not in it.case:
        assert _at(it.get(), it.path) == it.value


@verb
def patch_json(it: Subject) -> None:
    steps = it.path.replace("[0]", ".0").split(".")
    found = it.get()
    operations = []
    for i in range(1, len(steps)):
        if _at(found, ".".join(steps[:i])) is None:
            pointer = "/" + "/".join(steps[:i])
            operations.append({"op": "add", "path": pointer, "value": {}})
    operations.append({"op": "add", "path": "/" + "/".join(steps), "value": it.value})
    it.run("patch", it.target, "--type=json", "-p", json.dumps(operations))


@verb
def patch_strategic(it: Subject) -> None:
    change = json.dumps({"metadata": {"annotations": {"strategic": "yes"}}})
    if it.case.get("mesh"):
        said = it.cluster.refused("patch", it.target, "-p", change)
        assert "strategic" in said
        return
    it.run("patch", it.target, "-p", change)
    assert it.get()["metadata"]["annotations"]["strategic"] == "yes"


@verb
def apply_again_and_changed(it: Subject) -> None:
    it.run("apply", "-f", "-", text=json.dumps(it.object))
    again = it.run("apply", "-f", "-", text=json.dumps(it.object))
    # kubectl finds a difference in stringData, and in a budget's selector, on any server.
    assert "unchanged" in again or it.kind in ("Secret", "PodDisruptionBudget")
    it.run("apply", "-f", "-", text=json.dumps(it.changed()))
    assert _at(it.get(), it.case.get("stored", it.path)) is not None


@verb
def apply_on_the_server(it: Subject) -> None:
    text = json.dumps(it.changed())
    argv = ("apply", "--server-side", "--force-conflicts", "--field-manager=matrix", "-f", "-")
    it.run(*argv, text=text)
    before = it.get()["metadata"]["resourceVersion"]
    it.run(*argv, text=text)
    after = json.loads(it.run("get", it.target, "-o", "json", "--show-managed-fields"))
    if "stored" not in it.case:
        assert after["metadata"]["resourceVersion"] == before
    managers = {m["manager"]: m["operation"] for m in after["metadata"]["managedFields"]}
    assert managers["matrix"] == "Apply"


@verb
def dry_run_and_diff(it: Subject) -> None:
    before = it.get()["metadata"]["resourceVersion"]
    changed = it.changed()
    changed["metadata"]["labels"]["diff"] = "yes"
    text = json.dumps(changed)
    assert "dry run" in it.run("apply", "--dry-run=server", "-f", "-", text=text)
    code, out, error = it.cluster.run("diff", "-f", "-", text=text)
    assert (code, '+    diff: "yes"' in out) == (1, True), out + error
    assert it.get()["metadata"]["resourceVersion"] == before


@verb
def replace(it: Subject) -> None:
    found = it.get()
    found["metadata"].setdefault("annotations", {})["replaced"] = "yes"
    it.run("replace", "-f", "-", text=json.dumps(found))
    assert it.get()["metadata"]["annotations"]["replaced"] == "yes"


@verb
def edit(it: Subject) -> None:
    it.run("annotate", it.target, "edited=no", "--overwrite")
    it.run("edit", it.target, KUBE_EDITOR='sed -i \'s/edited: "no"/edited: "yes"/\'')
    assert it.get()["metadata"]["annotations"]["edited"] == "yes"


@verb
def wait(it: Subject) -> None:
    it.run("wait", it.target, f"--for=jsonpath={{.metadata.name}}={it.name}", "--timeout=5s")


@verb
def strict_fields(it: Subject) -> None:
    wrong = {**it.object, "metadata": {"name": f"{it.name}-x"}, "colour": "blue"}
    said = it.cluster.refused("create", "-f", "-", text=json.dumps(wrong))
    assert 'unknown field "colour"' in said


@verb
def scale(it: Subject) -> None:
    if not it.case.get("scales"):
        assert it.cluster.refused("scale", it.target, "--replicas=2")
        return
    assert "scaled" in it.run("scale", it.target, "--replicas=2")
    assert it.get()["spec"]["replicas"] == 2


Outcomes = dict[tuple[str, str], BaseException | None]


def _verbs_on(it: Subject, names: list[str]) -> Outcomes:
    found: Outcomes = {}
    for name in names:
        try:
            it.make()
            VERBS[name](it)
            found[it.kind, name] = None
        except BaseException as error:
            found[it.kind, name] = error
    return found


@pytest.fixture(scope="module")
def outcomes(cluster: Cluster, request: pytest.FixtureRequest) -> Outcomes:
    """What became of every chosen verb: kinds side by side, the verbs of a kind in order."""
    chosen: dict[str, list[str]] = {}
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if item.module is request.module and "verb_name" in parameters:
            chosen.setdefault(parameters["kind"], []).append(parameters["verb_name"])
    subjects = {case["object"]["kind"]: Subject(cluster, case) for case in CASES}
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda kind: _verbs_on(subjects[kind], chosen[kind]), chosen)
        return {key: error for found in done for key, error in found.items()}


GRID = [
    (case["object"]["kind"], name)
    for case in CASES
    for name in VERBS
    if name in EVERYWHERE or case["object"]["kind"] in FULL
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("kind", "verb_name"), GRID)
def test_verb_on_kind(outcomes: Outcomes, kind: str, verb_name: str) -> None:
    if REAL and kind in ("Node", "Pod"):
        pytest.skip("a real cluster has nodes of its own, and changes pods meanwhile")
    error = outcomes[kind, verb_name]
    if error is not None:
        raise error


def test_every_kind_is_in_the_matrix() -> None:
    from meltemi.api.kinds import KINDS

    assert set(KINDS) == {case["object"]["kind"] for case in CASES}
