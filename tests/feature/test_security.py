"""What proxies are told about headers and paths that strangers send."""

from typing import Any

from tests.feature.conftest import App
from tests.feature.test_objects import GATEWAY, SERVICE


def managers(value: Any) -> list[Any]:
    """Every HTTP connection manager in a listener."""
    if isinstance(value, dict):
        own = [value] if "http_filters" in value else []
        return own + [m for item in value.values() for m in managers(item)]
    return [m for item in value for m in managers(item)] if isinstance(value, list) else []


async def test_a_gateway_believes_nothing_that_strangers_say(app: App) -> None:
    await app.apply(SERVICE)
    await app.apply(GATEWAY)
    gateway = await app.connect(
        "front", "10.44.0.20", kind="router", namespace="istio-system", istio="ingressgateway"
    )
    found = managers(list(gateway.listeners.values()))
    assert found
    for manager in found:
        assert manager["forward_client_cert_details"] == "SANITIZE_SET"
        assert manager["use_remote_address"] is True
        assert manager["normalize_path"] is True
        assert manager["merge_slashes"] is True
        assert manager["path_with_escaped_slashes_action"] == "UNESCAPE_AND_REDIRECT"


async def test_a_sidecar_appends_only_what_the_certificate_says(app: App) -> None:
    await app.apply(SERVICE)
    sidecar = await app.connect("reviews-v1", "10.44.0.1", app="reviews")
    found = managers(sidecar.listeners["virtualInbound"])
    assert found
    for manager in found:
        # Envoy drops the header wherever the client did not show a certificate.
        assert manager["forward_client_cert_details"] == "APPEND_FORWARD"
        assert manager["normalize_path"] is True
