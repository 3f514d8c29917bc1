"""Decisions rest on what ``trend-client forecast`` wrote: the same quantiles, the same plan, the same orders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from trend_client import outcome
from trend_client.backtest import Backtest
from trend_client.decisions.blend import Blend, Past, fingerprint, keep_basis, load_basis, without
from trend_client.decisions.orders import plan_orders
from trend_client.decisions.outlook import Outlook, outlook
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.recommend import Values, recommend
from trend_client.decisions.stock import StockRow
from trend_client.gate import Choice
from trend_client.join import finish
from trend_client.outcome import Model
from trend_client.planned import NO_PLAN
from trend_client.trees import TREES, fit
from trend_client.why.explain import explain
from trend_client.workplace import Workplace
from trend_common.calibration import Calibration
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import next_origin

from ...conftest import sales_frame

HORIZON = 7


def mixed(result: Backtest) -> Backtest:
    """With weights on models that listen to plans and on a method that does not, and a calibration."""
    shares = {"zero-shot": 0.4, "seasonal-naive": 0.4, TREES: 0.2}
    choice = replace(
        result.choice,
        style="blend",
        weights={
            name: {"zero-shot": 0.4, "seasonal-naive": 0.3, TREES: 0.3} for name in list(result.choice.methods)[::2]
        },
        methods=dict.fromkeys(result.choice.methods, "zero-shot"),
        panel=shares,
        calibration=Calibration(below=0.8, above=1.3, windows=3),
    )
    return replace(result, choice=choice)


@pytest.fixture(scope="module")
def made(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a forecast of a week was made, with promotions on its first three days."""
    folder = tmp_path_factory.mktemp("made")
    frame = sales_frame()
    frame.to_csv(folder / "sales.csv", index=False)
    days = pd.date_range(frame["date"].max() + pd.Timedelta(days=1), periods=HORIZON)
    pd.DataFrame({"date": days, "promo": [1, 1, 1, 0, 0, 0, 0]}).to_csv(folder / "promos.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREND_STATE_HOME", str(folder / "state"))
        patch.setattr(outcome, "_BASELINES", ("seasonal-naive", "same-phase-mean"))
        patch.setattr(fit, "HISTORY", {"D": 40})
        measured = outcome.measured
        patch.setattr(outcome, "measured", lambda *given, **more: mixed(measured(*given, **more)))
        place = Workplace(folder / "home", data=folder / "sales.csv", backbone=str(tiny_backbone), device="cpu")
        finish(place, personal=False, horizon=HORIZON, future=folder / "promos.csv")
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(made, tmp_path / "copy")
    for name in ("data.json", "basis.json"):
        path = tmp_path / "copy" / "home" / name
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "copy")))
    return tmp_path / "copy" / "home"


def at(home: Path, backbone: Path) -> Workplace:
    return Workplace(home, backbone=str(backbone), device="cpu")


def written(home: Path) -> Forecast:
    return Forecast.from_frame(pd.read_parquet(home / "output" / "forecasts.parquet"))


def test_decisions_read_the_quantiles_that_the_forecast_wrote(home: Path, tiny_backbone: Path) -> None:
    look, files = outlook(at(home, tiny_backbone)), written(home)
    assert look.basis is not None
    assert look.basis.choice is not None
    assert len(look.basis.choice.shares) > 1, "a blend, or the test shows nothing"
    assert look.written_steps == HORIZON
    some = ("s1/p4", "s0/p2")
    for steps in (3, HORIZON, HORIZON + 4):
        found = look.forecast(steps, some)
        same = min(steps, HORIZON)
        assert found.ids == some
        assert found.horizon == steps
        np.testing.assert_array_equal(found.quantiles[:, :same], files.select(some).quantiles[:, :same])
        np.testing.assert_array_equal(found.mean[:, :same], files.select(some).mean[:, :same])
    assert [note for note in look.notes if "changed" in note or "No forecast" in note] == []


