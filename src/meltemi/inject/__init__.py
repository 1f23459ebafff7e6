"""Sidecar injection: whether a pod gets a proxy, and how it looks with one. Pure but `webhook`."""
