"""The cache under answers and watch events in any order."""

import json
from typing import Any

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event
from meltemi.local.controllers.cache import Cache, is_leaving

KEY = ObjectKey("Pod", "default", "a")
OWNER = {"metadata": {"uid": "owner"}}


def pod(version: int, uid: str = "1", *, owner: str = "owner") -> dict[str, Any]:
    reference = {"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}
    meta = {"name": "a", "namespace": "default", "uid": uid, "resourceVersion": str(version)}
    return {"kind": "Pod", "metadata": {**meta, "ownerReferences": [reference]}}


def shown(data: dict[str, Any]) -> list[Event]:
    return [Event(KEY, json.dumps(data).encode())]


GONE = [Event(KEY, None)]


def make() -> tuple[Cache, list[tuple[Any, Any]]]:
    seen: list[tuple[Any, Any]] = []
    return Cache(lambda _, before, after: seen.append((before, after))), seen


def test_answer_counts_before_the_watch_shows_it() -> None:
    cache, seen = make()
    cache.observe(pod(5))
    assert list(cache.owned(OWNER, "Pod")) == [pod(5)]
    cache.deliver(shown(pod(5)))
    assert seen == [(None, pod(5))]


def test_older_state_from_the_watch_is_ignored() -> None:
    cache, _ = make()
    cache.observe(pod(5))
    cache.deliver(shown(pod(4)))
    assert cache.get(KEY) == pod(5)


def test_late_answer_does_not_bring_back_what_is_gone() -> None:
    cache, seen = make()
    cache.deliver(shown(pod(5)))
    cache.deliver(GONE)
    cache.observe(pod(5))
    assert cache.get(KEY) is None
    assert seen[-1] == (pod(5), None)
    assert not cache.owned(OWNER, "Pod")
    assert not cache.list("Pod", "default")


def test_deletion_of_an_earlier_one_does_not_take_the_new_one_of_its_name() -> None:
    cache, _ = make()
    cache.deliver(shown(pod(5)))
    cache.observe(pod(9, uid="2"))
    cache.deliver(GONE)
    assert cache.get(KEY) == pod(9, uid="2")
    cache.deliver(shown(pod(9, uid="2")))
    cache.deliver(GONE)
    assert cache.get(KEY) is None


def test_deleted_object_is_leaving_until_the_watch_takes_it_out() -> None:
    cache, seen = make()
    cache.deliver(shown(pod(5)))
    cache.leaving(KEY, "1", now="2026-01-01T00:00:00Z")
    found = cache.get(KEY)
    assert found is not None
    assert is_leaving(found)
    assert not is_leaving(pod(5))
    assert len(seen) == 2
    cache.leaving(KEY, "another", now="2026-01-01T00:00:00Z")
    cache.deliver(GONE)
    assert cache.get(KEY) is None


def test_change_of_owner_moves_the_object() -> None:
    cache, seen = make()
    cache.deliver(shown(pod(5)))
    cache.deliver(shown(pod(6, owner="other")))
    assert not cache.owned(OWNER, "Pod")
    assert list(cache.owned({"metadata": {"uid": "other"}}, "Pod")) == [pod(6, owner="other")]
    assert seen[-1] == (pod(5), pod(6, owner="other"))
