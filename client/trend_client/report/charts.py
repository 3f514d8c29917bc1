"""Fan charts as inline SVG. Text stays text (searchable, sharp, in the page's own font); names stand in the page.

A chart shows the history, the forecast that the chosen method would have made for the test window beside what
happened, and the forecast ahead, each with its 50, 80 and 90 % bands. It is drawn twice, wide and narrow; the page
shows the one that fits. Colours are variables of the style sheet, so that one drawing suits day, night and paper.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.report.language import Language, language
from trend_common.forecasts import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BANDS", "HISTORY_STEPS", "fan_chart"]

BANDS: Final = (0.9, 0.8, 0.5)
"""Central intervals drawn, widest first; the ends of the 50 % band are interpolated between stored quantiles."""

HISTORY_STEPS: Final = {"D": 112, "W": 104, "M": 48}
"""Steps of history shown, if there are as many."""

_NARROW_STEPS: Final = {"D": 56, "W": 52, "M": 24}

_INK, _FAINT, _AHEAD, _BACK, _PROMO, _HOLIDAY = "#1b2733", "#8a97a3", "#0b6e7f", "#b4793a", "#c2410c", "#6d4aa8"
_AXIS, _GRID, _LABEL = "#c9d1d8", "#e7ebee", "#5b6875"
_VARIABLES: Final = {
    _INK: "ink",
    _FAINT: "faint",
    _AHEAD: "ahead",
    _BACK: "back",
    _PROMO: "promo",
    _HOLIDAY: "holiday",
    _AXIS: "axis",
    _GRID: "grid",
    _LABEL: "soft",
}
"""Colour as drawn → the variable of the style sheet that takes its place."""

_SHADES: Final = (0.14, 0.20, 0.30)


def fan_chart(
    history: pd.DataFrame,
    ahead: Forecast,
    freq: str,
    *,
    tested: Forecast | None = None,
    planned: pd.DataFrame | None = None,
    lang: Language | None = None,
    narrow: bool = False,
) -> str:
    """Draw one series.

    Args:
        history: The series' rows of the panel: ``ds, y`` and perhaps ``promo, holiday``, ascending.
        ahead: The forecast; its first row is this series.
        freq: "D", "W" or "M".
        tested: The forecast of the test window, made before it; its first row is this series.
        planned: What is planned for it: ``ds`` and perhaps ``promo, holiday``; marked below the forecast.
        lang: The language of its dates; default English.
        narrow: For a phone: less history, larger text.

    Returns:
        An ``<svg>`` element that scales with its container and has no fixed size.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    longest = (_NARROW_STEPS if narrow else HISTORY_STEPS)[freq]
    shown = history.tail(max(longest, (2 if narrow else 3) * ahead.horizon))
    labels: dict[str, str] = {}
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": ahead.ids[0] + ("/narrow" if narrow else ""),
        "font.family": "DejaVu Sans",  # Ships with matplotlib, for measuring; the page's style sheet replaces it.
        "font.size": 10.5 if narrow else 9,
        "text.color": _INK,
        "axes.edgecolor": _AXIS,
        "axes.labelcolor": _FAINT,
        "xtick.color": _LABEL,
        "ytick.color": _LABEL,
        "path.simplify": True,
    }
    with rc_context(settings):
        figure = Figure(figsize=(4.5, 2.7) if narrow else (9.6, 2.75), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, shown, ahead, tested, planned)
        _ticks(axes, shown["ds"].iloc[0], ahead.ds[0, -1], 4 if narrow else 8, lang or language("en"), labels)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), labels, "narrow" if narrow else "wide")


