"""The Kubernetes API as Meltemi uses it: one small client, and informers that list then watch.

`kubeconfig` says where the API is and who we are, `client` speaks to it, `informer` keeps up with
it, `writer` changes it politely, `errors` are the ways it can refuse.
"""
