"""Windows of training, such as ``1000:5000:500`` or ``100B:600B``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)([kmbt]?)", re.IGNORECASE)


class Window(NamedTuple):
    """Part of a training run, with both ends included.

    Parameters
    ----------
    start, stop : Decimal or None
        First and last step, epoch or number of tokens; None for an open end.
    stride : Decimal or None
        Distance between the members of the window; None includes everything between
        the ends.
    """

    start: Decimal | None
    stop: Decimal | None
    stride: Decimal | None

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, Decimal):
            return False
        return (
            (self.start is None or self.start <= number)
            and (self.stop is None or number <= self.stop)
            and (self.stride is None or self._has_member(number))
        )

    def _has_member(self, number: Decimal) -> bool:
        """Whether the stride reaches a number; a remainder of Decimal may fail."""
        distance = Fraction(number) - Fraction(self._origin)
        return self.stride is not None and distance % Fraction(self.stride) == 0

    @property
    def _origin(self) -> Decimal:
        return self.start or Decimal(0)

    def missing(self, numbers: Iterable[Decimal]) -> Iterator[Decimal]:
        """Yield the numbers that a stride asks for and that do not exist.

        Parameters
        ----------
        numbers : iterable of Decimal
            Steps, epochs or tokens that exist.

        Yields
        ------
        Decimal
            In ascending order, up to ``stop`` or the last number that exists.
        """
        existing = set(numbers)
        stop = self.stop
        if self.stride is None or (stop is None and not existing):
            return
        if stop is None:
            stop = max(existing)
        number = self._origin if self.start is not None else self.stride
        while number <= stop:
            if number not in existing:
                yield number
            number += self.stride


def parse_window(text: str, name: str) -> Window:
    """Parse a window.

    Parameters
    ----------
    text : str
        ``START:STOP`` or ``START:STOP:STRIDE``; each end may be empty. A single number
        is a window of itself. Numbers may have the units k, M, B and T of thousand,
        million, billion and trillion.
    name : str
        Name of the parameter, for messages.

    Returns
    -------
    Window

    Raises
    ------
    ValueError
        If the text is not a window, or the window is empty.
    """
    parts = text.split(":")
    numbers = [parse_number(part.strip()) for part in parts]
    is_window = len(parts) <= 3 and all(
        number is not None or not part.strip()
        for number, part in zip(numbers, parts, strict=True)
    )
    if len(parts) == 1:
        numbers *= 2
    start, stop, stride = [*numbers, None, None][:3]
    is_window = is_window and (len(parts) > 1 or start is not None)
    if not is_window or stride == 0:
        raise ValueError(
            f"{name} (--{name}) must be START:STOP or START:STOP:STRIDE, such as "
            f"1000:5000:500, :5000 or 100B:600B, found {text!r}"
        )
    if start is not None and stop is not None and start > stop:
        raise ValueError(
            f"{name} (--{name}) must not begin after it ends, found {text!r}"
        )
    return Window(start, stop, stride)


def parse_number(text: str) -> Decimal | None:
    """Parse a number of steps, epochs or tokens.

    Parameters
    ----------
    text : str
        Digits with an optional fraction, exponent and unit, such as ``"1.5B"``.

    Returns
    -------
    Decimal or None
        None if the text is not such a number.
    """
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    # A product of Decimal is rounded to 28 digits.
    number = Fraction(match[1]) * UNITS[match[2].lower()]
    if number.denominator == 1:
        return Decimal(int(number))
    return Decimal(match[1]) * UNITS[match[2].lower()]
