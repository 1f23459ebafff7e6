"""Two reporters, one truth: whose numbers count, and that nothing counts twice."""

from collections.abc import Mapping

import pytest

from meltemi.telemetry.store import Store
from meltemi.telemetry.traffic import Code, Peer, Times, Traffic, traffic

from .conftest import durations, line, peers, requests

REVIEWS = "reviews.default.svc.cluster.local"
SECONDS = 10.0
Pages = Mapping[str, str]


def seen(before: Pages, after: Pages) -> list[Traffic]:
    """What the pages of some proxies, ten seconds apart, tell."""
    store = Store()
    for i, pages in enumerate((before, after)):
        for proxy, page in pages.items():
            store.add(proxy, page, 1000 + SECONDS * i)
    end = 1000 + SECONDS
    return traffic(store.window(SECONDS, end), store.span(SECONDS, end))


def grown(**pages: str) -> list[Traffic]:
    """The same, where every proxy had counted nothing before."""
    return seen(dict.fromkeys(pages, ""), pages)


def http(reporter: str, count: float, source: str, destination: str, **more: str) -> str:
    policy = "mutual_tls" if reporter == "destination" and source else "unknown"
    labels = {"host": REVIEWS, "policy": policy} | more
    return requests(count, peers(reporter, source, destination, **labels))


def test_client_and_server_report_one_edge() -> None:
    [edge] = grown(
        client=http("source", 50, "web-v1", "reviews-v1"),
        server=http("destination", 48, "web-v1", "reviews-v1"),
    )
    assert edge.rate == 5.0
    assert edge.mtls == 1.0
    assert edge.codes == (Code("200", "-", 5.0, False),)
    assert edge.source == Peer(
        "default", "web-v1", "web", "v1", "spiffe://cluster.local/web", "Kubernetes"
    )
    assert edge.destination.principal == "spiffe://cluster.local/reviews"
    assert (edge.host, edge.service, edge.service_namespace) == (REVIEWS, "reviews", "default")


def test_the_server_counts_where_the_client_has_no_proxy() -> None:
    [edge] = grown(server=http("destination", 20, "", "reviews-v1", policy="none"))
    assert not edge.source.is_known
    assert edge.rate == 2.0
    assert edge.mtls == 0.0


def test_the_server_counts_where_the_client_s_page_is_missing() -> None:
    [edge] = grown(server=http("destination", 20, "web-v1", "reviews-v1"))
    assert edge.source.workload == "web-v1"
    assert edge.rate == 2.0
    assert edge.mtls == 1.0


def test_the_client_alone_knows_calls_that_never_arrived() -> None:
    lost = http("source", 10, "web-v1", "", response_code="503", response_flags="UH")
    [edge] = grown(client=lost)
    assert not edge.destination.is_known
    assert edge.codes == (Code("503", "UH", 1.0, True),)
    assert edge.errors == 1.0


def test_a_server_that_names_another_service_is_not_counted_again() -> None:
    """A server's chain names one service for each port; clients may have asked for another."""
    canary = "canary.default.svc.cluster.local"
    found = grown(
        client=http("source", 30, "web-v1", "reviews-v1", host=canary),
        server=http("destination", 30, "web-v1", "reviews-v1", host=REVIEWS),
    )
    assert [(edge.host, edge.rate, edge.mtls) for edge in found] == [(canary, 3.0, 1.0)]


def test_one_workload_under_two_services_keeps_both_edges() -> None:
    canary = "canary.default.svc.cluster.local"
    found = grown(
        client=http("source", 30, "web-v1", "reviews-v1", host=canary)
        + "\n"
        + http("source", 10, "web-v1", "reviews-v1"),
        server=http("destination", 40, "web-v1", "reviews-v1"),
    )
    assert [(edge.host, edge.rate, edge.mtls) for edge in found] == [
        (canary, 3.0, 1.0),
        (REVIEWS, 1.0, 1.0),
    ]


def test_grpc_that_only_the_server_recognised_is_one_edge() -> None:
    grpc = {"request_protocol": "grpc", "grpc_response_status": "14"}
    [edge] = grown(
        client=http("source", 30, "web-v1", "reviews-v1"),
        server=http("destination", 30, "web-v1", "reviews-v1", **grpc),
    )
    assert edge.protocol == "grpc"
    assert edge.codes == (Code("14", "-", 3.0, True),)


def test_grpc_has_its_own_codes() -> None:
    def calls(status: str, count: float) -> str:
        return http(
            "source",
            count,
            "web-v1",
            "reviews-v1",
            request_protocol="grpc",
            grpc_response_status=status,
        )

    [edge] = grown(client="\n".join((calls("0", 20), calls("4", 10), calls("unknown", 10))))
    assert [(c.code, c.is_error) for c in edge.codes] == [
        ("0", False),
        ("200", False),
        ("4", True),
    ]


def test_http_seen_as_tcp_by_the_server_is_one_edge() -> None:
    tcp = peers("destination", "web-v1", "reviews-v1", host=REVIEWS, policy="mutual_tls")
    [edge] = grown(
        client=http("source", 30, "web-v1", "reviews-v1"),
        server=line("istio_tcp_sent_bytes_total", 5000, **tcp),
    )
    assert (edge.protocol, edge.rate, edge.mtls) == ("http", 3.0, 1.0)


