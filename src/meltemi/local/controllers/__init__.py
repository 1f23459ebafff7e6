"""What a cluster's controllers do, for one node: Deployments, ReplicaSets, StatefulSets,
DaemonSets, Jobs, EndpointSlices, and the binding of pods.

Each controller compares what an object asks for with what the cache shows, and writes the
difference. Decisions are pure functions (`plan`, `status_of`, `rollout`); `run` routes each change
to the controllers that read the object.
"""

from meltemi.local.controllers.run import run

__all__ = ["run"]
