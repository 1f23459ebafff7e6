"""Secrets in Envoy's form. Envoy itself hides private keys in what it shows of them."""

from typing import Any

from meltemi.compile.envoy.kit import Kit
from meltemi.model.credential import Credential, Pair

_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"


def certificate(kit: Kit, name: str, pair: Pair) -> Any:
    message = kit.new(_SECRET, name=name)
    message.tls_certificate.certificate_chain.inline_bytes = pair.chain
    message.tls_certificate.private_key.inline_bytes = pair.key.reveal()
    return message


def authority(kit: Kit, name: str, credential: Credential) -> Any:
    """Whom to trust, and whom no longer."""
    message = kit.new(_SECRET, name=name)
    message.validation_context.trusted_ca.inline_bytes = credential.authority
    if credential.revoked:
        message.validation_context.crl.inline_bytes = credential.revoked
    return message
