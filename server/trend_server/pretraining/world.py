"""A synthetic world of retail, vectorised in torch: the only data that the shipped backbones have ever seen.

A batch holds B series of one frequency over T steps. The logarithm of the demand rate is a sum of components (weekly
profile, yearly profile and events, trend, level shifts, coloured noise, bursts, holidays, price and promotion with a
dip before and after, siblings' promotions, a launch and an end); counts, stock-outs, closed days and missing values
are drawn from it. Rows come in groups of eight that share a part of their level, year and holidays, as the products
of one shelf or one product's stores do. Every row has a temper: one factor on all that moves it, so that a calm past
speaks of a calm future. Descriptions are written from a lexicon (:mod:`~trend_server.pretraining.lexicon`) whose
words say when and how much a product sells. Some rows are prices instead of sales.

Coloured noise and quasi-periodic signals are drawn by spectral synthesis: white noise shaped by the square root of a
spectral density, which is a Gaussian process with a stationary kernel (Rasmussen & Williams 2006, section 4.2.1)
without its cubic cost; adding such components is in the spirit of KernelSynth (Ansari et al. 2024, arXiv:2403.07815).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from trend_common.backbones.base import Batch
from trend_common.covariates import CHANNELS, FREQUENCIES, INDEX
from trend_server.pretraining.lexicon import Catalogue, catalogue

__all__ = ["LENGTHS", "World"]

LENGTHS = {"D": (504, 56), "W": (252, 56), "M": (112, 28)}
"""Longest context and horizon that is drawn, by frequency."""

_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375}
_HOLIDAYS = (1, 44, 80, 95, 98, 120, 121, 145, 160, 184, 225, 243, 276, 304, 327, 330, 345, 359, 360)
_PER_COUNTRY = 8
_GROUP = 8
_YEAR = 365.25


@cache
def _words(device: str) -> Catalogue:
    return catalogue().to(device)


@dataclass(frozen=True)
class _Calendar:
    """[B, T] day counts since an origin, day of the year, and year number."""

    day: Tensor
    day_of_year: Tensor
    year: Tensor


@dataclass(frozen=True)
class _Products:
    """[B, 1] what the description says, zero or -1 where it says nothing, and [B, F] its text features and bytes."""

    text: Tensor
    description: Tensor
    peak: Tensor
    width: Tensor
    strength: Tensor
    level: Tensor
    calm: Tensor


class World:
    """Draws batches of synthetic retail series.

    Args:
        seed: Of the generator; the same seed gives the same series on the same device.
        device: Where to draw.
        shape_seed: Of the batch's frequency, horizon and context; default: ``seed``.
    """

    def __init__(self, seed: int, device: str = "cpu", *, shape_seed: int | None = None) -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.shapes = random.Random(seed if shape_seed is None else shape_seed)

    # -- draws ---------------------------------------------------------------------------------------------------

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def _uniform(self, low: float, high: float, b: int) -> Tensor:
        return low + (high - low) * self._rand(b, 1)

    def _log_uniform(self, low: float, high: float, b: int) -> Tensor:
        return torch.exp(self._uniform(math.log(low), math.log(high), b))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def _on(self, probability: float, b: int) -> Tensor:
        return (self._rand(b, 1) < probability).float()

    def _integer(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def _steps(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)[None]

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, device=self.device)

    def _kin(self, b: int, width: int, share: Tensor) -> Tensor:
        """[b, width] normal; ``share`` [b, 1] of the variance is common to the rows of a group."""
        group = torch.arange(b, device=self.device) // _GROUP
        return torch.sqrt(1 - share) * self._normal(b, width) + torch.sqrt(share) * self._normal(b, width)[group]

    def _pick_frequency(self) -> str:
        draw = self.shapes.random()
        return "D" if draw < 0.5 else ("W" if draw < 0.9 else "M")

    # -- one batch -----------------------------------------------------------------------------------------------

    def batch(self, b: int, freq: str | None = None) -> Batch:
        """Draw ``b`` series of one frequency as windows with targets.

        The context is cut to a random multiple of 14 steps, and a part of the rows has little or no history.
        """
        freq = freq or self._pick_frequency()
        longest, horizon = LENGTHS[freq]
        if freq != "D":
            horizon = 14 * self.shapes.randint(1, horizon // 14)
        steps = longest + horizon
        calendar = self._draw_calendar(b, steps, freq)
        products = self._products(b)
        temper = torch.where(self._on(0.7, b) > 0, self._log_uniform(0.06, 1.6, b), self._zeros(b, 1) + 1)
        temper = torch.where(products.calm > 0, temper * 0.4, temper)
        signal, noise_only = self._signal(b, steps, freq, calendar, temper, products)
        holiday, lead, effect, shut = self._holidays(b, steps, freq, calendar)
        promo, log_price, response = self._price_and_promotion(b, steps, freq)
        own, own_response = self._own_columns(b, steps)
        launch = torch.where(
            self._on(0.25, b) > 0, self._integer(0, steps - 40, b, 1), self._integer(-1, 0, b, 1) * 9999
        )
        age = self._steps(steps) - launch
        ramp = self._on(0.7, b) * self._uniform(0.3, 3, b) * torch.exp(-age.clamp(min=0) / self._uniform(3, 60, b))
        ramp = torch.where(launch >= 0, ramp * torch.sign(self._uniform(-0.6, 0.4, b)), self._zeros(1, 1))
        end = self._on(0.04, b) * (self._steps(steps) - self._integer(steps // 2, steps, b, 1)).clamp(min=0)
        moved = (effect * temper.clamp(min=0.5) + response + own_response) * (1 - noise_only)
        shape = signal + moved + ramp - end * self._uniform(0.005, 0.08, b)
        shape = (shape - shape.mean(1, keepdim=True)).clamp(-6, 4)
        values, closed, weekday = self._observe(b, steps, freq, shape, calendar, shut, products)

        out = self._spans(b, steps, 0.02) * self._on(0.2, b)
        out_known, out_masked = self._on(0.4, b), self._on(0.5, b)
        values = values * (1 - out)
        known = (age >= 0).float() * (1 - self._on(0.12, b) * (self._rand(b, steps) < self._uniform(0, 0.2, b)))
        known = known * (1 - out * out_masked)
        priced = self._on(0.05, b)
        values = torch.where(priced > 0, self._tag_prices(b, steps, log_price), values)
        closed, weekday = closed * (1 - priced), weekday * (1 - priced)

        covariates = self._zeros(b, steps, len(CHANNELS))
        covariates[..., :12] = self._calendar_features(calendar, freq)
        knows = {
            "holiday": self._on(0.75, b),
            "promo": self._on(0.7, b),
            "price": self._on(0.6, b) * (1 - priced),
            "closed": self._on(0.6, b),
            "own_1": self._on(0.25, b),
            "own_2": self._on(0.12, b),
        }
        tracks = {
            "holiday": holiday,
            "promo": promo,
            "log_relative_price": log_price,
            "closed": closed,
            "own_1": own[0],
            "own_2": own[1],
        }
        for name, track in tracks.items():
            covariates[..., INDEX[name]] = track * knows["price" if name == "log_relative_price" else name]
        covariates[..., INDEX["holiday_lead"]] = lead * knows["holiday"]
        covariates[..., INDEX["unavailable"]] = out * out_known
        for name, flag in knows.items():
            covariates[..., INDEX[f"{name}_known"]] = flag
        covariates[:, longest:, INDEX["unavailable"]] = 0
        # What was recorded of the past is not always known ahead; a holiday closes a shop without being announced.
        for name, channel, often in (
            ("promo", "promo", 0.15),
            ("price", "log_relative_price", 0.15),
            ("own_1", "own_1", 0.35),
            ("own_2", "own_2", 0.35),
        ):
            kept = 1 - self._on(often, b)
            covariates[:, longest:, INDEX[channel]] *= kept
            covariates[:, longest:, INDEX[f"{name}_known"]] *= kept
        announced = torch.where(self._on(0.5, b) > 0, closed, weekday)
        covariates[:, longest:, INDEX["closed"]] = announced[:, longest:] * knows["closed"]
        described = self._on(0.6, b) * (1 - priced)
        cut = self._cut(values, known, covariates, freq, longest, products.text * described)
        return replace(cut, description=products.description * described.to(torch.uint8))

    def _products(self, b: int) -> _Products:
        words = _words(self.device)
        index = self._integer(0, len(words), b)
        column = {
            name: getattr(words, name)[index][:, None] for name in ("peak", "width", "strength", "level", "staple")
        }
        return _Products(
            text=words.text[index],
            description=words.description[index],
            peak=column["peak"],
            width=column["width"],
            strength=column["strength"] * (column["peak"] >= 0),
            level=column["level"],
            calm=column["staple"],
        )

    # -- the calendar --------------------------------------------------------------------------------------------

    def _draw_calendar(self, b: int, steps: int, freq: str) -> _Calendar:
        start = self._integer(0, 3650, b, 1).float()
        day = torch.floor(start + _DAYS[freq] * self._steps(steps))
        return _Calendar(day, day % _YEAR, torch.floor(day / _YEAR))

    def _calendar_features(self, calendar: _Calendar, freq: str) -> Tensor:
        week, year = 2 * math.pi * (calendar.day % 7) / 7, 2 * math.pi * calendar.day_of_year / _YEAR
        month = 2 * math.pi * (calendar.day_of_year % 30.4375) / 30.4375
        daily = 1.0 if freq == "D" else 0.0
        columns = [wave(k * week) * daily for k in (1, 2, 3) for wave in (torch.sin, torch.cos)]
        columns += [wave(k * year) for k in (1, 2) for wave in (torch.sin, torch.cos)]
        columns += [wave(month) * daily for wave in (torch.sin, torch.cos)]
        return torch.stack(columns, -1)

    def _holidays(self, b: int, steps: int, freq: str, calendar: _Calendar) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Flags, lead, effect on the log rate, and whether shops are shut, each [b, steps]."""
        span = _DAYS[freq]
        flag, lead, effect = self._zeros(b, steps), self._zeros(b, steps), self._zeros(b, steps)
        share = self._on(0.6, b) * 0.6
        common, has_effect = self._normal(b, 1) * 0.4, self._on(0.75, b)
        anticipation = self._uniform(-0.1, 0.8, b)
        country = torch.randperm(len(_HOLIDAYS), generator=self.generator, device=self.device)[:_PER_COUNTRY]
        for base in (_HOLIDAYS[int(position)] for position in country):
            used = self._on(0.85, b)
            moving = self._on(0.25, b) * torch.sin(calendar.year * 2.4 + base) * 12
            ahead = (base + moving - calendar.day_of_year) % _YEAR
            here = (ahead < span).float() * used
            near = torch.exp(-ahead / 3.0) * (ahead < 8) * used
            flag, lead = torch.maximum(flag, here), torch.maximum(lead, torch.where(here > 0, here, near))
            size = common + self._kin(b, 1, share) * 0.35
            effect = effect + has_effect * (size * here + anticipation * near * (ahead >= span))
        shut = flag * self._on(0.2, b) if freq == "D" else self._zeros(b, steps)
        return flag, lead, effect, shut

    # -- the rate ------------------------------------------------------------------------------------------------

    def _coloured(self, b: int, steps: int) -> Tensor:
        """[b, steps] of unit variance: each row has a spectrum of its own (power law, AR(1), smooth or periodic)."""
        n = 2 * steps  # twice as long, so that the ends of the cut do not meet
        frequency = torch.fft.rfftfreq(n, device=self.device)[None].clamp(min=0.5 / n)
        power = frequency ** (-self._uniform(0.3, 2.5, b))
        rho = self._uniform(0.2, 0.98, b)
        ar = 1 / (1 - 2 * rho * torch.cos(2 * math.pi * frequency) + rho**2)
        smooth = torch.exp(-0.5 * (frequency * 2 * math.pi * 10 ** self._uniform(0.5, 2.2, b)) ** 2)
        period = 10 ** self._uniform(0.7, 2.2, b)
        lines = sum(torch.exp(-0.5 * ((frequency - k / period) / (0.4 / steps)) ** 2) / k**1.5 for k in (1, 2, 3))
        choice = self._integer(0, 5, b, 1)
        spectrum = torch.where(
            choice == 0, power, torch.where(choice == 1, ar, torch.where(choice == 2, smooth, lines))
        )
        spectrum = torch.where(
            choice == 4, ar / ar.mean(1, keepdim=True) * 0.3 + smooth / smooth.mean(1, True), spectrum
        )
        shaped = torch.fft.irfft(torch.fft.rfft(self._normal(b, n)) * torch.sqrt(spectrum), n=n)[:, :steps]
        scaled: Tensor = (shaped - shaped.mean(1, True)) / shaped.std(1, keepdim=True).clamp(min=1e-6)
        return scaled

    def _signal(
        self, b: int, steps: int, freq: str, calendar: _Calendar, temper: Tensor, products: _Products
    ) -> tuple[Tensor, Tensor]:
        """[b, steps] the log rate without price, promotion and holidays; and [b, 1] which rows are pure GP."""
        t = self._steps(steps) / steps
        signal = self._zeros(b, steps)
        if freq == "D":
            profile = self._kin(b, 7, self._on(0.6, b) * 0.7) * self._uniform(0.02, 0.5, b)
            weekend = (self._steps(7) - self._integer(0, 7, b, 1)) % 7 < 2
            profile = (profile + self._uniform(-0.3, 0.8, b) * weekend) * self._on(0.85, b)
            # Some weekly profiles drift: the end of the history tells more than its start.
            drift = 1 + self._on(0.2, b) * (t - 0.5) * self._uniform(-1, 1, b)
            signal = signal + torch.gather(profile, 1, (calendar.day % 7).long()) * drift
            month = 2 * math.pi * (calendar.day_of_year % 30.4375) / 30.4375
            signal = signal + self._on(0.2, b) * self._uniform(0, 0.3, b) * torch.cos(
                month - self._uniform(0, 6.3, b)
            )
        yearly = self._yearly_profile(b, freq, products) * temper
        yearly = yearly + self._bump(products.peak, products.width.clamp(min=_DAYS[freq] * 0.6)) * products.strength
        signal = signal + torch.gather(yearly, 1, calendar.day_of_year.long().clamp(max=365))
        # Each year is a little stronger or weaker than the last.
        growth = self._kin(b, 1, self._on(0.5, b) * 0.5) * self._on(0.6, b) * 0.5
        turn = self._uniform(0.2, 0.9, b)
        moves = growth * t + self._on(0.3, b) * self._normal(b, 1) * (t - turn).clamp(min=0)
        for _ in range(2):
            moves = moves + self._on(0.15, b) * self._normal(b, 1) * 0.6 * (t > self._rand(b, 1))
        coloured = self._coloured(b, steps)
        noise_only = self._on(0.1, b)
        quiet = self._on(0.7, b) * self._log_uniform(0.01, 0.5, b)
        strength = torch.where(noise_only > 0, self._uniform(0.2, 0.9, b), quiet)
        signal = (signal + moves * temper) * (1 - noise_only) + coloured * strength * temper.clamp(min=0.2)
        return signal + self._bursts(b, steps), noise_only

    def _bursts(self, b: int, steps: int) -> Tensor:
        """[b, steps] sudden peaks that die away, in a tenth of the rows: a fad, a heat wave, a large order."""
        begun = (self._rand(b, steps) < self._uniform(0.002, 0.02, b)) * self._rand(b, steps)
        decay = self._uniform(0.1, 0.8, b)
        kernel = torch.cat([decay**lag for lag in range(8)], 1)
        padded = torch.nn.functional.pad(begun, (7, 0))
        total = sum(padded[:, 7 - lag : 7 - lag + steps] * kernel[:, lag : lag + 1] for lag in range(8))
        burst: Tensor = total * self._uniform(0.5, 3.0, b) * self._on(0.1, b)
        return burst

    def _bump(self, peak: Tensor, width: Tensor) -> Tensor:
        """[b, 366] a bell of height 1 around a day of the year; zeros where ``peak`` is negative."""
        distance = (torch.arange(366, device=self.device)[None].float() - peak).abs()
        distance = torch.minimum(distance, _YEAR - distance)
        return torch.exp(-0.5 * (distance / width) ** 2) * (peak >= 0)

    def _yearly_profile(self, b: int, freq: str, products: _Products) -> Tensor:
        """[b, 366] what comes back each year: two harmonics, a rough profile, and up to three peaks."""
        year = 2 * math.pi * torch.arange(366, device=self.device)[None].float() / _YEAR
        amplitude = self._on(0.65, b) * self._uniform(0, 0.6, b)
        share = self._on(0.5, b) * 0.7
        phase = torch.atan2(self._kin(b, 1, share), self._kin(b, 1, share))
        profile = amplitude * torch.sin(year + phase)
        profile = profile + amplitude * self._uniform(0, 0.6, b) * torch.sin(2 * year + self._uniform(0, 6.3, b))
        # The rough part is what a value of last year can tell and low harmonics cannot.
        k = torch.arange(3, 27, device=self.device)[:, None]
        weights = k[:, 0][None] ** (-self._uniform(0.2, 1.6, b))
        strength = self._on(0.5, b) * self._log_uniform(0.02, 0.5, b)
        weights = weights / weights.square().sum(1, keepdim=True).sqrt() * strength * 1.4
        phases = 6.3 * self._rand(b, 24)
        rough = (weights * torch.cos(phases)) @ torch.sin(k * year)
        profile = profile + rough + (weights * torch.sin(phases)) @ torch.cos(k * year)
        for _ in range(3):
            width = self._log_uniform(2.2, 40, b).clamp(min=_DAYS[freq] * 0.6)
            height = self._on(0.3, b) * self._uniform(-0.8, 1.8, b)
            profile = profile + height * self._bump(self._uniform(0, _YEAR, b), width)
        return profile

    def _spans(self, b: int, steps: int, rate: float) -> Tensor:
        """[b, steps] of 0 and 1: random spans of 2 to 40 steps."""
        start = (self._rand(b, steps) < rate * self._rand(b, 1)).float()
        return self._lasting(start, self._integer(2, 40, b, 1))

    def _lasting(self, start: Tensor, length: Tensor) -> Tensor:
        """[b, steps] 1 for ``length`` [b, 1] steps after each start."""
        b, steps = start.shape
        total = torch.cumsum(start, 1)
        earlier = self._steps(steps) - length
        before = torch.gather(total, 1, earlier.clamp(min=0).expand(b, steps)) * (earlier >= 0)
        return (total - before > 0).float()

    def _price_and_promotion(self, b: int, steps: int, freq: str) -> tuple[Tensor, Tensor, Tensor]:
        """Promotion flag, log relative price and their effect on the log rate, each [b, steps]."""
        often = {"D": 1.0, "W": 4.0, "M": 6.0}[freq]
        length = {"D": (2, 15), "W": (1, 4), "M": (1, 2)}[freq]
        regular = self._on(0.25, b)  # every so many steps, as chains do
        every = self._integer(length[1], 5 * length[1], b, 1)
        on_beat = ((self._steps(steps) + self._integer(0, 99, b, 1)) % every == 0).float()
        by_chance = (self._rand(b, steps) < self._uniform(0.002, 0.05, b) * often).float()
        start = torch.where(regular > 0, on_beat, by_chance) * self._on(0.65, b)
        promo = self._lasting(start, self._integer(*length, b, 1))
        discount = torch.log1p(-self._uniform(0, 0.45, b) * self._on(0.7, b) * (0.6 + 0.4 * self._rand(b, steps)))
        changes = (self._rand(b, steps) < self._uniform(0, 0.012, b) * often) * self._normal(b, steps) * 0.08
        log_price = torch.cumsum(changes, 1) + discount * promo
        log_price = log_price - log_price.mean(1, keepdim=True)
        elasticity = -self._uniform(0, 3.5, b) * self._on(0.75, b)
        changed = self._zeros(b, steps)
        changed[:, 1:] = promo[:, 1:] - promo[:, :-1]
        ended, begun = (-changed).clamp(min=0), changed.clamp(min=0)
        dip = sum(torch.roll(ended, lag, 1) * 0.6**lag for lag in range(4))
        waiting = torch.roll(begun, -1, 1)  # shoppers who read the flyer wait for the promotion
        lift = self._uniform(0, 1.4, b) * self._on(0.8, b)
        response = lift * promo + elasticity * log_price - self._on(0.4, b) * self._uniform(0, 0.6, b) * dip
        response = response - self._on(0.2, b) * self._uniform(0, 0.4, b) * waiting
        # A promotion next to it on the shelf takes sales away, unseen by this series.
        first = torch.arange(b, device=self.device) // _GROUP * _GROUP
        second = torch.clamp(first + 1, max=b - 1)
        neighbour = torch.where(torch.arange(b, device=self.device) == first, second, first)
        taken = self._on(0.3, b) * self._uniform(0, 0.4, b) * promo[neighbour]
        return promo, log_price, response - taken

    def _own_columns(self, b: int, steps: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Two columns that a retailer may have of his own (a school holiday, a flyer, the weather); their effect."""
        flags = self._spans(b, steps, 0.06)
        wave = self._steps(steps) / 10 ** self._uniform(0.5, 2.2, b) + self._uniform(0, 6.3, b)
        smooth = torch.sin(wave + 2 * torch.sin(0.37 * wave)) + 0.3 * self._normal(b, steps)
        first = torch.where(self._on(0.6, b) > 0, flags, smooth)
        second = self._spans(b, steps, 0.03)
        effect = self._on(0.6, b) * self._normal(b, 1) * 0.4 * first
        return (first, second), effect + self._on(0.6, b) * self._normal(b, 1) * 0.4 * second

    def _tag_prices(self, b: int, steps: int, log_price: Tensor) -> Tensor:
        """[b, steps] a price as it is recorded: steps, promotions, and roundings to a cent or to nines."""
        level = torch.exp(1.5 + 1.3 * self._normal(b, 1))
        drift = self._on(0.4, b) * self._uniform(-0.1, 0.3, b) * self._steps(steps) / steps
        price = level * torch.exp(log_price + drift)
        noise = 1 + self._on(0.3, b) * 0.02 * self._normal(b, steps)  # an average over several sales
        nines = (torch.ceil(price * 10) / 10 - 0.01).clamp(min=0.05)
        return torch.where(self._on(0.5, b) > 0, nines, price * noise).clamp(min=0.01)

    # -- what is seen --------------------------------------------------------------------------------------------

    def _observe(
        self, b: int, steps: int, freq: str, shape: Tensor, calendar: _Calendar, shut: Tensor, products: _Products
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sales [b, steps] from the rate (counts, intermittent or continuous), all closures, and weekly ones."""
        scatter = self._kin(b, 1, self._on(0.8, b) * self._uniform(0.5, 0.95, b))
        level = (
            torch.exp((1.5 + 2.2 * scatter + products.level).clamp(-3.5, 9)) * {"D": 1.0, "W": 4.0, "M": 12.0}[freq]
        )
        rate = level * torch.exp(shape)
        kind = self._integer(0, 20, b, 1)  # 0-4 Poisson, 5-10 negative binomial, 11-13 intermittent, 14-19 continuous
        dispersion = self._log_uniform(0.3, 55, b).expand(b, steps).contiguous()
        gamma = torch._standard_gamma(dispersion, generator=self.generator) / dispersion
        occurs = torch.exp(self._uniform(-3.5, -0.1, b)) * torch.exp(shape.clamp(-3, 3))
        mean = torch.where(kind < 5, rate, rate * gamma)
        mean = torch.where((kind >= 11) & (kind < 14), mean * (self._rand(b, steps) < occurs), mean).clamp(max=1e6)
        counts = torch.poisson(mean, generator=self.generator)
        log_noise = self._log_uniform(0.01, 0.4, b) * self._normal(b, steps)
        log_noise = log_noise * (1 + 2 * (self._rand(b, steps) < 0.02 * self._on(0.4, b)))
        values = torch.where(kind >= 14, rate * torch.exp(log_noise), counts)
        values = torch.where((kind >= 14) & (self._on(0.3, b) > 0), torch.round(values), values)
        packs = torch.round(self._uniform(2, 12, b))
        values = torch.where(self._on(0.05, b) > 0, values * packs, values)
        weekday = self._zeros(b, steps)
        if freq == "D":
            weekday = (calendar.day % 7 == self._integer(0, 7, b, 1)).float() * self._on(0.2, b)
        closed = torch.maximum(shut, weekday)
        return values * (1 - closed), closed, weekday

    def _cut(self, values: Tensor, known: Tensor, covariates: Tensor, freq: str, longest: int, text: Tensor) -> Batch:
        """Windows with a shared random context length; a part of the rows has a shorter or no history."""
        b = len(values)
        patches = longest // 14
        context = longest
        if self.shapes.random() > 0.25:  # as often a few weeks as a few years
            context = 14 * max(1, int(patches ** self.shapes.random() + 0.5))
        start = longest - context
        past, past_known = values[:, start:longest], known[:, start:longest].clone()
        limit = (min(context, 90) * self._rand(b, 1) ** 1.5).long() * (self._rand(b, 1) > 0.2)
        short = self._rand(b, 1) < 0.15
        past_known = past_known * ~(short & (self._steps(context) < context - limit))
        truth = values[:, longest:]
        few = past_known.sum(1) < 20
        hint = self._siblings(truth.mean(1)) * torch.exp(0.3 * self._normal(b)) * (self._rand(b) < 0.6)
        return Batch(
            past_values=past * past_known,
            past_mask=past_known,
            past_cov=covariates[:, start:longest],
            future_cov=covariates[:, longest:],
            freq=torch.full((b,), FREQUENCIES.index(freq), device=self.device),
            text=text,
            static_ids=torch.zeros(b, 3, dtype=torch.long, device=self.device),
            level_hint=torch.where(few, hint, torch.zeros_like(hint)),
            future_values=truth,
            future_mask=known[:, longest:],
        )

    def _siblings(self, level: Tensor) -> Tensor:
        """[b] the mean level of the other rows of each group: what is known of a product before its first sale."""
        b = len(level)
        padded = torch.nn.functional.pad(level, (0, -b % _GROUP)).view(-1, _GROUP)
        count = torch.nn.functional.pad(torch.ones_like(level), (0, -b % _GROUP)).view(-1, _GROUP)
        total = padded.sum(1, keepdim=True) - padded
        others = (count.sum(1, keepdim=True) - count).clamp(min=1)
        return (total / others).reshape(-1)[:b]
