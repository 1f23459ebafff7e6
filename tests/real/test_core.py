"""Changes made of many objects, and the mesh's own settings, on real traffic."""

import asyncio

from tests.real.conftest import Mesh
from tests.real.load import Load

URL = "/api/v1/products/0/reviews"

SUBSET = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: %s, labels: {version: v1}}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: %s}}]}]}
"""


async def test_subsets_and_routes_come_and_go_in_any_order_without_an_error(mesh: Mesh) -> None:
    def apply(text: str) -> None:
        mesh.kubectl("apply", "-f", "-", text=text)

    def delete(kind: str) -> None:
        mesh.kubectl("delete", kind, "reviews", "--ignore-not-found")

    rules = mesh.kubectl("get", "destinationrule", "reviews", "-o", "yaml")
    async with Load(mesh.ingress + URL, at_once=8, most=60_000) as load:
        await load.reach(100)
        for turn in range(6):
            name = f"turn{turn}"
            steps = [(apply, SUBSET % name), (apply, ROUTE % name)]
            if turn % 2:
                steps.reverse()
            for step, text in steps:
                await asyncio.to_thread(step, text)
            await asyncio.to_thread(mesh.meltemi, "wait", "--for=distribution", "vs/reviews")
            await load.reach(100)
            kinds = ["virtualservice", "destinationrule"]
            if turn % 3 == 1:
                kinds.reverse()
            for kind in kinds:
                await asyncio.to_thread(delete, kind)
            await load.reach(100)
    mesh.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=rules)
    print(f"{load.answers.total()} requests over 6 turns")
    assert load.failures == {}
