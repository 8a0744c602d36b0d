"""Tensors of a model that are averaged, by their names in the state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

# Part of names inside of a module that torch.compile wraps.
COMPILED = "_orig_mod."
Buffers = Literal["average", "copy"]


class _Slot(NamedTuple):
    """Where a tensor is: modules may replace it by another one."""

    container: Any  # mapping of str to Tensor
    key: str

    def tensor(self) -> Tensor:
        return self.container[self.key].detach()  # type: ignore[no-any-return]


class ModelTensors:
    """Parameters and buffers of a model that are averaged.

    Tied parameters count once, under their first name. Names have no prefixes of
    ``torch.compile`` and of wrappers for several devices.

    Parameters
    ----------
    model : Module or mapping of str to Tensor
        Model, or tensors by name, which are all averaged.
    buffers : {"average", "copy"}
        Whether floating-point buffers are averaged; the others never are.
    frozen : bool
        Whether parameters that do not require gradients are averaged.

    Raises
    ------
    ValueError
        If no parameter is averaged, or parameters are sharded or have no values.
    """

    def __init__(
        self, model: nn.Module | Mapping[str, Tensor], *, buffers: Buffers, frozen: bool
    ) -> None:
        self.model = unwrap(model)
        self._averaged: dict[str, _Slot] = {}
        self._frozen: dict[str, _Slot] = {}
        self._copied: dict[str, _Slot] = {}
        self._aliases: dict[str, str] = {}
        names: dict[int, str] = {}
        all_of_them = frozen or isinstance(self.model, Mapping)
        n_parameters = 0
        for name, slot, is_buffer in _slots(self.model):
            tensor = slot.container[slot.key]
            first = names.setdefault(id(tensor), name)
            if first != name:
                self._aliases[name] = first
            elif is_buffer:
                is_averaged = buffers == "average" and _is_finite(tensor)
                (self._averaged if is_averaged else self._copied)[name] = slot
            else:
                _check_parameter(name, tensor)
                is_averaged = tensor.requires_grad or (
                    all_of_them and _is_float(tensor)
                )
                (self._averaged if is_averaged else self._frozen)[name] = slot
            n_parameters += is_averaged and not is_buffer
        self._shapes = {n: slot.tensor().shape for n, slot in self._averaged.items()}
        if not n_parameters:
            raise ValueError(
                "the model has no parameters to average: none requires gradients; make "
                "the average after parameters are unfrozen, or pass frozen=True"
            )

    @property
    def names(self) -> list[str]:
        """Names of the averaged tensors."""
        return [*self._averaged]

    def current(self) -> list[Tensor]:
        """Averaged tensors as they are now, without gradients.

        Returns
        -------
        list of Tensor
            In the order of `names`; they share memory with the model.

        Raises
        ------
        ValueError
            If a parameter that was frozen requires gradients now.
        """
        for name, slot in self._frozen.items():
            if slot.container[slot.key].requires_grad:
                raise ValueError(
                    f"parameter {name!r} was frozen when the average was made, and "
                    "requires gradients now; pass frozen=True to average frozen "
                    "parameters from the beginning"
                )
        tensors = [slot.tensor() for slot in self._averaged.values()]
        for name, tensor in zip(self._averaged, tensors, strict=True):
            if tensor.shape != self._shapes[name]:
                raise ValueError(
                    f"the shape of {name!r} must not change: it was "
                    f"{tuple(self._shapes[name])} when the average was made, and is "
                    f"{tuple(tensor.shape)} now"
                )
        return tensors

    def copies(self) -> dict[str, Tensor]:
        """Copies of averaged tensors and of all buffers, for `restore`.

        Returns
        -------
        dict of str to Tensor
        """
        slots = {**self._averaged, **self._copied}
        return {name: slot.tensor().clone() for name, slot in slots.items()}

    def restore(self, copies: Mapping[str, Tensor]) -> None:
        """Write copies of tensors back into the model.

        Parameters
        ----------
        copies : mapping of str to Tensor
            From `copies`.
        """
        slots = {**self._averaged, **self._copied}
        for name, copy in copies.items():
            slots[name].tensor().copy_(copy)

    def check_names(self) -> None:
        """Check that the model has the parameters that are averaged, and no others.

        Raises
        ------
        ValueError
            If a module was replaced or added, or parameters were tied or untied, since
            the average was made.
        """
        slots = dict[str, _Slot]()
        firsts = dict[int, str]()
        parameters = {**self._averaged, **self._frozen, **self._aliases}
        for name, slot, is_buffer in _slots(self.model):
            slots[name] = slot
            if not is_buffer and name not in parameters:
                raise _changed(f"parameter {name!r} was added")
            first = firsts.setdefault(id(slot.container[slot.key]), name)
            if not is_buffer and first != self._aliases.get(name, name):
                verb = "untied from" if name in self._aliases else "tied to"
                other = self._aliases.get(name, first)
                raise _changed(f"parameter {name!r} was {verb} {other!r}")
        for name, slot in self._averaged.items():
            if name not in slots or slots[name].container is not slot.container:
                raise _changed(f"the module of {name!r} was replaced")

    def with_aliases(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Averaged tensors, also under the other names of tied parameters.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            Tensors by their names in `names`.

        Returns
        -------
        dict of str to Tensor
        """
        aliases = {a: tensors[n] for a, n in self._aliases.items() if n in tensors}
        return {**tensors, **aliases}

    def state_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """State dict of the model with other tensors in place of its own.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            Tensors by name; they are rounded to the dtypes of the model.

        Returns
        -------
        dict of str to Tensor
            All other tensors are the model's own.
        """
        state = self.model if isinstance(self.model, Mapping) else self._model_state()
        slots = {**self._averaged, **self._copied}
        rounded = {
            name: tensor.to(slots[name].tensor().dtype)
            for name, tensor in tensors.items()
        }
        return {
            name: rounded.get(self._aliases.get(name, name), value)
            for name, value in state.items()
        }

    def _model_state(self) -> dict[str, Any]:
        state = self.model.state_dict()
        return {without_prefixes(name): value for name, value in state.items()}


