"""Telemetry and the console, joined to the mesh."""

import asyncio
import random as random_module

from aiohttp import web

from meltemi.app.engine import Engine
from meltemi.base.clock import Clock
from meltemi.xds.status import Status


class Insight:
    def __init__(
        self, engine: Engine, status: Status, clock: Clock, random: random_module.Random
    ) -> None:
        self._engine = engine
        self._status = status

    async def run(self) -> None:
        await asyncio.Event().wait()

    def data_routes(self) -> list[web.RouteDef]:
        return []

    def monitoring(self) -> web.Application:
        return web.Application()

    def console(self) -> web.Application:
        return web.Application()
