"""The node: runs pods as processes in network namespaces, as a kubelet and its runtime would.

`pods` follows the API and keeps one `Worker` per pod; a worker starts containers through the
`zygote`, a small single-threaded process that forks them, so that Python programs share memory and
nothing is forked from a process with threads. `network`, `vips`, `names` and `publish` are the
cluster network; `api` answers logs, exec and port-forward for the API server.
"""
