"""The way of a request, drawn for people."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from meltemi.simulate.explain import Complaint, Explanation
from meltemi.simulate.trace import (
    Because,
    Branch,
    Choice,
    PassedOver,
    Place,
    Policy,
    Response,
    Route,
    Trace,
)

_LABEL = 12
_WIDE = 1000
"""Columns where nobody reads a screen: lines stay whole, for grep."""
_QUIET = frozenset({"timeout", "retries"})


def show(explanation: Explanation, *, with_before: bool) -> None:
    """Print an explanation; what is unread and what is wrong comes last."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    if with_before and explanation.before is not None:
        console.print(Text("before", style="bold"))
        console.print(_tree(explanation.before))
        console.print(Text("\nafter", style="bold"))
    console.print(_tree(explanation.trace))
    for problem in explanation.problems:
        console.print(_problem(problem))
    for step in explanation.uncertain:
        text = Text("uncertain ", style="yellow").append(step.name, "not yellow")
        text.append(f"  {step.reason}", "not yellow dim")
        for one in step.because:
            text.append(f"  {_where(one)}", "not yellow cyan")
        console.print(text)
    told = {
        f"{one.kind}/{one.name}.{one.namespace}"
        for step in explanation.uncertain
        for one in step.because
    }
    for name in explanation.unsimulated:
        if name not in told:
            aside = f"{name} patches this proxy, and nothing on this way"
            console.print(Text(aside, style="dim"))
    for name in explanation.unread:
        console.print(Text(f"{name} has no say in how requests go", style="dim"))


def _tree(trace: Trace) -> Tree:
    tree = Tree(_title(trace), guide_style="dim")
    _way(tree, trace)
    if trace.warning:
        tree.add(Text(f"{'warning':{_LABEL}}", "dim").append(trace.warning, "not dim yellow"))
    for passed in trace.overlooked:
        _passed(tree, passed, "ignored")
    return tree


def _way(tree: Tree, trace: Trace) -> None:
    resolved = trace.resolved
    _step(
        tree, "name", f"{resolved.host} is {resolved.address}:{resolved.port}", resolved.reason,
        resolved.because,
    )  # fmt: skip
    if trace.listener is not None:
        _choice(tree, "listener", trace.listener)
    if trace.chain is not None:
        _choice(tree, "chain", trace.chain, skipped=False)
    if trace.route is not None:
        _route(tree, trace.route)
    if trace.delay is not None:
        share, span = trace.delay
        _step(tree, "delay", f"{span.total_seconds():g}s for {share:.0%} of requests", "")
    for fault in trace.faults:
        _response(tree, fault.response, f"{fault.share:.0%}", "fault")
    if any(fault.share >= 1 for fault in trace.faults):
        return
    if trace.response is not None:
        _response(tree, trace.response, "")
    else:
        for branch in trace.branches:
            _branch(tree, branch, "to")
        for mirror in trace.mirrors:
            _branch(tree, mirror, "mirror")


def _title(trace: Trace) -> Text:
    asked = trace.request
    connection = trace.connection
    text = Text()
    if asked is not None:
        text.append(f"{asked.method} {asked.scheme}://{asked.authority}{asked.path}", "bold")
    else:
        sni = f", SNI {connection.sni}" if connection.sni else ""
        where = f"{trace.resolved.host}:{trace.resolved.port}"
        text.append(f"{connection.speaks.value} connection to {where}{sni}", "bold")
    text.append(f"  at {trace.proxy}" if trace.proxy else "  from a client without a proxy")
    return text


def _step(tree: Tree, label: str, what: str, reason: str, because: Iterable[Because] = ()) -> Tree:
    text = Text(f"{label:{_LABEL}}", style="dim")
    text.append(what, "not dim")
    if reason:
        text.append(f"  {reason}", "dim")
    for one in because:
        text.append(f"  {_where(one)}", "not dim cyan")
    return tree.add(text)


