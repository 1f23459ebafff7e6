"""Public names of injection: labels, annotations, containers, ports (mesh-semantics 1.17)."""

INJECT_LABEL = "sidecar.istio.io/inject"
NAMESPACE_LABEL = "istio-injection"
REVISION_LABEL = "istio.io/rev"
TLS_MODE_LABEL = "security.istio.io/tlsMode"
CANONICAL_NAME_LABEL = "service.istio.io/canonical-name"
CANONICAL_REVISION_LABEL = "service.istio.io/canonical-revision"
STATUS_ANNOTATION = "sidecar.istio.io/status"
TEMPLATES_ANNOTATION = "inject.istio.io/templates"

INIT_CONTAINER = "istio-init"
PROXY_CONTAINER = "istio-proxy"

OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
METRICS_PORT = 15020
HEALTH_PORT = 15021
ENVOY_METRICS_PORT = 15090
PROXY_USER = 1337

IGNORED_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")
"""Never injected."""

AUTO_REGISTERED = "istio.io/autoRegistrationGroup"
"""The annotation that names the WorkloadGroup of an entry that registered itself."""
HEALTH_CHECKED = "proxy.istio.io/health-checks-enabled"
"""The annotation of an entry whose group has a probe: it is unhealthy until its agent says."""
CONTROLLED = "istio.io/workloadController"
"""The annotation of an entry that is removed when its proxy stays away."""
