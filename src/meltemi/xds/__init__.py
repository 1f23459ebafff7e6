"""xDS: sealed resources to proxies, in delta and state-of-the-world form.

`cache` holds sets and views; `session` is one proxy's conversation, sans-IO; `server` moves the
bytes over gRPC; `status` tells who has acknowledged what. Protocol:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""
