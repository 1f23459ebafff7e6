"""A client of the mesh's mutual TLS that has no proxy."""

from pathlib import Path

from meltemi.base.identity import Identity
from meltemi.simulate.request import Request

from ..real.client import http
from .certificates import client
from .stage import Stage, closed


class Caller:
    """A client of mutual TLS without a proxy: what a server's sidecar takes."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self._stage = stage
        self._directory = directory

    async def status(self, domain: str = "cluster.local", *, curve: str = "", **tls: object) -> int:
        context = client(pair=self._pair(domain), **tls)  # type: ignore[arg-type]
        if curve:
            context.set_ecdh_curve(curve)
        sni = "outbound_.9080_._.ratings.default.svc.cluster.local.meltemi"
        address = self._stage.pod("ratings-v1")
        try:
            streams = await self._stage.arrive(9080, address=address, tls=context, sni=sni)
        except OSError:
            return 0
        answer = await http(*streams, Request("ratings:9080"), 0)
        await closed(streams[1])
        return answer.status

    def _pair(self, domain: str) -> tuple[str, str]:
        names = [self._directory / f"{domain}.{end}" for end in ("crt", "key")]
        if not names[0].exists():
            identity = Identity(domain, "default", "client")
            made = self._stage.lab.certificate(identity.uri)
            for path, body in zip(names, made, strict=True):
                path.write_bytes(body)
        return str(names[0]), str(names[1])
