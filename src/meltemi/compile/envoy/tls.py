"""Transport sockets: mutual TLS with secrets from the agent, and plaintext."""

from typing import Any

from meltemi.api.mesh_config import TLSConfig
from meltemi.api.networking import ClientTLSSettings
from meltemi.compile import ir, names
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.settings import MeshSettings

_TLS = "envoy.extensions.transport_sockets.tls.v3"
_RAW = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
TLS_SOCKET = "envoy.transport_sockets.tls"
RAW_SOCKET = "envoy.transport_sockets.raw_buffer"
_TLS_AUTO, _TLS12, _TLS13 = 0, 3, 4
_VERSIONS = {"TLSV1_0": 1, "TLSV1_1": 2, "TLSV1_2": 3, "TLSV1_3": 4}
_DNS, _URI = 2, 3
_PATIENCE = 5
"""Seconds."""


def mesh_client(kit: Kit, target: Any, tls: ir.Tls, floor: TLSConfig) -> None:
    """A client that shows the workload's certificate and expects one of the identities; it speaks
    as `floor` asks of servers."""
    context = kit.new(f"{_TLS}.UpstreamTlsContext", sni=tls.sni)
    common = context.common_tls_context
    _mesh_secrets(common)
    _floor(common, floor)
    matchers = common.combined_validation_context.default_validation_context
    for identity in tls.identities:
        matchers.match_typed_subject_alt_names.add(san_type=_URI).matcher.exact = identity
    if not tls.identities:
        matchers.match_typed_subject_alt_names.add(san_type=_URI).matcher.prefix = tls.prefix
    kit.named(target, TLS_SOCKET, context)


def server(kit: Kit, target: Any, plan: ir.ServerTls, settings: MeshSettings) -> None:
    """A server: the mesh's own, or with the credentials of a gateway or a Sidecar's ingress."""
    context = kit.new(f"{_TLS}.DownstreamTlsContext")
    common = context.common_tls_context
    common.alpn_protocols.extend(plan.alpn)
    if plan.mode is ir.ServerTlsMode.MESH:
        context.require_client_certificate.value = True
        _mesh_secrets(common)
        matchers = common.combined_validation_context.default_validation_context
        for domain in (settings.trust_domain, *settings.trust_domain_aliases):
            name = matchers.match_typed_subject_alt_names.add(san_type=_URI)
            name.matcher.prefix = f"spiffe://{domain}/"
        _floor(common, settings.mesh_tls)
    else:
        context.require_client_certificate.value = plan.mode is ir.ServerTlsMode.MUTUAL
        _parameters(common.tls_params, plan)
        _own_certificates(common, plan)
        if plan.mode is not ir.ServerTlsMode.SIMPLE:
            _authority(common, plan)
    kit.named(target, TLS_SOCKET, context)


def _parameters(target: Any, plan: ir.ServerTls) -> None:
    target.tls_minimum_protocol_version = _VERSIONS.get(plan.min_version, _TLS12)
    target.tls_maximum_protocol_version = _VERSIONS.get(plan.max_version, _TLS_AUTO)
    target.cipher_suites.extend(plan.ciphers)
    target.ecdh_curves.extend(plan.curves)


def _own_certificates(common: Any, plan: ir.ServerTls) -> None:
    for name in plan.credentials:
        _secret(common.tls_certificate_sds_secret_configs.add(), name)
    for chain, key in plan.files:
        name = names.file_certificate(chain, key)
        _patient_secret(common.tls_certificate_sds_secret_configs.add(), name)


