"""ε against published tables, other people's accountants, and itself."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_common.privacy import accounting
from trend_common.privacy.accounting import (
    Run,
    compose,
    epsilon_of,
    gaussian_delta,
    gaussian_epsilon,
    group_run,
    noise_multiplier_for,
    upper_epsilon,
)


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta", "epsilon"),
    [
        (1.0, 0.05, 150, 1e-5, 4.176),
        (0.6, 0.02, 150, 8.5e-5, 5.369),
        (10.0, 0.5, 150, 1e-5, 2.525),
        # jax_privacy's documentation.
        (3.0, 0.1, 512, 1e-6, 3.77),
        (9.66, 0.1, 512, 1e-6, 1.0),
    ],
)
def test_golden_values(sigma: float, q: float, steps: int, delta: float, epsilon: float) -> None:
    assert epsilon_of(sigma=sigma, q=q, steps=steps, delta=delta) == pytest.approx(epsilon, abs=0.003)


@pytest.mark.parametrize(
    ("q", "multipliers"),
    [
        (0.05, (2.52, 1.52)),
        (0.1, (4.75, 2.65, 1.59, 1.04)),
        (0.25, (11.5, 6.25, 3.47, 2.02)),
        (1.0, (45.7, 24.5, 13.3, 7.36)),
    ],
)
def test_golden_noise_multipliers(q: float, multipliers: tuple[float, ...]) -> None:
    for epsilon, multiplier in zip((1.0, 2.0, 4.0, 8.0), multipliers, strict=False):
        found = noise_multiplier_for(epsilon=epsilon, delta=1e-5, q=q, steps=150)
        assert found == pytest.approx(multiplier, rel=0.008)
        assert epsilon_of(sigma=found, q=q, steps=150, delta=1e-5) <= epsilon
        assert epsilon_of(sigma=found * 0.998, q=q, steps=150, delta=1e-5) > epsilon, "more noise than needed"


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta"), [(1.5, 0.05, 150, 1e-5), (10.0, 0.5, 150, 1e-5), (3.5, 0.25, 60, 1e-6)]
)
@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha:UserWarning")
def test_opacus_prv_agrees(sigma: float, q: float, steps: int, delta: float) -> None:
    """Another library, another algorithm (Gopi et al. 2021), the same ε."""
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(sigma, q, steps)]
    assert epsilon_of(sigma=sigma, q=q, steps=steps, delta=delta) == pytest.approx(
        other.get_epsilon(delta=delta), abs=0.02
    )


@pytest.mark.parametrize("mu", [1e-3, 0.05, 0.3, 0.925, 1.66, 5.0, 40.0, 300.0])
def test_the_closed_form_is_dp_accountings(mu: float) -> None:
    from dp_accounting import gaussian_mechanism

    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(
        gaussian_mechanism.get_epsilon_gaussian(1 / mu, 1e-5), rel=1e-9
    )


@pytest.mark.parametrize(("sigma", "steps"), [(4.84, 20), (24.5, 150), (2.0, 1)])
def test_the_closed_form_is_what_the_distribution_gives(sigma: float, steps: int) -> None:
    """q = 1 takes a short cut; a q of almost 1 does not, and must come out the same."""
    exact = epsilon_of(sigma=sigma, q=1.0, steps=steps, delta=1e-5)
    assert epsilon_of(sigma=sigma, q=1 - 1e-9, steps=steps, delta=1e-5) == pytest.approx(exact, abs=2e-3)


@given(mu=st.floats(1e-3, 50), delta=st.floats(1e-12, 0.1))
@settings(max_examples=100, deadline=None)
def test_epsilon_is_on_the_safe_side_of_its_delta(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    if epsilon > 1e-6:
        assert gaussian_delta(mu, epsilon * (1 - 1e-6)) > delta * (1 - 1e-6)


@given(epsilon=st.floats(0.05, 20), delta=st.floats(1e-9, 1e-3), steps=st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_calibration_never_overspends(epsilon: float, delta: float, steps: int) -> None:
    sigma = noise_multiplier_for(epsilon=epsilon, delta=delta, q=1.0, steps=steps)
    assert epsilon_of(sigma=sigma, q=1.0, steps=steps, delta=delta) <= epsilon


@given(sigma=st.floats(1.5, 30), steps=st.integers(1, 200), q=st.sampled_from([0.1, 0.25]))
@settings(max_examples=6, deadline=None)
def test_sampling_helps_and_more_steps_cost(sigma: float, steps: int, q: float) -> None:
    sampled = epsilon_of(sigma=sigma, q=q, steps=steps, delta=1e-5)
    assert sampled <= epsilon_of(sigma=sigma, q=1.0, steps=steps, delta=1e-5) + 1e-3
    assert sampled <= epsilon_of(sigma=sigma, q=q, steps=2 * steps, delta=1e-5) + 1e-9


def test_a_rounded_multiplier_that_is_not_enough_is_raised_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is coarse and may end below the truth; what is returned is confirmed by the accountant itself."""
    honest = accounting.epsilon_of

    def stricter(*, sigma: float, q: float, steps: int, delta: float) -> float:
        return honest(sigma=sigma / 1.003, q=q, steps=steps, delta=delta)

    plain = noise_multiplier_for(epsilon=4.0, delta=1e-5, q=1.0, steps=20)
    monkeypatch.setattr(accounting, "epsilon_of", stricter)
    raised = noise_multiplier_for(epsilon=4.0, delta=1e-5, q=1.0, steps=20)
    assert raised > plain
    assert stricter(sigma=raised, q=1.0, steps=20, delta=1e-5) <= 4.0


