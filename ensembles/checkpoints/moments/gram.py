"""Gram matrices of the inputs of linear layers, collected by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.moments import Moments
from ensembles.checkpoints.moments.collection import (
    Forward,
    check_dtype,
    evaluation_mode,
    on_device,
    parameters_of,
    rounded,
    run,
    samples_of,
    unwrapped,
)
from ensembles.checkpoints.moments.linear_layers import (
    LinearLayer,
    counted_rows,
    linear_layers,
    padding_masks,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Reduction = Literal["sum", "mean"]


def collect_gram(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    reduction: Reduction = "sum",
    dtype: Literal["float32", "float64"] = "float32",
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Moments:
    """Collect the Gram matrices of the inputs of linear layers, for the rule "regmean".

    The Gram matrix of a layer is ``X.T @ X``, in float64, where the rows of X are the
    inputs of the layer at all positions of all examples. Layers are ``nn.Linear`` and
    ``Conv1D`` of transformers. The model is in evaluation mode while it runs, and its
    modes are restored.

    Weights that are tied to another kind of layer, as a head to the embeddings, have no
    Gram matrix, nor do weights that are used without a call of their layer, as in
    ``nn.MultiheadAttention``, convolutions, and experts that are fused in one parameter
    with three axes; ``notes`` of the result names them, and the rule averages them. The
    Gram matrix of a weight that several calls share is the sum over them.

    Parameters
    ----------
    model : Module
        Member of the merge, a torch module or a Hugging Face model.
    batches : iterable
        Batches of the data of the member, such as a DataLoader; tensors are moved to
        the device of the model. Labels are not used. Positions where
        ``attention_mask`` of a batch is 0 are left out, and in encoder-decoder models
        also labels of -100.
    forward : callable (model, batch) -> object or None, default=None
        Runs the model on a batch. None passes a mapping as keyword arguments, the first
        item of a tuple or list, and any other batch itself.
    reduction : {"sum", "mean"}, default="sum"
        "sum" is the matrix of the RegMean paper: a member with more data counts more.
        "mean" divides by the number of rows, as the code of its authors and
        FusionBench do: each member counts the same.
    dtype : {"float32", "float64"}, default="float32"
        Format of the result. float32 halves the size of the file.
    device : torch.device, str or None, default=None
        Device of the sums; None is the device of the inputs. "cpu" frees the memory of
        an accelerator.
    progress : callable or None, default=None
        Called with 1 after each batch.

    Returns
    -------
    Moments
        With ``kind="gram"``.

    Raises
    ------
    ValueError
        If there are no batches, no linear layer runs, or a sum is not finite.

    References
    ----------
    Jin et al. (2023), "Dataless knowledge fusion by merging weights of language
    models", arXiv:2212.09849, equation 2.

    Examples
    --------
    >>> import torch
    >>> from ensembles.checkpoints import collect_gram
    >>> model = torch.nn.Linear(2, 1)
    >>> collect_gram(model, [torch.tensor([[1.0, 2.0], [3.0, 0.0]])]).tensors["weight"]
    array([[10.,  2.],
           [ 2.,  4.]], dtype=float32)
    """
    check_dtype(dtype)
    check_reduction(reduction)
    inner = unwrapped(model)
    layers, notes = linear_layers(inner)
    sums = GramSums(layers, device)
    n_batches = 0
    with evaluation_mode(inner), sums.hooks():
        for batch in on_device(batches, inner):
            sums.run(inner, batch, forward)
            n_batches += 1
            if progress is not None:
                progress(1)
    tensors = {
        name: rounded(name, total, dtype)
        for name, total in sums.finished(reduction).items()
    }
    if not tensors:
        raise ValueError(
            "the model must run a linear layer (nn.Linear, or Conv1D of transformers) "
            f"with a weight of its own, found none in {type(inner).__name__}"
        )
    unused = [layer.name for layer in layers if layer.name not in tensors]
    if unused:
        verb = "have" if len(unused) > 1 else "has"
        notes.append(f"{listed(unused)} {verb} no Gram matrix: no input came to it")
    parameters, aliases = parameters_of(inner)
    n_rows = max(sums.n_rows.values())
    return Moments(
        "gram",
        tensors,
        samples_of({name: parameters[name] for name in tensors}),
        {"reduction": reduction, "n_batches": n_batches, "n_rows": n_rows},
        {alias: name for alias, name in aliases.items() if name in tensors},
        tuple(notes),
    )


def check_reduction(reduction: str) -> None:
    """Raise unless Gram matrices can be reduced in this way.

    Parameters
    ----------
    reduction : str
        Name of the reduction.

    Raises
    ------
    ValueError
        If it is neither "sum" nor "mean".
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', found {reduction!r}")