def test_the_blend_made_anew_says_the_same(home: Path, tiny_backbone: Path) -> None:
    look, files = outlook(at(home, tiny_backbone)), written(home)
    ids = ("s0/p5", "s1/p0")
    made = look.blend.of(look.panel, look.origin, HORIZON, ids)
    np.testing.assert_allclose(made.quantiles, files.select(ids).quantiles, rtol=1e-4, atol=1e-4)
    bare = replace(look.panel, future=look.panel.future.iloc[:0])
    other = look.blend.of(bare, look.origin, HORIZON, ids)
    assert not np.allclose(other.quantiles, files.select(ids).quantiles, rtol=1e-3), "the plan moves the forecast"


def test_files_of_other_sales_are_not_read(home: Path, tiny_backbone: Path, sales: pd.DataFrame) -> None:
    changed = sales.copy()
    changed.loc[changed.index[-1], "units"] += 40
    changed.to_csv(home.parent / "sales.csv", index=False)
    look = outlook(at(home, tiny_backbone))
    assert look.written_steps == 0
    assert any("have changed since" in note for note in look.notes)
    made = look.blend.of(look.panel, look.origin, HORIZON, ["s1/p5"])
    np.testing.assert_array_equal(look.forecast(HORIZON, ["s1/p5"]).quantiles, made.quantiles)


def test_without_a_forecast_one_model_answers_and_says_so(
    sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path
) -> None:
    sales.to_csv(tmp_path / "sales.csv", index=False)
    place = Workplace(tmp_path / "new", data=tmp_path / "sales.csv", backbone=str(tiny_backbone), device="cpu")
    look = outlook(place)
    assert look.basis is None
    assert look.blend.choice.used == ("zero-shot",)
    assert any("No forecast of these sales" in note for note in look.notes)


def test_the_fingerprint_sees_every_change(panel: SalesPanel) -> None:
    before = fingerprint(panel)
    assert before == fingerprint(replace(panel, frame=panel.frame.copy()))
    for column, value in (("y", 3.5), ("promo", 0.5), ("ds", pd.Timestamp("2020-01-01"))):
        frame = panel.frame.copy()
        frame.loc[7, column] = value
        assert fingerprint(replace(panel, frame=frame)) != before
    plan = pd.DataFrame({"unique_id": ["s0/p0"], "ds": [next_origin(panel)], "promo": [1.0]})
    assert fingerprint(replace(panel, future=plan)) != before
    assert fingerprint(replace(panel, shut={"s0": frozenset({next_origin(panel)})})) != before
    assert fingerprint(replace(panel, static=panel.static.assign(description="new"))) != before


CHOICE = Choice(
    "personal",
    {"a": "personal", "b": "croston"},
    ("personal", "croston", "zero-shot", "auto-ets"),
    {"chosen": 1.0},
    "blend",
    {"a": {"personal": 0.75, "croston": 0.25}, "b": {"auto-ets": 1.0}},
    {"personal": 1.0},
    Calibration(below=0.5, above=2.0, series={"a": (0.7, 1.5)}, windows=3),
)


def test_weights_fall_to_the_others_where_a_method_is_left_out() -> None:
    found = without(CHOICE, {"personal", "auto-ets"})
    assert found.ranking == ("croston", "zero-shot")
    assert found.weights_of("a") == {"croston": 0.25}
    assert found.weights_of("b") == {"croston": 1.0}
    assert found.weights_of("unknown") == {"croston": 1.0}
    assert found.calibration == CHOICE.calibration
    assert without(CHOICE, {"shared"}) is CHOICE


def test_the_basis_comes_back_as_it_went(home: Path, tiny_backbone: Path) -> None:
    place = at(home, tiny_backbone)
    look = outlook(place)
    keep_basis(place.home, look.engine, look.panel, look.model, CHOICE, home / "output", reconciled="mint")
    assert (home / "basis.json").stat().st_mode & 0o777 == 0o600
    assert load_basis(place.home, look.panel) is None, "none of its series is in the panel"
    known = replace(look.panel, static=look.panel.static.rename(index={"s0/p0": "a", "s0/p1": "b"}))
    found = load_basis(place.home, known)
    assert found is not None
    assert (found.choice, found.horizon, found.reconciled) == (CHOICE, look.model.horizon, "mint")
    assert load_basis(place.home, replace(known, freq="W")) is None
    (home / "basis.json").write_text("{}")
    assert load_basis(place.home, known) is None


