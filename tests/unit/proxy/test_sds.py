"""Streams of secrets, without bytes and over a real socket."""

import asyncio
import os
import stat
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.redacted import Redacted
from meltemi.proxy.files import secret_of_files
from meltemi.proxy.messages import Codec, SealedSecret, SecretRequest
from meltemi.proxy.sds import SERVICE, SdsServer, Session


def secret(name: str, version: str) -> SealedSecret:
    return SealedSecret(name, version, Redacted(version.encode()))


def both(version: str) -> dict[str, SealedSecret]:
    return {name: secret(name, version) for name in ("ROOTCA", "default")}


def names(due) -> list[str]:
    return [s.name for s in due[1]] if due is not None else []


def test_nothing_is_sent_before_there_is_something() -> None:
    session = Session(delta=False)
    session.receive(SecretRequest(names=("default",)))
    assert session.due({}) is None
    assert names(session.due(both("1"))) == ["default"]


def test_acks_and_nacks_are_not_answered_and_changes_are_sent_once() -> None:
    session = Session(delta=False)
    session.receive(SecretRequest(names=("default",)))
    nonce, _ = session.due(both("1"))
    session.receive(SecretRequest(names=("default",), nonce=nonce, error="bad"))
    assert session.due(both("1")) is None
    assert names(session.due(both("2"))) == ["default"]
    assert session.due(both("2")) is None


def test_delta_sends_only_what_changed_and_again_what_is_asked_again() -> None:
    session = Session(delta=True)
    session.receive(SecretRequest(names=("default", "ROOTCA")))
    assert names(session.due(both("1"))) == ["ROOTCA", "default"]
    mixed = both("1") | {"default": secret("default", "2")}
    assert names(session.due(mixed)) == ["default"]
    session.receive(SecretRequest(names=("ROOTCA",)))
    assert names(session.due(mixed)) == ["ROOTCA"]
    session.receive(SecretRequest(dropped=("default",)))
    assert session.due(both("3")) is not None
    assert session.due(both("3")) is None


@given(st.lists(st.sampled_from(["ask", "drop", "rotate", "poll"]), max_size=30), st.booleans())
def test_after_any_history_envoy_holds_the_newest_of_what_it_wants(steps, delta) -> None:
    session, secrets, version = Session(delta=delta), both("0"), 0
    wanted, held = False, ""
    for step in [*steps, "poll"]:
        if step == "ask":
            wanted = True
            session.receive(SecretRequest(names=("default",)))
        elif step == "drop":
            wanted, held = False, ""
            session.receive(SecretRequest(dropped=("default",)) if delta else SecretRequest())
        elif step == "rotate":
            version += 1
            secrets = both(str(version))
        elif (due := session.due(secrets)) is not None:
            held = due[1][0].version
    assert held == (str(version) if wanted else "")


async def test_a_stream_gets_the_secret_when_it_comes_and_every_later_one(tmp_path: Path) -> None:
    codec = Codec()
    path = str(tmp_path / "sds.sock")
    async with (
        SdsServer(path, codec, name="a.default") as server,
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        stream = channel.stream_stream(f"/{SERVICE}/StreamSecrets")()
        await stream.write(codec._encode("Request", resource_names=["default"]))
        for version in ("1", "2"):
            key = Redacted(b"key" + version.encode())
            server.publish([codec.certificate_secret("default", version, b"chain", key)])
            reply = await asyncio.wait_for(stream.read(), 5)
            assert b"key" + version.encode() in reply
        stream.cancel()


async def test_garbage_on_the_socket_ends_the_stream(tmp_path: Path) -> None:
    path = str(tmp_path / "sds.sock")
    async with (
        SdsServer(path, Codec(), name="a.default"),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stream = channel.stream_stream(f"/{SERVICE}/DeltaSecrets")()
        await stream.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), 5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_files_are_named_and_tried_again_when_envoy_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Envoy looks again only at what differs: the same path, written in another way."""
    monkeypatch.setattr("meltemi.proxy.sds._AGAIN", 0.01)
    codec, path = Codec(), str(tmp_path / "sds.sock")
    name = "file-cert:/etc/a.pem~/etc/a.key"
    async with (
        SdsServer(path, codec, name="a.default"),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stream = channel.stream_stream(f"/{SERVICE}/StreamSecrets")()
        await stream.write(codec._encode("Request", resource_names=[name]))
        first = await asyncio.wait_for(stream.read(), 5)
        assert b"/etc/a.pem" in first
        assert b"/etc/a.key" in first
        assert b"/./etc" not in first
        refusal = codec._encode(
            "Request",
            resource_names=[name],
            response_nonce="1",
            error_detail={"message": "no such file: /etc/a.pem"},
        )
        await stream.write(refusal)
        again = await asyncio.wait_for(stream.read(), 5)
        assert b"/./etc/a.pem" in again
        assert "/etc/a.pem" in caplog.text
        stream.cancel()


async def test_an_authority_of_files_may_be_the_systems_and_revoke(tmp_path: Path) -> None:
    codec = Codec()
    assert b"/etc/ssl/certs" in secret_of_files(codec, "file-root:system").body.reveal()
    both = secret_of_files(codec, "file-root:/ca.pem~/crl.pem").body.reveal()
    assert b"/ca.pem" in both
    assert b"/crl.pem" in both
