"""What a PeerAuthentication may say (mesh-semantics 1.10)."""

from collections.abc import Iterator

from meltemi.api.security import PeerAuthentication
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_MTLS = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")


def peer_authentication(obj: PeerAuthentication) -> Iterator[Finding]:
    spec = obj.spec
    if spec.mtls is not None and spec.mtls.mode not in _MTLS:
        yield "spec.mtls.mode", f"must be one of {', '.join(_MTLS)}"
    selective = spec.selector is not None and bool(spec.selector.match_labels)
    if spec.port_level_mtls and not selective:
        yield "spec.portLevelMtls", "port levels need a selector: add spec.selector.matchLabels"
    for port, mtls in spec.port_level_mtls.items():
        yield from words.port(port, f"spec.portLevelMtls[{port}]")
        if mtls.mode not in _MTLS:
            yield f"spec.portLevelMtls[{port}].mode", f"must be one of {', '.join(_MTLS)}"
