"""What becomes of one request: the plan of a proxy, evaluated as Envoy would.

`world` builds a mesh from objects; `run` walks a request through it and returns a `trace.Trace`,
a tree of values in which every step names the object and field behind it. Each module mirrors one
decision of Envoy: `paths` normalisation, `connections` listeners and filter chains, `hosts`
virtual hosts, `matching` routes, `rewriting` what a route changes, `balancing` clusters and
endpoints. `failing` says why a request comes to nothing, `overlooked` which objects took no part in
it and why. tests/sim runs the same cases on a real Envoy, so that none of it can drift.
"""
