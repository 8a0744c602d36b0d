"""RegMean++: merge layer by layer, with inputs that passed through merged layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Array, Float64
from ensembles.checkpoints.averaging.model_tensors import (
    check_same,
    shapes_of,
    without_prefixes,
)
from ensembles.checkpoints.compatibility.layers import layers_of
from ensembles.checkpoints.compatibility.layout import is_wanted
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.methods.second_moments import regmean
from ensembles.checkpoints.moments.collection import (
    Forward,
    evaluation_mode,
    on_device,
    rounded,
    unwrapped,
)
from ensembles.checkpoints.moments.gram import GramSums, Reduction, check_reduction
from ensembles.checkpoints.moments.linear_layers import LinearLayer, linear_layers
from ensembles.dtypes import round_to_dtype
from ensembles.kernels.casting import widen
from ensembles.rules.builtin import mean

if TYPE_CHECKING:
    from torch import Tensor, nn


def regmean_plus_plus(
    models: Sequence[nn.Module],
    batches: Sequence[Iterable[Any]],
    *,
    weights: ArrayLike | None = None,
    alpha: float = 0.9,
    reduction: Reduction = "sum",
    exclude: Sequence[str] = (),
    forward: Forward | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Merge models by RegMean++: each layer with inputs from the merged layers below.

    As the rule "regmean", which uses the inputs that each member's own layers compute.
    Here the layers below have been merged already, so that a merged layer fits the
    inputs that it will get. Layers are the numbered blocks of a model, such as
    ``encoder.layer.3``, and single modules outside of them, in the order in which they
    run; in a block, inputs are those of the member's own block, as in the paper.
    Tensors other than weights of linear layers are averaged.

    The data of each member run through the model once for each layer. Copies of all
    models are in memory; the models themselves are not changed.

    Parameters
    ----------
    models : sequence of Module
        Members with the same tensor names and shapes, torch modules or Hugging Face
        models.
    batches : sequence of iterables
        Batches of the data of each member, such as a DataLoader or a list, which are
        read several times.
    weights : array-like of shape (n_members,) or None, default=None
        Non-negative weight of each member; None gives all members the same weight.
    alpha : float in [0, 1], default=0.9
        Factor of the entries of Gram matrices outside of the diagonal.
    reduction : {"sum", "mean"}, default="sum"
        Whether Gram matrices are divided by their number of rows, as in `collect_gram`.
    exclude : sequence of str, default=()
        Glob patterns for tensor names that are not merged, such as "classifier.*" for
        heads of different tasks: the data of a member run through its own.
    forward : callable (model, batch) -> object or None, default=None
        Runs a model on a batch, as in `collect_gram`.
    progress : callable or None, default=None
        Called with 1 after each batch, which runs once for each layer.

    Returns
    -------
    dict of str to Tensor
        State dict of the merged model on the CPU, in the dtypes of the first member,
        without excluded tensors.

    Raises
    ------
    TypeError
        If batches of a member are an iterator, which can be read only once.
    ValueError
        If models differ in names or shapes, there are no batches, or no linear layer
        runs.

    References
    ----------
    Nguyen et al. (2025), "RegMean++: enhancing effectiveness and generalization of
    regression mean for model merging", arXiv:2508.03121.

    Examples
    --------
    >>> import torch
    >>> from ensembles.checkpoints import regmean_plus_plus
    >>> models = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    >>> data = [[torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]]
    >>> state = regmean_plus_plus(models, data)
    >>> first, second = (model.weight[0] for model in models)
    >>> torch.equal(state["weight"], torch.stack([first[:1], second[1:]], 1))
    True
    """
    check_reduction(reduction)
    counts = regmean.check_weights(weights, len(models))
    _check_batches(batches, len(models))
    copies = [copy.deepcopy(unwrapped(model)) for model in models]
    tensors = [_floats(model, exclude) for model in copies]
    shapes = [shapes_of(state) for state in tensors]
    for index, other in enumerate(shapes[1:], 1):
        check_same(shapes[0], other, "models[0]", f"models[{index}]")
    layers, _ = linear_layers(copies[0])
    names = [layer.name for layer in layers if layer.name in tensors[0]]
    if not names:
        raise ValueError(
            "the models must have a linear layer (nn.Linear, or Conv1D of "
            f"transformers) to merge, found none in {type(copies[0]).__name__}"
        )
    groups = _in_order(layers_of(tensors[0]), names, copies[0], batches[0], forward)
    for group in groups:
        grams: list[Mapping[str, Array]] = [{} for _ in copies]
        if {*group} & {*names}:
            how = (reduction, forward, progress)
            grams = [
                _grams(model, {*group}, own_batches, *how)
                for model, own_batches in zip(copies, batches, strict=True)
            ]
        for name in group:
            merged = _merged(
                name,
                [state[name] for state in tensors],
                [g.get(name) for g in grams],
                counts,
                alpha,
            )
            for state in tensors:
                state[name].copy_(merged)
    state = {without_prefixes(n): t for n, t in copies[0].state_dict().items()}
    return {n: t.cpu() for n, t in state.items() if is_wanted(n, (), exclude)}


