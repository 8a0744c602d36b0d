"""Statistics of BatchNorm layers, recomputed for averaged parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def recalibrate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> None:
    """Replace the running statistics of BatchNorm layers by those of batches.

    Averaged running statistics are not the statistics of averaged parameters. All
    batches are run through the model; layers normalize each batch by its statistics, as
    in training, and other layers, such as dropout, are in evaluation mode. The result
    is the mean and the unbiased variance over all batches, pooled in float64. They are
    those of one large batch for the first BatchNorm layer, whatever the sizes of the
    batches; `torch.optim.swa_utils.update_bn` averages means and variances of batches,
    which leaves out the variance between batches.

    Parameters
    ----------
    model : Module
        Model, changed in place. Without BatchNorm layers nothing is run.
    batches : iterable
        Batches, such as a DataLoader of training data, on the device of the model.
    forward : callable (model, batch) -> object or None, default=None
        Runs the model on a batch. None passes a mapping as keyword arguments, the first
        item of a tuple or list, and any other batch itself.

    Raises
    ------
    ValueError
        If there are no batches.

    Examples
    --------
    >>> import torch
    >>> from ensembles.checkpoints import recalibrate_batch_norm
    >>> model = torch.nn.BatchNorm1d(1)
    >>> batches = torch.tensor([[[0.0], [2.0]], [[4.0], [4.0]]])
    >>> recalibrate_batch_norm(model, batches)
    >>> model.running_mean, model.running_var
    (tensor([2.5000]), tensor([3.6667]))
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    pools = {m: _Pool() for m in layers if m.running_mean is not None}
    if not pools:
        return
    n_batches = 0
    with torch.no_grad(), _batch_statistics(model, pools):
        for batch in batches:
            (forward or _run)(model, batch)
            n_batches += 1
    if not n_batches:
        raise ValueError("batches must have at least one batch, found none")
    for layer, pool in pools.items():
        pool.write(layer, n_batches)


class _Pool:
    """Number of elements, mean and sum of squared deviations of each channel."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add the inputs of a layer, before it runs."""
        import torch

        channels = inputs[0].detach().double().transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(channels, dim=1, correction=0)
        n = channels.shape[1]
        squares = variance * n
        if self.mean is not None and self.squares is not None:
            # Chan et al. (1983), "Algorithms for computing the sample variance".
            difference = mean - self.mean
            squares += self.squares + difference**2 * (self.n * n / (self.n + n))
            mean = self.mean + difference * (n / (self.n + n))
        self.n, self.mean, self.squares = self.n + n, mean, squares

    def write(self, layer: Any, n_batches: int) -> None:
        """Set the running statistics of a layer, unless it has not been run."""
        if self.mean is None or self.squares is None:
            return
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.squares / max(self.n - 1, 1))
        layer.num_batches_tracked.fill_(n_batches)


@contextmanager
def _batch_statistics(model: nn.Module, pools: Mapping[Any, _Pool]) -> Iterator[None]:
    """Context in which BatchNorm layers use and pool the statistics of each batch."""
    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_pre_hook(pool) for layer, pool in pools.items()]
    try:
        model.eval()
        for layer in pools:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in pools:
            layer.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(batch[0] if isinstance(batch, Sequence) else batch)
