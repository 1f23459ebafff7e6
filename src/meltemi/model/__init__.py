"""The mesh as values: services, workloads, endpoints, routes, policies, identities.

Functions from API objects, incremental through `flow`. Every value carries the key of the
object it came from. `model.build.build` wires the views; compile, analysis and the console
read them.
"""