def test_four_quarterly_runs_at_two_cost_less_than_eight() -> None:
    """Composition is less than the sum: 4 × 2.0 is 4.39, and two runs of halves are one whole."""
    sigma = noise_multiplier_for(epsilon=2.0, delta=1e-5, q=1.0, steps=20)
    assert compose([Run(sigma=sigma, q=1.0, steps=20)] * 4, 1e-5) == pytest.approx(4.39, abs=0.01)
    halves = [Run(sigma=sigma, q=1.0, steps=10)] * 2
    assert compose(halves, 1e-5) == epsilon_of(sigma=sigma, q=1.0, steps=20, delta=1e-5)


def test_sampled_and_whole_runs_compose_in_any_order() -> None:
    sampled, whole = Run(sigma=1.59, q=0.1, steps=150), Run(sigma=4.84, q=1.0, steps=20)
    both = compose([sampled, whole], 1e-5)
    assert both == compose([whole, sampled], 1e-5)
    alone = [compose([run], 1e-5) for run in (sampled, whole)]
    assert max(alone) < both < sum(alone)


# --- a secret of several units ---


@pytest.mark.parametrize(("mu", "size"), [(0.3, 2), (0.925, 3), (0.2, 12)])
def test_a_group_is_a_gaussian_of_its_size(mu: float, size: int) -> None:
    """m units under q = 1 are exactly a sensitivity of m: other people's accountant says the same."""
    from dp_accounting import gaussian_mechanism

    run = group_run(Run(sigma=2.0, q=1.0, steps=1), whole=size)
    assert run == Run(sigma=2.0 / size, q=1.0, steps=1)
    found = gaussian_epsilon(size * mu, 1e-5)
    assert compose([group_run(Run(sigma=1 / mu, q=1.0, steps=1), whole=size)], 1e-5) == pytest.approx(found, rel=1e-9)
    assert found == pytest.approx(gaussian_mechanism.get_epsilon_gaussian(1 / mu / size, 1e-5), rel=1e-6)


@pytest.mark.parametrize(("shift", "epsilon"), [(1, 4.00), (2, 9.08), (3, 15.08), (7, 47.79)])
def test_secrets_of_the_default_plan(shift: int, epsilon: float) -> None:
    """The figures of the docs; dp-accounting's Gaussian mechanism gives the same."""
    from dp_accounting import gaussian_mechanism

    run = Run(sigma=4.836, q=1.0, steps=20)
    other = gaussian_mechanism.get_epsilon_gaussian(4.836 / math.sqrt(20) / shift, 1e-5)
    assert other == pytest.approx(epsilon, abs=0.01)
    assert compose([group_run(run, whole=shift)], 1e-5) == pytest.approx(other, rel=1e-6)
    if shift % 2 == 0:
        assert compose([group_run(run, whole=0, changed=shift // 2)], 1e-5) == pytest.approx(other, rel=1e-6)


def hockey_stick(p: Callable[[float], float], q: Callable[[float], float], epsilon: float) -> float:
    """sup over events of P − e^ε·Q, by quadrature."""
    from scipy.integrate import quad

    return float(quad(lambda x: max(0.0, p(x) - math.exp(epsilon) * q(x)), -60, 60, limit=400, points=[-2, 0, 2])[0])


def mixture(weights: list[float], means: list[float], sigma: float) -> Callable[[float], float]:
    def density(x: float) -> float:
        shape = (w * math.exp(-((x - m) ** 2) / (2 * sigma**2)) for w, m in zip(weights, means, strict=True))
        return math.fsum(shape) / (sigma * math.sqrt(2 * math.pi))

    return density


@given(
    size=st.integers(2, 6),
    q=st.floats(0.02, 0.9),
    sigma=st.floats(0.8, 6.0),
    epsilon=st.floats(0.0, 3.0),
    add=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_bound_for_sampled_groups_holds(size: int, q: float, sigma: float, epsilon: float, add: bool) -> None:
    """The true pair is a mixture over how many of the group were drawn; ours draws all of them or none."""
    draws = [math.comb(size, k) * q**k * (1 - q) ** (size - k) for k in range(size + 1)]
    truth = mixture(draws, [float(k) for k in range(size + 1)], sigma)
    nobody = mixture([1.0], [0.0], sigma)
    bound = group_run(Run(sigma=sigma, q=q, steps=1), whole=size)
    ours = mixture([1 - bound.q, bound.q], [0.0, float(size)], sigma)
    assert bound.sigma == sigma / size
    if add:
        assert hockey_stick(truth, nobody, epsilon) <= hockey_stick(ours, nobody, epsilon) + 1e-7
    else:
        assert hockey_stick(nobody, truth, epsilon) <= hockey_stick(nobody, ours, epsilon) + 1e-7


@given(q=st.floats(0.05, 1.0), sigma=st.floats(0.8, 6.0), epsilon=st.floats(0.0, 3.0), angle=st.floats(-1.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_the_bound_for_a_changed_unit_holds(q: float, sigma: float, epsilon: float, angle: float) -> None:
    """The unit is drawn in both worlds alike and adds 1 in one and anything of norm up to 1 in the other."""
    here = mixture([1 - q, q], [0.0, 1.0], sigma)
    there = mixture([1 - q, q], [0.0, angle], sigma)
    bound = group_run(Run(sigma=sigma, q=q, steps=1), whole=0, changed=1)
    assert (bound.q, bound.sigma) == (1.0, sigma / 2)
    assert hockey_stick(here, there, epsilon) <= gaussian_delta(2 / sigma, epsilon) + 1e-7


def test_a_group_of_one_is_the_unit_itself_and_larger_ones_cost_more() -> None:
    for q in (0.25, 1.0):
        run = Run(sigma=5.0, q=q, steps=10)
        one, two, four = (compose([group_run(run, whole=size)], 1e-5) for size in (1, 2, 4))
        assert one == pytest.approx(compose([run], 1e-5), rel=1e-9)
        assert one < two < four
        assert two <= compose([group_run(run, whole=0, changed=1)], 1e-5) + 1e-9


@pytest.mark.parametrize(("whole", "changed"), [(0, 0), (-1, 1), (1, -1)])
def test_a_group_of_nobody_is_refused(whole: int, changed: int) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        group_run(Run(sigma=1.0, q=1.0, steps=1), whole=whole, changed=changed)


@given(sigma=st.floats(1.5, 20), q=st.sampled_from([0.1, 0.25, 1.0]), steps=st.integers(1, 100))
@settings(max_examples=6, deadline=None)
def test_the_quick_bound_is_above_the_figure(sigma: float, q: float, steps: int) -> None:
    runs = [Run(sigma=sigma, q=q, steps=steps), Run(sigma=30.0, q=1.0, steps=2)]
    figure = compose(runs, 1e-5)
    assert figure <= upper_epsilon(runs, 1e-5) + 1e-9
    assert upper_epsilon(runs, 1e-5) <= 1.4 * figure + 0.5


def test_no_noise_costs_everything_and_no_steps_nothing() -> None:
    assert epsilon_of(sigma=0.0, q=1.0, steps=1, delta=1e-5) == math.inf
    assert compose([], 1e-5) == 0.0
    assert epsilon_of(sigma=0.0, q=1.0, steps=0, delta=1e-5) == 0.0


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("sigma", "q", "steps"), [(1e-3, 0.5, 100), (1e-6, 0.1, 1), (1.0, 0.1, 10**10), (1e5, 0.1, 10**10)]
)
def test_absurd_plans_are_answered_at_once_and_upwards(sigma: float, q: float, steps: int) -> None:
    """A server that sends a plan of 10¹⁰ steps must not stall its clients."""
    assert epsilon_of(sigma=sigma, q=q, steps=steps, delta=1e-5) == epsilon_of(
        sigma=sigma, q=1.0, steps=steps, delta=1e-5
    )


def test_a_spent_budget_with_a_sampled_run_is_answered_upwards() -> None:
    spent, more = Run(sigma=0.1, q=1.0, steps=4), Run(sigma=1.0, q=0.1, steps=10)
    assert compose([spent, more], 1e-5) > compose([spent], 1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": -1.0},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"q": 0.0},
        {"q": 1.5},
        {"steps": -1},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_parameters_out_of_range_are_named(wrong: dict[str, float]) -> None:
    parameters = {"sigma": 1.0, "q": 0.5, "steps": 10, "delta": 1e-5} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        epsilon_of(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": math.inf}, {"q": 0.0}, {"steps": 0}, {"delta": 1.0}])
def test_calibration_names_what_is_out_of_range(wrong: dict[str, float]) -> None:
    parameters = {"epsilon": 1.0, "q": 0.5, "steps": 10, "delta": 1e-5} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        noise_multiplier_for(**parameters)  # type: ignore[arg-type]


def test_a_client_that_takes_every_unit_imports_no_heavy_library() -> None:
    """``trend-client budget`` answers quickly since scipy and dp-accounting stay out."""
    code = (
        "import sys; from trend_common.privacy.accounting import epsilon_of, noise_multiplier_for\n"
        "noise_multiplier_for(epsilon=4.0, delta=1e-5, q=1.0, steps=20)\n"
        "print([m for m in ('scipy', 'dp_accounting', 'torch', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
