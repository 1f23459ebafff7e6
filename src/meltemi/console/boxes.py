"""Frames around nodes: an application's versions, a namespace. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meltemi.console import health as healths
from meltemi.console.nodes import Node
from meltemi.console.types import GraphBox, GraphNode, GraphType, Health


class Boxes(msgspec.Struct, frozen=True):
    """Frames by id, and which one a node stands in, by the node's id."""

    frames: Mapping[str, GraphBox]
    parent: Mapping[str, str]


def boxes(nodes: Iterable[Node], graph_type: GraphType) -> Boxes:
    """A frame for each app in a graph of versions; for a namespace, if there are several and it
    holds more than one thing."""
    frames: dict[str, GraphBox] = {}
    parent: dict[str, str] = {}
    inside: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        top = node.id
        if graph_type == "versionedApp" and node.kind == "app":
            top = parent[node.id] = f"box/{node.namespace}/{node.app}"
            frames[top] = GraphBox(
                id=top,
                kind="app",
                label=node.app,
                namespace=node.namespace,
                parent=None,
                health=healths.UNKNOWN,
            )
        if node.namespace and top not in inside[node.namespace]:
            inside[node.namespace].append(top)
    if len(inside) > 1:
        for space, members in inside.items():
            if len(members) > 1:
                _frame_namespace(space, members, frames, parent)
    return Boxes(frames, parent)


def _frame_namespace(
    space: str, members: Iterable[str], frames: dict[str, GraphBox], parent: dict[str, str]
) -> None:
    box = f"namespace/{space}"
    for member in members:
        if member in frames:
            frames[member] = msgspec.structs.replace(frames[member], parent=box)
        else:
            parent[member] = box
    frames[box] = GraphBox(
        id=box,
        kind="namespace",
        label=space,
        namespace=space,
        parent=None,
        health=healths.UNKNOWN,
    )


def views(made: Boxes, nodes: Sequence[GraphNode]) -> tuple[GraphBox, ...]:
    """The frames, each as healthy as the worst that stands in it."""
    inside: dict[str, list[Health]] = defaultdict(list)
    for node in nodes:
        box = node.parent
        while box is not None:
            inside[box].append(node.health)
            box = made.frames[box].parent
    return tuple(
        msgspec.structs.replace(frame, health=healths.worst(inside[frame.id]))
        for _, frame in sorted(made.frames.items())
    )
