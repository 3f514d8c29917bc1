"""All benchmarks' figures as one file and one page: ``benchmarks/results.json`` and ``docs/benchmarks.md``.

    python benchmarks/gather.py FOLDER [--json FILE] [--page FILE] [--machine TEXT]

FOLDER holds what ``run.py --json FOLDER`` wrote. A benchmark that is not there leaves its figures out, and the page
says so. The page's pictures lie in ``docs/images``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trend_common import __version__
from trend_common.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
_NAMES = (
    "dp_step",
    "simulation_peers",
    "simulation_overhead",
    "simulation_scale",
    "wire",
    "secure_aggregation",
    "startup",
    "forecasting",
    "large_panel",
    "serve_load",
    "growth",
)
_COLOURS = {"floor": "#8a97a3", "trend-sim": "#0b6e7f", "pfl": "#b4793a", "flower-ray": "#6d4aa8"}

Found = dict[str, Any]


def collected(folder: Path) -> dict[str, Found]:
    """Benchmark → its JSON."""
    return {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in _NAMES
        if (folder / f"{name}.json").is_file()
    }


def figures(found: dict[str, Found]) -> dict[str, Any]:
    """The headline ratios, each with the raw samples of its run; None where nothing was measured."""
    result: dict[str, Any] = {}

    def note(key: str, value: float | None, samples: object) -> None:
        result[key] = {"value": None if value is None else round(value, 4), "samples": samples}

    step = found.get("dp_step", {})
    rows = step.get("rows", [])
    row = rows[len(rows) // 2] if rows else {}
    note("dp_step_over_plain_step", step.get("dp_step_over_plain_step"), row.get("samples_ms"))
    note("dp_memory_over_plain", step.get("dp_memory_over_plain"), step.get("memory_mb"))
    engines = found.get("simulation_peers", {}).get("engines", {})
    samples = {name: one["samples_cpu_s"] for name, one in engines.items()}
    for key, other in (
        ("simulation_over_floor", "floor"),
        ("simulation_over_pfl", "pfl"),
        ("simulation_over_flower_ray", "flower-ray"),
    ):
        both = "trend-sim" in samples and other in samples
        ratios = [a / b for a, b in zip(samples["trend-sim"], samples[other], strict=True)] if both else []
        note(
            key,
            float(np.median(ratios)) if ratios else None,
            {name: samples.get(name) for name in ("trend-sim", other)},
        )
    wire = found.get("wire", {})
    note(
        "empty_round_seconds_over_stock_flower",
        wire.get("empty_round_seconds_over_stock_flower"),
        {"ours": [one["round_s"] for one in wire.get("rows", [])], "stock": (wire.get("stock") or {}).get("round_s")},
    )
    growth = found.get("growth", {})
    sent = {key: growth.get(key) for key in ("bytes_up", "parameters")}
    note("bytes_up_over_float32", growth.get("bytes_up_over_float32"), sent)
    parts = found.get("forecasting", {}).get("results", [])
    methods = {one["model"]: one for part in parts[:1] for one in part["methods"]}
    quick, plain = methods.get("trend-small (int8)"), methods.get("trend-small (torch)")
    note("forecast_series_per_second", (quick or plain or {}).get("per_second"), methods)
    note("int8_speedup", quick["per_second"] / plain["per_second"] if quick and plain else None, None)
    startup = found.get("startup", {})
    note("client_rss_mb_before_torch", startup.get("client_rss_mb_before_torch"), startup.get("rows"))
    return result


def machine() -> str:
    """The processor, the number of cores, the versions."""
    import torch

    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        line = next((one for one in info.read_text().splitlines() if one.startswith("model name")), "")
        name = line.partition(":")[2].strip() or name
    return f"{name}, {os.cpu_count()} logical cores, Python {platform.python_version()}, torch {torch.__version__}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def page(found: dict[str, Found], where: str) -> str:
    """``docs/benchmarks.md``."""
    parts = [
        "# Benchmarks",
        "Made by `make bench`; every ratio compares things that took turns in one run. Absolute times are of one "
        f"machine: {where}.",
    ]
    for name, write in _SECTIONS.items():
        parts += write(found[name]) if name in found else [f"*`{name}` was not run.*"]
    parts.append("GPUs: not measured; `trend-sim --device cuda` and `trend-client --device cuda` are there.")
    return "\n\n".join(parts) + "\n"


def _dp_step(one: Found) -> list[str]:
    ways = ("private", "hooks", "ew", "functorch", "ghost")
    rows = [
        [row["windows_per_series"], row["plain_ms"], *(row["over_plain"].get(way, "fails") for way in ways)]
        for row in one["rows"]
    ]
    memory = ", ".join(f"{way} {value:.0f} MB" for way, value in one["memory_mb"].items())
    return [
        "## A private training step",
        f"CPU time over the same step without privacy, {one['series']} series. Opacus's modes stand beside ours; "
        "they look at peft's own layers, which compute a LoRA in three products; the plain step and ours take one. "
        "Ghost clipping bounds windows, not series.",
        table(["windows a series", "plain, ms", "ours", *ways[1:]], rows),
        f"Peak memory: {memory}. Largest relative difference of a per-series gradient from autograd's of that series "
        f"alone: {one['largest_relative_gradient_error']:.1e}.",
        "![A private step over a plain one](images/bench-dp-step.png)",
    ]


def _peers(one: Found) -> list[str]:
    rows = [
        [name, row["cpu_s"], row["norm"], row["beyond_training_cpu_s"], row["wall_s"], f"{row['memory_mb']:.0f}"]
        for name, row in one["engines"].items()
    ]
    apart = ", ".join(f"{name} {value:.1e}" for name, value in one["relative_weight_difference"].items())
    return [
        "## A simulated federation on four engines",
        f"FedAvg, {one['clients']} clients × {one['rounds']} rounds × {one['steps']} steps of 32 windows, a thread; "
        "CPU seconds and peak memory of the whole process tree, start-up included. All engines end with the same "
        f"weights up to rounding (relative difference: {apart}).",
        table(["engine", "CPU s", "over the bare loop", "beyond training, CPU s", "wall s", "memory MB"], rows),
        "![CPU seconds of four engines](images/bench-engines.png)",
    ]


def _overhead(one: Found) -> list[str]:
    return [
        f"A private federation (one noised gradient a round, {one['retailers']} retailers × {one['rounds']} rounds), "
        f"start-up aside, over a bare loop of the same gradients: **{one['norm']}**; "
        f"{one['overhead_ms_per_client_round']} ms more a client and round."
    ]


def _scale(one: Found) -> list[str]:
    def cells(row: Found) -> list[object]:
        work = f"{row['steps']} steps of 32" if row["steps"] else "a noised gradient"
        memory = f"{row['memory_mb']}" + (f" + {row['worker_memory_mb']} each" if row["workers"] > 1 else "")
        return [
            row["clients"],
            row["series"],
            row["rounds"],
            work,
            row["workers"],
            row["cpu_s"],
            row["wall_s"],
            memory,
        ]

    header = ["clients", "series", "rounds", "in a round", "processes", "CPU s", "wall s", "memory MB"]
    return [
        "## Many clients",
        "Retailers' sales and windows lie in files and are mapped while their client works; processes are forked and "
        "share one model, so their memory is counted more than once. Any number of processes gives the same weights, "
        "bit for bit.",
        table(header, [cells(row) for row in one["rows"]]),
    ]


def _secure(one: Found) -> list[str]:
    rows = [
        [
            *(f"{row[name]:,}" for name in ("clients", "dropouts", "bytes_up", "bytes_down")),
            *(row["norm"], f"{row['client_s']:.3f}", f"{row['server_s']:.2f}"),
        ]
        for row in one["rows"]
    ]
    header = ["clients", "gone", "bytes up", "bytes down", "over a plain round", "a client's CPU s", "server's CPU s"]
    return [
        "## Secure aggregation",
        f"A round of {one['parameters']:,} numbers; bytes of one client, over those of the same round in the open.",
        table(header, rows),
    ]


def _large(one: Found) -> list[str]:
    peak, seconds = one["peak_mb"], one["seconds"]
    return [
        f"{one['series']:,} series of {one['weeks']} weeks, forecast by the {one['method']} and written in pieces: "
        f"peak {peak['all']:,.0f} MB, of which {peak['sales']:,.0f} MB before the forecast (model and sales); "
        f"{seconds['delivered']:.0f} s."
    ]


def _serving(one: Found) -> list[str]:
    rows = [
        [row["precision"], row["callers"], *(f"{row[name]:.1f}" for name in ("per_second", "p50", "p99", "cpu_ms"))]
        for row in one["rows"]
    ]
    header = ["precision", "callers", "requests a second", "p50 ms", "p99 ms", "CPU ms a request"]
    return ["## Serving", "`trend-client serve`, one series a request.", table(header, rows)]


def _wire(one: Found) -> list[str]:
    rows = [
        [row["clients"], f"{row['seconds']:.2f}", f"{row['server_cpu_s']:.1f}", f"{row['server_memory_mb']:.0f}"]
        for row in one["rows"]
    ]
    parts = [
        "## The wire",
        "A round without work over TLS, 9,832 float32 numbers down and up; the server's clock, its CPU time and peak "
        "memory over its whole life.",
        table(["clients", "seconds a round", "server's CPU s", "server's memory MB"], rows),
    ]
    if one.get("stock"):
        parts.append(
            f"Flower's own SuperLink and SuperNodes, {one['stock']['clients']} clients: "
            f"{one['stock']['seconds']:.1f} s a round; ours takes "
            f"{one['empty_round_seconds_over_stock_flower']:.3f} of that."
        )
    return parts


def _startup(one: Found) -> list[str]:
    rows = [[what, row["wall_s"], row["cpu_s"]] for what, row in one["rows"].items()]
    return [
        "## Start-up",
        table(["what", "wall s", "CPU s"], rows),
        f"Resident memory of a client that has not loaded the model: {one['client_rss_mb_before_torch']:.0f} MB.",
    ]


def _forecasting(one: Found) -> list[str]:
    parts = ["## Forecasting", "Series a second on one thread, with all quantiles."]
    for part in one["results"]:
        rows = [[row["model"], row["series"], row["per_second"], row["sql"]] for row in part["methods"]]
        parts.append(table([f"{part['data']}, {part['horizon']} steps ahead", "series", "a second", "SQL"], rows))
    return parts


def _growth(one: Found) -> list[str]:
    rows = [
        [name, " ".join(map(str, row["sizes"])), " ".join(map(str, row["cpu_s"])), row["exponent"]]
        for name, row in one["rows"].items()
    ]
    return [
        "## How cost grows",
        "A private federation of "
        + ", ".join(f"{value} {name}" for name, value in one["base"].items())
        + "; one axis at a time. The exponent is that of the power law through the points.",
        table(["axis", "sizes", "CPU s", "exponent"], rows),
        "![CPU seconds as each axis grows](images/bench-growth.png)",
        f"A client sends {one['bytes_up']:,} bytes a round for {one['parameters']:,} numbers: "
        f"{one['bytes_up_over_float32']} of float32.",
    ]


_SECTIONS = {
    "dp_step": _dp_step,
    "simulation_peers": _peers,
    "simulation_overhead": _overhead,
    "simulation_scale": _scale,
    "wire": _wire,
    "secure_aggregation": _secure,
    "startup": _startup,
    "forecasting": _forecasting,
    "large_panel": _large,
    "serve_load": _serving,
    "growth": _growth,
}


def pictures(found: dict[str, Found], folder: Path) -> None:
    """Draw what was measured."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)

    def saved(figure: Any, name: str) -> None:
        figure.savefig(folder / f"bench-{name}.png", dpi=110)

    if "dp_step" in found:
        rows = found["dp_step"]["rows"]
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        ways = ("private", "hooks", "ew", "functorch", "ghost")
        for place, way in enumerate(ways):
            heights = [row["over_plain"].get(way, 0.0) for row in rows]
            label = "ours" if way == "private" else f"Opacus, {way}"
            axes.bar(np.arange(len(rows)) + 0.16 * (place - 2), heights, 0.15, label=label)
        axes.axhline(1, color="#8a97a3", linewidth=0.8)
        axes.set_xticks(range(len(rows)), [f"{row['windows_per_series']} windows a series" for row in rows])
        axes.set_ylabel("CPU time over a plain step")
        axes.legend(frameon=False, ncols=3, fontsize=8)
        axes.set_ylim(0, 1.35 * max(max(row["over_plain"].values()) for row in rows))
        saved(figure, "dp-step")
    if "simulation_peers" in found:
        engines = found["simulation_peers"]["engines"]
        figure = Figure(figsize=(7.2, 2.2), layout="constrained")
        axes = figure.add_subplot()
        names = list(engines)[::-1]
        axes.barh(names, [engines[name]["cpu_s"] for name in names], color=[_COLOURS[name] for name in names])
        axes.set_xlabel("CPU seconds of the whole process tree")
        saved(figure, "engines")
    if "growth" in found:
        rows_ = found["growth"]["rows"]
        figure = Figure(figsize=(7.6, 2.4), layout="constrained")
        seconds = [one for row in rows_.values() for one in row["cpu_s"]]
        lowest, highest = min(seconds), max(seconds)
        for place, (name, row) in enumerate(rows_.items(), start=1):
            axes = figure.add_subplot(1, len(rows_), place)
            axes.loglog(row["sizes"], row["cpu_s"], "o-", color="#0b6e7f", base=2)
            axes.set_title(f"{name}: power {row['exponent']:.2f}", fontsize=9)
            axes.set_ylim(0.8 * lowest, 1.25 * highest)  # one scale for all, so that slopes can be compared
            axes.tick_params(labelsize=7)
        saved(figure, "growth")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--machine", default="", help="more about the machine, such as what else it did")
    options = parser.parse_args(arguments)
    found = collected(options.folder)
    where = ", ".join(text for text in (machine(), options.machine) if text)
    write_json(
        options.json,
        {"schema": 1, "version": __version__, "command": "bench", "machine": where, **figures(found)},
    )
    write_text(options.page, page(found, where))
    pictures(found, options.page.parent / "images")
    print(f"{options.json} and {options.page}: {', '.join(found) or 'nothing was measured'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
