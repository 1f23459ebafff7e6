"""networking.k8s.io: Ingress and IngressClass (v1)."""

from meltemi.api.core import LoadBalancerStatus
from meltemi.api.meta import Api, Object


class ServiceBackendPort(Api, frozen=True):
    """One of the two."""

    name: str = ""
    number: int = 0


class IngressServiceBackend(Api, frozen=True):
    name: str = ""
    port: ServiceBackendPort = ServiceBackendPort()


class ResourceRef(Api, frozen=True):
    api_group: str = ""
    kind: str = ""
    name: str = ""


class IngressBackend(Api, frozen=True):
    service: IngressServiceBackend | None = None
    resource: ResourceRef | None = None


class HTTPIngressPath(Api, frozen=True):
    path: str = ""
    path_type: str = "ImplementationSpecific"
    backend: IngressBackend = IngressBackend()


class HTTPIngressRuleValue(Api, frozen=True):
    paths: tuple[HTTPIngressPath, ...] = ()


class IngressRule(Api, frozen=True):
    host: str = ""
    http: HTTPIngressRuleValue | None = None


class IngressTLS(Api, frozen=True):
    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(Api, frozen=True):
    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    tls: tuple[IngressTLS, ...] = ()
    rules: tuple[IngressRule, ...] = ()


class IngressStatus(Api, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Ingress(Object, frozen=True):
    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


class IngressClassSpec(Api, frozen=True):
    controller: str = ""
    parameters: ResourceRef | None = None


class IngressClass(Object, frozen=True):
    spec: IngressClassSpec = IngressClassSpec()
