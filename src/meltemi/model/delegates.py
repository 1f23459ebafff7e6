"""Delegates: a root's rule that hands its requests to the rules of another VirtualService.

One level only. Conditions are intersected, what the delegate leaves open is inherited
(mesh-semantics 1.2, `delegate`).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from meltemi.api import networking as api
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.model.hosts import export_list, is_visible
from meltemi.model.route import (
    ClaimMatch,
    Exact,
    HttpMatch,
    HttpRule,
    Matcher,
    NamedMatch,
    Prefix,
)
from meltemi.model.rules import Reader

N = TypeVar("N", NamedMatch, ClaimMatch)


class Delegated(NamedTuple):
    rules: tuple[HttpRule, ...]
    problems: tuple[Problem, ...]


class _Conflict(Exception):
    """Two conditions that nothing satisfies together; its text says which."""


def delegated_rules(
    root: HttpRule, key: ObjectKey, delegate: api.VirtualService | None, domain: str
) -> Delegated:
    """The delegate's rules as the root's rule admits them."""
    reason = _unusable(root, key, delegate)
    if delegate is None or reason:
        path = f"{root.path}.delegate"
        problem = Problem(Code.UNKNOWN_DELEGATE, Severity.ERROR, root.source, path, reason)
        return Delegated((), (problem,))
    reader = Reader(delegate, domain)
    rules: list[HttpRule] = []
    problems: list[Problem] = []
    for i, declared in enumerate(delegate.spec.http):
        leaf = reader.http(declared, f"spec.http[{i}]")
        matches, conflicts = _intersected(root, leaf)
        problems.extend(conflicts)
        if matches or not (root.matches or leaf.matches):
            rules.append(_inherited(root, leaf, declared, matches))
    return Delegated(tuple(rules), tuple(problems))


def _unusable(root: HttpRule, key: ObjectKey, delegate: api.VirtualService | None) -> str:
    """Why a delegate cannot be used; empty when it can."""
    if delegate is None:
        return f"there is no {key}: requests for it find no route; create it, or correct the name"
    if delegate.spec.hosts:
        return f"{key} has hosts of its own: a delegate has none; remove its spec.hosts"
    if not is_visible(export_list(delegate.spec.export_to, key.namespace), root.source.namespace):
        return (
            f"{key} is not exported to {root.source.namespace}: add the namespace to its "
            "spec.exportTo"
        )
    return ""


def _inherited(
    root: HttpRule, leaf: HttpRule, declared: api.HTTPRoute, matches: tuple[HttpMatch, ...]
) -> HttpRule:
    """The delegate's rule, with the root's settings where it has none."""
    silent = {
        "rewrite": declared.rewrite is None,
        "timeout": declared.timeout is None,
        "retry": declared.retries is None,
        "fault": declared.fault is None,
        "mirrors": declared.mirror is None and not declared.mirrors,
        "cors": declared.cors_policy is None,
        "headers": declared.headers is None,
    }
    taken = {name: getattr(root, name) for name, is_silent in silent.items() if is_silent}
    return msgspec.structs.replace(
        leaf, name=_joined(root.name, leaf.name), matches=matches, **taken
    )


def _joined(root: str, leaf: str) -> str:
    return "-".join(part for part in (root, leaf) if part)


def _intersected(
    root: HttpRule, leaf: HttpRule
) -> tuple[tuple[HttpMatch, ...], tuple[Problem, ...]]:
    """Every pair of matches that something can satisfy; the others are reported."""
    if not root.matches or not leaf.matches:
        return root.matches or leaf.matches, ()
    found: list[HttpMatch] = []
    problems: list[Problem] = []
    for outer in root.matches:
        for i, inner in enumerate(leaf.matches):
            try:
                both = _both(outer, inner)
                found.append(msgspec.structs.replace(both, field=f"{leaf.path}.match[{i}]"))
            except _Conflict as conflict:
                problems.append(_conflict(root, leaf, i, str(conflict)))
    return tuple(found), tuple(problems)


def _conflict(root: HttpRule, leaf: HttpRule, index: int, reason: str) -> Problem:
    return Problem(
        Code.DELEGATE_CONFLICT,
        Severity.WARNING,
        leaf.source,
        f"{leaf.path}.match[{index}]",
        f"it contradicts {root.path} of {root.source}, which delegates to it ({reason}): the "
        "route is left out; make it narrower than the root's match",
    )


def _both(root: HttpMatch, leaf: HttpMatch) -> HttpMatch:
    """Both matches at once. Raises _Conflict when nothing satisfies them, or RE2 cannot tell."""
    if root.path is not None and leaf.path is not None and root.ignore_case != leaf.ignore_case:
        raise _Conflict("ignoreUriCase differs")
    return HttpMatch(
        name=_joined(root.name, leaf.name),
        path=_narrower("uri", root.path, leaf.path),
        ignore_case=leaf.ignore_case if leaf.path is not None else root.ignore_case,
        scheme=_narrower("scheme", root.scheme, leaf.scheme),
        method=_narrower("method", root.method, leaf.method),
        authority=_narrower("authority", root.authority, leaf.authority),
        headers=_united("header", root.headers, leaf.headers),
        claims=_united("claim", root.claims, leaf.claims),
        query=_united("query parameter", root.query, leaf.query),
        stat_prefix=leaf.stat_prefix or root.stat_prefix,
        port=_same("port", root.port, leaf.port),
        source_labels=_labels(root.source_labels, leaf.source_labels),
        source_namespace=_same(
            "sourceNamespace", root.source_namespace or None, leaf.source_namespace or None
        )
        or "",
        gateways=_gateways(root.gateways, leaf.gateways),
    )


def _narrower(what: str, root: Matcher | None, leaf: Matcher | None) -> Matcher | None:
    """The leaf's condition, which must lie within the root's."""
    if root is None or leaf is None or root == leaf:
        return leaf or root
    if isinstance(root, Prefix) and isinstance(leaf, Exact | Prefix):
        if leaf.value.startswith(root.value):
            return leaf
        raise _Conflict(f"{what} {leaf.value!r} does not begin with {root.value!r}")
    raise _Conflict(f"{what} differs")


def _united(what: str, root: tuple[N, ...], leaf: tuple[N, ...]) -> tuple[N, ...]:
    """The conditions of both on named things; of one thing, both must be the same or narrower."""
    found: dict[object, N] = {_thing(item): item for item in root}
    for item in leaf:
        outer = found.get(_thing(item))
        if outer is not None:
            _narrower(f"{what} {_thing(item)[0]}", outer.matcher, item.matcher)
        found[_thing(item)] = item
    return tuple(sorted(found.values(), key=_thing))


def _thing(item: NamedMatch | ClaimMatch) -> tuple[str, bool]:
    name = item.name if isinstance(item, NamedMatch) else ".".join(item.path)
    return name, item.absent


T = TypeVar("T", int, str)


def _same(what: str, root: T | None, leaf: T | None) -> T | None:
    if root is not None and leaf is not None and root != leaf:
        raise _Conflict(f"{what} is {root} there and {leaf} here")
    return root if leaf is None else leaf


def _labels(root: Mapping[str, str], leaf: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in leaf.items():
        if root.get(name, value) != value:
            raise _Conflict(f"sourceLabels {name} differs")
    return {**root, **leaf}


def _gateways(root: tuple[str, ...], leaf: tuple[str, ...]) -> tuple[str, ...]:
    if not root or not leaf:
        return root or leaf
    return tuple(_within(root, leaf))


def _within(root: tuple[str, ...], leaf: tuple[str, ...]) -> Iterator[str]:
    for gateway in leaf:
        if gateway not in root:
            raise _Conflict(f"gateway {gateway} is not among the root's")
        yield gateway
