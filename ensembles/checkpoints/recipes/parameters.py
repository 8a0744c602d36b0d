"""Values of a recipe's parameters for one tensor: gradients and filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ensembles.checkpoints.recipes.document import Setting, Settings

REQUIRED = object()
# Texts of booleans, as mergekit reads them.
BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a merge method.

    Parameters
    ----------
    name : str
        Its name in recipes.
    kind : {"number", "boolean", "any"}, default="number"
        Type of its values.
    default : value or REQUIRED, default=REQUIRED
        Value where the recipe has none.
    of_model : bool, default=False
        Whether each model has a value of its own.
    is_refused : bool, default=False
        Whether values other than the default are errors, because no rule has them.
    least : float, default=-inf
        Smallest number that is allowed.
    most : float, default=inf
        Largest number that is allowed.
    """

    name: str
    kind: Literal["number", "boolean", "any"] = "number"
    default: Any = REQUIRED
    of_model: bool = False
    is_refused: bool = False
    least: float = -math.inf
    most: float = math.inf

    def convert(self, value: Any) -> Any:
        """Value in the parameter's type.

        Parameters
        ----------
        value : value
            Number, boolean or text, such as "1e-3", which YAML reads as a text.

        Returns
        -------
        float, bool or value

        Raises
        ------
        ValueError
            If the value is of another type, or not available.
        """
        if self.kind == "any":
            return value
        converted = _as_number(value) if self.kind == "number" else _as_boolean(value)
        if converted is None:
            raise ValueError(f"{self.name} must be a {self.kind}, found {value!r:.60}")
        if self.kind == "number" and not self._allows(converted):
            raise ValueError(
                f"{self.name} must be a finite number{self._limits()}, found "
                f"{value!r:.60}"
            )
        if self.is_refused and converted != self.default:
            raise ValueError(
                f"{self.name} must be {str(self.default).lower()} for this "
                f"merge_method, found {value!r:.60}; other values are not available"
            )
        return converted

    def _allows(self, number: float) -> bool:
        return math.isfinite(number) and self.least <= number <= self.most

    def _limits(self) -> str:
        """Limits of the numbers, for messages; empty if there are none."""
        least = f" from {self.least:g}" if self.least > -math.inf else ""
        return least + (
            f" to {self.most:g}" if self.most < math.inf else " on" * bool(least)
        )


def _as_number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _as_boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return BOOLEANS.get(value.casefold())
    return bool(value) if value in (0, 1) else None


class Input(NamedTuple):
    """A model's tensor that is merged into a tensor of the result.

    Parameters
    ----------
    model : str
        Path of the model, for messages.
    tensor : str
        Name of the tensor in the model, which filters are compared with.
    parameters : mapping of str to value
        Parameters of the model.
    """

    model: str
    tensor: str
    parameters: Settings


def setting_for(
    setting: Setting, tensor: str, t: float, convert: Callable[[Any], Any]
) -> Any:
    """Value of a setting for a tensor.

    Parameters
    ----------
    setting : value, list of values, mapping, or list of mappings
        A list of numbers is a gradient: its values lie at equal distances over the
        layers of a slice, and are interpolated between them; of other values, the one
        at or before the layer is used. Mappings have a ``value`` and a ``filter``, a
        part of the tensor name; the first that matches is used.
    tensor : str
        Tensor name.
    t : float
        Position of the layer in its slice, from 0 (first) to 1 (last); 0 outside of
        layers.
    convert : callable value -> value
        Converts a value to the parameter's type.

    Returns
    -------
    value or None
        None if no filter matches.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return convert(setting)
    if not any(isinstance(entry, Mapping) for entry in setting):
        return _interpolated([convert(value) for value in setting], t)
    for entry in setting:
        wanted = entry.get("filter")
        if wanted in (None, "*") or wanted in tensor:
            return setting_for(entry["value"], tensor, t, convert)
    return None


def _interpolated(values: Sequence[Any], t: float) -> Any:
    if not values:
        return None
    scaled = t * (len(values) - 1)
    before = int(scaled)
    if not all(isinstance(value, float) for value in values):
        return values[before]
    after = min(before + 1, len(values) - 1)
    share = scaled - before
    return (1 - share) * values[before] + share * values[after]


def value_of(
    parameter: Parameter, scopes: Iterable[Settings], tensor: str, t: float
) -> Any:
    """Value of a parameter in the first of several scopes that has one for a tensor.

    Parameters
    ----------
    parameter : Parameter
        The parameter.
    scopes : iterable of mapping
        Settings by name, the most specific first: of a model, a slice, a module and the
        merge.
    tensor, t
        As in `setting_for`.

    Returns
    -------
    value or None
        The default if no scope has a value; None if there is no default.

    Raises
    ------
    ValueError
        If a value has the wrong type.
    """
    for settings in scopes:
        if parameter.name in settings:
            setting = settings[parameter.name]
            value = setting_for(setting, tensor, t, parameter.convert)
            if value is not None:
                return value
    return None if parameter.default is REQUIRED else parameter.default
