"""The server of every address: one Envoy that says who was asked, how, and with what.

It stands for applications and, where no real sidecar is given, for sidecars too: it takes mutual
TLS with a certificate that names every identity, and plaintext as well.
"""

from pathlib import Path
from typing import Any

from .networks import ECHO_PORT

Json = dict[str, Any]
_TYPE = "type.googleapis.com/envoy.extensions"

_LUA = """
local function quoted(text)
  return '"' .. tostring(text):gsub('[%c"\\\\]', function(c)
    return string.format('\\\\u%04x', string.byte(c))
  end) .. '"'
end

function envoy_on_request(handle)
  local headers = {}
  for name, value in pairs(handle:headers()) do
    headers[#headers + 1] = '[' .. quoted(name) .. ',' .. quoted(value) .. ']'
  end
  local info = handle:streamInfo()
  local tls = info:downstreamSslConnection()
  local peer = tls and tls:uriSanPeerCertificate()[1] or ''
  local body = '{"address":' .. quoted(info:downstreamLocalAddress())
    .. ',"tls":' .. tostring(tls ~= nil)
    .. ',"sni":' .. quoted(info:requestedServerName())
    .. ',"peer":' .. quoted(peer)
    .. ',"protocol":' .. quoted(info:protocol())
    .. ',"headers":[' .. table.concat(headers, ',') .. ']}'
  local status = '200'
  local own = info:downstreamLocalAddress():match('^[%d.]+')
  for address, code in (handle:headers():get('x-sick') or ''):gmatch('([%d.]+)=(%d+)') do
    if address == own or address == '0' then status = code end
  end
  handle:respond({[":status"] = status, ["content-type"] = "application/json",
    ["x-from-app"] = "app"}, body)
end
"""


_SLOW = {"delay": {"header_delay": {}, "percentage": {"numerator": 100}}}
"""`x-envoy-fault-delay-request: 300` makes an answer take 300 ms; `x-sick: ADDRESS=503` spoils
those of one address (`0`: of all)."""


def bootstrap(directory: Path) -> Json:
    """Static: it knows no mesh. Certificates are files of the directory."""
    return {
        "admin": {"address": {"pipe": {"path": str(directory / "echo-admin.sock")}}},
        "static_resources": {
            "listeners": [_listener(directory)],
            "clusters": [_bytes_cluster(directory, name) for name in ("plain", "tls", "mutual")],
        },
    }


def _listener(directory: Path) -> Json:
    tls = {"transport_protocol": "tls"}
    mesh = {"server_names": ["*.meltemi"]}
    http = ["h2", "http/1.1"]
    sniffed = ["http/1.0", "http/1.1", "h2c"]
    secure = {"transport_socket": _tls(directory)}
    return {
        "name": "echo",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": ECHO_PORT}},
        "listener_filters": [
            _named("filters.listener", name, _camel(name))
            for name in ("original_dst", "tls_inspector", "http_inspector")
        ],
        "listener_filters_timeout": "3s",
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [
            _chain("tls-http", tls | {"application_protocols": http}, _http(directory), secure),
            _chain(
                "mesh-http",
                tls | mesh | {"application_protocols": http},
                _http(directory),
                secure,
            ),
            _chain("mesh-bytes", tls | mesh, _bytes("mutual"), secure),
            _chain("tls-bytes", tls, _bytes("tls"), secure),
            _chain("http", {"application_protocols": sniffed}, _http(directory), {}),
        ],
        "default_filter_chain": _chain("bytes", {}, _bytes("plain"), {}),
    }


def _chain(name: str, match: Json, network: Json, more: Json) -> Json:
    chain = {"name": name, "filters": [network], **more}
    return chain | ({"filter_chain_match": match} if match else {})


def _http(directory: Path) -> Json:
    lua = {"default_source_code": {"inline_string": _LUA}}
    log = {
        "path": str(directory / "echo.log"),
        "log_format": {
            "json_format": {
                "id": "%REQ(X-REQUEST-ID)%",
                "address": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "authority": "%REQ(:AUTHORITY)%",
                "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
            }
        },
    }
    manager = {
        "stat_prefix": "echo",
        "http_filters": [
            _named("filters.http", "fault", "HTTPFault", _SLOW),
            _named("filters.http", "lua", "Lua", lua),
            _named("filters.http", "router", "Router", {}),
        ],
        "access_log": [_named("access_loggers", "file", "FileAccessLog", log)],
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": []}]},
        "generate_request_id": False,
        "codec_type": "AUTO",
        "http_protocol_options": {"accept_http_10": True},
        # A pooled connection would outlive the mesh whose security it was made with.
        "common_http_protocol_options": {"max_requests_per_connection": 1},
    }
    return _named("filters.network", "http_connection_manager", "HttpConnectionManager", manager)


def _bytes(how: str) -> Json:
    """To the test's own bytes server, which learns the address from a PROXY header."""
    proxy = {"stat_prefix": how, "cluster": f"bytes-{how}"}
    return _named("filters.network", "tcp_proxy", "TcpProxy", proxy)


def _bytes_cluster(directory: Path, how: str) -> Json:
    raw = {
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {"@type": f"{_TYPE}.transport_sockets.raw_buffer.v3.RawBuffer"},
    }
    wrapped = {
        "@type": f"{_TYPE}.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "config": {"version": "V1"},
        "transport_socket": raw,
    }
    name = f"bytes-{how}"
    pipe = {"pipe": {"path": str(directory / f"{name}.sock")}}
    return {
        "name": name,
        "type": "STATIC",
        "transport_socket": {
            "name": "envoy.transport_sockets.upstream_proxy_protocol",
            "typed_config": wrapped,
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": pipe}}]}],
        },
    }


def _tls(directory: Path) -> Json:
    pair = {
        "certificate_chain": {"filename": str(directory / "echo.crt")},
        "private_key": {"filename": str(directory / "echo.key")},
    }
    common = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [pair],
        "validation_context": {"trusted_ca": {"filename": str(directory / "roots.crt")}},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
        },
    }


def _named(place: str, name: str, message: str, config: Json | None = None) -> Json:
    return {
        "name": f"envoy.{place}.{name}",
        "typed_config": {"@type": f"{_TYPE}.{place}.{name}.v3.{message}", **(config or {})},
    }


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
