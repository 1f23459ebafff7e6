"""Paths, bodies and errors of the calls."""

import datetime

import msgspec
import pytest

from meltemi.base.keys import ObjectKey
from meltemi.base.redacted import Redacted
from meltemi.kube import errors, writer
from meltemi.kube.client import Client, Patch
from meltemi.kube.kubeconfig import Access

POD = ObjectKey("Pod", "default", "a")


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (403, "Forbidden", errors.Forbidden),
        (503, "", errors.Unavailable),
        (500, "InternalError", errors.ServerError),
    ],
)
async def test_every_refusal_has_its_exception(api, client, code, reason, error) -> None:
    api.answers.append((code, {"kind": "Status", "code": code, "reason": reason, "message": "m"}))
    with pytest.raises(error, match="m"):
        await client.get(POD)


async def test_invalid_names_the_fields(api, client) -> None:
    cause = {"field": "spec.http[0]", "message": "weights", "reason": "FieldValueInvalid"}
    api.answers.append((422, {"code": 422, "details": {"causes": [cause]}}))
    with pytest.raises(errors.Invalid) as caught:
        await client.get(POD)
    assert caught.value.causes[0].field == "spec.http[0]"


async def test_no_server_is_unavailable() -> None:
    async with Client(Access(server="http://127.0.0.1:9")) as client:
        with pytest.raises(errors.Unavailable):
            await client.get(POD)


async def test_apply_patch_and_delete_say_what_they_mean(api, client) -> None:
    api.answers += [(200, {})] * 3
    body = {"kind": "Pod", "metadata": {"name": "a"}}
    await client.apply(body, manager="me")
    await client.patch(POD, [{"op": "remove", "path": "/x"}], Patch.JSON, subresource="status")
    await client.delete(POD, uid="u1")
    apply, patch, delete = api.seen
    assert apply[:2] == (
        "PATCH",
        "/api/v1/namespaces/default/pods/a?fieldManager=me&force=true",
    )
    assert apply[2]["Content-Type"] == "application/apply-patch+yaml"
    assert patch[1] == "/api/v1/namespaces/default/pods/a/status"
    assert msgspec.json.decode(delete[3])["preconditions"] == {"uid": "u1"}


async def test_a_token_is_asked_for_and_reviewed(api, client) -> None:
    expires = "2031-01-01T00:00:00Z"
    user = {"username": "system:serviceaccount:default:sa", "extra": {"k": ["v"]}}
    api.answers += [
        (201, {"status": {"token": "t0k", "expirationTimestamp": expires}}),
        (201, {"status": {"authenticated": True, "user": user, "audiences": ["istio-ca"]}}),
    ]
    hour = datetime.timedelta(hours=1)
    token = await client.create_token(
        "default", "sa", audiences=("istio-ca",), lifetime=hour, pod=("a", "u1")
    )
    assert token.secret == Redacted(b"t0k")
    assert "t0k" not in repr(token)
    review = await client.review_token(token.secret, ("istio-ca",))
    assert (review.authenticated, review.audiences) == (True, ("istio-ca",))
    asked = msgspec.json.decode(api.seen[0][3])["spec"]
    assert asked["boundObjectRef"]["uid"] == "u1"


async def test_modify_tries_again_when_overtaken_and_stops_when_nothing_changes(
    api, client
) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "a", "namespace": "default"}}
    api.answers += [(200, pod), (409, {"reason": "Conflict"}), (200, pod), (200, pod)]
    await writer.modify(client, POD, lambda pod: pod | {"x": 1})
    assert [method for method, *_ in api.seen] == ["GET", "PUT", "GET", "PUT"]
    api.answers.append((200, pod))
    await writer.modify(client, POD, lambda pod: pod)
    assert api.seen[-1][0] == "GET"
