"""What runs beside Envoy: its bootstrap, its key and certificate, its health and its metrics.

`spec` is what the node tells us of a pod, `bootstrap` the pure function to Envoy's configuration,
`keys`, `ca_client` and `identity` get and renew the certificate, `sds` hands it to Envoy from
memory, `local_http` answers ports 15020 and 15021, and `agent` holds all of it for many pods.
"""
