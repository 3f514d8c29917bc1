"""From a sales panel to the tensors of windows.

A window is L steps of context before an origin and H steps after it. Every tensor of a window depends on that series'
own rows, on the calendar and on the plan: taking any other series out of the panel leaves it bit for bit the same
(``tests/privacy`` holds this). That is what makes one series the unit of privacy.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from trend_common.backbones.base import Batch
from trend_common.covariates import CHANNELS, FREQUENCIES, INDEX, N_CALENDAR, SEASON, calendar_features, holiday_lead
from trend_common.errors import DataError
from trend_common.panel import SalesPanel
from trend_common.panel.model import OWN
from trend_common.text_encoder import chosen_encoder

__all__ = ["LEVEL_STEPS", "MAX_HORIZON", "MIN_HISTORY", "PanelWindows", "description_bytes", "text_features"]

MAX_HORIZON: Final = 56
"""Most steps ahead of a window."""

_LOOK_AHEAD: Final = 8
"""The last step of a horizon still looks a week ahead for holidays."""

MIN_HISTORY: Final = {"D": 14, "W": 4, "M": 3}
"""Steps since a series' first one before which no training window starts."""

LEVEL_STEPS: Final = {"D": 28, "W": 8, "M": 6}
"""Steps whose mean is a series' level."""

_STATED_STEPS: Final = {"D": 7, "W": 4, "M": 3}
"""Steps that a stated level is shown for. A hint of a level is taken for a sibling's, which pretraining taught to
doubt; some steps of just that level serve better where levels are high and better known."""

_N_TEXT: Final = 256
_N_BYTES: Final = 64
"""Bytes of a description that a model's own tokenizer gets."""

_WORD: Final = re.compile(r"\w+")
_TRIGRAM: Final = 0.4
"""What a trigram weighs beside a word: enough that forms and compounds of a word lie near it."""
_N_BUCKETS: Final = 512
_CLOSED_LOOKBACK: Final = 4
_OWN_WIDEST: Final = 2.5
"""Spreads from its mean at which an own column is cut off; half of that is the channel's largest value."""

_Located = tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]
"""A table, the row and step of each of its lines that lie on the grid, and which lines these are."""


def text_features(texts: Sequence[str], size: int = _N_TEXT) -> NDArray[np.float32]:
    """Hashed words and character trigrams of each text, scaled to norm 1 (feature hashing: Weinberger et al. 2009).

    The hash is public and fixed, so no vocabulary is learned from anybody's products.

    Returns:
        [len(texts), size]; a row of zeros for an empty text.
    """
    out = np.zeros((len(texts), size), dtype=np.float32)
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        padded = f"  {' '.join(words)} " if words else ""
        grams = [(padded[start : start + 3], _TRIGRAM) for start in range(len(padded) - 2)]
        for part, weight in [*grams, *((f"word:{word}", 1.0) for word in words)]:
            code = zlib.crc32(part.encode())
            out[row, code % size] += weight if (code >> 20) & 1 else -weight
    norms = np.linalg.norm(out, axis=1, keepdims=True)
    out /= np.where(norms > 0, norms, 1)
    return out


def description_bytes(texts: Sequence[str], size: int = _N_BYTES) -> NDArray[np.uint8]:
    """[len(texts), size] the first bytes of each text in UTF-8, 0 behind its end."""
    padded = b"".join(text.encode("utf-8", errors="ignore")[:size].ljust(size, b"\0") for text in texts)
    return np.frombuffer(padded, dtype=np.uint8).reshape(len(texts), size)


def _buckets(texts: Sequence[str], salt: str) -> NDArray[np.int64]:
    return np.array(
        [zlib.crc32(f"{salt}:{text}".encode()) % (_N_BUCKETS - 1) + 1 if text else 0 for text in texts],
        dtype=np.int64,
    )


