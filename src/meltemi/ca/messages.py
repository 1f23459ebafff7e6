"""The two messages of `istio.v1.auth.IstioCertificateService`, from a descriptor built here.

message IstioCertificateRequest {
  string csr = 1; int64 validity_duration = 3; google.protobuf.Struct metadata = 4;
}
message IstioCertificateResponse { repeated string cert_chain = 1; }
"""

from collections.abc import Sequence

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from meltemi.ca.errors import BadRequest

SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = "CreateCertificate"

_LARGEST = 64 * 1024


class CertificateRequest(msgspec.Struct, frozen=True):
    csr: bytes
    """PEM."""
    validity_seconds: int = 0
    impersonates: bool = False
    """Whether it asks for another identity, as ztunnel does; nobody may."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto
    # Struct's own wire form is not needed: unknown fields stay as bytes in `metadata`.
    return descriptor_pb2.FileDescriptorProto(
        name="meltemi/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        message_type=[
            descriptor_pb2.DescriptorProto(
                name="IstioCertificateRequest",
                field=[
                    field(name="csr", number=1, type=field.TYPE_STRING),
                    field(name="validity_duration", number=3, type=field.TYPE_INT64),
                    field(name="metadata", number=4, type=field.TYPE_BYTES),
                ],
            ),
            descriptor_pb2.DescriptorProto(
                name="IstioCertificateResponse",
                field=[
                    field(
                        name="cert_chain",
                        number=1,
                        type=field.TYPE_STRING,
                        label=field.LABEL_REPEATED,
                    )
                ],
            ),
        ],
    )


class Codec:
    """Encodes and decodes the two messages; holds a descriptor pool of its own."""

    def __init__(self) -> None:
        pool = descriptor_pool.DescriptorPool()
        pool.Add(_file())
        self._request = message_factory.GetMessageClass(
            pool.FindMessageTypeByName("istio.v1.auth.IstioCertificateRequest")
        )
        self._response = message_factory.GetMessageClass(
            pool.FindMessageTypeByName("istio.v1.auth.IstioCertificateResponse")
        )

    def request(self, body: bytes) -> CertificateRequest:
        """Decode a request; anything malformed or huge is BadRequest."""
        if len(body) > _LARGEST:
            raise BadRequest(f"the request is larger than {_LARGEST} bytes")
        message: Message = self._request()
        try:
            message.ParseFromString(body)
        except DecodeError as e:
            raise BadRequest("the request is not an IstioCertificateRequest") from e
        return CertificateRequest(
            csr=message.csr.encode(),  # type: ignore[attr-defined]
            validity_seconds=message.validity_duration,  # type: ignore[attr-defined]
            impersonates=b"ImpersonatedIdentity" in message.metadata,  # type: ignore[attr-defined]
        )

    def response(self, chain: Sequence[bytes]) -> bytes:
        return self._response(cert_chain=[c.decode() for c in chain]).SerializeToString()
