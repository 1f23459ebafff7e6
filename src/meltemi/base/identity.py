"""SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`."""

from typing import NamedTuple

_SCHEME = "spiffe://"


class BadIdentity(ValueError):
    """A string is not a SPIFFE identity of a mesh workload."""


class Identity(NamedTuple):
    """Who a workload is: its trust domain, namespace and service account."""

    trust_domain: str
    namespace: str
    service_account: str

    @property
    def uri(self) -> str:
        return f"{_SCHEME}{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def principal(self) -> str:
        """The form AuthorizationPolicy and metrics use: the URI without its scheme."""
        return self.uri.removeprefix(_SCHEME)


def identity_from_uri(uri: str) -> Identity:
    """Parse a SPIFFE URI strictly: control characters or empty parts raise BadIdentity."""
    parts = uri.removeprefix(_SCHEME).split("/")
    well_formed = (
        uri.startswith(_SCHEME)
        and len(parts) == 5
        and parts[1] == "ns"
        and parts[3] == "sa"
        and all(parts)
        and uri.isprintable()
    )
    if not well_formed:
        raise BadIdentity(f"not a workload identity: {uri!r}")
    return Identity(parts[0], parts[2], parts[4])
