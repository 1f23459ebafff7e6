"""The embedded Kubernetes-compatible API: objects in memory, written through to SQLite.

`store` keeps and watches; `registry` knows the kinds; `operations` are the verbs, free of HTTP;
`server` speaks HTTP. `python -m meltemi.local.apiserver --data DIR --fd N` runs it; tests use
`server.running(...)`. What clients were seen to need is in the reference documents; what is not
here is refused with a Status that says so.
"""
