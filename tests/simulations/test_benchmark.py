"""The benchmark: fixed federations, cuts that know nothing later, runs that are not repeated, tables that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from trend_client.engine import Engine
from trend_common.errors import UsageError
from trend_simulations import benchmark
from trend_simulations.benchmark import Protocol, Run, run_benchmark, table_of
from trend_simulations.benchmark_report import markdown, summary, tables, write_plot
from trend_simulations.cli import app
from trend_simulations.federations import FEDERATIONS, Federation, Part, earlier, find, resized


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of five stores with three products each."""
    rng = np.random.default_rng(0)
    dates = pd.date_range("2022-01-03", periods=70, freq="W-MON")
    frames = [
        pd.DataFrame({"date": dates, "store": store, "product": product, "units": rng.poisson(20, 70)})
        for store in range(1, 6)
        for product in ("a", "b", "c")
    ]
    data = tmp_path / "data"
    data.mkdir()
    pd.concat(frames).to_csv(data / "stores.csv", index=False)
    return data


TWO = Federation("two", "Two kinds", (Part("stores.csv", group=1), Part("others.csv", group=1)), history=30)
SOME = Federation("some", "Some stores", (Part("stores.csv", retailers=3),), history=30)


def test_no_retailer_is_in_two_federations_that_say_so(folder: Path) -> None:
    first, others = SOME.load(folder), replace(SOME, parts=(Part("stores.csv", skip=3),)).load(folder)
    assert len(first) == 3
    assert len(others) == 2
    assert not {one.name for one in first} & {one.name for one in others}
    assert [one.name for one in SOME.load(folder)] == [one.name for one in first], "drawn once"


def test_an_earlier_cut_knows_nothing_later(folder: Path) -> None:
    full = SOME.load(folder)
    cut = earlier(full, 8)
    for before, after in zip(full, cut, strict=True):
        assert after.panel.calendar_end == before.panel.calendar_end - pd.Timedelta(weeks=8)
        kept = before.panel.frame[before.panel.frame["ds"] <= after.panel.calendar_end]
        assert after.panel.frame["y"].tolist() == kept["y"].tolist()
        assert not len(after.panel.future)
    assert earlier(full, 0) is full
    assert earlier(full, 500) == []


def test_federations_are_named_once_and_found_by_name(folder: Path) -> None:
    names = [one.name for one in FEDERATIONS]
    assert len(set(names)) == len(names)
    assert [one.name for one in find(["juice-groups", "walmart"])] == ["walmart", "juice-groups"]
    with pytest.raises(UsageError, match="'nowhere'"):
        find(["nowhere"])
    with pytest.raises(UsageError, match=r"lacks walmart_dept_weekly.csv.gz"):
        find(["walmart"])[0].files(folder)
    small = resized(find(["synthetic-100"])[0], retailers=4, max_series=5)
    assert (len(small.load(folder)), small.max_series) == (4, 5)


@pytest.fixture
def protocol(tiny_backbone: Path) -> Protocol:
    """As little as can be compared."""
    return Protocol(("zero-shot", "federated-dp@8"), ("naive",), seeds=1, cuts=2, backbone=str(tiny_backbone))