def test_the_past_is_forecast_by_what_had_not_seen_it(home: Path, tiny_backbone: Path) -> None:
    look = outlook(at(home, tiny_backbone))
    asked: list[str] = []

    class Watched(Blend):
        def of(self, panel, origin, horizon, ids, *, choice=None):  # type: ignore[no-untyped-def]
            asked.append(",".join(choice.used))
            return super().of(panel, origin, horizon, ids, choice=choice)

    both = Choice(
        "personal", {}, ("personal", "auto-ets", "zero-shot"), {}, "blend", {}, {"personal": 0.6, "auto-ets": 0.4}
    )
    day = look.panel.calendar_end - pd.Timedelta(days=20)
    tensors = look.engine.worn(None)
    model = Model("local", HORIZON, look.model.context, {"zero-shot": None, "personal": tensors}, {"personal": day})
    past = Past(Watched(look.engine, model, both), look.panel)
    past(look.panel, day - pd.Timedelta(days=1), 2)
    past(look.panel, day, 2)
    assert asked == ["zero-shot", "personal"]


STOCK = {
    "s0/p0": StockRow(Position(5.0), Terms(lead_time=3, review=4, pack=6)),
    "s1/p3": StockRow(Position(0.0, 12.0), Terms(lead_time=5, review=4, moq=30)),
    "s1/p4": StockRow(Position(9000.0), Terms(lead_time=3, review=4)),
}


def test_recommend_quotes_the_orders(home: Path, tiny_backbone: Path) -> None:
    look = outlook(at(home, tiny_backbone))
    proposals = plan_orders(look, STOCK).proposals
    found = recommend(look, STOCK, Values({}, None), horizon=HORIZON, actions=["restock"])
    quoted = {one.unique_id: one.units for one in found.advice}
    assert quoted == {name: one.order for name, one in proposals.items() if one.order > 0}
    assert len(quoted) == 2
    for one in found.advice:
        (facts,) = [dict(fact.values) for fact in one.facts if fact.code == "restock"]
        assert facts["order"] == proposals[one.unique_id].order
        assert facts["without"] == proposals[one.unique_id].stockout_without
    assert any("--lead-time 3 --service-level 0.95 --review 4" in note for note in found.notes)
    unpriced = recommend(look, STOCK, Values({"s0/p0": 2.0}, 0.5), horizon=HORIZON, actions=["restock"])
    assert [one.unique_id for one in unpriced.advice] == ["s0/p0"]
    assert any(note.startswith("1 orders of that list are not advised") for note in unpriced.notes)


def test_prices_of_the_stock_file_go_first() -> None:
    values = Values({"a": 2.0, "b": 2.0}, 0.5, {"a": (5.0, 4.0)})
    assert (values.of("a"), values.of("b")) == ((5.0, 4.0), (2.0, 1.0))
    assert Values({"a": 2.0}, None, {"a": (5.0, 4.0)}).of("a") == (1.0, 0.0)


def test_explain_adds_up_to_what_the_files_say(home: Path, tiny_backbone: Path) -> None:
    look, files = outlook(at(home, tiny_backbone)), written(home)
    found = explain(look, ["s0/p0", "s1/p1"], HORIZON, recent=0)
    for row, name in enumerate(("s0/p0", "s1/p1")):
        assert found.total(row) == pytest.approx(files.select([name]).mean.sum(), rel=1e-6)
    assert "promotion" not in found.unknown
    assert sum(found.weights.values()) == pytest.approx(1.0)
    body = found.to_json()["series"][0]
    parts = sum(body[name] for name in ("base", *found.to_json()["groups"], "other_methods"))
    assert parts == pytest.approx(body["forecast"], abs=1e-2)
    assert body["description"] == "product number 0"


