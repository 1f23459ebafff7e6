"""Under which names a namespace's Secrets are served, and whether a proxy can use them."""

from collections.abc import Callable
from typing import NamedTuple

from meltemi.base.keys import ObjectKey
from meltemi.compile import names
from meltemi.flow import Fetch
from meltemi.model.build import Model
from meltemi.model.credential import Credential

Lookup = Callable[[ObjectKey], Credential | None]


class Served(NamedTuple):
    """What one Secret contributes: SDS names for its certificate, and for its authority."""

    certificate: tuple[str, ...]
    authority: tuple[str, ...]


def served(key: ObjectKey, credential: Credential, lookup: Lookup) -> Served:
    """A Secret with the suffix `-cacert` is the authority of the one without, before what that
    one says itself."""
    suffix = names.AUTHORITY_SUFFIX
    forms = (key.name, f"{key.namespace}/{key.name}")
    beside = lookup(_named(key, f"{key.name}{suffix}"))
    is_authority = key.name.endswith(suffix) and bool(credential.authority)
    authority: list[str] = []
    if credential.authority and not (beside is not None and beside.authority):
        authority += [names.secret_authority(form) for form in forms]
    if is_authority:
        authority += [names.secret(form) for form in forms]
    has_certificate = credential.pair is not None and not is_authority
    certificate = tuple(names.secret(form) for form in forms) if has_certificate else ()
    return Served(certificate, tuple(authority))


class Secrets(NamedTuple):
    """What a proxy finds in its own namespace, if it may look."""

    namespace: str
    may_read: bool
    lookup: Lookup
    fault: Callable[[ObjectKey], str | None]

    def certificate(self, name: str) -> str:
        """Empty, or why a server cannot use a Secret's certificate."""
        found, why = self._find(name)
        if found is None or found.pair is None:
            return why or "it has no certificate and key (tls.crt, tls.key)"
        return ""

    def authority(self, name: str) -> str:
        """Empty, or why clients cannot be checked with a Secret's authority."""
        beside, _ = self._find(f"{name}{names.AUTHORITY_SUFFIX}")
        found, why = self._find(name)
        if any(c is not None and c.authority for c in (beside, found)):
            return ""
        return why or f"it has no authority (ca.crt), and no Secret {name}-cacert is beside it"

    def kind(self, name: str) -> str:
        """`RSA` or `ECDSA`; empty without a certificate."""
        found, _ = self._find(name)
        return found.pair.kind if found is not None and found.pair is not None else ""

    def _find(self, name: str) -> tuple[Credential | None, str]:
        namespace, slash, bare = name.rpartition("/")
        if slash and namespace != self.namespace:
            return None, f"it must be in {self.namespace}, the namespace of the proxy's pod"
        if not self.may_read:
            return None, (
                "the proxy may not read it: let the pod's service account list secrets in "
                f"namespace {self.namespace}"
            )
        key = ObjectKey("Secret", self.namespace, bare)
        found = self.lookup(key)
        if found is not None:
            return found, ""
        return None, self.fault(key) or f"there is none in namespace {self.namespace}"


def secrets_in(fetch: Fetch, model: Model, namespace: str, *, may_read: bool) -> Secrets:
    """What a proxy finds in its namespace, as of now."""
    return Secrets(
        namespace=namespace,
        may_read=may_read,
        lookup=lambda key: fetch.get(model.credentials, key),
        fault=lambda key: fetch.get(model.credential_faults, key),
    )


def _named(key: ObjectKey, name: str) -> ObjectKey:
    return ObjectKey(key.kind, key.namespace, name)
