"""Objects to proxies: from the model to sealed Envoy resources, incrementally.

`scope` says which proxies may see the same; `plan/` turns model values into IR (all decisions and
all ordering); `envoy/` turns IR into messages, mechanically; `build` wires the views and
`assemble` turns a propagation into the Change that xDS serves. Names are in `names`: they are
public, because users' EnvoyFilters, dashboards and tools depend on them.
"""
