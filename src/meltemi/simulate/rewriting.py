"""What a route changes: headers, path, authority; and the redirects it answers with."""

import msgspec

from meltemi.compile import ir
from meltemi.model.route import Exact, HeaderEdits, Prefix, Redirect, Rewrite
from meltemi.simulate.paths import split
from meltemi.simulate.patterns import substitute
from meltemi.simulate.request import Pairs, Request

_WHOLE_PATH = r"^/[^?]*"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def forwarded(
    request: Request, route: ir.Route, action: ir.Forward, weighted: ir.WeightedCluster
) -> Request:
    """The request as it is sent to one destination: the destination's header edits come first,
    then the route's, then authority and path."""
    headers = edited(request.headers, weighted.headers)
    headers = edited(headers, route.headers)
    rewrite = action.rewrite or Rewrite()
    path = request.path
    if rewrite.regex is not None:
        path = _in_path(path, *rewrite.regex)
    elif rewrite.path and rewrite.whole:
        path = _in_path(path, _WHOLE_PATH, rewrite.path.replace("\\", r"\\"))
    elif rewrite.path:
        path = rewrite.path + path[len(_matched(route.match, path)) :]
    authority = weighted.authority or rewrite.authority or request.authority
    return msgspec.structs.replace(request, headers=headers, path=path, authority=authority)


def _in_path(path: str, pattern: str, replacement: str) -> str:
    """A substitution in the path alone; the query stays."""
    before, rest = split(path)
    return substitute(pattern, replacement, before) + rest


def _matched(match: ir.Match, path: str) -> str:
    """What a prefix rewrite replaces; a regular expression has matched the whole path."""
    return match.path.value if isinstance(match.path, Exact | Prefix) else split(path)[0]


def edited(headers: Pairs, edits: HeaderEdits) -> Pairs:
    """Request headers after one level's edits."""
    return _edited(headers, edits.request_remove, edits.request_set, edits.request_add)


def response_edited(headers: Pairs, edits: HeaderEdits) -> Pairs:
    """Response headers after one level's edits."""
    return _edited(headers, edits.response_remove, edits.response_set, edits.response_add)


def _edited(headers: Pairs, remove: tuple[str, ...], put: Pairs, add: Pairs) -> Pairs:
    """Removal comes first at each level, then what overwrites, then what appends."""
    gone = {name.lower() for name in remove}
    kept = [(name, value) for name, value in headers if name not in gone]
    for name, value in put:
        kept = [pair for pair in kept if pair[0] != name.lower()]
        kept.append((name.lower(), value))
    kept += [(name.lower(), value) for name, value in add]
    return tuple(kept)


def location(request: Request, redirect: Redirect, match: ir.Match, *, forwarded_proto: str) -> str:
    """The `location` a redirect answers with."""
    scheme = redirect.scheme or request.scheme
    port = f":{redirect.port}" if redirect.port else ""
    host = redirect.authority or _host(request.authority, scheme, port, forwarded_proto)
    path = request.path
    if redirect.prefix:
        path = redirect.path + path[len(_matched(match, path)) :]
    elif redirect.path:
        _, rest = split(path)
        path = redirect.path if "?" in redirect.path else redirect.path + rest
    return f"{scheme}://{host}{port}{path}"


def https(request: Request) -> str:
    """Where a client is sent that must use TLS."""
    return f"https://{request.authority}{request.path}"


def _host(authority: str, scheme: str, port: str, before: str) -> str:
    """The request's host: without its port when another is given, or when the port is the
    default of a scheme that is left."""
    host, colon, number = authority.rpartition(":")
    if not colon or not number.isdecimal():
        return authority
    leaves_default = scheme != before and _DEFAULT_PORTS.get(before) == f":{number}"
    return host if port or leaves_default else authority