@dataclass(frozen=True)
class _Grid:
    """Dense arrays over the panel's calendar, [S, T] with T = panel steps + margin; ``has_*`` are [S, 1].

    ``*_known`` say what is known of a step beforehand: all up to the series' own last step, and later what its rows
    announce. Where the panel ends plays no part, since that depends on the other series.
    """

    values: NDArray[np.float32]
    known: NDArray[np.float32]
    closed: NDArray[np.float32]
    promo: NDArray[np.float32]
    price: NDArray[np.float32]
    holiday: NDArray[np.float32]
    lead: NDArray[np.float32]
    unavailable: NDArray[np.float32]
    has_promo: NDArray[np.float32]
    has_price: NDArray[np.float32]
    has_holiday: NDArray[np.float32]
    promo_known: NDArray[np.float32]
    price_known: NDArray[np.float32]
    holiday_known: NDArray[np.float32]


@dataclass(frozen=True)
class _Own:
    """One column of the retailer's own, [S, T].

    Attributes:
        name: The channel.
        values: NaN where unknown.
        has: [S, 1] whether the series has any value.
        is_flag: [S, 1] whether its values lie between 0 and 1: marks, and shares of a week's days.
        ahead: Whether each value may be known before its step.
    """

    name: str
    values: NDArray[np.float64]
    has: NDArray[np.bool_]
    is_flag: NDArray[np.bool_]
    ahead: NDArray[np.bool_]

    def channels(
        self, row: NDArray[np.int64], past: NDArray[np.int64], ahead: NDArray[np.int64], seen: NDArray[np.bool_]
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Channel → its values in the context [N, L] and in the horizon [N, H].

        Marks stay as they are. Other numbers are counted in spreads from their mean, both of this series' own past in
        this window, so that a temperature and a count of leaflets look alike and no other series plays a part.

        Args:
            row: [N] series.
            past, ahead: [N, L] and [N, H] steps.
            seen: [N, L] whether the step is within the series.
        """
        at = row[:, None]
        before, after, usable = self.values[at, past], self.values[at, ahead], self.ahead[at, ahead]
        known = np.isfinite(before) & seen
        count = known.sum(axis=1, keepdims=True)
        mean = np.where(known, before, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        spread = np.sqrt(np.where(known, (before - mean) ** 2, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1))
        mean, spread = (np.where(self.is_flag[row], fixed, own) for fixed, own in ((0.0, mean), (1.0, spread)))
        # A curve of which this window has seen nothing, or nothing but one value, cannot be put in proportion.
        fits = self.has[row] & (self.is_flag[row] | ((count > 0) & (spread > 0)))
        divisor = np.where(spread > 0, spread, 1.0)

        def scaled(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
            z = (np.where(where, values, mean) - mean) / divisor
            z = np.where(self.is_flag[row], z, z.clip(-_OWN_WIDEST, _OWN_WIDEST) / 2)
            return np.where(where & fits, z, 0.0)

        return {
            self.name: (scaled(before, known), scaled(after, usable & np.isfinite(after))),
            f"{self.name}_known": (
                np.broadcast_to(fits, before.shape).astype(np.float64),
                (usable & fits).astype(np.float64),
            ),
        }


class PanelWindows:
    """The windows of one panel.

    Steps are counted on the panel's calendar: step 0 is ``panel.start``, ``n_steps`` is the first step after its end.

    Args:
        panel: The sales.
        context: L, steps of history that the model sees.
        country: ISO code whose public holidays are used where the panel has no holiday column.
        until: Last day of the calendar where that is later than the panel's own (``panel.calendar_end``).
        ahead: Most steps that will be asked for beyond the calendar's end.
    """

    def __init__(
        self,
        panel: SalesPanel,
        *,
        context: int,
        country: str | None = None,
        until: pd.Timestamp | None = None,
        ahead: int = MAX_HORIZON,
    ) -> None:
        self.panel = panel
        self.ahead = max(ahead, MAX_HORIZON)
        # Steps of calendar beyond the panel's end, and of plans beyond a series' own.
        self._margin = self.ahead + _LOOK_AHEAD
        self.context = context
        self.ids = panel.ids
        end = panel.calendar_end if until is None else max(panel.calendar_end, until)
        n = len(pd.date_range(panel.start, end, freq=panel.offset))
        self.n_steps = n
        self.dates = pd.date_range(panel.start, periods=n + self._margin, freq=panel.offset)
        self._country = country
        self._grid = self._build_grid()
        # The calendar goes on before the panel's start: where that lies depends on the oldest series.
        earlier = pd.date_range(end=self.dates[0], periods=context + 1, freq=panel.offset)[:-1]
        self._calendar = calendar_features(earlier.union(self.dates), panel.freq)

    @cached_property
    def _text(self) -> NDArray[np.float32]:
        texts = self.panel.static["description"].tolist()
        encoder = chosen_encoder()
        return text_features(texts) if encoder is None else encoder(texts, _N_TEXT)

    @cached_property
    def _description(self) -> NDArray[np.uint8]:
        return description_bytes(self.panel.static["description"].tolist())

    @cached_property
    def _static_ids(self) -> NDArray[np.int64]:
        static = self.panel.static
        columns = [_buckets(static[name].tolist(), name) for name in ("store", "product", "category")]
        return np.stack(columns, axis=1)

    def _build_grid(self) -> _Grid:
        panel, shape = self.panel, (len(self.ids), len(self.dates))
        position = pd.Index(self.ids)

        def located(frame: pd.DataFrame) -> _Located:
            rows = position.get_indexer(pd.Index(frame["unique_id"]))
            steps = self.dates.get_indexer(pd.DatetimeIndex(frame["ds"]))
            inside = (rows >= 0) & (steps >= 0)
            return frame, rows[inside], steps[inside], inside

        def place(column: str, *tables: _Located, fill: float = np.nan) -> NDArray[np.float64]:
            """[S, T], later tables over earlier ones."""
            out = np.full(shape, fill)
            if any(column in frame.columns for frame, *_ in tables):
                for frame, rows, steps, inside in tables:
                    known = column in frame.columns
                    out[rows, steps] = frame[column].to_numpy(dtype=np.float64)[inside] if known else np.nan
            return out

        past = located(panel.frame)
        both = [past, located(panel.future)] if len(panel.future) else [past]
        self._inside = np.zeros(shape, dtype=bool)
        self._inside[past[1], past[2]] = True
        self.first = self._inside.argmax(axis=1)
        self.last = shape[1] - 1 - self._inside[:, ::-1].argmax(axis=1)
        y, closed = place("y", past), place("closed", past, fill=0.0)
        known = np.isfinite(y)
        # How far the calendar goes on depends on the other series, so each one's plans end at its own distance.
        own_end = np.where(self._inside.any(axis=1), self.last, self.n_steps - 1)
        later = np.arange(shape[1])[None] - own_end[:, None]
        promo, price, holiday = (
            np.where(later <= self._margin, place(name, *both), np.nan) for name in ("promo", "price", "holiday")
        )
        stock = place("stock", past)
        price = np.where(price > 0, price, np.nan)
        # A price is carried on within its series, so that whether it was recorded says nothing of sales that day.
        price_filled = pd.DataFrame(price).ffill(axis=1).to_numpy()
        first_price = pd.DataFrame(price).bfill(axis=1).to_numpy()[:, 0]
        price_filled = np.where(np.isfinite(price_filled), price_filled, first_price[:, None])
        has_price = np.isfinite(first_price)[:, None]
        has_promo = np.isfinite(promo).any(axis=1, keepdims=True)
        if any("holiday" in frame.columns for frame, *_ in both):
            holiday_known = np.isfinite(holiday).any(axis=1, keepdims=True)
        elif self._country:
            holiday = np.broadcast_to(self._public_holidays(), shape).copy()
            holiday_known = np.ones((shape[0], 1), dtype=bool)
        else:
            holiday_known = np.zeros((shape[0], 1), dtype=bool)
        self._own = [
            self._own_column(
                name,
                np.where(later <= self._margin, place(name, *(both if name in panel.own_ahead else [past])), np.nan),
                later,
            )
            for name in OWN
            if name in panel.frame.columns
        ]
        ahead = later > 0
        return _Grid(
            values=np.where(known, np.nan_to_num(y), 0.0).astype(np.float32),
            known=known.astype(np.float32),
            closed=(closed > 0).astype(np.float32),
            promo=np.nan_to_num(promo).clip(0, 1).astype(np.float32),
            price=np.where(has_price, price_filled, 1.0).astype(np.float32),
            holiday=(np.nan_to_num(holiday) > 0).astype(np.float32),
            lead=holiday_lead(holiday, panel.freq),
            unavailable=((stock == 0) & ~known).astype(np.float32),
            has_promo=np.asarray(has_promo, dtype=np.float32),
            has_price=np.asarray(has_price, dtype=np.float32),
            has_holiday=np.asarray(holiday_known, dtype=np.float32),
            # Beyond the series' end only what the file announces is known.
            promo_known=(has_promo & (~ahead | np.isfinite(promo))).astype(np.float32),
            price_known=(has_price & (~ahead | np.isfinite(price))).astype(np.float32),
            holiday_known=(holiday_known & (~ahead | np.isfinite(holiday))).astype(np.float32),
        )

    def _own_column(self, name: str, values: NDArray[np.float64], later: NDArray[np.int64]) -> _Own:
        known = np.isfinite(values)
        outside = known & ((np.nan_to_num(values) < 0) | (np.nan_to_num(values) > 1))
        planned = np.full(values.shape, name in self.panel.own_ahead)
        return _Own(
            name,
            values,
            has=np.asarray(known.any(axis=1, keepdims=True)),
            is_flag=np.asarray(~outside.any(axis=1, keepdims=True)),
            # As with promotions: within the series what could be planned was known, later only what is announced.
            ahead=planned & ((later <= 0) | known),
        )

    def _public_holidays(self) -> NDArray[np.float64]:
        import holidays

        years = range(self.dates[0].year, self.dates[-1].year + 1)
        try:
            calendar = holidays.country_holidays(str(self._country), years=years)
        except (NotImplementedError, KeyError) as error:
            raise DataError(
                f"There are no public holidays for the country {self._country!r}.",
                "Give its two-letter ISO code, such as DE, BR or GB.",
            ) from error
        days = pd.DatetimeIndex(sorted(pd.to_datetime(list(calendar.keys()))))
        out = np.zeros(len(self.dates))
        step = np.searchsorted(self.dates.to_numpy(), days.to_numpy(), side="right") - 1
        if self.panel.freq == "W":  # a weekly step stands for the seven days that end with it
            step = np.searchsorted(self.dates.to_numpy(), days.to_numpy(), side="left")
        out[step[(step >= 0) & (step < len(out)) & (days > self.dates[0] - pd.Timedelta(days=7))]] = 1.0
        return out

    @property
    def price_known_ahead(self) -> bool:
        """Whether a price may be used for steps not yet sold.

        A price that was computed from order lines is known only once they were sold, and large orders are cheaper:
        used ahead it would tell the forecast what it is to forecast.
        """
        return "price" in self.panel.columns and not {"returns", "order"} & set(self.panel.columns)

    def step_of(self, date: pd.Timestamp) -> int:
        """The step of ``date`` on this panel's calendar (negative before its start)."""
        if date < self.dates[0]:
            return -len(pd.date_range(date, self.dates[0], freq=self.panel.offset)) + 1
        return int(np.searchsorted(self.dates.to_numpy(), np.datetime64(date)))

    def actuals(self, origin: int, horizon: int) -> NDArray[np.float64]:
        """[S, H] what was sold from step ``origin``; NaN where it is not known."""
        part = slice(origin, origin + horizon)
        return np.where(self._grid.known[:, part] > 0, self._grid.values[:, part].astype(np.float64), np.nan)

    def history(self, origin: int) -> NDArray[np.float64]:
        """[S, origin] what was sold before step ``origin``; NaN where it is not known."""
        end = max(origin, 0)
        return np.where(self._grid.known[:, :end] > 0, self._grid.values[:, :end].astype(np.float64), np.nan)

    def levels(self, rows: NDArray[np.int64], origins: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N] the mean of the last :data:`LEVEL_STEPS` before each origin, of that series; 0 where none is known.

        Args:
            rows: [N] series.
            origins: [N] steps.
        """
        steps = origins[:, None] - 1 - np.arange(LEVEL_STEPS[self.panel.freq])[None]
        at, known = (rows[:, None], steps.clip(0)), steps >= 0
        count = (self._grid.known[at] * known).sum(1)
        total = (self._grid.values[at] * self._grid.known[at] * known).sum(1)
        return np.asarray(total / np.maximum(count, 1), dtype=np.float32)

    def trainable(self, train_end: int) -> NDArray[np.int64]:
        """Rows that have a training window before step ``train_end``: enough history and one known target.

        Decided for each series by its own rows.
        """
        low, high = self._origin_range(train_end, horizon=1)
        after = self._grid.known[:, : max(train_end, 0)].copy()
        steps = np.arange(after.shape[1])[None]
        return np.flatnonzero((high >= low) & ((after * (steps >= low[:, None])).sum(axis=1) > 0))

    def _origin_range(self, train_end: int, horizon: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[S] first and last origin whose target lies before ``train_end``, in part where none lies there whole."""
        low = self.first + MIN_HISTORY[self.panel.freq]
        end = np.minimum(self.last + 1, train_end)
        whole = end - horizon
        return low, np.where(whole >= low, whole, end - 1)

    def draw_origins(
        self, rows: NDArray[np.int64], train_end: int, horizon: int, uniforms: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Random training origins.

        Args:
            rows: [N] series.
            train_end: First step that training must not see.
            horizon: H.
            uniforms: [N] in (0, 1), from the caller's generator.

        Returns:
            [N] origins; uniform over the series' allowed ones.
        """
        low, high = self._origin_range(train_end, horizon)
        span = np.maximum(high[rows] - low[rows] + 1, 1)
        drawn: NDArray[np.int64] = low[rows] + np.minimum((uniforms * span).astype(np.int64), span - 1)
        return drawn

    def batch(
        self,
        rows: ArrayLike,
        origins: ArrayLike,
        horizon: int,
        *,
        targets_end: int | None = None,
        level_hint: NDArray[np.float32] | None = None,
        seen_from: NDArray[np.int64] | None = None,
        stated: NDArray[np.float32] | None = None,
    ) -> Batch:
        """The windows of ``rows`` at ``origins``.

        Args:
            rows: [N] series.
            origins: [N] first step of each horizon.
            horizon: H.
            targets_end: Give targets, known only before this step; None for no targets.
            level_hint: [N] expected levels for series without history.
            seen_from: [N] steps before which nothing of the series is seen, as if it had been launched there.
            stated: [N] levels that a person states for what is not seen; 0 for none. They stand for the last steps
                before ``seen_from`` (a week of days, four weeks, three months), one after another.

        Returns:
            A batch with L = ``context`` and H = ``horizon``.
        """
        row, origin = np.asarray(rows, dtype=np.int64), np.asarray(origins, dtype=np.int64)
        grid, n = self._grid, len(row)
        past = origin[:, None] - self.context + np.arange(self.context)[None]
        # From the series' own first step on: what lies before it must not depend on whether an older series is here.
        first = self.first[row] if seen_from is None else np.maximum(self.first[row], seen_from)
        exists = ((past >= first[:, None]) & (past < self.n_steps)).astype(np.float32)
        clipped = past.clip(0, self.n_steps - 1)
        ahead = (origin[:, None] + np.arange(horizon)[None]).clip(0, len(self.dates) - 1)
        at = row[:, None]

        known = grid.known[at, clipped] * exists
        values = grid.values[at, clipped] * known
        if stated is not None:
            until = first[:, None]
            shown = (stated[:, None] > 0) & (past >= until - _STATED_STEPS[self.panel.freq]) & (past < until)
            values, known = np.where(shown, stated[:, None], values), np.where(shown, np.float32(1), known)
        prices = np.log(grid.price[at, np.concatenate([clipped, ahead], axis=1)])
        weight = exists * self._inside[at, clipped]
        centre = (prices[:, : self.context] * weight).sum(1) / np.maximum(weight.sum(1), 1)
        relative = (prices - centre[:, None]).clip(-2, 2)

        past_cov = np.zeros((n, self.context, len(CHANNELS)), dtype=np.float32)
        future_cov = np.zeros((n, horizon, len(CHANNELS)), dtype=np.float32)
        past_cov[..., :N_CALENDAR] = self._calendar[(past + self.context).clip(0, len(self._calendar) - 1)]
        future_cov[..., :N_CALENDAR] = self._calendar[ahead + self.context]
        closed_past = grid.closed[at, clipped] * exists
        closed_ahead, closed_known = self._closed_ahead(closed_past, horizon)
        price_ahead = grid.price_known[at, ahead] * (1.0 if self.price_known_ahead else 0.0)
        pairs = {
            "holiday": (grid.holiday[at, clipped], grid.holiday[at, ahead]),
            "holiday_lead": (grid.lead[at, clipped], grid.lead[at, ahead]),
            "promo": (grid.promo[at, clipped], grid.promo[at, ahead] * grid.promo_known[at, ahead]),
            "log_relative_price": (
                relative[:, : self.context] * grid.has_price[row],
                relative[:, self.context :] * price_ahead,
            ),
            "closed": (closed_past, closed_ahead),
            "unavailable": (grid.unavailable[at, clipped], np.zeros_like(ahead, dtype=np.float32)),
            "promo_known": (grid.has_promo[row].repeat(self.context, 1), grid.promo_known[at, ahead]),
            "price_known": (grid.has_price[row].repeat(self.context, 1), price_ahead),
            "holiday_known": (grid.has_holiday[row].repeat(self.context, 1), grid.holiday_known[at, ahead]),
            "closed_known": (closed_known.repeat(self.context, 1), closed_known.repeat(horizon, 1)),
        }
        for own in self._own:
            pairs.update(own.channels(row, clipped, ahead, exists > 0))
        for name, (before, after) in pairs.items():
            # Whether something is known holds for the whole series; what it was, only where the series is.
            past_cov[..., INDEX[name]] = before if name.endswith("_known") else before * exists
            future_cov[..., INDEX[name]] = after

        future_values = future_mask = None
        if targets_end is not None:
            seen = (ahead < targets_end) & (ahead < self.n_steps)
            future_mask = torch.from_numpy((grid.known[at, ahead] * seen).astype(np.float32))
            future_values = torch.from_numpy((grid.values[at, ahead] * seen).astype(np.float32))
        hint = np.zeros(n, dtype=np.float32) if level_hint is None else level_hint.astype(np.float32)
        return Batch(
            past_values=torch.from_numpy(values),
            past_mask=torch.from_numpy(known),
            past_cov=torch.from_numpy(past_cov),
            future_cov=torch.from_numpy(future_cov),
            freq=torch.full((n,), FREQUENCIES.index(self.panel.freq), dtype=torch.int64),
            text=torch.from_numpy(self._text[row]),
            static_ids=torch.from_numpy(self._static_ids[row]),
            level_hint=torch.from_numpy(hint),
            future_values=future_values,
            future_mask=future_mask,
            description=torch.from_numpy(self._description[row]),
        )

    def _closed_ahead(
        self, closed_past: NDArray[np.float32], horizon: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A weekday that was closed in each of the last weeks of the window is closed ahead, too (daily data).

        Returns:
            [N, H] closed ahead, and [N, 1] whether this window has any closed step.
        """
        ever = (closed_past.sum(axis=1, keepdims=True) > 0).astype(np.float32)
        ahead = np.zeros((len(closed_past), horizon), dtype=np.float32)
        season = SEASON["D"]
        if self.panel.freq == "D" and self.context >= season * _CLOSED_LOOKBACK:
            recent = closed_past[:, -season * _CLOSED_LOOKBACK :].reshape(-1, _CLOSED_LOOKBACK, season)
            weekday = recent.min(axis=1)
            ahead = weekday[:, np.arange(horizon) % season]
        return ahead, ever
