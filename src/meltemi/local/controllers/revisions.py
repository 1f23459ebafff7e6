"""ControllerRevisions: the versions of a StatefulSet's or DaemonSet's template, for rollbacks."""

from collections.abc import Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.local.controllers.cache import is_leaving, owner_reference
from meltemi.local.controllers.pods import labels_of
from meltemi.local.controllers.rollout import template_hash
from meltemi.local.controllers.writes import Writes

REVISION_LABEL = "controller-revision-hash"
_LIMIT = 10


def revision_of(owner: JsonObject) -> str:
    """The name of the present template's version."""
    return f"{owner['metadata']['name']}-{template_hash(owner['spec']['template'])}"


async def keep(writes: Writes, owner: JsonObject, in_use: Sequence[str]) -> None:
    """Have a revision of the present template, the newest of all; drop the oldest unused ones.

    `in_use`: versions that pods still have.
    """
    found = [r for r in writes.cache.owned(owner, "ControllerRevision") if not is_leaving(r)]
    found.sort(key=lambda r: int(r["revision"]))
    name = revision_of(owner)
    newest = int(found[-1]["revision"]) if found else 0
    present = next((r for r in found if r["metadata"]["name"] == name), None)
    if present is None:
        await _create(writes, owner, name, newest + 1)
    elif int(present["revision"]) < newest:
        await writes.patch(present, {"revision": newest + 1})
    limit = owner["spec"].get("revisionHistoryLimit", _LIMIT)
    names = {name, *in_use}
    unused = [r for r in found if r["metadata"]["name"] not in names]
    for old in unused[: max(0, len(unused) - limit)]:
        await writes.delete(old)


async def _create(writes: Writes, owner: JsonObject, name: str, number: int) -> None:
    template = {**owner["spec"]["template"], "$patch": "replace"}
    labels = labels_of(owner["spec"]["template"])
    body: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": {**labels, REVISION_LABEL: name},
            "annotations": owner["metadata"].get("annotations") or {},
            "ownerReferences": [owner_reference(owner, owner["apiVersion"], owner["kind"])],
        },
        "data": {"spec": {"template": template}},
        "revision": number,
    }
    try:
        await writes.create(body)
    except AlreadyExists:
        await writes.get(ObjectKey("ControllerRevision", body["metadata"]["namespace"], name))