def _authority(common: Any, plan: ir.ServerTls) -> None:
    """Who signed a client's certificate, and what else it must say."""
    combined = common.combined_validation_context
    validation = combined.default_validation_context
    validation.SetInParent()
    config = combined.validation_context_sds_secret_config
    if plan.authority:
        _secret(config, plan.authority)
        if plan.revoked_file:
            validation.crl.filename = plan.revoked_file
    else:
        _patient_secret(config, names.file_authority(plan.authority_file, plan.revoked_file))
    for name in plan.subject_alt_names:
        for kind in (_DNS, _URI):
            validation.match_typed_subject_alt_names.add(san_type=kind).matcher.exact = name
    validation.verify_certificate_spki.extend(plan.spki)
    validation.verify_certificate_hash.extend(plan.hashes)


def originating_client(
    kit: Kit, target: Any, settings: ClientTLSSettings, credential: str, floor: TLSConfig
) -> None:
    """A client of TLS servers outside the mesh, as a DestinationRule's tls block says. Without
    names of its own the server is checked against the host of the request, which the cluster's
    HTTP options see to."""
    context = kit.new(f"{_TLS}.UpstreamTlsContext", sni=settings.sni)
    common = context.common_tls_context
    _versions(common)
    _floor(common, floor)
    if credential and settings.mode == "MUTUAL":
        _patient_secret(common.tls_certificate_sds_secret_configs.add(), names.secret(credential))
    elif settings.client_certificate:
        name = names.file_certificate(settings.client_certificate, settings.private_key)
        _patient_secret(common.tls_certificate_sds_secret_configs.add(), name)
    if not settings.insecure_skip_verify:
        _server_checks(common, settings, credential)
    kit.named(target, TLS_SOCKET, context)


def _server_checks(common: Any, settings: ClientTLSSettings, credential: str) -> None:
    """The authority of the Secret, of the file, or the system's; and the server's names."""
    combined = common.combined_validation_context
    validation = combined.default_validation_context
    validation.SetInParent()
    name = names.file_authority(settings.ca_certificates, settings.ca_crl)
    if credential:
        name = names.secret_authority(credential)
    _patient_secret(combined.validation_context_sds_secret_config, name)
    for name in settings.subject_alt_names:
        for kind in (_DNS, _URI):
            validation.match_typed_subject_alt_names.add(san_type=kind).matcher.exact = name


def _floor(common: Any, wanted: TLSConfig) -> None:
    """The least version, the ciphers and the curves the mesh asks for."""
    if wanted.min_protocol_version == "TLSV1_3":
        common.tls_params.tls_minimum_protocol_version = _VERSIONS["TLSV1_3"]
    common.tls_params.cipher_suites.extend(wanted.cipher_suites)
    common.tls_params.ecdh_curves.extend(wanted.ecdh_curves)


def plain(kit: Kit, target: Any) -> None:
    kit.named(target, RAW_SOCKET, kit.new(_RAW))


def _versions(common: Any) -> None:
    """Left to itself an Envoy that is the client speaks nothing newer than TLS 1.2."""
    common.tls_params.tls_minimum_protocol_version = _TLS12
    common.tls_params.tls_maximum_protocol_version = _TLS13


def _mesh_secrets(common: Any) -> None:
    _versions(common)
    _secret(common.tls_certificate_sds_secret_configs.add(), "default")
    combined = common.combined_validation_context
    _secret(combined.validation_context_sds_secret_config, "ROOTCA")


def _secret(target: Any, name: str) -> None:
    """A secret, which the agent hands out: the same source as the bootstrap's, so that Envoy asks
    once. Keys are in no configuration."""
    target.name = name
    source = target.sds_config
    source.resource_api_version = 2
    source.initial_fetch_timeout.SetInParent()
    api = source.api_config_source
    api.api_type = 2
    api.transport_api_version = 2
    api.set_node_on_first_message_only = True
    api.grpc_services.add().envoy_grpc.cluster_name = "sds-grpc"


def _patient_secret(target: Any, name: str) -> None:
    """A secret that may be missing: what needs it waits only so long, and then refuses connections
    instead of holding up the proxy's start, or the other chains of its listener."""
    _secret(target, name)
    target.sds_config.initial_fetch_timeout.seconds = _PATIENCE
