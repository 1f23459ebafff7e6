"""What a cluster's controllers do, for one node: Deployments, ReplicaSets, StatefulSets,
DaemonSets, Jobs, EndpointSlices, and the binding of pods.

Each controller compares what an object asks for with what the cache shows, and writes the
difference. Decisions are pure functions; `engine` runs them when something they read has changed.
"""

from meltemi.local.controllers.run import run

__all__ = ["run"]