class GramSums:
    """Gram matrices of linear layers, summed in float64 over the batches of a model.

    Parameters
    ----------
    layers : sequence of LinearLayer
        Layers whose inputs count.
    device : torch.device, str or None
        Device of the sums; None is that of the inputs.

    Attributes
    ----------
    totals : dict of str to Tensor of shape (n_inputs, n_inputs)
        Sums by name of the weight, for layers that have had inputs; of shape
        (n_inputs, n_inputs, 1) for transposed weights, see `Moments`.
    n_rows : dict of str to int
        Number of inputs in each sum.
    """

    def __init__(
        self, layers: Sequence[LinearLayer], device: torch.device | str | None
    ) -> None:
        self.totals: dict[str, Tensor] = {}
        self.n_rows: dict[str, int] = {}
        self._layers = {layer.module: layer for layer in layers}
        self._device = device
        self._masks: list[Tensor] = []
        self._latest: tuple[Tensor, int | None, Tensor, int] | None = None

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Context in which the inputs of the layers are added to the sums."""
        hooks = [
            module.register_forward_pre_hook(self._add, with_kwargs=True)
            for module in self._layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._latest = None

    def run(self, model: nn.Module, batch: Any, forward: Forward | None) -> None:
        """Run a batch through a model with hooks, without gradients and padding.

        Parameters
        ----------
        model : Module
            Model with the layers.
        batch : object
            Batch on the device of the model.
        forward : callable or None
            As in `collect_gram`.
        """
        import torch

        self._masks = padding_masks(model, batch)
        with torch.no_grad():
            (forward or run)(model, batch)
        self._latest = None

    def finished(self, reduction: Reduction) -> dict[str, Tensor]:
        """Sums, or means over the rows, by name of the weight.

        Raises
        ------
        ValueError
            If no layer has had a row of inputs that is not padding.
        """
        if self.n_rows and not any(self.n_rows.values()):
            raise ValueError(
                "batches must have at least one example that is not padding, found none"
            )
        if reduction == "sum":
            return self.totals
        return {
            name: total / max(self.n_rows[name], 1)
            for name, total in self.totals.items()
        }

    def _add(
        self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Add the inputs of a layer, before it runs."""
        inputs = arguments[0] if arguments else next(iter(named.values()))
        name, is_transposed = self._layers[module][1:]
        # The version counts changes in place; tensors of inference mode have none.
        version = None if inputs.is_inference() else inputs._version
        # Queries, keys and values have the same inputs, one after the other.
        if (
            self._latest is None
            or self._latest[0] is not inputs
            or version is None
            or self._latest[1] != version
        ):
            rows = counted_rows(inputs.detach(), self._masks).double()
            product = (rows.T @ rows).to(self._device or rows.device)
            self._latest = inputs, version, product, len(rows)
        _, _, product, n_rows = self._latest
        product = product[..., None] if is_transposed else product
        total = self.totals.get(name)
        self.totals[name] = product.clone() if total is None else total.add_(product)
        self.n_rows[name] = self.n_rows.get(name, 0) + n_rows
