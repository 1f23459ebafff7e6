"""CEL: the rules of definitions, match conditions of webhooks, and admission policies.

`expressions` is the only module that knows the library; `functions` has what Kubernetes adds to
the language. An expression that names a function or a variable nobody has is refused when it is
made, not when it first runs. https://kubernetes.io/docs/reference/using-api/cel/
"""
