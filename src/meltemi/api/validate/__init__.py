"""Istio's own rules on one object: what it may say, whatever else the mesh holds.

A Problem of severity ERROR refuses the object; warnings let it pass. One module a kind; `words`
holds what they share.
"""

from meltemi.api import networking as net
from meltemi.api.meta import Object
from meltemi.api.security import PeerAuthentication
from meltemi.api.validate.destination_rule import destination_rule
from meltemi.api.validate.gateway import gateway
from meltemi.api.validate.peer_authentication import peer_authentication
from meltemi.api.validate.virtual_service import virtual_service
from meltemi.base.problems import Code, Problem, Severity

__all__ = ["validate"]


def validate(obj: Object) -> tuple[Problem, ...]:
    """All that is wrong with one object; empty for kinds without rules."""
    match obj:
        case net.VirtualService():
            findings = virtual_service(obj.spec)
        case net.DestinationRule():
            findings = destination_rule(obj.spec)
        case net.Gateway():
            findings = gateway(obj.spec)
        case PeerAuthentication():
            findings = peer_authentication(obj)
        case _:
            return ()
    return tuple(
        Problem(Code.BAD_VALUE, Severity.ERROR, obj.key, path, message)
        for path, message in findings
    )