def _where(because: Because) -> str:
    """`reviews.yaml:12 VirtualService/reviews.default spec.http[0]`."""
    space = f".{because.namespace}" if because.namespace else ""
    named = " ".join(filter(None, (f"{because.kind}/{because.name}{space}", because.path)))
    return f"{because.file}:{because.line} {named}" if because.file else named


def _choice(tree: Tree, label: str, choice: Choice, *, skipped: bool = True) -> Tree:
    step = _step(tree, label, choice.name, choice.reason, choice.because)
    for passed in choice.passed_over if skipped else ():
        _passed(step, passed)
    return step


def _passed(tree: Tree, passed: PassedOver, label: str = "") -> None:
    text = Text(f"{label:{_LABEL}}" if label else "", style="dim")
    text.append("✗ ", "not dim red").append(passed.name, "not dim")
    text.append(f"  {passed.reason}", "dim")
    for one in passed.because:
        text.append(f"  {_where(one)}", "not dim cyan")
    tree.add(text)


def _route(tree: Tree, route: Route) -> None:
    _choice(tree, "host", route.host)
    step = _choice(tree, "route", route.choice)
    for policy in route.policies:
        _policy(step, policy)


def _policy(tree: Tree, policy: Policy) -> None:
    is_default = policy.name in _QUIET and not policy.because
    text = Text(f"{policy.name} ", style="dim").append(policy.value, "dim" if is_default else "")
    for one in policy.because:
        text.append(f"  {_where(one)}", "not dim cyan")
    tree.add(text)


def _branch(tree: Tree, branch: Branch, label: str) -> None:
    step = _step(
        tree, f"{label} {branch.share:.0%}", branch.cluster.name, branch.cluster.reason,
        branch.cluster.because,
    )  # fmt: skip
    if branch.request is not None:
        sent = branch.request
        step.add(Text(f"as {sent.method} {sent.authority} {sent.path}", style="dim"))
    for policy in branch.policies:
        _policy(step, policy)
    if branch.failure is not None:
        _response(step, branch.failure, "")
    for place in branch.places:
        _place(step, place)
    for place in branch.standby:
        _place(step, place, spare=True)


def _place(tree: Tree, place: Place, *, spare: bool = False) -> None:
    text = Text()
    refused = place.arrival is not None and bool(place.arrival.refused)
    text.append("✗ " if refused else "→ ", "red" if refused else "dim" if spare else "green")
    text.append(f"{place.workload or place.address}  {place.address}:{place.port}")
    text.append(f"  {place.share:.0%}" if not spare else "  standby", "dim")
    if place.locality:
        text.append(f"  {place.locality} priority {place.priority}", "dim")
    text.append(f"  {_SECURITY.get(place.security, place.security)}", "dim")
    step = tree.add(text)
    arrival = place.arrival
    if arrival is None:
        return
    if arrival.refused:
        step.add(Text(arrival.refused, style="red"))
    _policy(step, arrival.security)
    if arrival.port and arrival.port != place.port:
        step.add(Text(f"the application listens on port {arrival.port}", style="dim"))


_SECURITY = {"mutual": "mutual TLS", "plain": "plaintext", "tls": "TLS"}


def _response(tree: Tree, response: Response, share: str, label: str = "answer") -> None:
    fine = 0 < response.status < 400
    text = Text(f"{label} {share}".ljust(_LABEL), style="dim")
    what = str(response.status) if response.status else "the connection is closed"
    text.append(" ".join(filter(None, (what, response.flags))), f"not dim {_colour(fine)}")
    text.append(f"  {response.reason}", "dim")
    for name, value in response.headers:
        text.append(f"  {name}: {value}", "not dim")
    for one in response.because:
        text.append(f"  {_where(one)}", "not dim cyan")
    tree.add(text)


def _colour(fine: bool) -> str:
    return "green" if fine else "red"


def _problem(problem: Complaint) -> Text:
    space = f".{problem.namespace}" if problem.namespace else ""
    text = Text(f"{problem.severity} {problem.code} ", style="red")
    text.append(f"{problem.kind}/{problem.name}{space} {problem.path}: ", "not red cyan")
    return text.append(problem.message, "not red")
