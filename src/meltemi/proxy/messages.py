"""The few protobuf messages beside Envoy: SDS, Secret, and the certificate request.

Only the fields that are used, under their real numbers, in a pool of its own: a node agent then
needs neither Envoy's descriptors nor their memory.
"""

from collections.abc import Sequence

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from meltemi.base.redacted import Redacted

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

_SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Status": {"code": (1, "int32"), "message": (2, "string")},
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "DataSource": {"filename": (1, "string"), "inline_bytes": (2, "bytes")},
    "TlsCertificate": {
        "certificate_chain": (1, "DataSource"),
        "private_key": (2, "DataSource"),
    },
    "ValidationContext": {"trusted_ca": (1, "DataSource"), "crl": (7, "DataSource")},
    "Secret": {
        "name": (1, "string"),
        "tls_certificate": (2, "TlsCertificate"),
        "validation_context": (4, "ValidationContext"),
    },
    "Request": {
        "resource_names": (3, "string*"),
        "response_nonce": (5, "string"),
        "error_detail": (6, "Status"),
    },
    "Response": {
        "version_info": (1, "string"),
        "resources": (2, "Any*"),
        "type_url": (4, "string"),
        "nonce": (5, "string"),
    },
    "DeltaRequest": {
        "subscribe": (3, "string*"),
        "unsubscribe": (4, "string*"),
        "response_nonce": (6, "string"),
        "error_detail": (7, "Status"),
    },
    "Resource": {"version": (1, "string"), "resource": (2, "Any"), "name": (3, "string")},
    "DeltaResponse": {
        "system_version_info": (1, "string"),
        "resources": (2, "Resource*"),
        "type_url": (4, "string"),
        "nonce": (5, "string"),
    },
    "CertificateRequest": {"csr": (1, "string"), "validity_duration": (3, "int64")},
    "CertificateResponse": {"cert_chain": (1, "string*")},
}
"""Message, field: (number, type); a star repeats it."""


class SecretRequest(msgspec.Struct, frozen=True):
    """A request of either form of SDS."""

    names: tuple[str, ...] = ()
    """Wanted: all of them in the state-of-the-world form, further ones in delta."""
    dropped: tuple[str, ...] = ()
    nonce: str = ""
    error: str = ""
    """Why Envoy rejected what we sent last."""


class BadMessage(ValueError):
    """Bytes from a socket are not the message they should be."""


class SealedSecret(msgspec.Struct, frozen=True):
    """An encoded Secret; it may hold a private key, so only `reveal()` shows it."""

    name: str
    version: str
    body: Redacted


class Codec:
    """Encodes and decodes; one for a process is enough."""

    def __init__(self) -> None:
        pool = descriptor_pool.DescriptorPool()
        pool.Add(_file())
        self._types: dict[str, type[Message]] = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"meltemi.{name}"))
            for name in _SCHEMA
        }

    def certificate_secret(
        self, name: str, version: str, chain: bytes, key: Redacted
    ) -> SealedSecret:
        body = self._encode(
            "Secret",
            name=name,
            tls_certificate={
                "certificate_chain": {"inline_bytes": chain},
                "private_key": {"inline_bytes": key.reveal()},
            },
        )
        return SealedSecret(name, version, Redacted(body))

    def roots_secret(self, name: str, version: str, roots: bytes) -> SealedSecret:
        trusted = {"trusted_ca": {"inline_bytes": roots}}
        body = self._encode("Secret", name=name, validation_context=trusted)
        return SealedSecret(name, version, Redacted(body))

    def certificate_files(self, name: str, version: str, chain: str, key: str) -> SealedSecret:
        pair = {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}
        body = self._encode("Secret", name=name, tls_certificate=pair)
        return SealedSecret(name, version, Redacted(body))

    def root_files(self, name: str, version: str, roots: str, revoked: str) -> SealedSecret:
        trusted = {"trusted_ca": {"filename": roots}}
        if revoked:
            trusted["crl"] = {"filename": revoked}
        body = self._encode("Secret", name=name, validation_context=trusted)
        return SealedSecret(name, version, Redacted(body))

    def request(self, body: bytes) -> SecretRequest:
        message = self._decode("Request", body)
        return SecretRequest(
            names=tuple(message.resource_names),  # type: ignore[attr-defined]
            nonce=message.response_nonce,  # type: ignore[attr-defined]
            error=message.error_detail.message,  # type: ignore[attr-defined]
        )

    def delta_request(self, body: bytes) -> SecretRequest:
        message = self._decode("DeltaRequest", body)
        return SecretRequest(
            names=tuple(message.subscribe),  # type: ignore[attr-defined]
            dropped=tuple(message.unsubscribe),  # type: ignore[attr-defined]
            nonce=message.response_nonce,  # type: ignore[attr-defined]
            error=message.error_detail.message,  # type: ignore[attr-defined]
        )

    def response(self, secrets: Sequence[SealedSecret], nonce: str) -> bytes:
        return self._encode(
            "Response",
            version_info=nonce,
            resources=[{"type_url": SECRET_TYPE, "value": s.body.reveal()} for s in secrets],
            type_url=SECRET_TYPE,
            nonce=nonce,
        )

    def delta_response(self, secrets: Sequence[SealedSecret], nonce: str) -> bytes:
        resources = [
            {
                "name": s.name,
                "version": s.version,
                "resource": {"type_url": SECRET_TYPE, "value": s.body.reveal()},
            }
            for s in secrets
        ]
        return self._encode(
            "DeltaResponse",
            system_version_info=nonce,
            resources=resources,
            type_url=SECRET_TYPE,
            nonce=nonce,
        )

    def certificate_request(self, csr: bytes, seconds: int) -> bytes:
        return self._encode("CertificateRequest", csr=csr.decode(), validity_duration=seconds)

    def certificate_chain(self, body: bytes) -> tuple[bytes, ...]:
        """The PEM certificates of an answer: leaf first, roots last."""
        message = self._decode("CertificateResponse", body)
        return tuple(c.encode() for c in message.cert_chain)  # type: ignore[attr-defined]

    def _encode(self, message: str, /, **fields: object) -> bytes:
        return self._types[message](**fields).SerializeToString(deterministic=True)

    def _decode(self, name: str, body: bytes) -> Message:
        message = self._types[name]()
        try:
            message.ParseFromString(body)
        except DecodeError as e:
            raise BadMessage(f"not a {name}") from e
        return message


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="meltemi/proxy.proto", package="meltemi", syntax="proto3"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            scalar = kind.rstrip("*")
            if kind.endswith("*"):
                field.label = field.LABEL_REPEATED
            if scalar in _SCHEMA:
                field.type, field.type_name = field.TYPE_MESSAGE, f".meltemi.{scalar}"
            else:
                field.type = _SCALARS[scalar]
    return file


_SCALARS = {
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}