def _check_batches(batches: Sequence[Iterable[Any]], n_models: int) -> None:
    """Raise unless each model has batches that can be read several times."""
    if len(batches) != n_models:
        raise ValueError(
            f"batches must have the data of each of {n_models} models, found "
            f"{len(batches)}"
        )
    for index, member_batches in enumerate(batches):
        if iter(member_batches) is member_batches:
            raise TypeError(
                f"batches[{index}] is read several times, found an iterator; pass a "
                "list or a DataLoader"
            )


def _floats(model: nn.Module, exclude: Sequence[str]) -> dict[str, Tensor]:
    """Float parameters and buffers of a model that are merged, each once."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    for prefixed, tensor in model.state_dict(keep_vars=True).items():
        name = without_prefixes(prefixed)
        if first.setdefault(id(tensor), name) == name and tensor.is_floating_point():
            tensors[name] = tensor.detach()
    return {n: t for n, t in tensors.items() if is_wanted(n, (), exclude)}


def _in_order(
    groups: Mapping[str, list[str]],
    names: Sequence[str],
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward | None,
) -> list[list[str]]:
    """Groups of tensors in the order in which they are merged.

    Groups without a linear layer, such as embeddings, are averaged first; the others
    follow in the order in which their linear layers run on the first batch.
    """
    linear = [layer for layer in linear_layers(model)[0] if layer.name in names]
    sums = GramSums(linear, None)
    with evaluation_mode(model), sums.hooks():
        sums.run(model, next(on_device(batches, model)), forward)
    run_order = dict.fromkeys([*sums.totals, *names])  # the others do not run
    ranks = {name: rank for rank, name in enumerate(run_order)}
    return sorted(
        groups.values(),
        key=lambda group: min((ranks[n] for n in group if n in ranks), default=-1),
    )


def _grams(
    model: nn.Module,
    group: set[str],
    batches: Iterable[Any],
    reduction: Reduction,
    forward: Forward | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Array]:
    """Gram matrices of the linear layers of a group on the data of a member."""
    layers: list[LinearLayer] = linear_layers(model)[0]
    sums = GramSums([layer for layer in layers if layer.name in group], None)
    with evaluation_mode(model), sums.hooks():
        for batch in on_device(batches, model):
            sums.run(model, batch, forward)
            if progress is not None:
                progress(1)
    return {
        name: rounded(name, total, "float64")
        for name, total in sums.finished(reduction).items()
    }


def _merged(
    name: str,
    tensors: Sequence[Tensor],
    grams: Sequence[Array | None],
    weights: Float64,
    alpha: float,
) -> Any:
    """A merged tensor in the dtype of the first; averaged without Gram matrices."""
    arrays = [state_dict.as_array(tensor, f"tensor {name!r}") for tensor in tensors]
    stack = np.array([widen(array.reshape(1, -1))[0] for array in arrays])
    stack = stack.reshape(len(arrays), *arrays[0].shape)
    present = next((gram for gram in grams if gram is not None), None)
    if present is None:
        merged = mean(stack, weights)
    else:
        # Experts to which no input of a member was routed have no data of it.
        moments = [np.zeros_like(present) if g is None else g for g in grams]
        merged = regmean(stack, weights, moments=moments, alpha=alpha)
    return state_dict.as_torch(round_to_dtype(merged, arrays[0].dtype))
