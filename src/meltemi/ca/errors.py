"""How the certificate authority refuses.

CaError
├── BadAuthority       the stored or plugged-in signing certificate cannot be used
├── BadRequest         the CSR or the asked lifetime is wrong; the caller is told
└── Unauthenticated    no proof of who asks; the caller is told nothing, the log the reason
"""


class CaError(Exception):
    """Base of everything this package raises."""


class BadAuthority(CaError):
    pass


class BadRequest(CaError):
    pass


class Unauthenticated(CaError):
    pass
