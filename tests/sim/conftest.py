"""Says what to do when this checkout's tools are older than its locks."""

import importlib.util

import pytest


def pytest_configure() -> None:
    if importlib.util.find_spec("re2") is None:
        raise pytest.UsageError("requirements.lock has changed: run `make .venv/.ready`")
