"""Renaming, blanks and merging of metric pages."""

from hypothesis import given
from hypothesis import strategies as st

from meltemi.proxy import metrics

ENVOY = (
    b"# TYPE envoy_istio_requests_total counter\n"
    b'envoy_istio_requests_total{reporter="source",source_app="",path="envoy_istio_x"} 3\n'
    b"# TYPE envoy_server_uptime gauge\n"
    b"envoy_server_uptime{} 1\n"
)

# What Envoy may put between quotes: anything but bare quotes, backslashes and newlines.
VALUES = st.text(st.characters(exclude_characters='"\\\n', exclude_categories=["Cs"])).map(
    lambda text: text.encode()
) | st.sampled_from([b'\\"\\"', b'=\\"\\"', b"envoy_istio_", b"="])


def test_istio_names_lose_their_prefix_and_blanks_are_unknown() -> None:
    page = metrics.rename(ENVOY).decode()
    assert "# TYPE istio_requests_total counter" in page
    assert (
        'istio_requests_total{reporter="source",source_app="unknown",path="envoy_istio_x"}' in page
    )
    assert "envoy_server_uptime{} 1" in page


def test_the_app_keeps_its_own_words() -> None:
    app = b'envoy_istio_mine{a=""} 1\n# EOF'
    page = metrics.merge(ENVOY, app, b"agent 1")
    assert b'\nenvoy_istio_mine{a=""} 1\n' in page
    assert b"# EOF" not in page
    assert page.endswith(b"agent 1\n")


def test_an_empty_app_page_adds_nothing() -> None:
    assert metrics.merge(ENVOY, b"", b"") == metrics.rename(ENVOY)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), VALUES), max_size=4))
def test_label_values_survive_and_only_empty_ones_change(labels) -> None:
    def line(name: bytes, blank: bytes) -> bytes:
        pairs = b",".join(k + b'="' + (v or blank) + b'"' for k, v in labels)
        return name + b"{" + pairs + b"} 1\n"

    renamed = metrics.rename(line(b"envoy_istio_m", b""))
    assert renamed == line(b"istio_m", b"unknown")


@given(st.lists(st.sampled_from([b"a 1", b"b 2\n", b"", b'c{x="y"} 3']), min_size=3, max_size=3))
def test_pages_never_run_into_each_other(pages) -> None:
    lines = metrics.merge(*pages).splitlines()
    assert lines == [line for page in pages for line in page.splitlines()]


def test_the_agent_tells_how_long_the_certificate_holds() -> None:
    page = metrics.agent_page(version="1", seconds_left=12.4)
    assert b'istio_agent_cert_expiry_seconds{resource_name="default"} 12\n' in page
    assert b"expiry" not in metrics.agent_page(version="1", seconds_left=None)
