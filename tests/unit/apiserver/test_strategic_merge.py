"""The directives of strategic merge, one by one."""

from typing import Any

import pytest

from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.patch import strategic_merge
from meltemi.local.apiserver.schema.tables import kind_node

NODE = kind_node("apps", "v1", "Deployment")


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": fields}}}


def merged(live: dict[str, Any], patch: dict[str, Any]) -> Any:
    return strategic_merge(live, patch, NODE)["spec"]["template"]["spec"]


LIVE = spec(
    containers=[{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
    volumes=[{"name": "v", "emptyDir": {}}],
)


def test_items_merge_by_their_key() -> None:
    after = merged(LIVE, spec(containers=[{"name": "b", "image": "2"}, {"name": "c"}]))
    assert after["containers"] == [
        {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"},
    ]  # fmt: skip


def test_an_item_is_deleted() -> None:
    after = merged(LIVE, spec(containers=[{"name": "a", "$patch": "delete"}]))
    assert [c["name"] for c in after["containers"]] == ["b"]


def test_a_list_is_replaced() -> None:
    after = merged(LIVE, spec(containers=[{"$patch": "replace"}, {"name": "z"}]))
    assert after["containers"] == [{"name": "z"}]


def test_an_object_is_replaced() -> None:
    after = merged(LIVE, {"spec": {"template": {"spec": {"$patch": "replace", "hostPID": True}}}})
    assert after == {"hostPID": True}


def test_order_is_set_and_others_keep_their_place() -> None:
    order = {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}
    after = merged(LIVE, spec(containers=[{"name": "c"}], **order))
    assert [c["name"] for c in after["containers"]] == ["c", "b", "a"]


def test_only_retained_keys_stay() -> None:
    change = {"name": "v", "configMap": {"name": "x"}, "$retainKeys": ["name", "configMap"]}
    after = merged(LIVE, spec(volumes=[change]))
    assert after["volumes"] == [{"name": "v", "configMap": {"name": "x"}}]


def test_values_leave_a_set() -> None:
    live = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}}
    assert strategic_merge(live, patch, NODE)["metadata"]["finalizers"] == ["a", "c", "d"]


def test_lists_without_a_key_are_replaced() -> None:
    live = spec(containers=[{"name": "a", "command": ["x", "y"]}])
    after = merged(live, spec(containers=[{"name": "a", "command": ["z"]}]))
    assert after["containers"][0]["command"] == ["z"]


@pytest.mark.parametrize(
    "patch", [{"$patch": "sideways"}, spec(containers=[{"image": "x"}]), spec(containers=["x"])]
)
def test_bad_patches_are_refused(patch: dict[str, Any]) -> None:
    with pytest.raises(StatusError):
        strategic_merge(LIVE, patch, NODE)
