"""Incremental keyed collections: pure, synchronous, ignorant of meshes.

A `Source` is written from outside; a `Derived` view computes its values from a primary view by
a transform that reads other views only through `Fetch`, which records what was read. One call,
`Graph.propagate()`, refreshes what depends on what changed, in rank order, and stops where an
output is equal to what stood before.
"""

from meltemi.flow.graph import (
    Derived,
    Distinct,
    Fetch,
    Graph,
    Index,
    Source,
    Transform,
    Union,
    View,
)

__all__ = ["Derived", "Distinct", "Fetch", "Graph", "Index", "Source", "Transform", "Union", "View"]
