"""Whether a route takes a request, and if not, which condition fails first."""

from meltemi.compile import ir
from meltemi.model.route import Exact, NamedMatch, Prefix, Present
from meltemi.simulate import patterns
from meltemi.simulate.paths import split
from meltemi.simulate.request import Request


def refusal(match: ir.Match, request: Request) -> str:
    """Why a request does not satisfy a match, in words; empty: it does."""
    path, _ = split(request.path)
    if not patterns.matches(match.path, path, ignore_case=_folds(match)):
        return f"path {path} is not {patterns.describe(match.path)}"
    for header in match.headers:
        reason = _header_refusal(header, request)
        if reason:
            return reason
    for claim in match.claims:
        if not claim.absent:
            return f"the request has no verified claim {'.'.join(claim.path)}"
    parameters = query(request.path)
    for parameter in match.query:
        reason = _query_refusal(parameter, parameters)
        if reason:
            return reason
    return ""


def conditions(match: ir.Match) -> str:
    """What a match asks, in words."""
    words = []
    if match.path != Prefix("/"):
        words.append(f"path {patterns.describe(match.path)}")
    for header in match.headers:
        without = "without " if header.absent else ""
        words.append(f"{without}{_label(header.name)} {patterns.describe(header.matcher)}")
    words += [
        f"{'without ' if c.absent else ''}claim {'.'.join(c.path)} {patterns.describe(c.matcher)}"
        for c in match.claims
    ]
    words += [f"query {q.name} {patterns.describe(q.matcher)}" for q in match.query]
    return ", ".join(words) or "every request"


def query(path: str) -> dict[str, str]:
    """A path's query parameters; the first of a name counts."""
    _, rest = split(path)
    found: dict[str, str] = {}
    if rest.startswith("?"):
        for pair in rest[1:].partition("#")[0].split("&"):
            name, _, value = pair.partition("=")
            found.setdefault(name, value)
    return found


def _folds(match: ir.Match) -> bool:
    return match.ignore_case and isinstance(match.path, Exact | Prefix)


def _header_refusal(match: NamedMatch, request: Request) -> str:
    """A header satisfies a match when one of its values does, and an inverted one when none does;
    inverted matches take an absent header as an empty one, others need it to be there."""
    values = request.values(match.name)
    label = _label(match.name)
    if isinstance(match.matcher, Present):
        if bool(values) is not match.absent:
            return ""
        return f"{label} is present" if match.absent else f"{label} is absent"
    if not values and not match.absent:
        return f"{label} is absent"
    fits = any(patterns.matches(match.matcher, value) for value in values or ("",))
    if fits is not match.absent:
        return ""
    wanted = patterns.describe(match.matcher)
    said = ", ".join(f'"{value}"' for value in values)
    return f"{label} is {wanted}" if match.absent else f"{label} {said} is not {wanted}"


def _query_refusal(match: NamedMatch, parameters: dict[str, str]) -> str:
    value = parameters.get(match.name)
    if value is None:
        return f"query parameter {match.name} is absent"
    if patterns.matches(match.matcher, value):
        return ""
    return f'query parameter {match.name} "{value}" is not {patterns.describe(match.matcher)}'


def _label(name: str) -> str:
    return name.removeprefix(":") if name.startswith(":") else f"header {name}"