def assign(model: nn.Module | Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Copy tensors into a model, in place.

    Parameters
    ----------
    model : Module or mapping of str to Tensor
        Model with the same tensor names.
    state : mapping of str to Tensor
        Tensors by name, without prefixes of wrappers.

    Raises
    ------
    ValueError
        If a name or shape differs; then the model is not changed.
    """
    targets = {name: slot.tensor() for name, slot, _ in _slots(unwrap(model))}
    tensors = {name: value for name, value in state.items() if hasattr(value, "shape")}
    check_same(shapes_of(targets), shapes_of(tensors), "the model", "the average")
    for name, value in tensors.items():
        targets[name].copy_(value)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Tensors by name.

    Returns
    -------
    dict of str to tuple of int
    """
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_same(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    of_expected: str,
    of_found: str,
) -> None:
    """Check that two sets of tensors have the same names and shapes.

    Parameters
    ----------
    expected, found : mapping of str to shape
        Shapes by tensor name.
    of_expected, of_found : str
        What the tensors belong to, for the message.

    Raises
    ------
    ValueError
        If a name or shape differs.
    """
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            shapes = [
                f"{owner} has {side.get(name, 'no such tensor')}"
                for owner, side in ((of_expected, expected), (of_found, found))
            ]
            raise ValueError(
                "tensors must have the same names and shapes: for "
                f"{name!r}, {' and '.join(shapes)}"
            )


def unwrap(model: Any) -> Any:
    """Model inside of ``torch.compile`` and of wrappers for several devices.

    Parameters
    ----------
    model : Module or mapping of str to Tensor
        Model.

    Returns
    -------
    Module or mapping of str to Tensor

    Raises
    ------
    TypeError
        If it is neither a module nor a mapping.
    """
    from torch.nn import DataParallel, Module
    from torch.nn.parallel import DistributedDataParallel

    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, COMPILED[:-1], None), Module):
            model = model._orig_mod
        else:
            break
    if not isinstance(model, Module | Mapping):
        raise TypeError(
            "model must be a torch module or a mapping of names to parameters, such as "
            f"dict(model.named_parameters()), found {type(model).__name__}"
        )
    return model


def without_prefixes(name: str) -> str:
    """Name of a tensor in a model that is not compiled.

    Parameters
    ----------
    name : str
        Name, in which compiled modules have an additional part.

    Returns
    -------
    str
    """
    return name.replace(COMPILED, "")


def _slots(model: Any) -> Iterator[tuple[str, _Slot, bool]]:
    """Yield names, slots, and whether it is a buffer, of what a state dict holds."""
    if isinstance(model, Mapping):
        for name in model:
            yield name, _Slot(model, name), False
        return
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = without_prefixes(f"{prefix}." if prefix else "")
        for is_buffer, tensors in (
            (False, module._parameters),
            (True, module._buffers),
        ):
            for key, tensor in tensors.items():
                left_out = is_buffer and key in module._non_persistent_buffers_set
                if tensor is not None and not left_out:
                    yield start + key, _Slot(tensors, key), is_buffer


def _changed(change: str) -> ValueError:
    return ValueError(
        f"{change} since the average was made; make a new ParameterAverage after "
        "changing the model"
    )


def _check_parameter(name: str, parameter: Any) -> None:
    """Raise if a parameter has no values of its own in this process."""
    from torch.nn.parameter import is_lazy

    is_sharded = (
        hasattr(parameter, "placements")  # DTensor, of FSDP2
        or hasattr(parameter, "ds_id")  # ZeRO-3 of DeepSpeed
        or type(parameter).__name__ == "FlatParameter"  # FSDP1
    )
    if is_sharded:
        raise ValueError(
            f"parameter {name!r} is sharded over processes, which is not supported; "
            "average the checkpoints of the run with `average` (ensemble avg)"
        )
    if is_lazy(parameter) or parameter.is_meta:
        raise ValueError(
            f"parameter {name!r} has no values yet; run a batch through the model, or "
            "load its weights, before the average is made"
        )


def _is_finite(buffer: Tensor) -> bool:
    """Whether the values of a buffer can be averaged: a mask of -inf cannot."""
    return _is_float(buffer) and bool(buffer.isfinite().all())


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex
