"""A synthetic world of retail, vectorised in torch: the only data that the shipped backbone has ever seen.

A batch holds B series of one frequency over T steps. The logarithm of the demand rate is a sum of components (weekly
profile, yearly profile and events, trend, level shifts, coloured noise, holidays, price and promotion with a dip
afterwards, launch and end of life); counts, stock-outs, closed days and missing values are drawn from it. Coloured
noise and quasi-periodic signals are drawn by spectral synthesis: white noise shaped by the square root of a spectral
density, which is a Gaussian process with a stationary kernel (Rasmussen & Williams 2006, section 4.2.1) without its
cubic cost. Composing them is in the spirit of KernelSynth (Ansari et al. 2024, arXiv:2403.07815).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trend_common.backbones.base import Batch
from trend_common.covariates import CHANNELS, FREQUENCIES, INDEX

__all__ = ["LENGTHS", "World"]

LENGTHS = {"D": (504, 56), "W": (252, 56), "M": (112, 28)}
"""Longest context and horizon that is drawn, by frequency."""

_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375}
_HOLIDAYS = (1, 44, 80, 95, 98, 120, 121, 145, 160, 184, 225, 243, 276, 304, 327, 330, 345, 359, 360)
_PER_COUNTRY = 8
_N_TEXT, _YEAR = 128, 365.25


@dataclass(frozen=True)
class _Calendar:
    """[B, T] day counts since an origin, day of the year, and year number."""

    day: Tensor
    day_of_year: Tensor
    year: Tensor


class World:
    """Draws batches of synthetic retail series.

    Args:
        seed: Of the generator; the same seed gives the same series on the same device.
        device: Where to draw.
    """

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def _uniform(self, low: float, high: float, b: int) -> Tensor:
        return low + (high - low) * self._rand(b, 1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def _on(self, probability: float, b: int) -> Tensor:
        return (self._rand(b, 1) < probability).float()

    def _integer(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def _pick_frequency(self) -> str:
        draw = float(self._rand(1))
        return "D" if draw < 0.55 else ("W" if draw < 0.9 else "M")

    def batch(self, b: int, freq: str | None = None) -> Batch:
        """Draw ``b`` series of one frequency as windows with targets.

        The context is cut to a random multiple of 14 steps, and a part of the rows has little or no history.
        """
        freq = freq or self._pick_frequency()
        longest, horizon = LENGTHS[freq]
        if freq != "D":
            horizon = 14 * int(self._integer(1, horizon // 14 + 1, 1))
        steps = longest + horizon
        calendar = self._draw_calendar(b, steps, freq)
        signal, noise_only = self._signal(b, steps, freq, calendar)
        holiday, lead, effect, shut = self._holidays(b, steps, freq, calendar)
        promo, log_price, response = self._price_and_promotion(b, steps, freq)
        launch = torch.where(self._on(0.25, b) > 0, self._integer(0, steps - 40, b, 1), torch.full((b, 1), -9999))
        age = torch.arange(steps)[None] - launch
        ramp = self._on(0.7, b) * self._uniform(0.3, 3, b) * torch.exp(-age.clamp(min=0) / self._uniform(3, 60, b))
        ramp = torch.where(launch >= 0, ramp * torch.sign(self._uniform(-0.6, 0.4, b)), torch.zeros(1))
        end = self._on(0.04, b) * (torch.arange(steps)[None] - self._integer(steps // 2, steps, b, 1)).clamp(min=0)
        shape = signal + (1 - noise_only) * (effect + response) + ramp - end * self._uniform(0.005, 0.08, b)
        shape = (shape - shape.mean(1, keepdim=True)).clamp(-6, 4)
        values, closed, weekday = self._observe(b, steps, freq, shape, calendar, shut)

        out = self._spans(b, steps, 0.02) * self._on(0.2, b)
        out_known, out_masked = self._on(0.4, b), self._on(0.5, b)
        values = values * (1 - out)
        known = (age >= 0).float() * (1 - self._on(0.12, b) * (self._rand(b, steps) < self._uniform(0, 0.2, b)))
        known = known * (1 - out * out_masked)

        covariates = torch.zeros(b, steps, len(CHANNELS))
        covariates[..., :12] = self._calendar_features(calendar, freq)
        knows = {
            name: self._on(p, b) for name, p in (("holiday", 0.75), ("promo", 0.7), ("price", 0.6), ("closed", 0.6))
        }
        covariates[..., INDEX["holiday"]] = holiday * knows["holiday"]
        covariates[..., INDEX["holiday_lead"]] = lead * knows["holiday"]
        covariates[..., INDEX["promo"]] = promo * knows["promo"]
        covariates[..., INDEX["log_relative_price"]] = log_price * knows["price"]
        covariates[..., INDEX["closed"]] = closed * knows["closed"]
        covariates[..., INDEX["unavailable"]] = out * out_known
        for name, flag in knows.items():
            covariates[..., INDEX[f"{name}_known"]] = flag
        covariates[:, longest:, INDEX["unavailable"]] = 0
        # What was recorded of the past is not always known ahead; a holiday closes a shop without being announced.
        for name, channel in (("promo", "promo"), ("price", "log_relative_price")):
            kept = 1 - self._on(0.15, b)
            covariates[:, longest:, INDEX[channel]] *= kept
            covariates[:, longest:, INDEX[f"{name}_known"]] *= kept
        announced = torch.where(self._on(0.5, b) > 0, closed, weekday)
        covariates[:, longest:, INDEX["closed"]] = announced[:, longest:] * knows["closed"]
        return self._cut(values, known, covariates, freq, longest)

    def _draw_calendar(self, b: int, steps: int, freq: str) -> _Calendar:
        start = self._integer(0, 3650, b, 1).float()
        day = torch.floor(start + _DAYS[freq] * torch.arange(steps)[None])
        return _Calendar(day, day % _YEAR, torch.floor(day / _YEAR))

    def _calendar_features(self, calendar: _Calendar, freq: str) -> Tensor:
        week, year = 2 * math.pi * (calendar.day % 7) / 7, 2 * math.pi * calendar.day_of_year / _YEAR
        month = 2 * math.pi * (calendar.day_of_year % 30.4375) / 30.4375
        daily = 1.0 if freq == "D" else 0.0
        columns = [wave(k * week) * daily for k in (1, 2, 3) for wave in (torch.sin, torch.cos)]
        columns += [wave(k * year) for k in (1, 2) for wave in (torch.sin, torch.cos)]
        columns += [wave(month) * daily for wave in (torch.sin, torch.cos)]
        return torch.stack(columns, -1)

    def _coloured(self, b: int, steps: int) -> Tensor:
        """[b, steps] of unit variance: each row has a spectrum of its own (power law, AR(1), smooth or periodic)."""
        n = 2 * steps  # twice as long, so that the ends of the cut do not meet
        frequency = torch.fft.rfftfreq(n)[None].clamp(min=0.5 / n)
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

    def _signal(self, b: int, steps: int, freq: str, calendar: _Calendar) -> tuple[Tensor, Tensor]:
        """[b, steps] the log rate without price, promotion and holidays; and [b, 1] which rows are pure GP."""
        t = torch.arange(steps)[None] / steps
        signal = torch.zeros(b, steps)
        if freq == "D":
            profile = self._normal(b, 7) * self._uniform(0.02, 0.5, b)
            weekend = (torch.arange(7)[None] - self._integer(0, 7, b, 1)) % 7 < 2
            profile = (profile + self._uniform(-0.3, 0.8, b) * weekend) * self._on(0.85, b)
            # Some weekly profiles drift: the end of the history tells more than its start.
            drift = 1 + self._on(0.2, b) * (t - 0.5) * self._uniform(-1, 1, b)
            signal += torch.gather(profile, 1, (calendar.day % 7).long()) * drift
            month = 2 * math.pi * (calendar.day_of_year % 30.4375) / 30.4375
            signal += self._on(0.2, b) * self._uniform(0, 0.3, b) * torch.cos(month - self._uniform(0, 6.3, b))
        yearly = self._yearly_profile(b, freq)
        signal += torch.gather(yearly, 1, calendar.day_of_year.long().clamp(max=365))
        # Each year is a little stronger or weaker than the last.
        growth = self._normal(b, 1) * self._on(0.6, b) * 0.5
        turn = self._uniform(0.2, 0.9, b)
        signal += growth * t + self._on(0.3, b) * self._normal(b, 1) * 1.0 * (t - turn).clamp(min=0)
        for _ in range(2):
            signal += self._on(0.15, b) * self._normal(b, 1) * 0.6 * (t > self._rand(b, 1))
        coloured = self._coloured(b, steps)
        noise_only = self._on(0.12, b)
        quiet = self._on(0.7, b) * torch.exp(self._uniform(math.log(0.01), math.log(0.5), b))
        strength = torch.where(noise_only > 0, self._uniform(0.2, 0.9, b), quiet)
        return signal * (1 - noise_only) + coloured * strength, noise_only

    def _yearly_profile(self, b: int, freq: str) -> Tensor:
        """[b, 366] what comes back each year: two harmonics, a rough profile, and up to three peaks."""
        days = torch.arange(366)[None].float()
        year = 2 * math.pi * days / _YEAR
        amplitude = self._on(0.65, b) * self._uniform(0, 0.6, b)
        profile = amplitude * torch.sin(year + self._uniform(0, 6.3, b))
        profile = profile + amplitude * self._uniform(0, 0.6, b) * torch.sin(2 * year + self._uniform(0, 6.3, b))
        # The rough part is what a value of last year can tell and low harmonics cannot.
        k = torch.arange(3, 27)[:, None]
        weights = k[:, 0][None] ** (-self._uniform(0.2, 1.6, b))
        strength = self._on(0.5, b) * self._uniform(0.02, 0.4, b)
        weights = weights / weights.square().sum(1, keepdim=True).sqrt() * strength * 1.4
        phase = 6.3 * self._rand(b, 24)
        rough = (weights * torch.cos(phase)) @ torch.sin(k * year) + (weights * torch.sin(phase)) @ torch.cos(
            k * year
        )
        profile = profile + rough
        for _ in range(3):
            distance = (days - self._uniform(0, _YEAR, b)).abs()
            distance = torch.minimum(distance, _YEAR - distance)
            width = torch.exp(self._uniform(0.8, 3.7, b)).clamp(min=_DAYS[freq] * 0.6)
            profile = profile + self._on(0.3, b) * self._uniform(-0.8, 1.8, b) * torch.exp(
                -0.5 * (distance / width) ** 2
            )
        return profile

    def _holidays(self, b: int, steps: int, freq: str, calendar: _Calendar) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Flags, lead, effect on the log rate, and whether shops are shut, each [b, steps]."""
        span = _DAYS[freq]
        flag, lead, effect = torch.zeros(b, steps), torch.zeros(b, steps), torch.zeros(b, steps)
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
            size = common + self._normal(b, 1) * 0.35
            effect = effect + has_effect * (size * here + anticipation * near * (ahead >= span))
        shut = flag * self._on(0.2, b) if freq == "D" else torch.zeros(b, steps)
        return flag, lead, effect, shut

    def _spans(self, b: int, steps: int, rate: float) -> Tensor:
        """[b, steps] of 0 and 1: random spans of 2 to 40 steps."""
        start = (self._rand(b, steps) < rate * self._rand(b, 1)).float()
        length = self._integer(2, 40, b, 1)
        total = torch.cumsum(start, 1)
        earlier = torch.arange(steps)[None] - length
        before = torch.gather(total, 1, earlier.clamp(min=0).expand(b, steps)) * (earlier >= 0)
        return (total - before > 0).float()

    def _price_and_promotion(self, b: int, steps: int, freq: str) -> tuple[Tensor, Tensor, Tensor]:
        """Promotion flag, log relative price and their effect on the log rate, each [b, steps]."""
        often = {"D": 1.0, "W": 4.0, "M": 6.0}[freq]
        length = {"D": (2, 15), "W": (1, 4), "M": (1, 2)}[freq]
        regular = self._on(0.25, b)  # every so many steps, as chains do
        every = self._integer(length[1], 5 * length[1], b, 1)
        on_beat = ((torch.arange(steps)[None] + self._integer(0, 99, b, 1)) % every == 0).float()
        by_chance = (self._rand(b, steps) < self._uniform(0.002, 0.05, b) * often).float()
        start = torch.where(regular > 0, on_beat, by_chance) * self._on(0.65, b)
        total = torch.cumsum(start, 1)
        earlier = torch.arange(steps)[None] - self._integer(*length, b, 1)
        before = torch.gather(total, 1, earlier.clamp(min=0).expand(b, steps)) * (earlier >= 0)
        promo = (total - before > 0).float()
        discount = torch.log1p(-self._uniform(0, 0.45, b) * self._on(0.7, b) * (0.6 + 0.4 * self._rand(b, steps)))
        changes = (self._rand(b, steps) < self._uniform(0, 0.012, b) * often) * self._normal(b, steps) * 0.08
        log_price = torch.cumsum(changes, 1) + discount * promo
        log_price = log_price - log_price.mean(1, keepdim=True)
        elasticity = -self._uniform(0, 3.5, b) * self._on(0.75, b)
        ended = torch.zeros(b, steps)
        ended[:, 1:] = (promo[:, :-1] - promo[:, 1:]).clamp(min=0)
        dip = sum(torch.roll(ended, lag, 1) * 0.6**lag for lag in range(4))
        response = self._uniform(0, 1.4, b) * self._on(0.8, b) * promo + elasticity * log_price
        return promo, log_price, response - self._on(0.4, b) * self._uniform(0, 0.6, b) * dip

    def _observe(
        self, b: int, steps: int, freq: str, shape: Tensor, calendar: _Calendar, shut: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sales [b, steps] from the rate (counts, intermittent or continuous), all closures, and weekly ones."""
        level = torch.exp((1.5 + 2.2 * self._normal(b, 1)).clamp(-3.5, 9)) * {"D": 1.0, "W": 4.0, "M": 12.0}[freq]
        rate = level * torch.exp(shape)
        kind = self._integer(0, 20, b, 1)  # 0-4 Poisson, 5-10 negative binomial, 11-13 intermittent, 14-19 continuous
        dispersion = torch.exp(self._uniform(-1.2, 4.0, b)).expand(b, steps)
        gamma = torch._standard_gamma(dispersion, generator=self.generator) / dispersion
        occurs = torch.exp(self._uniform(-3.5, -0.1, b)) * torch.exp(shape.clamp(-3, 3))
        mean = torch.where(kind < 5, rate, rate * gamma)
        mean = torch.where((kind >= 11) & (kind < 14), mean * (self._rand(b, steps) < occurs), mean).clamp(max=1e6)
        counts = torch.poisson(mean, generator=self.generator)
        log_noise = torch.exp(self._uniform(math.log(0.01), math.log(0.4), b)) * self._normal(b, steps)
        log_noise = log_noise * (1 + 2 * (self._rand(b, steps) < 0.02 * self._on(0.4, b)))
        values = torch.where(kind >= 14, rate * torch.exp(log_noise), counts)
        values = torch.where((kind >= 14) & (self._on(0.3, b) > 0), torch.round(values), values)
        packs = torch.round(self._uniform(2, 12, b))
        values = torch.where(self._on(0.05, b) > 0, values * packs, values)
        weekday = torch.zeros(b, steps)
        if freq == "D":
            weekday = (calendar.day % 7 == self._integer(0, 7, b, 1)).float() * self._on(0.2, b)
        closed = torch.maximum(shut, weekday)
        return values * (1 - closed), closed, weekday

    def _cut(self, values: Tensor, known: Tensor, covariates: Tensor, freq: str, longest: int) -> Batch:
        """Windows with a shared random context length; a part of the rows has a shorter or no history."""
        b = len(values)
        context = longest if float(self._rand(1)) < 0.35 else 14 * int(self._integer(1, longest // 14 + 1, 1))
        start = longest - context
        past, past_known = values[:, start:longest], known[:, start:longest].clone()
        limit = self._integer(0, min(context, 60) + 1, b, 1) * (self._rand(b, 1) > 0.2)
        short = self._rand(b, 1) < 0.12
        past_known = past_known * ~(short & (torch.arange(context)[None] < context - limit))
        truth = values[:, longest:]
        hinted = truth.mean(1) * torch.exp(0.7 * self._normal(b)) * (self._rand(b) < 0.4)
        few = past_known.sum(1) < 20
        return Batch(
            past_values=past * past_known,
            past_mask=past_known,
            past_cov=covariates[:, start:longest],
            future_cov=covariates[:, longest:],
            freq=torch.full((b,), FREQUENCIES.index(freq)),
            text=torch.zeros(b, _N_TEXT),
            static_ids=torch.zeros(b, 3, dtype=torch.long),
            level_hint=torch.where(few, hinted, torch.zeros(b)),
            future_values=truth,
            future_mask=known[:, longest:],
        )
