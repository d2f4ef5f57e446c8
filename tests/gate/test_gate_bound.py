"""The bound for "not worse than what serves": the published interval, and the error rate that it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.gate import _score, lower_bound

Z95 = 1.6448536269514722


def test_two_models_that_agree_on_every_row_give_the_closed_form():
    # with no discordant pair Tango's limit is −z²/(n + z²)
    for n in (30, 300, 3000):
        assert lower_bound(0, 0, n, 0.95) == pytest.approx(-(Z95**2) / (n + Z95**2), abs=1e-12)


def test_a_difference_of_zero_is_mcnemars_test():
    assert _score(12, 5, 200, 0.0) == pytest.approx((12 - 5) / math.sqrt(12 + 5))


@pytest.mark.parametrize(
    ("wins", "losses", "samples"), [(9, 1, 44), (3, 12, 300), (0, 7, 50), (20, 20, 100), (8, 0, 30)]
)
@pytest.mark.parametrize("delta", [-0.2, -0.05, -0.01])
def test_the_nuisance_parameter_is_the_most_likely_one(wins, losses, samples, delta):
    """The statistic again, with the restricted maximum of the likelihood found by search in place of the formula."""
    q = np.linspace(max(0.0, -delta) + 1e-9, (1 - delta) / 2 - 1e-9, 400_001)
    rest = samples - wins - losses
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = losses * np.log(q) + rest * np.log(np.clip(1 - 2 * q - delta, 1e-300, None))
        if wins:
            likelihood += wins * np.log(np.clip(q + delta, 1e-300, None))
    best = q[np.argmax(likelihood)]
    expected = (wins - losses - samples * delta) / math.sqrt(samples * (2 * best + delta * (1 - delta)))
    assert _score(wins, losses, samples, delta) == pytest.approx(expected, rel=1e-3)


@given(st.integers(1, 2000), st.data())
@settings(max_examples=200)
def test_the_bound_is_below_the_estimate_and_falls_with_confidence_and_losses(samples, data):
    wins = data.draw(st.integers(0, samples))
    losses = data.draw(st.integers(0, samples - wins))
    bound = lower_bound(wins, losses, samples, 0.95)
    assert -1 <= bound <= (wins - losses) / samples
    assert lower_bound(wins, losses, samples, 0.99) <= bound <= lower_bound(wins, losses, samples, 0.6)
    if wins + losses < samples:
        assert lower_bound(wins, losses + 1, samples, 0.95) <= bound
        assert lower_bound(wins + 1, losses, samples, 0.95) >= bound
    # it is where the statistic reaches the quantile
    if -1 < bound < (wins - losses) / samples:
        assert _score(wins, losses, samples, bound) == pytest.approx(Z95, abs=1e-3)


@pytest.mark.parametrize("samples", [300, 450, 1000])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("discordant", [0.06, 0.1, 0.3])
def test_a_model_worse_by_the_margin_is_let_through_as_rarely_as_promised(samples, margin, discordant):
    """Simulated: the true difference is exactly −margin, so every acceptance is an error; 5 % are promised."""
    losses_share = (discordant + margin) / 2
    shares = [discordant - losses_share, losses_share, 1 - discordant]
    drawn = np.random.default_rng(20261124).multinomial(samples, shares, size=4000)
    pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    accepted = sum(
        int(count)
        for (wins, losses), count in zip(pairs.tolist(), counts, strict=True)
        if lower_bound(wins, losses, samples, 0.95) >= -margin
    )
    assert accepted / 4000 <= 0.065  # 5 %, or 6.0 % at worst by enumeration; and the noise of 4000 draws


def test_a_model_that_is_as_good_passes_and_one_that_is_clearly_worse_does_not():
    rng = np.random.default_rng(7)

    def share(wins, losses):
        drawn = rng.multinomial(450, [wins, losses, 1 - wins - losses], size=500)
        return np.mean([lower_bound(int(w), int(lo), 450, 0.95) >= -0.02 for w, lo, _ in drawn])

    assert share(0.01, 0.01) > 0.8
    assert share(0.01, 0.06) < 0.01


@pytest.mark.parametrize("counts", [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0)])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="pairs"):
        lower_bound(*counts, 0.95)