def _draw(
    axes: Axes, shown: pd.DataFrame, ahead: Forecast, tested: Forecast | None, planned: pd.DataFrame | None
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    dates = shown["ds"].to_numpy()
    values = shown["y"].to_numpy(dtype=np.float64)
    if tested is not None:
        _fan(axes, tested, _BACK, dashed=True)
    _fan(axes, ahead, _AHEAD, dashed=False)
    axes.plot(dates, values, color=_INK, linewidth=1.15, solid_joinstyle="round", zorder=4)
    alone = ~np.isnan(values) & np.isnan(np.r_[np.nan, values[:-1]]) & np.isnan(np.r_[values[1:], np.nan])
    axes.plot(dates[alone], values[alone], "o", color=_INK, markersize=2.2, zorder=4)
    border = ahead.ds[0, 0]
    axes.axvline(border, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)

    top = _ceiling(values, ahead, tested)
    axes.set_ylim(-0.07 * top, top)
    for column, colour, marker, size in (("promo", _PROMO, "^", 10), ("holiday", _HOLIDAY, "D", 8)):
        for table in (shown, planned):
            if table is None or column not in table:
                continue
            days = table["ds"].to_numpy()
            marked = np.nan_to_num(table[column].to_numpy(dtype=np.float64)) > 0
            marked &= days <= ahead.ds[0, -1]
            floor = np.full(marked.sum(), -0.04 * top)
            axes.scatter(days[marked], floor, s=size, c=colour, marker=marker, linewidths=0, zorder=5)
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "" if value < 0 else f"{value:,.10g}"))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _ticks(axes: Axes, first: object, last: object, most: int, lang: Language, labels: dict[str, str]) -> None:
    """Dates below the axis. They are drawn as numbers, as no font at hand has all scripts, and named afterwards."""
    from matplotlib import dates as mdates
    from matplotlib.ticker import FixedFormatter, FixedLocator

    start, end = pd.Timestamp(first), pd.Timestamp(last)  # type: ignore[arg-type]
    chosen = _steps_of_axis(start, end, most)
    places = []
    for number, (stamp, grain) in enumerate(chosen):
        labels[f"{number:04d}"] = lang.tick(stamp, grain)  # type: ignore[arg-type]
        places.append(float(mdates.date2num(stamp)))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(list(labels)))


def _steps_of_axis(start: pd.Timestamp, end: pd.Timestamp, most: int) -> list[tuple[pd.Timestamp, str]]:
    """Weeks, months or years, the finest of which there are no more than ``most``."""
    for alias, every in (("W-MON", 1), ("W-MON", 2), ("MS", 1), ("MS", 2), ("MS", 3), ("MS", 6), ("YS", 1)):
        stamps = pd.date_range(start, end, freq=alias)
        if alias == "MS" and every > 1:
            stamps = stamps[(stamps.month - 1) % every == 0]
        elif every > 1:
            stamps = stamps[::every]
        if 1 <= len(stamps) <= most:
            break
    else:
        stamps = stamps[:: max(1, len(stamps) // most + 1)]
    if alias == "W-MON":
        return [(stamp, "day") for stamp in stamps]
    return [(stamp, "year" if stamp.month == 1 else "month") for stamp in stamps]


def _fan(axes: Axes, forecast: Forecast, colour: str, *, dashed: bool) -> None:
    dates = forecast.ds[0]
    for band, shade in zip(BANDS, _SHADES, strict=True):
        low, high = forecast.interval(band)
        axes.fill_between(dates, low[0], high[0], color=colour, alpha=shade, linewidth=0, zorder=2)
    style = (0, (3, 1.6)) if dashed else "solid"
    axes.plot(dates, forecast.median[0], color=colour, linewidth=1.5, linestyle=style, zorder=3)


def _ceiling(values: NDArray[np.float64], ahead: Forecast, tested: Forecast | None) -> float:
    """The top of the axis: all sales and all 80 % bands fit; a wild 90 % band may run out of the picture."""
    tops = [float(ahead.interval(0.8)[1][0].max()), float(np.nanmax(values, initial=0.0))]
    if tested is not None:
        tops.append(float(tested.interval(0.8)[1][0].max()))
    return max(*tops, 1e-9) * 1.08


def _inline(svg: str, labels: dict[str, str], kind: str) -> str:
    """Only the ``<svg>`` element, without its size and metadata: the page gives it a width, colours and a font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r">(\d{4})</text>", lambda found: f">{labels.get(found[1], found[1])}</text>", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    opening, rest = body.split(">", 1)
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    rest = re.sub(r"\s+(?=<)", "", rest)
    return f'{opening} class="{kind}" aria-hidden="true" focusable="false">{rest}'.strip()