def test_mirrored_requests_are_seen_by_their_server_alone() -> None:
    found = grown(
        client=http("source", 30, "web-v1", "reviews-v1"),
        v1=http("destination", 30, "web-v1", "reviews-v1"),
        v2=http("destination", 30, "web-v1", "reviews-v2"),
    )
    assert [(edge.destination.workload, edge.rate) for edge in found] == [
        ("reviews-v1", 3.0),
        ("reviews-v2", 3.0),
    ]


def test_mutual_tls_is_a_share() -> None:
    [edge] = grown(
        client=http("source", 40, "web-v1", "reviews-v1"),
        server=http("destination", 30, "web-v1", "reviews-v1", policy="mutual_tls")
        + "\n"
        + http("destination", 10, "web-v1", "reviews-v1", policy="none"),
    )
    assert edge.mtls == 0.75


def test_a_principal_is_only_shown_where_a_certificate_was() -> None:
    claimed = {"source_principal": "spiffe://cluster.local/claimed"}
    [edge] = grown(client=http("source", 40, "web-v1", "reviews-v1", **claimed))
    assert edge.source.principal == ""


def test_requests_without_an_answer_are_errors() -> None:
    [edge] = grown(
        client=http("source", 10, "web-v1", "reviews-v1", response_code="0", response_flags="DC")
    )
    assert edge.codes == (Code("-", "DC", 1.0, True),)


def test_times_come_from_the_server() -> None:
    client, server = (
        peers(reporter, "web-v1", "reviews-v1", host=REVIEWS)
        for reporter in ("source", "destination")
    )
    zero = {"b5": 0.0, "b10": 0.0, "b1000": 0.0, "binf": 0.0}
    before = {
        "client": durations(client, **zero) + "\n" + requests(0, client),
        "server": durations(server, **zero) + "\n" + requests(0, server),
    }
    after = {
        "client": durations(client, b5=0, b10=0, b1000=10, binf=10) + "\n" + requests(10, client),
        "server": durations(server, b5=0, b10=10, b1000=10, binf=10) + "\n" + requests(10, server),
    }
    [edge] = seen(before, after)
    assert edge.times == Times(7.0, pytest.approx(7.5), pytest.approx(9.75), pytest.approx(9.95))
    [edge] = seen({"client": before["client"]}, {"client": after["client"]})
    assert edge.times.p50 == pytest.approx(505)


def test_tcp_counts_bytes_both_ways() -> None:
    def page(reporter: str) -> str:
        policy = "mutual_tls" if reporter == "destination" else "unknown"
        labels = peers(reporter, "web-v1", "db-v1", host="db.default.svc", policy=policy)
        return "\n".join(
            (
                line("istio_tcp_sent_bytes_total", 300, **labels),
                line("istio_tcp_received_bytes_total", 100, **labels),
            )
        )

    [edge] = grown(client=page("source"), server=page("destination"))
    assert edge.protocol == "tcp"
    assert (edge.rate, edge.request_bytes, edge.response_bytes) == (40.0, 10.0, 30.0)
    assert edge.mtls == 1.0


def test_a_connection_that_is_open_is_there_before_its_bytes_are() -> None:
    """Envoy counts bytes when a connection ends; one that stays open is traffic all the same."""
    labels = peers("destination", "web-v1", "db-v1", host="db.default.svc", policy="mutual_tls")
    [edge] = grown(server=line("istio_tcp_connections_opened_total", 1, **labels))
    assert (edge.rate, edge.mtls) == (0.0, 1.0)


def test_replicas_of_a_workload_add_up() -> None:
    [edge] = grown(
        one=http("source", 10, "web-v1", "reviews-v1"),
        two=http("source", 20, "web-v1", "reviews-v1"),
    )
    assert edge.rate == 3.0


def test_passthrough_is_its_own_host() -> None:
    through = {"host": "PassthroughCluster", "destination_service_name": "PassthroughCluster"}
    [edge] = grown(client=http("source", 10, "web-v1", "", **through))
    assert (edge.host, edge.service, edge.service_namespace) == (
        "PassthroughCluster",
        "PassthroughCluster",
        "",
    )


@pytest.mark.parametrize(
    ("revision", "label", "expected"),
    [("v1", "", "v1"), ("latest", "v2", "v2"), ("latest", "", ""), ("", "", ""), ("v1", "x", "v1")],
)
def test_a_version_is_the_revision_or_the_label(revision: str, label: str, expected: str) -> None:
    more = {"source_canonical_revision": revision, "source_version": label}
    [edge] = grown(client=http("source", 10, "web-v1", "reviews-v1", **more))
    assert edge.source.version == expected


def test_the_order_of_proxies_changes_nothing() -> None:
    pages = {
        "a": http("source", 10, "web-v1", "reviews-v1", source_app="other"),
        "b": http("source", 20, "web-v1", "reviews-v1"),
        "c": http("destination", 30, "web-v1", "reviews-v1"),
        "d": http("destination", 3, "", "reviews-v2"),
    }
    assert grown(**pages) == grown(**dict(reversed(pages.items())))


def test_silence_is_no_traffic() -> None:
    page = http("source", 10, "web-v1", "reviews-v1")
    assert seen({"client": page}, {"client": page}) == []
