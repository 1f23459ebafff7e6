"""What objects look like: one description per kind, which everything else reads.

A `Node` describes a value. Kubernetes' own kinds are described in the tables beside this file
(one line a field), the mesh's kinds by their Structs in `meltemi.api`, custom kinds by their
definitions. Decoding protobuf, checking fields, patches, server-side apply and OpenAPI all work
from Nodes.
"""
