"""Typed objects: Kubernetes' and Istio's, the table of kinds, decoding, validation, schemas.

Structs hold the fields Meltemi reads; the raw bytes, which keep every field, are what is
stored and shown. Field meanings follow Kubernetes' and Istio's API references.
"""
