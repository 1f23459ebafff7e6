"""Reach: rules that no request can get to, because an earlier rule takes all of theirs."""

from collections.abc import Iterator, Sequence

from meltemi.base.problems import Code, Problem, Severity
from meltemi.model.route import (
    Exact,
    HttpMatch,
    HttpRule,
    L4Match,
    L4Rule,
    Matcher,
    Prefix,
    Regex,
    RouteTable,
)

ANY_PATH = (None, Prefix("/"), Prefix(""), Regex(".*"))


def unreachable_rules(table: RouteTable) -> Iterator[Problem]:
    """A warning for each rule that is wholly taken by earlier ones, whoever asks. Tables without
    hosts are judged in the place of those that delegate to them."""
    if not table.hosts:
        return
    for i, rule in enumerate(table.http):
        winner = _winner(table.http[:i], rule, table)
        if winner is not None:
            yield _unreachable(rule, winner)
    for rules in (table.tls, table.tcp):
        for i, l4 in enumerate(rules):
            first = next((e for e in rules[:i] if _l4_takes(e, l4)), None)
            if first is not None:
                yield Problem(
                    Code.UNREACHABLE_ROUTE,
                    Severity.WARNING,
                    table.source,
                    l4.path,
                    _text(first.path),
                )


def _winner(earlier: Sequence[HttpRule], rule: HttpRule, table: RouteTable) -> HttpRule | None:
    """The rule that takes the last of this rule's matches, when all of them are taken."""
    winner: HttpRule | None = None
    for match in rule.matches or (HttpMatch(),):
        winner = next(
            (e for e in earlier if any(_covers(m, match, table) for m in e.matches or (_ALL,))),
            None,
        )
        if winner is None:
            return None
    return winner


_ALL = HttpMatch()


def _covers(first: HttpMatch, second: HttpMatch, table: RouteTable) -> bool:
    """Whether whatever satisfies the second match satisfies the first."""
    return (
        _contains(first.path, second.path, fold=first.ignore_case, folded=second.ignore_case)
        and _contains(first.scheme, second.scheme)
        and _contains(first.method, second.method)
        and _contains(first.authority, second.authority)
        and set(first.headers) <= set(second.headers)
        and set(first.claims) <= set(second.claims)
        and set(first.query) <= set(second.query)
        and first.port in (None, second.port)
        and _sources_cover(first, second, table)
    )


def _sources_cover(first: HttpMatch, second: HttpMatch, table: RouteTable) -> bool:
    """A match with gateways of its own tests no other source condition."""
    reached = set(second.gateways or table.gateways)
    if not reached <= set(first.gateways or table.gateways):
        return False
    if first.gateways:
        return True
    if second.gateways:
        return not (first.source_labels or first.source_namespace)
    return (
        first.source_labels.items() <= second.source_labels.items()
        and first.source_namespace in ("", second.source_namespace)
    )


def _contains(
    first: Matcher | None, second: Matcher | None, *, fold: bool = False, folded: bool = False
) -> bool:
    if first in ANY_PATH:
        return True
    if second is None or (folded and not fold):
        return False
    if isinstance(first, Prefix) and isinstance(second, Exact | Prefix):
        if fold:
            return second.value.lower().startswith(first.value.lower())
        return second.value.startswith(first.value)
    return first == second


def _l4_takes(first: L4Rule, second: L4Rule) -> bool:
    """Only a rule without any condition surely takes all of a later one; what is left is told
    apart when listeners are planned."""
    elsewhere = any(match.gateways for match in second.matches)
    return not elsewhere and (not first.matches or L4Match() in first.matches)


def _unreachable(rule: HttpRule, winner: HttpRule) -> Problem:
    place = winner.path if winner.source == rule.source else f"{winner.path} of {winner.source}"
    return Problem(Code.UNREACHABLE_ROUTE, Severity.WARNING, rule.source, rule.path, _text(place))


def _text(place: str) -> str:
    return (
        f"it never applies: {place} comes first and takes every request it could; reorder the "
        "rules, or narrow the earlier one"
    )
