"""Secrets that DestinationRules name for TLS which a proxy originates: who needs them, what is
missing, and where.

A proxy reads Secrets of its own namespace only, so the same rule may work for one gateway and not
for another; a cluster whose Secret does not come connects to nobody.
"""

from collections.abc import Iterator, Mapping

from meltemi.api.networking import ClientTLSSettings, TrafficPolicy
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.compile.plan.secrets import Secrets
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey
from meltemi.compile.views import Variant, Views
from meltemi.compile.visibility import Pair
from meltemi.flow import Fetch, Graph, Index, View
from meltemi.model.build import Model
from meltemi.model.policy import DestinationPolicy

SECRETS_BY_SCOPE: Index[ScopeKey] = Index("scope", lambda scope: (scope,))


def client_secrets(
    graph: Graph, model: Model, views: Views, planner: Planner
) -> View[Pair, ScopeKey]:
    """Add the view that reports them; it has the services that need some, with the scope."""

    def check(fetch: Fetch, pair: Pair, variant: Variant) -> Mapping[Pair, Outcome[ScopeKey]]:
        policy = fetch.get(model.policies, variant.policy) if variant.policy else None
        if policy is None:
            return {}
        problems = tuple(_problems(policy, planner.secrets_of(fetch, pair.scope)))
        return {pair: Outcome(pair.scope, problems)}

    return graph.derive(
        "secrets of clients",
        graph.select("choices with Secrets", views.choices, lambda _, variant: variant.secrets),
        check,
        reads=(model.policies, model.credentials, model.credential_faults),
        indexes=(SECRETS_BY_SCOPE,),
    )


def in_need(
    graph: Graph, model: Model, views: Views, clients: View[Pair, ScopeKey]
) -> View[str, bool]:
    """Add the view of the sidecars that need Secrets, as clients or for their own ports."""

    def needs(fetch: Fetch, key: str, scope: ScopeKey) -> Mapping[str, Outcome[bool]]:
        if scope.kind != "sidecar":
            return {}
        sidecar = fetch.get(model.sidecars, scope.sidecar) if scope.sidecar.name else None
        serves = sidecar is not None and sidecar.names_secrets
        if serves or fetch.by(clients, SECRETS_BY_SCOPE, scope):
            return {key: Outcome(True)}
        return {}

    return graph.derive(
        "sidecars in need of secrets",
        views.scopes_of,
        needs,
        reads=(model.sidecars, clients),
    )


def _problems(policy: DestinationPolicy, secrets: Secrets) -> Iterator[Problem]:
    for source, path, tls in _named(policy):
        name = tls.credential_name
        why = secrets.certificate(name) if tls.mode == "MUTUAL" else ""
        if not why and not tls.insecure_skip_verify:
            why = secrets.authority(name)
        if why:
            message = f"Secret {name!r}: {why}; until then these connections fail"
            where = f"{path}.tls.credentialName"
            yield Problem(Code.UNKNOWN_SECRET, Severity.WARNING, source, where, message)


def _named(policy: DestinationPolicy) -> Iterator[tuple[ObjectKey, str, ClientTLSSettings]]:
    """Every tls block that names a Secret, with where it stands."""
    levels: list[tuple[ObjectKey, str, TrafficPolicy | None]] = [
        (policy.sources[0], "spec.trafficPolicy", policy.policy),
        *((s.source, f"{s.path}.trafficPolicy", s.policy) for s in policy.subsets),
    ]
    for source, path, level in levels:
        if level is None:
            continue
        ports = level.port_level_settings
        blocks = [(path, level.tls)]
        blocks += [(f"{path}.portLevelSettings[{i}]", p.tls) for i, p in enumerate(ports)]
        for where, tls in blocks:
            if tls is not None and tls.credential_name:
                yield source, where, tls
