"""One lab for all tests of fields: Envoys are started once."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meltemi.base.identity import Identity
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path

from ..real.differential import IDENTITIES
from ..real.lab import Lab
from .stage import Stage

REAL = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="package"),
]
_ACCOUNTS = ("db", "greeter", "old", "front")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    more = [Identity("cluster.local", "default", account) for account in _ACCOUNTS]
    async with Lab(tmp_path_factory.mktemp("fields"), protos, [*IDENTITIES, *more]) as lab:
        yield Stage(lab)