def plan_of(look: Outlook) -> list[float]:
    mine = look.panel.future[look.panel.future["unique_id"] == "s0/p0"].set_index("ds")
    return mine["promo"].tolist() if len(mine) else []


def test_a_plan_is_kept_until_it_is_forgotten(home: Path, tiny_backbone: Path) -> None:
    place = at(home, tiny_backbone)
    look = outlook(place)
    assert plan_of(look) == [1, 1, 1, 0, 0, 0, 0]
    assert any("promos.csv is used" in note for note in look.notes)
    again = Workplace(home, data=home.parent / "sales.csv", backbone=str(tiny_backbone), device="cpu")
    assert plan_of(outlook(again)) == [1, 1, 1, 0, 0, 0, 0], "the same file, named again"
    place = at(home, tiny_backbone)
    place.future = NO_PLAN
    look = outlook(place)
    assert (plan_of(look), look.written_steps) == ([], 0)
    assert plan_of(outlook(at(home, tiny_backbone))) == []


def test_a_plan_that_cannot_be_used_any_more_is_told(home: Path, tiny_backbone: Path) -> None:
    (home.parent / "promos.csv").write_text("date,promo\n2020-01-01,1\n")
    look = outlook(at(home, tiny_backbone))
    assert plan_of(look) == []
    assert any("promos.csv is not used: promos.csv says nothing of 2024-05-20" in note for note in look.notes)
    (home.parent / "promos.csv").unlink()
    assert any("promos.csv is not used: There is no file" in one for one in outlook(at(home, tiny_backbone)).notes)


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "--top", "1"),
        ("whatif", "--product", "p0", "--promo", "0,1"),
        ("orders", "--stock", "stock.csv", "--lead-time", "2"),
        ("recommend", "--stock", "stock.csv", "--horizon", "7"),
        ("newproducts", "--new", "new.csv", "--horizon", "7"),
    ],
)
def test_every_command_knows_the_plan(
    home: Path, tiny_backbone: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trend_client.cli import app

    monkeypatch.chdir(home.parent)
    Path("stock.csv").write_text("product,store,on_hand\np0,s0,5\n")
    Path("new.csv").write_text("product,description\nn,product number 9\n")
    given = ["--home", str(home), "--backbone", str(tiny_backbone), "--json", "out.json", "--language", "en"]
    done = CliRunner().invoke(app, [*command, *given])
    assert done.exit_code == 0, done.output
    assert "promos.csv is used" in done.output
    before = json.loads(Path("out.json").read_text())
    # From the command line it is taken, too, and kept for the next command.
    days = pd.read_csv("promos.csv").assign(promo=[0, 0, 0, 1, 1, 1, 1])
    days.to_csv("other.csv", index=False)
    done = CliRunner().invoke(app, [*command, *given, "--future", "other.csv"])
    assert done.exit_code == 0, done.output
    assert "is used" not in done.output
    assert json.loads(Path("out.json").read_text()) != before
    done = CliRunner().invoke(app, [*command, *given])
    assert "other.csv is used" in done.output


def test_a_season_knows_the_plan(tiny_backbone: Path, tmp_path: Path) -> None:
    from trend_client.decisions.season import by_week

    days = pd.date_range("2022-01-03", periods=500)
    frame = pd.DataFrame({"date": days, "product": "p", "units": 5, "promo": (days.day == 1).astype(int)})
    panel = from_frame(frame)
    plain = by_week(panel, "product")
    assert "promo" not in plain.frame
    ahead = pd.date_range(next_origin(panel), periods=20)
    plan = pd.DataFrame({"unique_id": panel.ids[0], "ds": ahead, "promo": 1.0})
    weekly = by_week(replace(panel, future=plan), "product")
    pd.testing.assert_series_equal(weekly.frame["y"], plain.frame["y"])
    assert weekly.frame["promo"].between(0, 1).all()
    assert 0 < weekly.frame["promo"].max() < 1, "the share of a week's days"
    assert weekly.future["promo"].max() == 1.0
    assert next_origin(weekly) == next_origin(plain)
