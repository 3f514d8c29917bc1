"""Windows that look like a launch, the part that is trained on them, and what it is good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from trend_client.drawing import Drawer, Launches, short_context
from trend_client.engine import Engine
from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.launch import exam, hold_out
from trend_client.parts import Parts
from trend_client.siblings import FEW_STEPS, Siblings
from trend_client.training import TrainingData
from trend_common.metrics import wape, wql
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import panel_before
from trend_common.windows import MIN_HISTORY, PanelWindows

HORIZON, CONTEXT, DAYS = 14, 56, 168
LOUD, QUIET = "giant", "plain"
_FILLERS = "ceramic cushion lantern bracelet hanging wooden kitchen holder parasol retrospot victorian enamel".split()  # noqa: SIM905


def shop(products: int = 120, seed: int = 0) -> pd.DataFrame:
    """A retailer whose words set the level: one word in eight says whether a product sells 40 a day or 2.

    The other words are shared by both kinds, so that the products whose descriptions are nearest are a mixture.
    Products are launched one after another from the third week on; a third was there before.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(products):
        word = LOUD if number % 2 else QUIET
        fillers = rng.choice(_FILLERS, 7, replace=False)
        start = 0 if number % 3 == 0 else int(14 + (DAYS - 21) * number / products)
        dates = pd.date_range("2024-01-01", periods=DAYS)[start:]
        level = 40.0 if word == LOUD else 2.0
        rows.append(
            pd.DataFrame(
                {
                    "date": dates,
                    "store": "s",
                    "product": f"p{number:02d}",
                    "units": 1 + rng.poisson(level, len(dates)),
                    "description": " ".join([*fillers[:2], word, *fillers[2:]]),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    made = Engine(str(tiny_backbone), device="cpu")
    made.install_local(2)
    return made


@pytest.fixture(scope="module")
def panel() -> SalesPanel:
    return from_frame(shop(), freq="D")


def training_data(panel: SalesPanel, end: int) -> TrainingData:
    return TrainingData.of(PanelWindows(panel, context=CONTEXT), train_end=end, horizon=HORIZON)


def test_a_launch_window_shows_little_and_a_level_where_it_shows_less(panel: SalesPanel) -> None:
    data = training_data(panel, 112)
    launches = Launches(data, Siblings(data.windows))
    rows, batch = launches.draw(200, np.random.default_rng(0))
    shown = batch.past_mask.sum(1).numpy()
    assert batch.past_values.shape[1] == launches.longest == MIN_HISTORY["D"]
    assert set(shown) == set(range(15))
    assert 0.4 < (shown == 0).mean() < 0.6
    np.testing.assert_array_equal(batch.level_hint.numpy() > 0, shown < FEW_STEPS)
    assert len(set(rows)) > 40
    assert (batch.static_ids[:, 1] == 0).all(), "names of other products mean nothing for a new one"
    assert (batch.static_ids[:, 0] > 0).all()


def test_two_thirds_are_real_launches(panel: SalesPanel) -> None:
    data = training_data(panel, 112)
    first = data.windows.first
    rows, batch = Launches(data, Siblings(data.windows)).draw(300, np.random.default_rng(0))
    assert (first[rows[:200]] > 0).all()
    # A window at a real launch shows the series' first sales.
    for place in range(200):
        shown = int(batch.past_mask[place].sum())
        if shown:
            own = data.windows.history(DAYS)[rows[place]][first[rows[place]] :][:shown]
            np.testing.assert_array_equal(batch.past_values[place, -shown:].numpy(), own.astype(np.float32))
    assert (first[rows[200:]] == 0).any()


def test_nothing_after_the_end_of_training_is_drawn_and_no_product_held_out(panel: SalesPanel) -> None:
    end = 112
    frame = shop()
    late = frame["date"] >= frame["date"].min() + pd.Timedelta(days=end)
    data = training_data(from_frame(frame.assign(units=np.where(late, 10**6, frame["units"])), freq="D"), end)
    products = data.windows.panel.static["product"].tolist()
    held_out = hold_out(products)
    assert len(held_out) == 12
    rows, batch = Launches(data, Siblings(data.windows), held_out).draw(400, np.random.default_rng(0))
    assert batch.future_values is not None
    assert float(batch.future_values.max()) < 1e5
    assert float(batch.past_values.max()) < 1e5
    assert float(batch.level_hint.max()) < 1e5
    assert not held_out & {products[row] for row in rows}


def test_a_short_context_is_the_same_window(engine: Engine, panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    rows = np.arange(20)
    origins = windows.first[rows] + 60
    seen = origins - np.arange(20) % 15
    hints = np.full(20, 7.0, dtype=np.float32)
    batch = windows.batch(rows, origins, HORIZON, level_hint=hints, seen_from=seen)
    engine.use(None)
    with torch.inference_mode():
        long, short = engine.backbone(batch), engine.backbone(short_context(batch, 14))
    torch.testing.assert_close(long.quantiles, short.quantiles, rtol=1e-4, atol=1e-4)


def test_a_share_of_ordinary_training_can_be_launches(panel: SalesPanel) -> None:
    data = training_data(panel, 112)
    siblings = Siblings(data.windows)
    settings = FineTuneSettings(batch_size=32, cold_start=0.25)
    parts = Drawer(data, settings, np.random.default_rng(0), siblings=siblings).draw()
    assert [(len(part), part.past_values.shape[1]) for part in parts] == [(24, CONTEXT), (8, 14)]
    none = Drawer(data, FineTuneSettings(batch_size=32), np.random.default_rng(0), siblings=siblings).draw()
    assert [len(part) for part in none] == [32]


def test_few_products_are_not_judged_and_so_get_no_launch_part(engine: Engine, panel: SalesPanel) -> None:
    assert not hold_out([f"p{n}" for n in range(23)])
    few = panel.select(panel.ids[:20])
    data = training_data(few, 112)
    tensors, tried = engine.personalise(
        data, None, validation=112, seed=0, settings=FineTuneSettings(steps=2, launch=LaunchSettings(steps=5))
    )
    assert Parts.of(tensors).launch is None
    assert not any("launch" in name for name in tried)


def test_the_exam_is_of_products_held_out_without_history(panel: SalesPanel) -> None:
    data = training_data(panel, 112)
    products = data.windows.panel.static["product"]
    held_out = frozenset(products[:40])
    found = exam(data, Siblings(data.windows), held_out, validation=112)
    assert found is not None
    assert float(found.batch.past_mask.sum()) == 0
    launched = (data.windows.first > 0) & (data.windows.first <= 112) & products.isin(held_out).to_numpy()
    assert len(found.batch) == launched.sum() >= 10
    few = exam(data, Siblings(data.windows), frozenset(products[:8]), validation=112)
    assert few is not None
    assert len(few.batch) > 8, "with few launches the windows at validation are looked at as well"
    assert float(few.batch.past_mask.sum()) == 0


def test_words_that_set_the_level_beat_the_mean_of_siblings_and_shuffled_words(engine: Engine) -> None:
    """The personal model never sees the later products; their words are all it has."""
    cut = 126
    frame = shop()
    whole = from_frame(frame, freq="D")
    origin = whole.start + pd.Timedelta(days=cut)
    data = training_data(panel_before(whole, origin), cut - HORIZON)
    settings = FineTuneSettings(
        steps=1, launch=LaunchSettings(steps=400, learning_rate=1e-2, batch_size=48, patience=0)
    )
    tensors, tried = engine.personalise(data, None, validation=cut - HORIZON, seed=0, settings=settings)
    assert min(value for name, value in tried.items() if "launch" in name) < 0.8 * tried["launch: none"]
    windows = PanelWindows(whole, context=CONTEXT)
    rows = np.flatnonzero((windows.first >= cut) & (windows.first + HORIZON <= DAYS))
    assert len(rows) >= 8
    ours, mixed, y, nearest = [], [], [], []
    for row in rows:
        day = whole.start + pd.Timedelta(days=int(windows.first[row]))
        known = panel_before(whole, day)
        static = known.static.copy()
        swap = {LOUD: QUIET, QUIET: LOUD}
        static["description"] = [" ".join(swap.get(w, w) for w in text.split()) for text in static["description"]]
        for target, seen in ((ours, known), (mixed, replace(known, static=static))):
            now = PanelWindows(seen, context=CONTEXT)
            target.append(engine.forecast(tensors, now, now.step_of(day), HORIZON, rows=np.array([row])))
        y.append(windows.actuals(int(windows.first[row]), HORIZON)[row])
        nearest.append(np.full(HORIZON, Siblings(windows).hint(int(row), int(windows.first[row]))))
    truth = np.stack(y)
    medians = np.concatenate([one.median for one in ours])
    assert wape(truth, medians) < 0.8 * wape(truth, np.stack(nearest))
    losses = {
        name: np.mean([wql(y_one[None], one) for y_one, one in zip(y, made, strict=True)])
        for name, made in (("ours", ours), ("mixed", mixed))
    }
    assert losses["ours"] < 0.7 * losses["mixed"]
