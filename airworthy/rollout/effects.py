"""The effect of an A/B test, with an interval that holds at whatever moment one looks.

Each request is drawn to the canary with known probability q and has an outcome y in 0..1. With guesses m1, m0 of
the arms' means, made before the request, the score

    x = m1 - m0 + (y - m1) / q          if the canary's,
    x = m1 - m0 - (y - m0) / (1 - q)    if stable's

has the effect (canary mean - stable mean, at that moment) as its expectation, whatever the guesses are worth and
however q moves (inverse probability weighting, augmented: Robins, Rotnitzky, Zhao 1994). Good guesses only make x
vary less. With c the most that x can lie below m1 - m0, and any l in 0 <= l < 1/c, the product of

    exp(l (x - effect) - psi(l) (x - m1 + m0)^2),   psi(l) = (-log(1 - c l) - c l) / c^2

is a supermartingale (Fan, Grama, Liu 2015, "Exponential inequalities for martingales"; Howard, Ramdas, McAuliffe,
Sekhon 2021), and so is its mean over a grid of l. The lower end of the interval is the least mean effect at which
that mean stays below 2/alpha; the upper end is the same for -x. No stationarity is assumed: the interval is about
the mean, over the requests so far, of the effect at each of them.
"""

from __future__ import annotations

import math

RATES = tuple(2.0**-k for k in range(1, 13))
"""Grid of l: the smaller ones serve large samples."""
PARTS = tuple(math.log(1.0 / (1 + abs(k - 4)) ** 2 / 1.99) for k in range(1, 13))
"""Logarithms of the weights in the mean (their sum is below 1); most for samples of thousands."""


class EffectInterval:
    """Always-valid interval for the difference of mean outcomes, canary - stable.

    Args:
        alpha: The chance that the interval ever, at any look, leaves out the truth is at most this.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self._alpha = alpha
        self._sum = 0.0
        self._count = 0
        # sum and number of the arms' outcomes; each begins with one half
        self._seen = {True: [0.5, 1.0], False: [0.5, 1.0]}
        self._below = [0.0] * len(RATES)
        self._above = [0.0] * len(RATES)

    def observe(self, value: float, canary: bool, share: float) -> None:
        """Account for one request.

        Args:
            value: Its outcome, 0..1.
            canary: Whether it was the canary's.
            share: Probability with which it was drawn to the canary; 0 and 1 tell nothing and are ignored.

        Raises:
            ValueError: The outcome is outside 0..1.
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"outcome {value!r}: must be between 0 and 1")
        if not 0.0 < share < 1.0:
            return
        m1, m0 = (self._seen[arm][0] / self._seen[arm][1] for arm in (True, False))
        off = (value - m1) / share if canary else (m0 - value) / (1.0 - share)
        self._sum += m1 - m0 + off
        self._count += 1
        _charge(self._below, off, max(m1 / share, (1.0 - m0) / (1.0 - share)))
        _charge(self._above, off, max((1.0 - m1) / share, m0 / (1.0 - share)))
        self._seen[canary][0] += value
        self._seen[canary][1] += 1.0

    @property
    def n(self) -> int:
        """Requests with a known outcome."""
        return self._count

    @property
    def estimate(self) -> float:
        """The effect, unbiased as long as nobody stopped because of it; 0 without requests."""
        return self._sum / self._count if self._count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, within -1..1; (-1, 1) without requests."""
        if not self._count:
            return -1.0, 1.0
        low = self.estimate - _most(self._below, self._alpha / 2) / self._count
        high = self.estimate + _most(self._above, self._alpha / 2) / self._count
        return max(-1.0, min(1.0, low)), max(-1.0, min(1.0, high))

    @property
    def found(self) -> dict[str, float] | None:
        """Estimate, interval and count, as records hold them; None where no outcome was seen."""
        if not self.n:
            return None
        low, high = self.interval
        return {"estimate": self.estimate, "low": low, "high": high, "n": self.n}


def _charge(costs: list[float], off: float, most: float) -> None:
    """Add psi(l) off^2 for every l; infinite once l is too large for how far a score can lie off."""
    for k, rate in enumerate(RATES):
        reach = rate * most
        psi = (-math.log1p(-reach) - reach) / most**2 if reach < 1.0 else math.inf
        costs[k] = costs[k] + psi * off * off if off else costs[k] + (0.0 if reach < 1.0 else math.inf)


def _most(costs: list[float], alpha: float) -> float:
    """The sum of deviations at which the mean of exp(l sum - cost) is 1/alpha: it grows with the sum."""
    alive = [(r, cost - part) for r, cost, part in zip(RATES, costs, PARTS, strict=True) if cost < math.inf]
    if not alive:
        return math.inf
    wanted = -math.log(alpha)
    # with one term alone it is reached later, with all of them as large as the largest sooner
    high = min((wanted + cost) / rate for rate, cost in alive)
    low = min((wanted - math.log(len(alive)) + cost) / rate for rate, cost in alive)
    for _ in range(50):
        middle = (low + high) / 2
        terms = [rate * middle - cost for rate, cost in alive]
        top = max(terms)
        if top + math.log(math.fsum(math.exp(term - top) for term in terms)) < wanted:
            low = middle
        else:
            high = middle
    return high