def test_what_is_there_is_not_run_again(
    folder: Path, tmp_path: Path, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, engine = tmp_path / "out", Engine(protocol.backbone, device="cpu")
    first = run_benchmark(folder, [SOME], protocol, out, engine=engine)
    assert [(run.cut, run.repeated) for run in first] == [(0, True), (1, True)]
    ends = [run.result["data"][0]["end"] for run in first]
    assert pd.Timestamp(ends[0]) - pd.Timestamp(ends[1]) == pd.Timedelta(weeks=8)
    again = run_benchmark(folder, [SOME], protocol, out, engine=engine)
    assert not any(run.repeated for run in again)
    assert [run.result for run in again] == [json.loads(json.dumps(run.result)) for run in first]

    def counted(*_: object) -> dict[str, Any]:
        ran.append(1)
        return {}

    ran: list[int] = []
    monkeypatch.setattr(benchmark, "_run", counted)
    (out / "some-cut1.json").write_text("half a file")
    run_benchmark(folder, [SOME], protocol, out, engine=engine)
    assert len(ran) == 1, "only what is broken"
    run_benchmark(folder, [SOME], replace(protocol, seeds=2), out, engine=engine)
    assert len(ran) == 3, "another protocol"
    with (folder / "stores.csv").open("a") as file:
        file.write("2023-05-08,1,a,3\n")
    run_benchmark(folder, [SOME], replace(protocol, seeds=2), out, engine=engine)
    assert len(ran) == 5, "other data"


def test_newcomers_are_in_no_federation_and_in_every_file(folder: Path, tmp_path: Path, protocol: Protocol) -> None:
    engine = Engine(protocol.backbone, device="cpu")
    every = replace(SOME, parts=(Part("stores.csv"),))
    asked = replace(protocol, newcomers=2)
    runs = run_benchmark(folder, [every], asked, tmp_path / "out", engine=engine)
    for one in runs:
        guests = {client["name"] for client in one.result["newcomers"]["clients"]}
        members = {client["name"] for client in one.result["clients"]}
        assert len(guests) == 2
        assert guests.isdisjoint(members)
        assert len(members) == 3
        assert list(one.result["newcomers"]["clients"][0]["known"]["nothing"]) == ["zero-shot", "federated-dp@8"]
    assert len({tuple(one.result["newcomers"]["names"]) for one in runs}) == 1, "the same at every cut"
    again = run_benchmark(folder, [every], protocol, tmp_path / "out", engine=engine)
    assert all(one.repeated for one in again), "another protocol"
    assert "newcomers" not in again[0].result


def test_grouped_arms_are_run_where_there_are_groups(folder: Path, tmp_path: Path, protocol: Protocol) -> None:
    (folder / "others.csv").write_bytes((folder / "stores.csv").read_bytes())
    engine = Engine(protocol.backbone, device="cpu")
    asked = replace(protocol, arms=("zero-shot", "grouped-dp@8"), cuts=1)
    some, two = run_benchmark(folder, [SOME, TWO], asked, tmp_path / "out", engine=engine)
    assert list(two.result["arms"]) == ["zero-shot", "grouped-dp@8"]
    assert {client["group"] for client in two.result["clients"]} == {"stores", "others"}
    assert two.result["privacy"]["by_arm"]["grouped-dp@8"]["epsilon_in_ledgers"] <= 8
    assert list(some.result["arms"]) == ["zero-shot"]


def run(values: dict[str, list[float]], cut: int = 0) -> Run:
    """A run whose retailers have these WQL."""
    clients = [
        {
            "name": f"c{number}",
            "arms": {arm: {"wql": found[number]} for arm, found in values.items()},
            "baselines": {"seasonal-naive": {"wql": 0.5}},
        }
        for number in range(len(values["alone"]))
    ]
    result = {
        "benchmark": {"key": f"k{cut}"},
        "clients": clients,
        "arms": {arm: {} for arm in values},
        "baselines": {"seasonal-naive": {}},
    }
    return Run(SOME, cut, result, True)


def test_the_table_is_over_retailers_and_cuts_against_what_one_can_do_alone(tmp_path: Path) -> None:
    runs = [
        run({"alone": [0.2, 0.4, 0.3, 0.1], "gated": [0.1, 0.402, 0.33, 0.1]}),
        run({"alone": [0.2, 0.4, 0.3, 0.1], "gated": [0.1, 0.402, 0.33, 0.08]}, cut=1),
    ]
    rows = table_of(runs)["some"]
    assert rows["gated"].relative.mean == pytest.approx(
        np.mean([0.1, 0.402, 0.33, 0.1, 0.1, 0.402, 0.33, 0.08]) / 0.5
    )
    assert rows["gated"].difference is not None
    assert rows["gated"].difference.mean == pytest.approx(rows["gated"].relative.mean - rows["alone"].relative.mean)
    assert rows["gated"].gain == 0.5
    assert rows["gated"].not_worse == 0.75, "0.5 % worse is within a percent, 10 % is not"
    assert rows["alone"].difference is None
    assert rows["seasonal-naive"].relative.mean == 1.0
    text = markdown({"some": rows}, {"some": "Some stores"}, rival="alone")
    assert "## Some stores" in text
    assert "| 50 % | 75 % |" in text
    found = json.loads(json.dumps(summary(runs, {"some": rows}, rival="alone"), allow_nan=False))
    assert found["federations"]["some"]["gated"]["gain"] == 0.5
    assert len(tables({"some": rows}, {"some": "Some stores"}, rival="alone")) == 1
    assert write_plot(runs[0], tmp_path / "p.png", arms=("gated", "gated-dp@8"), rival="alone")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert not write_plot(runs[0], tmp_path / "q.png", arms=("gated-dp@8",), rival="alone")
    with pytest.raises(ValueError, match="measure"):
        table_of(runs, measure="charm")


def test_the_way_to_pooled_sales_is_said_where_there_is_one() -> None:
    local = [0.4, 0.5, 0.6, 0.7]
    values = {
        "alone": local,
        "local": local,
        "gated": [one - 0.03 for one in local],
        "central": [one - 0.1 for one in local],
    }
    rows = table_of([run(values)])["some"]
    assert rows["gated"].closed is not None
    assert rows["gated"].closed.mean == pytest.approx(0.3)
    assert rows["local"].closed is rows["central"].closed is None
    assert "| 30 % [30, 30] |" in markdown({"some": rows}, {"some": "Some stores"}, rival="alone")
    assert rows["seasonal-naive"].closed is None
    assert table_of([run({**values, "central": local})])["some"]["gated"].closed is None


def test_a_retailer_that_one_cut_lacks_is_in_no_mean() -> None:
    runs = [
        run({"alone": [0.2, 0.4], "gated": [0.1, 0.3]}),
        run({"alone": [0.2], "gated": [0.1]}, cut=1),
    ]
    assert table_of(runs)["some"]["gated"].relative.mean == pytest.approx(0.2)
    # One whose measure is unknown throughout is in no share either.
    unknown = run({"alone": [0.2, float("nan")], "gated": [0.1, float("nan")]})
    assert table_of([unknown])["some"]["gated"].gain == 1.0


def test_the_command_writes_tables_and_says_what_is_missing(tiny_backbone: Path, tmp_path: Path) -> None:
    asked = ["benchmark", "--quick", "--backbone", str(tiny_backbone), "--out", str(tmp_path / "out")]
    asked += ["--data-folder", str(tmp_path), "--arms", "zero-shot,federated,alone,gated"]
    ran = CliRunner().invoke(app, [*asked, "--federations", "synthetic-10", "--newcomers", "3"])
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "zero-shot" in text
    assert "| gated | all | 3 |" in text
    assert "| nothing | federated | 3 |" in text
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["federations"]["synthetic-10"]["zero-shot"]["relative"]["mean"] > 0
    assert found["fairness"]["synthetic-10"]["gated"]["all"]["retailers"] == 3
    assert found["newcomers"]["synthetic-10"]["level"]["federated"]["retailers"] == 3
    missing = CliRunner().invoke(app, [*asked, "--federations", "walmart"])
    assert isinstance(missing.exception, UsageError)
