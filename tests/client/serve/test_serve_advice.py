"""What-if, orders and explanations: what the offline functions say of the same home."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from trend_client.decisions.orders import orders
from trend_client.decisions.outlook import outlook
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.stock import StockRow
from trend_client.serve.settings import ServeSettings
from trend_client.why.explain import explain
from trend_client.why.scenario import what_if
from trend_client.workplace import Workplace

from .conftest import Serving


def asked(serving: Serving, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async def scene() -> dict[str, Any]:
        async with serving() as client:
            found = await client.post(path, json=body)
            assert found.status_code == 200, found.text
            again = await client.post(path, json=body)
            assert again.json() == found.json(), "what is kept gives the same"
            missing = await client.post(path, json={**body, **_unknown(body)})
            assert (missing.status_code, missing.json()["code"]) == (404, "unknown-series")
            answer: dict[str, Any] = found.json()
            return answer

    return asyncio.run(scene())


def _unknown(body: dict[str, Any]) -> dict[str, Any]:
    return {"ids": ["nobody"]} if "ids" in body else {"stock": [{"id": "nobody", "on_hand": 1}]}


def place(settings: ServeSettings) -> Workplace:
    assert settings.source is not None
    return Workplace(settings.home, data=Path(settings.source.path), backbone=settings.backbone, device="cpu")


def test_what_if_as_offline(serving: Serving, settings: ServeSettings) -> None:
    ids = ["s0/p1", "s1/p1"]
    found = asked(serving, "/v1/what-if", {"ids": ids, "horizon": 7, "prices": [1.6, 3], "promos": [0, 1], "cost": 1})
    expected = what_if(outlook(place(settings)), ids, 7, prices=[1.6, 3.0], promos=[0.0, 1.0], cost=1.0).to_json()
    assert found == expected
    assert [(one["price"], one["promo"]) for one in found["points"]] == [(1.6, 0), (1.6, 1), (3, 0), (3, 1)]


def test_orders_as_offline(serving: Serving, settings: ServeSettings) -> None:
    stock = [{"id": "s0/p0", "on_hand": 5}, {"id": "s1/p4", "on_hand": 0, "on_order": 10, "pack": 12}]
    found = asked(serving, "/v1/orders", {"terms": {"lead_time": 3, "review": 7}, "stock": stock})
    terms = Terms(lead_time=3.0, review=7)
    rows = {
        "s0/p0": StockRow(Position(5.0), terms),
        "s1/p4": StockRow(Position(0.0, 10.0), Terms(lead_time=3.0, review=7, pack=12.0)),
    }
    expected = orders(outlook(place(settings)), rows).to_json()
    assert found["orders"] == expected["orders"]
    assert found["origin"] == expected["origin"]
    assert next(one for one in found["orders"] if one["unique_id"] == "s1/p4")["order"] % 12 == 0


def test_explanations_as_offline(serving: Serving, settings: ServeSettings) -> None:
    found = asked(serving, "/v1/explain", {"ids": ["s0/p2"], "horizon": 7})
    expected = explain(outlook(place(settings)), ["s0/p2"], 7, recent=0).to_json()
    assert found == expected
