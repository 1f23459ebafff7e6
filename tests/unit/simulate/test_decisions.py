"""Single decisions of the simulator; whole requests are tests/sim's."""

import pytest

from meltemi.compile import ir
from meltemi.compile.plan.routes import ANYTHING
from meltemi.model.route import Exact, NamedMatch, Prefix, Present, Redirect, Regex
from meltemi.simulate import connections, hosts, matching, paths, patterns, rewriting
from meltemi.simulate.request import Connection, Request, Speaks


def _hosts(*domains: tuple[str, ...]) -> list[ir.VirtualHost]:
    return [ir.VirtualHost(str(i), names, ()) for i, names in enumerate(domains)]


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("a.b.com", "0"),
        ("A.B.com:8080", "0"),
        ("x.b.com", "1"),
        ("x.y.b.com", "1"),
        ("b.com", "2"),
        (".b.com", "2"),
        ("a.other", "3"),
        ("a.b.com:http", "3"),
        ("[::1]:80", "4"),
    ],
)
def test_the_most_specific_domain_wins_whatever_the_port(authority: str, expected: str) -> None:
    known = _hosts(("a.b.com",), ("*.b.com",), ("*",), ("a.*",), ("[::1]",))
    found = hosts.host_of(known, authority)
    assert found is not None
    assert found[0].name == expected


def test_of_two_suffixes_the_longer_wins_in_any_order() -> None:
    for known in (_hosts(("*.com",), ("*.b.com",)), _hosts(("*.b.com",), ("*.com",))):
        found = hosts.host_of(known, "a.b.com")
        assert found is not None
        assert found[1] == "*.b.com"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/./b/../c", "/a/c"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("/%61%2Fb", "/a%2Fb"),
        ("/a\\b", "/a/b"),
        ("/a?x=/../y", "/a?x=/../y"),
        ("/a/%2e%2E/b", "/b"),
        ("//a", "//a"),
    ],
)
def test_paths_are_normalized_as_envoy_does(path: str, expected: str) -> None:
    assert paths.normalized(path) == expected


def _asked(*headers: tuple[str, str], path: str = "/", method: str = "GET") -> Request:
    return Request("shop", path, method, headers)


def _match(*headers: NamedMatch) -> ir.Match:
    return ir.Match(Prefix("/"), headers=headers)


def test_one_value_of_a_repeated_header_is_enough() -> None:
    match = _match(NamedMatch("x", Exact("two")))
    assert matching.refusal(match, _asked(("x", "one"), ("x", "two"))) == ""
    assert "is not exact" in matching.refusal(match, _asked(("x", "one,two")))
    inverted = _match(NamedMatch("x", Exact("two"), absent=True))
    assert "is exact" in matching.refusal(inverted, _asked(("x", "one"), ("x", "two")))


def test_an_absent_header_satisfies_only_inverted_matches() -> None:
    for matcher in (Exact("a"), Regex("a+"), Present()):
        assert "absent" in matching.refusal(_match(NamedMatch("x", matcher)), _asked())
        assert matching.refusal(_match(NamedMatch("x", matcher, absent=True)), _asked()) == ""


def test_a_present_but_empty_header_counts_as_present() -> None:
    inverted = _match(NamedMatch("x", Present(), absent=True))
    assert "is present" in matching.refusal(inverted, _asked(("x", "")))


def test_the_query_has_no_say_in_the_path_and_its_first_value_counts() -> None:
    match = ir.Match(Exact("/a"), query=(NamedMatch("q", Exact("one")),))
    assert matching.refusal(match, _asked(path="/a?q=one&q=two")) == ""
    assert "query parameter q" in matching.refusal(match, _asked(path="/a?q=two&q=one"))


def test_regular_expressions_cover_the_whole_value_in_linear_time() -> None:
    assert patterns.matches(Regex("/a.*"), "/ab")
    assert not patterns.matches(Regex("a"), "/a")
    assert not patterns.matches(Regex("(a+)+b"), "a" * 50_000)


def test_a_substitution_keeps_what_it_does_not_match() -> None:
    assert patterns.substitute("/a/([0-9]+)", r"/n/\1", "/x/a/12/y") == "/x/n/12/y"
    assert patterns.substitute("b", r"<\0\\>", "abc") == "a<b\\>c"


def test_a_redirect_keeps_the_query_unless_it_brings_one() -> None:
    asked = _asked(path="/a?x=1")
    assert rewriting.location(asked, Redirect(path="/b"), ANYTHING, forwarded_proto="http") == (
        "http://shop/b?x=1"
    )
    assert rewriting.location(asked, Redirect(path="/b?y"), ANYTHING, forwarded_proto="http") == (
        "http://shop/b?y"
    )


def _chain(name: str, **match: object) -> ir.FilterChain:
    network = ir.Http(name, name)
    return ir.FilterChain(name, ir.ChainMatch(**match), network)  # type: ignore[arg-type]


def _listener(*chains: ir.FilterChain) -> ir.Listener:
    return ir.Listener(
        "l", ir.Side.SERVER, "0.0.0.0", 1, chains, inspects_tls=True, inspects_http=True
    )


def _taken(listener: ir.Listener, **connection: object) -> str | None:
    made = Connection("10.0.0.1", 80, **connection)  # type: ignore[arg-type]
    chain = connections.chain_of(listener, made)
    return chain.name if chain is not None else None


def test_a_chain_that_names_the_port_leaves_no_way_back() -> None:
    listener = _listener(
        _chain("port", port=80, transport=ir.Transport.TLS), _chain("any port", port=0)
    )
    assert _taken(listener, speaks=Speaks.TLS, sni="x") == "port"
    assert _taken(listener, speaks=Speaks.HTTP1) is None


def test_exact_names_beat_suffixes_and_suffixes_beat_silence() -> None:
    listener = _listener(
        _chain("none"), _chain("suffix", sni=("*.b",)), _chain("exact", sni=("a.b",))
    )
    found = [_taken(listener, speaks=Speaks.TLS, sni=s) for s in ("a.b", "c.b", "x.c.b", "b", "")]
    assert found == ["exact", "suffix", "suffix", "none", "none"]


def test_the_longest_prefix_of_the_address_wins() -> None:
    listener = _listener(
        _chain("all"),
        _chain("net", addresses=("10.0.0.0/8",)),
        _chain("one", addresses=("10.0.0.1/32",)),
    )
    assert _taken(listener, speaks=Speaks.HTTP1) == "one"
