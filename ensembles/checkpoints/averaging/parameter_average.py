"""Averages of the parameters of a model, kept while it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ensembles.checkpoints.averaging.accumulation import KeptAverage, move
from ensembles.checkpoints.averaging.model_tensors import (
    Buffers,
    ModelTensors,
    assign,
    check_same,
    shapes_of,
)
from ensembles.checkpoints.averaging.moving_averages import Average
from ensembles.selection.table import check_integer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PROGRESS = "progress"  # key of counters and settings in a state
SNAPSHOTS = "snapshots"


class ParameterAverage:
    """Averages of the parameters of a model, kept while it is trained.

    Call `update` after each optimizer step. Averages are float64 unless ``dtype``
    differs, so that small updates are not lost: an average in bfloat16 does not move if
    the updates are below 1 / 256 of a parameter, and float32 loses updates at decays
    near 1. A float64 average takes the memory of a float32 average with the
    compensation of its rounding errors, and less time.

    Parameters
    ----------
    model : Module or mapping of str to Tensor
        The trained model, or parameters by name. Wrappers of ``torch.compile`` and
        ``DistributedDataParallel`` are removed. Tied parameters count once; parameters
        that do not require gradients are neither averaged nor copied.
    averages : EMA, PowerEMA, SWA or LAWA, or mapping of str to such averages
        What is kept, by name. A single average has the name of its class in lowercase,
        such as "ema".
    buffers : {"average", "copy"}, default="average"
        How to handle floating-point buffers, such as the running statistics of
        BatchNorm: "average" them like parameters, or "copy" those of the model.
        Other buffers, buffers with infinite values, and buffers that a state dict
        leaves out are never averaged. `recalibrate_batch_norm` computes exact
        statistics.
    frozen : bool, default=False
        Whether parameters that do not require gradients are averaged too, for models
        whose layers are unfrozen during training.
    dtype : torch.dtype or None, default=None
        Floating-point dtype of the averages; None is float64. ``torch.float32`` halves
        their memory; the rounding errors of the last updates add up.
    device : torch.device, str or None, default=None
        Device of the averages; None is the device of each parameter. "cpu" frees the
        memory of the accelerator, and copies the parameters to the CPU at each update.

    Attributes
    ----------
    model : Module or mapping of str to Tensor
        The model without wrappers.
    averages : dict of str to average
        What is kept, by name.
    step : int
        Step of the last update; 0 before the first.

    Examples
    --------
    >>> import torch
    >>> from ensembles.checkpoints import EMA, ParameterAverage
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> average = ParameterAverage(model, EMA(half_life=10))
    >>> for _ in range(20):
    ...     model(torch.ones(4, 2)).sum().backward()
    ...     optimizer.step()
    ...     average.update()
    >>> with average.swap():
    ...     prediction = model(torch.ones(1, 2))  # of the averaged parameters
    >>> sorted(average.averaged_state_dict())
    ['bias', 'weight']
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, Tensor],
        averages: Average | Mapping[str, Average],
        *,
        buffers: Buffers = "average",
        frozen: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.averages = _by_name(averages)
        if buffers not in ("average", "copy"):
            raise ValueError(f"buffers must be 'average' or 'copy', found {buffers!r}")
        self._tensors = ModelTensors(model, buffers=buffers, frozen=frozen)
        self.model = self._tensors.model
        kept_dtype, kept_device = _storage(dtype, device, self._tensors.current())
        self._kept = {
            name: KeptAverage(average, kept_dtype, kept_device)
            for name, average in self.averages.items()
        }
        self.step = 0
        self._raw: dict[str, Tensor] | None = None  # inside of swap

    def update(self, step: int | None = None) -> None:
        """Update the averages with the parameters of the model as they are now.

        Call it after each optimizer step: not after backward passes that only
        accumulate gradients, nor if a gradient scaler has skipped the step.

        Parameters
        ----------
        step : int or None, default=None
            Number of optimizer steps so far. Averages that have no member at this step
            do not change. None is one more than at the last update.

        Raises
        ------
        ValueError
            If ``step`` is not above that of the last update, or a shape has changed.
        TypeError
            If ``step`` is not an integer.
        RuntimeError
            If the model has averaged parameters, inside of `swap`.
        """
        if self._raw is not None:
            raise RuntimeError("update must not be called inside of swap")
        step = self.step + 1 if step is None else step
        check_integer(step=step)
        if step <= self.step:
            raise ValueError(
                f"step must be above that of the last update, {self.step}: found "
                f"{step}; if the run was resumed, load the state of the average that "
                "was saved with the parameters"
            )
        self.step = step
        due = [k for k in self._kept.values() if k.average.has_member_at(step)]
        if due:
            members = self._tensors.current()
            moves = [kept.add(members, step) for kept in due]
            move(members, [m for m in moves if m is not None])

    @contextmanager
    def swap(self, name: str | None = None) -> Iterator[Any]:
        """Context in which the model has averaged parameters.

        Parameters
        ----------
        name : str or None, default=None
            Which average; None is the only one.

        Yields
        ------
        Module or mapping of str to Tensor
            The model. When the context ends, also by an exception, its parameters and
            buffers have their former values, bit for bit.

        Raises
        ------
        ValueError
            If the average has no members yet, or the name is unknown.
        RuntimeError
            If the model has averaged parameters already.
        """
        if self._raw is not None:
            raise RuntimeError("swap must not be called inside of swap")
        value = self._value(name)
        self._tensors.check_names()
        self._raw = self._tensors.copies()
        try:
            for tensor, average in zip(self._tensors.current(), value, strict=True):
                tensor.copy_(average)
            yield self.model
        finally:
            self._tensors.restore(self._raw)
            self._raw = None

    def copy_to(
        self,
        model: nn.Module | Mapping[str, Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        """Copy an average into a model, in place and for good.

        Parameters
        ----------
        model : Module, mapping of str to Tensor or None, default=None
            Model with the same tensors; None is the trained model, whose raw parameters
            are lost: save them before if the training may continue.
        name : str or None, default=None
            Which average; None is the only one.

        Raises
        ------
        ValueError
            If the average has no members yet, or a tensor name or shape differs.
        """
        assign(self.model if model is None else model, self.averaged_state_dict(name))

    def averaged_state_dict(self, name: str | None = None) -> dict[str, Any]:
        """State dict of the model with averaged parameters.

        Parameters
        ----------
        name : str or None, default=None
            Which average; None is the only one.

        Returns
        -------
        dict of str to Tensor
            Names and dtypes are those of the model; averages are rounded once. Frozen
            parameters and buffers that are not averaged are the model's own tensors.

        Raises
        ------
        ValueError
            If the average has no members yet, or the name is unknown.
        """
        value = self._value(name)
        self._tensors.check_names()
        averages = dict(zip(self._tensors.names, value, strict=True))
        return self._tensors.state_dict(averages)

    def raw_state_dict(self) -> dict[str, Any]:
        """State dict of the model with its raw parameters, also inside of `swap`.

        Returns
        -------
        dict of str to Tensor
        """
        return self._tensors.state_dict(self._raw or {})

    @property
    def is_swapped(self) -> bool:
        """Whether the model has averaged parameters now, inside of `swap`."""
        return self._raw is not None

    def n_members(self, name: str | None = None) -> int:
        """Number of updates that count in an average.

        Parameters
        ----------
        name : str or None, default=None
            Which average; None is the only one.

        Returns
        -------
        int
        """
        return self._kept[self._name(name)].n_members

    def state_dict(self) -> dict[str, Any]:
        """State of the averages, to be saved with each checkpoint of the run.

        Returns
        -------
        dict
            The tensors of each average by its name, so that ``ensemble avg FILE --key
            ema`` reads them from a file, tied ones under each of their names; counters
            and settings at ``"progress"``; the members of LAWA at ``"snapshots"``.
            Tensors are those of the averages, which the next update changes in place.
        """
        self._tensors.check_names()
        names, members = self._tensors.names, self._tensors.current()
        raw = [(self._raw or {}).get(n, m) for n, m in zip(names, members, strict=True)]
        progress: dict[str, Any] = {}
        snapshots: dict[str, Any] = {}
        state: dict[str, Any] = {
            PROGRESS: {"step": self.step, "averages": progress},
            SNAPSHOTS: snapshots,
        }
        for name, kept in self._kept.items():
            progress[name] = {"settings": _settings(kept.average), **kept.counters()}
            if kept.n_members:
                value = kept.value()
                progress[name]["is_model"] = _are_equal(raw, value)
                state[name] = self._named(value)
            if kept.snapshots:
                snapshots[name] = [*map(self._named, kept.snapshots)]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the averages of a run that was stopped.

        The model must have the raw parameters of the same checkpoint, never averaged
        ones. Then the averages are, bit for bit, those of a run without a stop.

        Parameters
        ----------
        state : mapping
            From `state_dict`.

        Raises
        ------
        ValueError
            If the averages, their settings, or the tensors of the model differ, or the
            model has averaged parameters.
        """
        progress = _checked_progress(state, self.averages)
        names, members = self._tensors.names, self._tensors.current()
        shapes = shapes_of(self._named(members))
        loaded = {}
        for name in self._kept:
            has_members = progress["averages"][name]["n_members"] > 0
            parts = [state.get(name, {})] if has_members else []
            parts += state.get(SNAPSHOTS, {}).get(name, [])
            for part in parts:
                check_same(shapes, shapes_of(part), "the model", f"average {name!r}")
            loaded[name] = [[part[key] for key in names] for part in parts]
            is_model = progress["averages"][name].get("is_model", True)
            if not is_model and _are_equal(members, loaded[name][0]):
                raise ValueError(
                    f"the model has the parameters of the average {name!r}, and its "
                    "training must continue from the raw ones: load the raw parameters "
                    "of the checkpoint before the state of its averages"
                )
        for name, kept in self._kept.items():
            kept.restore(progress["averages"][name], loaded[name], members)
        self.step = progress["step"]

    def _named(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Tensors by all names that they have in a state dict of the model."""
        named = dict(zip(self._tensors.names, tensors, strict=True))
        return self._tensors.with_aliases(named)

    def _name(self, name: str | None) -> str:
        if name is None and len(self._kept) == 1:
            return next(iter(self._kept))
        if name not in self._kept:
            known = ", ".join(map(repr, self._kept))
            raise ValueError(f"name must be one of {known}, found {name!r}")
        return name

    def _value(self, name: str | None) -> list[Tensor]:
        name = self._name(name)
        kept = self._kept[name]
        if not kept.n_members:
            raise ValueError(
                f"average {name!r} has no members yet: its first is at step "
                f"{kept.average.first}, and the last update was at step {self.step}"
            )
        return kept.value()


def _by_name(averages: Average | Mapping[str, Average]) -> dict[str, Average]:
    """Averages by their names, which are keys in files."""
    if not isinstance(averages, Mapping):
        averages = {type(averages).__name__.lower(): averages}
    for name, average in averages.items():
        if not isinstance(average, Average):
            raise TypeError(
                "averages must be EMA, PowerEMA, SWA or LAWA, or a dict of names to "
                f"such averages, found {average!r}"
            )
        if not isinstance(name, str) or name in (PROGRESS, SNAPSHOTS) or "." in name:
            raise ValueError(
                f"the name of an average must be a string without dots, other than "
                f"{PROGRESS!r} and {SNAPSHOTS!r}, found {name!r}"
            )
    if not averages:
        raise ValueError("averages must have at least one average, found none")
    return dict(averages)


def _storage(
    dtype: torch.dtype | None, device: torch.device | str | None, tensors: list[Tensor]
) -> tuple[torch.dtype, torch.device | None]:
    """Dtype and device of averages."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    device = None if device is None else torch.device(device)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating-point, found {dtype}")
    types = {(device or tensor.device).type for tensor in tensors}
    if "mps" in types and dtype == torch.float64:
        raise ValueError(
            "mps devices have no float64; pass device='cpu' or dtype=torch.float32"
        )
    return dtype, device


def _are_equal(members: list[Tensor], averages: list[Tensor]) -> bool:
    """Whether tensors of a model are averages, rounded to its dtype."""
    import torch

    pairs = zip(members, averages, strict=True)
    return all(torch.equal(member, average.to(member)) for member, average in pairs)


def _settings(average: Average) -> dict[str, Any]:
    return {"average": type(average).__name__, **asdict(average)}


def _checked_progress(
    state: Mapping[str, Any], averages: Mapping[str, Average]
) -> Mapping[str, Any]:
    """Counters of a state whose averages have the same names and settings."""
    progress = state.get(PROGRESS)
    if not isinstance(progress, Mapping):
        raise ValueError(
            f"the state of averages must have counters at {PROGRESS!r}, found the keys "
            f"{[*state][:8]}; load a result of ParameterAverage.state_dict"
        )
    saved = {name: found["settings"] for name, found in progress["averages"].items()}
    expected = {name: _settings(average) for name, average in averages.items()}
    for name in [*expected, *saved]:
        if saved.get(name) != expected.get(name):
            raise ValueError(
                "averages must be those of the saved state, with the same settings: "
                f"{name!r} is {expected.get(name)} here and {saved.get(name)} there; "
                "make the ParameterAverage with the saved settings, or start new "
                "averages without loading the state"
            )
    return progress
