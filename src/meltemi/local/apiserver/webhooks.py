"""Calling a webhook: by URL, or by a Service as one of its endpoints."""

import asyncio
import base64
import binascii
import ssl
from typing import Any

import aiohttp
import orjson

from meltemi.local.apiserver.store import Resource, Store

Json = dict[str, Any]
_MOST_CONTEXTS = 64
_LARGEST = 8 << 20


class WebhookFailed(Exception):
    """A webhook that could not be asked, or whose answer cannot be used."""


class Caller:
    """One connection pool to all webhooks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, hook: Json, review: Json) -> Json:
        """The response to a review. Raises WebhookFailed."""
        try:
            answer = await self._post(hook, review)
            response: Json = answer["response"]
            if response.get("uid") != review["request"]["uid"]:
                raise WebhookFailed("the response is for another request")
        except WebhookFailed:
            raise
        except TimeoutError as error:
            raise WebhookFailed("context deadline exceeded: it did not answer in time") from error
        except (aiohttp.ClientError, OSError, LookupError, TypeError, ValueError) as error:
            raise WebhookFailed(str(error) or type(error).__name__) from error
        return response

    async def _post(self, hook: Json, review: Json) -> Json:
        config = hook["clientConfig"]
        url = config.get("url") or self._service_url(config["service"])
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        service = config.get("service")
        name = f"{service['name']}.{service['namespace']}.svc" if service else None
        async with asyncio.timeout(hook.get("timeoutSeconds") or 10):
            async with self._session.post(
                url,
                data=orjson.dumps(review),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                ssl=self._context(config.get("caBundle", "")),
                allow_redirects=False,
                server_hostname=name,
            ) as reply:
                body = await reply.content.read(_LARGEST)
        if reply.status != 200:
            raise WebhookFailed(f"it answered {reply.status}")
        parsed: Json = orjson.loads(body)
        return parsed

    def _context(self, bundle: str) -> ssl.SSLContext:
        if bundle not in self._contexts:
            try:
                pem = base64.b64decode(bundle).decode() if bundle else None
                context = ssl.create_default_context(cadata=pem)
            except (binascii.Error, ssl.SSLError, UnicodeDecodeError) as error:
                raise WebhookFailed(f"its caBundle is no certificate: {error}") from error
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            self._contexts[bundle] = context
        return self._contexts[bundle]

    def _service_url(self, service: Json) -> str:
        """A ready endpoint of the port of a Service."""
        namespace, name = service["namespace"], service["name"]
        number, path = service.get("port") or 443, service.get("path") or "/"
        found = self._store.get(Resource("", "services"), namespace, name)
        if found is None:
            raise WebhookFailed(f'service "{name}" not found')
        spec = found.data["spec"]
        if spec.get("type") == "ExternalName":
            return f"https://{spec['externalName']}:{number}{path}"
        port = next((p for p in spec.get("ports") or () if p["port"] == number), None)
        if port is None:
            raise WebhookFailed(f'no service port {number} found for service "{name}"')
        wanted = port.get("name") or ""
        for entry in self._store.entries(Resource("discovery.k8s.io", "endpointslices"), namespace):
            labels = entry.data["metadata"].get("labels") or {}
            ports = [p for p in entry.data.get("ports") or () if (p.get("name") or "") == wanted]
            if labels.get("kubernetes.io/service-name") != name or not ports:
                continue
            for endpoint in entry.data.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    address = endpoint["addresses"][0]
                    host = f"[{address}]" if ":" in address else address
                    return f"https://{host}:{ports[0]['port']}{path}"
        raise WebhookFailed(f'no endpoints available for service "{name}"')
