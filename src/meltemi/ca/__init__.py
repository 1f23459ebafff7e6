"""The certificate authority: it proves who asks, then signs who they are, and nothing they claim.

`sign` is pure, `store` keeps the root, `authenticate` turns tokens and certificates into callers,
`service` is the gRPC API `istio.v1.auth.IstioCertificateService`, `server_identity` the control
plane's own certificate, `edge` the mutual TLS port.
"""
