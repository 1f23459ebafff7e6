"""CreateCertificate over real gRPC: who gets what, and who is told nothing."""

import datetime
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.identity import Identity
from meltemi.ca import sign
from meltemi.ca.authenticate import Authenticator
from meltemi.ca.edge import Edge
from meltemi.ca.errors import BadRequest
from meltemi.ca.messages import Codec
from meltemi.ca.server_identity import ServerIdentity
from meltemi.ca.service import CertificateService, add_ca
from meltemi.ca.sign import Names, Subject

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
FAR = datetime.timedelta(days=3650)


class Ca:
    """The service on a unix socket, with a TLS edge before it."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self.port = port

    async def ask(
        self, csr: bytes, token: str = "", seconds: int = 0, channel: Any = None, extra: bytes = b""
    ) -> list[x509.Certificate]:
        request = b"\x0a" + _length(csr) + extra
        if seconds:
            request += b"\x18" + _varint(seconds)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        async with channel or grpc.aio.insecure_channel(f"unix:{self.path}") as open_channel:
            reply = await open_channel.unary_unary(METHOD)(request, metadata=metadata, timeout=5)
        return x509.load_pem_x509_certificates(reply)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _length(data: bytes) -> bytes:
    return _varint(len(data)) + data


@pytest.fixture
async def ca(tmp_path: Path, client, clock, root) -> AsyncIterator[Ca]:
    listener = socket.create_server(("127.0.0.1", 0))
    path = tmp_path / "xds.sock"
    identity = ServerIdentity(lambda: root, clock, lifetime=FAR)
    context = identity.context(verify_clients=True, alpn=("h2",))
    edge = Edge(listener, context, path)
    authenticator = Authenticator(client, clock, trust_domain="cluster.local")
    service = CertificateService(
        lambda: root, authenticator, client, clock, peer_identity=edge.identity_of
    )
    server = grpc.aio.server()
    add_ca(server, service)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    async with edge:
        yield Ca(path, listener.getsockname()[1])
    await server.stop(None)


async def test_the_caller_gets_its_own_name_whatever_the_csr_asks(ca, api, make_csr) -> None:
    leaf, root = await ca.ask(make_csr(), api.add_pod("reviews-v1-abc-1"))
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://cluster.local/ns/default/sa/reviews"]
    assert leaf.subject.rfc4514_string() == "L=v1,OU=reviews,O=default,CN=reviews-v1"
    leaf.verify_directly_issued_by(root)


@pytest.mark.parametrize("case", ["none", "unknown", "audience", "uid", "account", "no-pod"])
async def test_without_proof_the_answer_is_opaque(ca, api, make_csr, case: str) -> None:
    token = {
        "none": "",
        "unknown": "e30.e30.c2ln",
        "audience": api.add_token("reviews", audience="other"),
        "uid": api.add_pod("a", uid="u2"),
        "account": api.add_pod("b", account="other"),
        "no-pod": api.add_token("reviews", pod="missing", uid="u1"),
    }[case]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ca.ask(make_csr(), token)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "request not authenticated"


async def test_wrong_requests_are_explained_to_authenticated_callers(ca, api, make_csr) -> None:
    token = api.add_pod("a")
    impersonation = b"\x22" + _length(b"\x0a\x16\x0a\x14ImpersonatedIdentity")
    for csr, seconds, extra, text in (
        (b"junk", 0, b"", "not a PEM certificate request"),
        (make_csr(), 91 * 86400, b"", "90 days"),
        (make_csr(), 0, impersonation, "impersonation"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ca.ask(csr, token, seconds, extra=extra)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()


async def test_a_token_is_reviewed_once_within_half_a_minute(ca, api, clock, make_csr) -> None:
    token = api.add_pod("a")
    for _ in range(3):
        await ca.ask(make_csr(), token)
    assert api.reviews == 1
    clock.seconds += 31
    await ca.ask(make_csr(), token)
    assert api.reviews == 2


async def test_over_tls_a_token_or_a_certificate_of_ours_is_enough(
    ca, api, clock, root, make_csr
) -> None:
    address = f"127.0.0.1:{ca.port}"
    trust = grpc.ssl_channel_credentials(root.roots)
    leaf, _ = await ca.ask(
        make_csr(), api.add_pod("a"), channel=grpc.aio.secure_channel(address, trust)
    )
    assert leaf.subject.rfc4514_string().endswith("CN=reviews-v1")

    key = ec.generate_private_key(ec.SECP256R1())
    names = Names(identity=Identity("cluster.local", "default", "ratings"))
    own = sign.leaf(
        root, key.public_key(), names, Subject(), lifetime=FAR, now=clock.now(), serial=9
    )
    mutual = grpc.ssl_channel_credentials(root.roots, sign.key_pem(key), sign.pem([own]))
    leaf, _ = await ca.ask(make_csr(), channel=grpc.aio.secure_channel(address, mutual))
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [names.identity.uri]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ca.ask(make_csr(), channel=grpc.aio.secure_channel(address, trust))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_certificate_of_another_authority_does_not_connect(
    ca, clock, root, make_csr
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    stranger = sign.self_signed(key, "cluster.local", now=clock.now(), serial=3)
    names = Names(identity=Identity("cluster.local", "default", "ratings"))
    forged = sign.leaf(
        stranger, key.public_key(), names, Subject(), lifetime=FAR, now=clock.now(), serial=9
    )
    mutual = grpc.ssl_channel_credentials(root.roots, sign.key_pem(key), sign.pem([forged]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ca.ask(make_csr(), channel=grpc.aio.secure_channel(f"127.0.0.1:{ca.port}", mutual))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_server_identity_renews_at_half_life(clock, root) -> None:
    identity = ServerIdentity(lambda: root, clock)
    first = identity.expires
    clock.time += datetime.timedelta(hours=11)
    assert not identity.is_due()
    clock.time += datetime.timedelta(hours=2)
    assert identity.is_due()
    identity.renew()
    assert identity.expires > first


def test_garbage_is_not_a_request() -> None:
    with pytest.raises(BadRequest):
        Codec().request(b"\xff\xff\xff")


async def test_a_member_of_a_workload_group_is_named_after_it(ca, api, make_csr) -> None:
    def group(name: str, account: str) -> dict[str, Any]:
        template = {"serviceAccount": account, "labels": {"app": name, "version": "v3"}}
        meta = {"name": name, "namespace": "default"}
        return {"metadata": meta, "spec": {"template": template}}

    groups = [group("vm", "machines"), group("one", "shared"), group("two", "shared")]
    api.objects["/apis/networking.istio.io/v1/namespaces/default/workloadgroups"] = {
        "items": groups
    }
    leaf, _ = await ca.ask(make_csr(), api.add_token("machines"))
    assert leaf.subject.rfc4514_string() == "L=v3,OU=vm,O=default,CN=vm"
    for account in ("shared", "nobody"):
        leaf, _ = await ca.ask(make_csr(), api.add_token(account))
        assert leaf.subject.rfc4514_string() == ""
