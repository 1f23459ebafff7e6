"""Envoy's protobuf messages, from the descriptors inside the Envoy binary that will read them.

So the API always matches the proxy, and no second protobuf package is needed. Descriptors are
read once for each build of Envoy and cached; files enter the pool only when a message of theirs is
asked for.
"""

from meltemi.protos.pool import Protos, load

__all__ = ["Protos", "load"]
