"""On-demand scope: a sidecar starts with nothing but its own inbound side, and learns a service at
the first request to it.

`learn` turns the names a workload has asked for into what it imports, as a Sidecar object would;
everything after that is compiled as ever. `serve` hands the routes out one virtual host at a time
(VHDS), so that Envoy holds the first request to an unknown host until the answer is there.

HTTP is learned. What is not plain HTTP (TCP, TLS, sniffed and headless ports) is always configured
in full: Envoy 1.40 can ask for a cluster but not for a listener, and its on-demand clusters over
ADS never hear that a cluster does not exist.
"""
