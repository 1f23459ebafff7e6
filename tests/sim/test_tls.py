"""What only handshakes show: whom a proxy believes, and with which certificate it answers.

One real Envoy with the client's configuration, and an echo server whose certificate is for every
identity of the mesh and for `*.example.org`.
"""

import asyncio
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.request import Request
from meltemi.simulate.world import World, node_of
from tests.certificates import Authority, Signed, tls_secret

from .given import Given
from .real.client import Answer
from .real.lab import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]
Json = dict[str, Any]
BOX = "10.44.0.9"
NAME = "box.example.net"


def mesh(*objects: Json) -> dict[ObjectKey, bytes]:
    """A client, and a server behind a service."""
    given = Given()
    services = {"box": {"ports": {"http": 8080}}}
    pods: Json = {"client": {}, "box": {"ip": BOX}}
    given.add({"pods": pods, "services": services, "objects": list(objects)})
    found = {}
    for document in given.documents():
        meta = document["metadata"]
        key = ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])
        found[key] = json.dumps(document).encode()
    return found


def wild(name: str, host: str, tls: Json) -> tuple[Json, Json]:
    """A wildcard of names that the proxy resolves, and how it speaks to them."""
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    entry = {"hosts": [host], "resolution": "DYNAMIC_DNS", "ports": [port]}
    rule = {"host": host, "trafficPolicy": {"tls": tls}}
    return (
        {"kind": "ServiceEntry", "metadata": {"name": name}, "spec": entry},
        {"kind": "DestinationRule", "metadata": {"name": name}, "spec": rule},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    identities = sorted({w.identity for w in World(mesh()).model.workloads.values()})
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    directory: Path = tmp_path_factory.mktemp("tls")
    async with Lab(directory, protos, identities, hosts=["*.example.org"]) as made:
        yield made


async def ask(lab: Lab, host: str) -> Answer:
    return await lab.send("198.18.0.1", 80, Request(host))


async def test_a_resolved_name_must_be_in_the_servers_certificate(lab: Lab) -> None:
    tls = {"mode": "SIMPLE", "caCertificates": str(lab.roots)}
    objects = mesh(*wild("mine", "*.example.org", tls), *wild("theirs", "*.example.net", tls))
    client = node_of(World(objects).workload("client"), "cluster.local")
    await lab.configure(objects, client, None)
    for name in ("a.example.org", "b.example.org"):
        answer = await ask(lab, name)
        said = json.loads(answer.body)
        assert (answer.status, said["tls"], said["sni"]) == (200, True, name)
    assert (await ask(lab, "a.example.net")).status == 503
    trusting = wild("theirs", "*.example.net", tls | {"insecureSkipVerify": True})
    await lab.configure(mesh(*trusting), client, None)
    assert (await ask(lab, "a.example.net")).status == 200


def secret(name: str, signed: Signed | None, authority: bytes = b"") -> Json:
    found: Json = yaml.safe_load(tls_secret(name, signed, authority=authority, namespace="default"))
    return found


def ingress(tls: Json) -> Json:
    """The box's sidecar ends TLS of strangers."""
    port = {"number": 8080, "protocol": "HTTP", "name": "http"}
    selector = {"labels": {"app": "box"}}
    spec = {"workloadSelector": selector, "ingress": [{"port": port, "tls": tls}]}
    return {"kind": "Sidecar", "metadata": {"name": "box"}, "spec": spec}


async def serve(lab: Lab, *objects: Json) -> World:
    """The box with its own proxy, the client with its own."""
    raw = mesh(*objects)
    world = World(raw)
    nodes = [node_of(world.workload(name), "cluster.local") for name in ("client", "box")]
    await lab.configure(raw, *nodes)
    return world


def stranger(authority: Authority, signed: Signed | None = None) -> ssl.SSLContext:
    """A client that believes an authority, and perhaps shows a certificate."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if signed is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(signed.certificate + signed.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


async def test_a_sidecar_ends_tls_with_a_secret_that_rotates(lab: Lab) -> None:
    authority = Authority()
    tls = {"mode": "SIMPLE", "credentialName": "box"}
    await serve(lab, ingress(tls), secret("box", authority.sign(NAME, "one.example.net")))
    answer, names = await lab.secure(BOX, 8080, Request(NAME), stranger(authority))
    assert answer.status == 200
    assert "one.example.net" in names
    plain = await lab.send(BOX, 8080, Request(NAME), captured=False)
    assert plain.status == 0
    assert (await lab.send("10.43.0.1", 8080, Request("box"))).status == 200
    await serve(lab, ingress(tls), secret("box", authority.sign(NAME, "two.example.net")))
    async with asyncio.timeout(10):
        while "two.example.net" not in names:
            answer, names = await lab.secure(BOX, 8080, Request(NAME), stranger(authority))
            assert answer.status == 200


async def test_a_sidecar_asks_strangers_for_a_certificate(lab: Lab) -> None:
    authority, friends = Authority(), Authority("friends")
    tls = {"mode": "MUTUAL", "credentialName": "box"}
    both = secret("box", authority.sign(NAME), friends.pem)
    await serve(lab, ingress(tls), both)
    friend = stranger(authority, friends.sign("friend.example.net"))
    answer, _ = await lab.secure(BOX, 8080, Request(NAME), friend)
    assert answer.status == 200
    for who in (stranger(authority), stranger(authority, authority.sign("foe.example.net"))):
        try:
            answer, _ = await lab.secure(BOX, 8080, Request(NAME), who)
        except (ssl.SSLError, ConnectionError, EOFError):
            continue
        assert answer.status == 0


async def test_without_its_secret_a_port_is_shut_to_strangers(lab: Lab) -> None:
    world = await serve(lab, ingress({"mode": "SIMPLE", "credentialName": "box"}))
    assert world.plan(world.workload("box")) is not None
    (problem,) = world.problems()
    assert (problem.code, problem.path) == (
        Code.UNKNOWN_SECRET,
        "spec.ingress[0].tls.credentialName",
    )
    assert (await lab.send(BOX, 8080, Request(NAME), captured=False)).status == 0
    assert (await lab.send("10.43.0.1", 8080, Request("box"))).status == 200


async def test_a_sidecar_shows_the_certificate_of_a_secret(lab: Lab) -> None:
    """A rule with a workloadSelector; the server believes it, and is believed."""
    signed = lab.certificate("spiffe://cluster.local/ns/far/sa/partner")
    tls = {"mode": "MUTUAL", "credentialName": "partner", "sni": "a.example.org"}
    entry, rule = wild("mine", "*.example.org", tls)
    rule["spec"]["workloadSelector"] = {"matchLabels": {"app": "client"}}
    partner = secret("partner", signed, lab.roots.read_bytes())
    await serve(lab, entry, rule, partner)
    said = json.loads((await ask(lab, "a.example.org")).body)
    assert (said["tls"], said["peer"]) == (True, "spiffe://cluster.local/ns/far/sa/partner")
    await serve(lab, entry, rule, secret("partner", signed, Authority().pem))
    async with asyncio.timeout(10):
        while (await ask(lab, "a.example.org")).status != 503:
            pass


class Files:
    """A certificate, its key and an authority, as files that are replaced by renaming."""

    def __init__(self, directory: Path) -> None:
        self.chain, self.key, self.authority, self.revoked = (
            str(directory / name) for name in ("chain.pem", "key.pem", "ca.pem", "crl.pem")
        )

    def put(self, path: str, body: bytes) -> None:
        new = Path(f"{path}.new")
        new.write_bytes(body)
        new.replace(path)

    def certify(self, signed: Signed) -> None:
        """One after the other: between the two they do not fit together."""
        self.put(self.chain, signed.certificate)
        self.put(self.key, signed.key)


async def test_a_server_takes_new_files_without_a_failed_connection(
    lab: Lab, tmp_path: Path
) -> None:
    authority, files = Authority(), Files(tmp_path)
    tls = {"mode": "SIMPLE", "serverCertificate": files.chain, "privateKey": files.key}
    files.certify(authority.sign(NAME, "0.example.net"))
    await serve(lab, ingress(tls))
    for serial in ("1", "2", "3"):
        files.certify(authority.sign(NAME, f"{serial}.example.net"))
        names = ""
        async with asyncio.timeout(10):
            while f"{serial}.example.net" not in names:
                answer, names = await lab.secure(BOX, 8080, Request(NAME), stranger(authority))
                assert answer.status == 200


async def test_files_that_come_late_harm_nothing_and_are_taken(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, files = Authority(), Files(tmp_path)
    tls = {"mode": "SIMPLE", "serverCertificate": files.chain, "privateKey": files.key}
    await serve(lab, ingress(tls))
    assert (await lab.send("10.43.0.1", 8080, Request("box"))).status == 200
    assert files.chain in caplog.text
    files.certify(authority.sign(NAME))
    status = 0
    async with asyncio.timeout(15):
        while status != 200:
            try:
                answer, _ = await lab.secure(BOX, 8080, Request(NAME), stranger(authority))
            except (ssl.SSLError, ConnectionError, EOFError):
                await asyncio.sleep(0.05)
            else:
                status = answer.status


async def test_whom_a_server_believes_follows_the_files(lab: Lab, tmp_path: Path) -> None:
    """An authority, and a list of what it has revoked."""
    authority, friends, files = Authority(), Authority("friends"), Files(tmp_path)
    files.certify(authority.sign(NAME))
    files.put(files.authority, Authority("others").pem)
    files.put(files.revoked, friends.revoke())
    tls = {"mode": "MUTUAL", "serverCertificate": files.chain, "privateKey": files.key}
    tls |= {"caCertificates": files.authority, "caCrl": files.revoked}
    signed = friends.sign("friend.example.net")
    friend = stranger(authority, signed)

    async def until(wanted: int) -> None:
        async with asyncio.timeout(10):
            while await admitted(lab, friend) != wanted:
                pass

    await serve(lab, ingress(tls))
    await until(0)
    files.put(files.authority, friends.pem)
    await until(200)
    files.put(files.revoked, friends.revoke(signed))
    await until(0)


async def admitted(lab: Lab, who: ssl.SSLContext) -> int:
    try:
        answer, _ = await lab.secure(BOX, 8080, Request(NAME), who)
    except (ssl.SSLError, ConnectionError, EOFError):
        return 0
    return answer.status


async def test_a_client_takes_new_files(lab: Lab, tmp_path: Path) -> None:
    """Its own certificate, and whom it believes."""
    files = Files(tmp_path)

    def partner(name: str) -> Signed:
        return lab.certificate(f"spiffe://cluster.local/ns/far/sa/{name}")

    async def until(wanted: str) -> None:
        said = ""
        async with asyncio.timeout(10):
            while said != wanted:
                answer = await ask(lab, "a.example.org")
                assert answer.status in (200, 503)
                peer = json.loads(answer.body)["peer"] if answer.status == 200 else ""
                said = peer.rpartition("/")[2]

    files.certify(partner("one"))
    files.put(files.authority, lab.roots.read_bytes())
    tls = {"mode": "MUTUAL", "clientCertificate": files.chain, "privateKey": files.key}
    await serve(lab, *wild("mine", "*.example.org", tls | {"caCertificates": files.authority}))
    await until("one")
    files.certify(partner("two"))
    await until("two")
    files.put(files.authority, Authority().pem)
    async with asyncio.timeout(10):
        while (await ask(lab, "a.example.org")).status != 503:
            pass
    files.put(files.authority, lab.roots.read_bytes())
    await until("two")
