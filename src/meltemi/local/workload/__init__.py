"""Workloads that are not pods: a process of this machine joins the mesh as a virtual machine would.

It gets a network of its own, an Envoy and the identity of its group's service account, and is
registered as a WorkloadEntry for as long as it runs.
"""
