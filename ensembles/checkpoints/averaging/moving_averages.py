"""Averages along a training run: which steps count, and how much.

The state of an average is its value and a number, the total weight of its members in
units of the weight of the newest member. A new member of total weight T moves the value
by 1 / T of the way to the member.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from ensembles.checkpoints.runs.power_function import resolve_gamma
from ensembles.selection.table import check_integer, check_real

WARMUPS = ("ratio", "normalized")
Warmup = str | tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Average:
    """Equally weighted average of members: step ``start``, and every ``every`` more.

    Parameters
    ----------
    every : int, at least 1, default=1
        Number of steps between two members.
    start : int, not negative, default=0
        Step of the first member.
    """

    every: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        check_count(1, every=self.every)
        check_count(0, start=self.start)

    @property
    def first(self) -> int:
        """Step of the first member."""
        return self.start or self.every

    def has_member_at(self, step: int) -> bool:
        """Whether the parameters after a step are a member.

        Parameters
        ----------
        step : int, at least 1
            Number of optimizer steps.

        Returns
        -------
        bool
        """
        return step >= self.start and (step - self.start) % self.every == 0

    def total_weight(
        self, total: float, n_members: int, step: int, previous: int
    ) -> float:
        """Total weight with a new member.

        Parameters
        ----------
        total : float
            Total weight of the members so far, in units of the newest of them.
        n_members : int, at least 1
            Number of members so far.
        step : int
            Step of the new member.
        previous : int
            Step of the newest member so far.

        Returns
        -------
        float, at least 1
            In units of the weight of the new member.
        """
        return n_members + 1.0


@dataclass(frozen=True)
class EMA(Average):
    """Exponential moving average (EMA): weights shrink with the age of a member.

    Pass either ``decay`` or ``half_life``.

    Parameters
    ----------
    decay : float between 0 and 1, or None, default=None
        Factor by which the weights of older members shrink in one step, such as 0.999;
        between two members that are k steps apart they shrink by ``decay ** k``. None
        uses ``half_life``.
    half_life : float, positive, or None, default=None
        Number of steps in which the weights of older members are halved. None uses
        ``decay``.
    warmup : {"ratio", "normalized"}, tuple (gamma, power) or None, default=None
        Decay of the first updates, in which an average with a long half-life would
        consist of its first member, often random parameters. None: the first member has
        the weight of all earlier ones, as in ``torch.optim.swa_utils`` and timm.
        "ratio": the decay is at most (1 + n) / (10 + n) for n members, as in TensorFlow
        and diffusers. A tuple: at most 1 - (1 + n / gamma) ** -power, as in ema-pytorch
        and diffusers; (1, 2 / 3) suits runs of a million steps. "normalized": weights
        are those of the formula, divided by their sum, as in optax with ``debias``.
    every : int, at least 1, default=1
        Number of steps between two members. Larger values take less time.
    start : int, not negative, default=0
        Step of the first member.

    References
    ----------
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging",
    SIAM Journal on Control and Optimization 30; Tarvainen and Valpola (2017), "Mean
    teachers are better role models", NeurIPS, equation 2.
    """

    decay: float | None = None
    _: KW_ONLY
    half_life: float | None = None
    warmup: Warmup = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.decay is None) == (self.half_life is None):
            raise ValueError(
                f"EMA needs either decay or half_life, found decay={self.decay} and "
                f"half_life={self.half_life}; pass one of them, such as half_life=1000"
            )
        if self.decay is not None:
            check_real(decay=self.decay)
            if not 0 < self.decay < 1:
                raise ValueError(f"decay must be between 0 and 1, found {self.decay}")
        if self.half_life is not None:
            check_real(half_life=self.half_life)
            if not 0 < self.half_life < math.inf:
                raise ValueError(f"half_life must be positive, found {self.half_life}")
        _check_warmup(self.warmup)

    def total_weight(
        self, total: float, n_members: int, step: int, previous: int
    ) -> float:
        distance = step - previous
        # expm1 keeps the digits of 1 - decay for a decay near 1.
        rate = (
            math.log(self.decay) if self.decay else -math.log(2) / (self.half_life or 1)
        )
        lost = -math.expm1(rate * distance)
        if self.warmup == "normalized":
            return 1 + (1 - lost) * total
        if self.warmup == "ratio":
            lost = max(lost, 9 / (10 + n_members))
        elif self.warmup is not None:
            gamma, power = map(float, self.warmup)
            lost = max(lost, (1 + n_members / gamma) ** -power)
        return 1 / lost


@dataclass(frozen=True, kw_only=True)
class PowerEMA(Average):
    """Power-function average: its length grows with the training time.

    The weight of the parameters at step t is proportional to ``t ** gamma``. Pass
    either ``gamma`` or ``sigma_rel``. Snapshots of two or more such averages
    approximate averages of any other length after training.

    Parameters
    ----------
    gamma : float, not negative, or None, default=None
        Exponent; None uses ``sigma_rel``.
    sigma_rel : float, positive, at most 1 / sqrt(12), or None, default=None
        Standard deviation of the weights, relative to the training time, such as 0.05
        or 0.1. None uses ``gamma``.
    every : int, at least 1, default=1
        Number of steps between two members.
    start : int, not negative, default=0
        Step of the first member; times are measured from here.

    References
    ----------
    Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion
    models", arXiv:2312.02696, equations 1 to 3.
    """

    gamma: float | None = None
    sigma_rel: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_gamma(self.gamma, self.sigma_rel)

    def total_weight(
        self, total: float, n_members: int, step: int, previous: int
    ) -> float:
        gamma = resolve_gamma(self.gamma, self.sigma_rel)
        kept = (previous - self.start) / (step - self.start)
        return 1 / (1 - float(kept ** (gamma + 1)))


@dataclass(frozen=True, kw_only=True)
class SWA(Average):
    """Equally weighted mean from a step on: stochastic weight averaging (SWA).

    Parameters
    ----------
    every : int, at least 1, default=1
        Number of steps between two members; one epoch in the paper.
    start : int, not negative, default=0
        Step of the first member, such as three quarters of the training.

    References
    ----------
    Izmailov et al. (2018), "Averaging weights leads to wider optima and better
    generalization", UAI, algorithm 1.
    """


@dataclass(frozen=True, kw_only=True)
class LAWA(Average):
    """Mean of the last k members: latest weight averaging (LAWA).

    Parameters
    ----------
    k : int, at least 1
        Number of members. Each is kept in the dtype of the model.
    every : int, at least 1, default=1
        Number of steps between two members.
    start : int, not negative, default=0
        Step of the first member.

    References
    ----------
    Kaddour (2022), "Stop wasting my time! Saving days of ImageNet and BERT training
    with latest weight averaging", arXiv:2209.14981.
    """

    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(1, k=self.k)


def check_count(lowest: int, **values: int) -> None:
    """Check that parameters are integers, and not too small.

    Parameters
    ----------
    lowest : int
        Smallest allowed value.
    **values : int
        Values by the names of their parameters.

    Raises
    ------
    TypeError
        If a value is not an integer.
    ValueError
        If a value is below ``lowest``.
    """
    check_integer(**values)
    for name, value in values.items():
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, found {value}")


def _check_warmup(warmup: Warmup) -> None:
    if warmup is None or warmup in WARMUPS:
        return
    if isinstance(warmup, tuple) and len(warmup) == 2:
        gamma, power = warmup
        check_real(gamma=gamma, power=power)
        if gamma > 0 and power > 0:
            return
    raise ValueError(
        "warmup must be 'ratio', 'normalized', a tuple of two positive numbers "
        f"(gamma, power) or None, found {warmup!r}"
    )
