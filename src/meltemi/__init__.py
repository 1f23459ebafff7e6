"""Meltemi: a service mesh and its console. Start with ARCHITECTURE.md."""

__version__ = "0.1.0"
