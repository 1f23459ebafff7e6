"""security.istio.io: PeerAuthentication (AuthorizationPolicy and the rest follow)."""

from collections.abc import Mapping

from meltemi.api.meta import Api, LabelSelector, Object


class MutualTLS(Api, frozen=True):
    mode: str = "UNSET"


class PeerAuthenticationSpec(Api, frozen=True):
    selector: LabelSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: Mapping[int, MutualTLS] = {}


class PeerAuthentication(Object, frozen=True):
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
