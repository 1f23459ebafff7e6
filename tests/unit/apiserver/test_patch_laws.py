"""The laws of strategic merge, managed fields and server-side apply, on random objects."""

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.local.apiserver.apply import apply
from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.ownership import (
    Fields,
    Owner,
    fields,
    leaves,
    read,
    tree,
    updated,
    write,
)
from meltemi.local.apiserver.patch import merge_patch, strategic_merge
from meltemi.local.apiserver.schema.tables import kind_node

Json = dict[str, Any]
NODE = kind_node("", "v1", "Pod")
ME, YOU = Owner("me", "Apply", "v1"), Owner("you", "Apply", "v1")

names = st.sampled_from(["a", "b", "c"])
maps = st.dictionaries(names, st.sampled_from(["1", "2"]), max_size=3)


def keyed(key: str, item: st.SearchStrategy[Json]) -> st.SearchStrategy[list[Json]]:
    """A list whose items have different keys."""
    return st.lists(item, max_size=3, unique_by=lambda i: str(i[key]))


env = keyed("name", st.fixed_dictionaries({"name": names}, optional={"value": names}))
ports = keyed(
    "containerPort",
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from([80, 90])},
        optional={"name": names, "hostPort": st.just(1)},
    ),
)
containers = keyed(
    "name",
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "image": names,
            "env": env,
            "ports": ports,
            "command": st.lists(names, max_size=2),
            "resources": st.fixed_dictionaries({}, optional={"limits": maps}),
        },
    ),
)
_pods = st.fixed_dictionaries(
    {"apiVersion": st.just("v1"), "kind": st.just("Pod")},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": maps,
                "finalizers": st.lists(names, max_size=2, unique=True),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": containers,
                "nodeSelector": maps,
                "tolerations": st.lists(st.fixed_dictionaries({"key": names}), max_size=2),
                "hostNetwork": st.booleans(),
            },
        ),
    },
)


def _full(value: Any) -> Any:
    """Without empty parts: who owns nothing in something owns nothing."""
    if isinstance(value, dict):
        found = {k: _full(v) for k, v in value.items()}
        return {k: v for k, v in found.items() if v not in ({}, [])}
    return [_full(v) for v in value] if isinstance(value, list) else value


pods = _pods.map(_full)
laws = settings(max_examples=120, deadline=None)


def applied(live: Json, wanted: Json, owner: Owner = ME, *, force: bool = True) -> Json:
    """The object after an apply, its managedFields included."""
    outcome = apply(NODE, live, wanted, owner, force=force, now="t")
    data: Json = copy.deepcopy(outcome.data)
    data.setdefault("metadata", {})["managedFields"] = write(outcome.owners)
    return data


def held(data: Json, owner: Owner) -> Fields:
    return next((h.fields for h in read(data) if h.owner.is_same(owner)), frozenset())


def value_at(data: Json) -> dict[Any, Any]:
    return leaves(NODE, data)


@given(pods)
@laws
def test_fields_survive_their_written_form(pod: Json) -> None:
    found = frozenset(leaves(NODE, pod))
    assert fields(tree(found)) == found


@given(pods, pods)
@laws
def test_apply_is_idempotent(live: Json, wanted: Json) -> None:
    once = applied(live, wanted)
    assert applied(once, wanted) == once


@given(pods, pods)
@laws
def test_what_is_applied_is_there_and_owned(live: Json, wanted: Json) -> None:
    after = applied(live, wanted)
    asked, found = value_at(wanted), value_at(after)
    assert {path: found[path] for path in asked} == asked
    assert held(after, ME) == frozenset(asked)


@given(pods, pods)
@laws
def test_applying_nothing_more_leaves_nothing_of_mine(first: Json, second: Json) -> None:
    """Two applies in a row are the second alone: no field lost, no debris."""
    after = applied(applied({}, first), second)
    alone = applied({}, second)
    assert value_at(after) == value_at(alone)


@given(pods, pods, pods)
@laws
def test_leaving_out_takes_nothing_that_others_own(mine: Json, yours: Json, later: Json) -> None:
    both = applied(applied({}, mine), yours, YOU)
    after = applied(both, later)
    kept, found = value_at(yours), value_at(after)
    still = held(after, YOU)
    assert {p: found.get(p, ...) for p in still} == {p: kept[p] for p in still}
    assert frozenset(kept) - still <= frozenset(value_at(later))


@given(pods, pods)
@laws
def test_conflicts_are_the_fields_that_others_hold_otherwise(mine: Json, yours: Json) -> None:
    live = applied({}, mine)
    ours, theirs = value_at(mine), value_at(yours)
    differing = [p for p in theirs if p in ours and ours[p] != theirs[p]]
    if not differing:
        assert held(applied(live, yours, YOU, force=False), ME) == frozenset(ours)
        return
    with pytest.raises(StatusError) as refused:
        applied(live, yours, YOU, force=False)
    assert refused.value.details is not None
    assert len(refused.value.details["causes"]) == len(differing)


@given(pods, pods)
@laws
def test_an_update_owns_what_it_changes_and_nothing_else(before: Json, after: Json) -> None:
    editor = Owner("edit", "Update", "v1")
    live = applied({}, before)
    owners = updated(NODE, live, after, editor, "t")
    old, new = value_at(before), value_at(after)
    changed = {p for p in new if p not in old or old[p] != new[p]}
    by_manager = {h.owner.manager: h.fields for h in owners}
    assert by_manager.get("edit", frozenset()) == changed
    assert by_manager.get("me", frozenset()) == (frozenset(old) & frozenset(new)) - changed


@given(pods, pods)
@laws
def test_strategic_merge_is_idempotent_and_keeps_what_it_does_not_name(
    live: Json, patch: Json
) -> None:
    once = strategic_merge(live, patch, NODE)
    assert strategic_merge(once, patch, NODE) == once
    asked, before, after = value_at(patch), value_at(live), value_at(once)
    plain = [p for p in asked if p[-1] != "f:nodeSelector" and not _by_port(p)]
    assert {p: after.get(p, ...) for p in plain} == {p: asked[p] for p in plain}
    others = [p for p in before if p not in asked and not _by_port(p)]
    assert {p: after.get(p, ...) for p in others} == {p: before[p] for p in others}


def _by_port(path: Any) -> bool:
    """Ports merge by containerPort alone in a strategic merge, unlike in an apply."""
    return any(step.startswith("k:") and "containerPort" in step for step in path)


@given(pods, pods)
@laws
def test_merge_patch_follows_its_definition(live: Json, patch: Json) -> None:
    once = merge_patch(live, patch)
    assert merge_patch(once, patch) == once
    assert merge_patch(once, dict.fromkeys(once)) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["a", "spec", "containers", "$patch", "$setElementOrder/containers", "name",
                         "$retainKeys", "$deleteFromPrimitiveList/finalizers", "metadata"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(pods, json_values)
@settings(max_examples=300, deadline=None)
def test_no_strategic_patch_breaks_the_merge(live: Json, patch: Any) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(strategic_merge(live, patch, NODE), dict)
