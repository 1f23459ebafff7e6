"""How the duties beside Envoy can fail.

ProxyError
├── BadSpec         the pod's environment or directory cannot be used
├── CaUnavailable   no certificate: the authority did not answer, refused, or answered nonsense
└── EnvoyMissing    there is no Envoy binary
"""


class ProxyError(Exception):
    """Base of everything this package raises."""


class BadSpec(ProxyError):
    pass


class CaUnavailable(ProxyError):
    pass


class EnvoyMissing(ProxyError):
    pass
