"""Where the signing key lives: a Secret, created once, or plugged in by the operator as `cacerts`.

Several control planes may start at once: the first create wins and the others read what it wrote.
The root is also kept in a ConfigMap of every namespace, where pods without SDS find it.
"""

import asyncio
import base64
import binascii
import logging
import random as random_module
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.api.meta import Json
from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.ca import sign
from meltemi.ca.errors import BadAuthority
from meltemi.ca.sign import Authority
from meltemi.kube import writer
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import AlreadyExists, ApiError, KubeError, NotFound
from meltemi.kube.informer import Event, Informer
from meltemi.kube.paths import Selection

log = logging.getLogger(__name__)

ROOT_NAMESPACE = "istio-system"
SELF_SIGNED = "istio-ca-secret"
PLUGGED_IN = "cacerts"
ROOT_CONFIG_MAP = "istio-ca-root-cert"
ROOT_KEY = "root-cert.pem"

_RETRY = 1.0


async def load_or_create(
    client: Client, clock: Clock, *, trust_domain: str, namespace: str = ROOT_NAMESPACE
) -> Authority:
    """The mesh's authority: `cacerts` if it is there, else the stored root, else a new one.

    Raises BadAuthority when what is stored cannot be used: it is never replaced silently.
    """
    plugged = await _secret(client, namespace, PLUGGED_IN)
    if plugged is not None:
        where = f"Secret/{PLUGGED_IN}.{namespace}"
        authority = sign.authority_from_pem(
            _entry(plugged, "ca-cert.pem", where),
            _entry(plugged, "ca-key.pem", where),
            chain=plugged.get("cert-chain.pem", b""),
            roots=_entry(plugged, "root-cert.pem", where),
            where=where,
        )
    else:
        stored = await _secret(client, namespace, SELF_SIGNED)
        where = f"Secret/{SELF_SIGNED}.{namespace}"
        if stored is None:
            stored = await _create(client, clock, trust_domain, namespace)
        certificate = _entry(stored, "ca-cert.pem", where)
        key = _entry(stored, "ca-key.pem", where)
        authority = sign.authority_from_pem(certificate, key, where=where)
    sign.check_valid_at(authority, clock.now(), where)
    return authority


async def _create(
    client: Client, clock: Clock, trust_domain: str, namespace: str
) -> Mapping[str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    root = sign.self_signed(key, trust_domain, now=clock.now(), serial=serial)
    data = {"ca-cert.pem": root.roots, "ca-key.pem": sign.key_pem(key)}
    await _ensure_namespace(client, namespace)
    body = _object("Secret", namespace, SELF_SIGNED) | {
        "type": "istio.io/ca-root",
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
    try:
        await client.create(body)
    except AlreadyExists:
        winner = await _secret(client, namespace, SELF_SIGNED)
        if winner is None:
            raise
        return winner
    log.info("created a self-signed root for trust domain %s", trust_domain)
    return data


async def _ensure_namespace(client: Client, name: str) -> None:
    try:
        await client.get(ObjectKey("Namespace", "", name))
    except NotFound:
        try:
            await client.create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        except AlreadyExists:
            return


async def _secret(client: Client, namespace: str, name: str) -> Mapping[str, bytes] | None:
    try:
        found = await client.get(ObjectKey("Secret", namespace, name))
    except NotFound:
        return None
    data: Mapping[str, Json] = found.get("data") or {}
    try:
        return {entry: base64.b64decode(value, validate=True) for entry, value in data.items()}
    except (binascii.Error, TypeError, ValueError) as e:
        raise BadAuthority(f"Secret/{name}.{namespace}: data is not base64") from e


def _entry(data: Mapping[str, bytes], name: str, where: str) -> bytes:
    value = data.get(name)
    if not value:
        raise BadAuthority(f"{where}: data[{name}] is missing")
    return value


def _object(kind: str, namespace: str, name: str) -> JsonObject:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


class RootPublisher:
    """Keeps ConfigMap `istio-ca-root-cert` right in every namespace, whoever changes it."""

    def __init__(
        self,
        client: Client,
        roots: Callable[[], bytes],
        *,
        random: random_module.Random,
    ) -> None:
        self._client = client
        self._roots = roots
        self._random = random
        self._namespaces: set[str] = set()
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    async def run(self) -> NoReturn:
        """Watch namespaces and the ConfigMaps until cancelled."""
        async with asyncio.TaskGroup() as group:
            for selection in (
                Selection("Namespace"),
                Selection("ConfigMap", fields=f"metadata.name={ROOT_CONFIG_MAP}"),
            ):
                informer = Informer(self._client, selection, self._note, random=self._random)
                group.create_task(informer.run(), name=f"root publisher {selection}")
            group.create_task(self._write(), name="root publisher writer")
        raise AssertionError("the publisher never returns")

    def republish(self) -> None:
        """The roots changed: write every namespace again."""
        self._dirty |= self._namespaces
        self._wake.set()

    def _note(self, events: Sequence[Event]) -> None:
        for key, raw in events:
            if key.kind != "Namespace":
                self._dirty.add(key.namespace)
            elif raw is None:
                self._namespaces.discard(key.name)
            elif key.name not in self._namespaces:
                self._namespaces.add(key.name)
                self._dirty.add(key.name)
        self._wake.set()

    async def _write(self) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake.clear()
            failed: set[str] = set()
            while self._dirty:
                namespace = self._dirty.pop()
                if namespace in self._namespaces and not await self._publish(namespace):
                    failed.add(namespace)
            if failed:
                await asyncio.sleep(_RETRY)
                self._dirty |= failed
                self._wake.set()

    async def _publish(self, namespace: str) -> bool:
        """Write one namespace; whether that is settled (a namespace on its way out is)."""
        body = _object("ConfigMap", namespace, ROOT_CONFIG_MAP) | {
            "data": {ROOT_KEY: self._roots().decode()}
        }
        body["metadata"]["labels"] = {"istio.io/config": "true"}
        try:
            await writer.ensure(self._client, body)
        except NotFound:
            return True
        except ApiError as e:
            log.warning("cannot publish the root in namespace %s: %s", namespace, e)
            return e.reason == "Forbidden"
        except KubeError as e:
            log.warning("cannot publish the root in namespace %s: %s", namespace, e)
            return False
        return True
