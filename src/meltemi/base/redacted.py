"""Secrets that cannot reach a log by accident."""


class Redacted:
    """Bytes whose text forms say nothing; `reveal()` is the one way to them."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def reveal(self) -> bytes:
        return self._secret

    def __repr__(self) -> str:
        return "Redacted(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redacted) and other._secret == self._secret

    def __hash__(self) -> int:
        return hash(self._secret)
