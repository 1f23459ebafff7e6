"""Credentials: what a Secret holds for TLS, checked, with the key kept out of sight."""

import msgspec

from meltemi.base.redacted import Redacted


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key; each is what the other needs."""

    chain: bytes
    """PEM, the leaf first."""
    key: Redacted
    """PEM."""
    kind: str
    """`RSA` or `ECDSA`: a server may have one of each."""


class Credential(msgspec.Struct, frozen=True):
    pair: Pair | None
    authority: bytes
    """PEM of whom to trust; empty: none."""
    revoked: bytes
    """PEM of a revocation list; empty: none."""
