"""EnvoyFilters: which proxies they select, what they match, and how they change messages.

`select` decides for whom, `matching` to what, `merge` and `apply` how; `overlay` keeps the patched
copies of sets beside the shared ones, so that proxies without patches go on sharing.
"""
