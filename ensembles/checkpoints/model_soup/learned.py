"""Learned soup: member weights optimized by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.state_dict import as_array, as_torch, import_torch
from ensembles.checkpoints.model_soup.gradients import products
from ensembles.checkpoints.model_soup.losses import is_flat, usual_loss, warn_if_falling
from ensembles.checkpoints.model_soup.merged_estimator import Merged
from ensembles.checkpoints.model_soup.soup_score import SoupScore, n_rows, take_rows
from ensembles.registry import parameters_of
from ensembles.selection.score import Score, Trial, own_scores, score_of
from ensembles.selection.table import (
    Record,
    Selection,
    check_number,
    check_whole,
)

# loss(model, X, y) -> scalar tensor; model has the arguments and outputs of the module.
Loss = Callable[[Callable[..., Any], Any, Any], Any]


class Slopes(NamedTuple):
    """A loss, and its gradients by the weights and the log inverse temperature."""

    loss: float
    by_weights: Float64
    by_sharpness: float | None  # None if the module does not output a tensor


class Learned:
    """Selection that learns weights by gradient, for each member or member and layer.

    The gradient by a weight is the inner product of the gradient by the parameters with
    the member's parameters. Members are streamed in blocks, without a copy in memory.

    Parameters
    ----------
    merged : Merged
        Members whose estimator holds a PyTorch module.
    score : SoupScore
        Score of the same members; its data are the training data of the weights.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML, appendix I. As
    in the paper, the weights are a softmax. The paper holds all members in memory;
    here the gradient is streamed.
    """

    name = "convex"  # the registered selection that it replaces
    single_member = False

    def __init__(self, merged: Merged, score: SoupScore) -> None:
        self.merged = merged
        self._parts = score.parts
        self._usual = partial(usual_loss, merged)

    @classmethod
    def parameter_names(cls) -> list[str]:
        """Names of the selection's parameters."""
        return list(parameters_of(cls.__call__, 3, Selection.reserved))

    def __call__(
        self,
        n_members: int,
        score: Score,
        *,
        loss: Loss | None = None,
        by: str = "model",
        temperature: bool = False,
        n_passes: int = 20,
        batch_size: int = 32,
        learning_rate: float = 0.3,
        random_state: int | None = 0,
        record: Record,
    ) -> Float64:
        """Minimize the loss, and return the weights with the best score of any pass.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.
        score : Score
            Called for each member alone, for equal weights and after each pass. The
            weights with the best of these scores are returned, the latest among equals.
        loss : callable (model, X, y) -> scalar tensor, or None, default=None
            Loss to minimize; ``model`` is a function with the arguments and outputs of
            the module. None is the loss of a skorch net, or the cross-entropy of logits
            for integers and class labels, or the mean squared error.
        by : {"model", "layer"}, default="model"
            Whether a member has one weight, or one for each layer.
        temperature : bool, default=False
            Whether to learn an inverse temperature that multiplies the outputs of the
            module, beside the weights. It is discarded afterwards.
        n_passes : int, at least 1, default=20
            Maximum number of passes over the data, each in a new random order. Learning
            stops when a pass lowers the loss by less than a thousandth.
        batch_size : int, at least 1, default=32
            Number of samples for each gradient step.
        learning_rate : float, default=0.3
            Learning rate of AdamW, on the logarithms of the weights.
        random_state : int or None, default=0
            Seed for the order of the samples; None draws a new one for each call.
        record : callable
            Called with the `Trial` of each pass.

        Returns
        -------
        ndarray of shape (n_members,) or (n_members, n_layers)
            Weights; each column is non-negative and sums to 1.

        Raises
        ------
        ValueError
            If a parameter is out of range, there are no data, or a score, a loss or a
            gradient is not finite.
        TypeError
            If a parameter has the wrong type, or the loss is not a scalar tensor.

        Warns
        -----
        UserWarning
            If the loss still fell by more than a hundredth in the last pass.
        """
        check_whole(n_passes=n_passes, batch_size=batch_size)
        check_number(learning_rate=learning_rate)
        if not (loss is None or callable(loss)):
            raise TypeError(f"loss must be a callable or None, found {loss!r}")
        if by not in ("model", "layer") or min(n_passes, batch_size) < 1:
            raise ValueError(
                "by must be 'model' or 'layer', n_passes and batch_size at least 1: "
                f"found {by=}, {n_passes=}, {batch_size=}"
            )
        if temperature and loss is None and hasattr(self.merged.estimator, "get_loss"):
            raise ValueError(
                "temperature must come with a loss of one's own for a net of skorch, "
                "whose answers may be probabilities"
            )
        torch = import_torch("weights='convex' of a module")
        groups = list(self.merged.layers.values())
        shape = (n_members, len(groups) if by == "layer" else 1)
        logits = torch.zeros(shape, dtype=torch.float64)
        sharpness = torch.zeros((), dtype=torch.float64)
        optimizer = torch.optim.AdamW([logits, sharpness], lr=learning_rate)
        rng = np.random.default_rng(random_state)
        tried = self._simple(n_members, score, shape[1] if by == "layer" else None)
        losses: list[float] = []
        while len(losses) < n_passes and not is_flat(losses):
            total, n_seen = 0.0, 0
            for X, y in self._batches(batch_size, rng):
                weights = torch.softmax(logits, 0).numpy()
                found = self.slopes(weights, X, y, loss, float(sharpness.exp()))
                _check_slopes(found, needs_tensors=bool(temperature))
                total, n_seen = total + found.loss * n_rows(X), n_seen + n_rows(X)
                slope = weights * (
                    found.by_weights - (weights * found.by_weights).sum(0)
                )
                logits.grad = torch.from_numpy(slope)
                sharpness.grad = torch.tensor(
                    (found.by_sharpness or 0.0) * bool(temperature),
                    dtype=torch.float64,
                )
                optimizer.step()
            losses.append(total / n_seen)
            weights = torch.softmax(logits, 0).numpy().copy()
            weights = weights[:, 0] if by == "model" else weights
            tried.append(Trial(weights, score_of(score, weights)))
            record(tried[-1])
        warn_if_falling(losses)
        # The latest of equals: an accuracy has steps, and the loss may still decrease.
        return max(reversed(tried), key=lambda trial: trial.score).weights

    def _simple(
        self, n_members: int, score: Score, n_layers: int | None
    ) -> list[Trial]:
        """Trials of the best single member and of equal weights, for each layer."""
        own = own_scores(n_members, score)
        equal = np.full(n_members, 1 / n_members)
        tried = [
            Trial(np.eye(n_members)[np.argmax(own)], float(own.max())),
            Trial(equal, score_of(score, equal)),
        ]
        if n_layers is None:
            return tried
        return [
            Trial(np.repeat(weights[:, None], n_layers, 1), value)
            for weights, value in tried
        ]

    def _batches(self, size: int, rng: np.random.Generator) -> Any:
        for X, y, _ in self._parts:
            if X is None:
                raise ValueError(
                    "weights='convex' of a module learns from data: fit(X, y) with "
                    "samples that no member has seen; found none"
                )
            order = rng.permutation(n_rows(X))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield take_rows(X, rows), None if y is None else take_rows(y, rows)

    def slopes(
        self, weights: Float64, X: Any, y: Any, loss: Loss | None, sharpness: float
    ) -> Slopes:
        """Loss of a combination on a batch, and its gradients.

        Parameters
        ----------
        weights : ndarray of shape (n_members, 1) or (n_members, n_layers)
            Member weights, one column for the whole model or one for each layer.
        X, y : array-like of shape (n_samples, ...)
            Samples and targets of the batch; ``X`` may be a mapping, ``y`` None.
        loss : callable or None
            Loss as in `__call__`; None is `usual_loss`.
        sharpness : float
            Inverse temperature, which multiplies the outputs of the module.

        Returns
        -------
        Slopes
            The gradient by the weights is correct up to a constant added to each
            column, which has no effect because the sum of a column is fixed.

        Raises
        ------
        TypeError
            If the loss is not a scalar tensor.
        """
        torch = import_torch("weights='convex' of a module")
        merged = self.merged
        module = merged.module_of(merged.put(_column_or_all(weights)))
        # Buffers, such as the running statistics of BatchNorm, have no gradient.
        own = dict(module.named_parameters())
        leaves = {
            name: as_torch(array).to(own[name].device).requires_grad_()
            for name, array in merged.arrays.items()
            if name in own
        }
        scale = torch.tensor(np.log(sharpness), requires_grad=True)

        def model(*args: Any, **kwargs: Any) -> Any:
            answer = torch.func.functional_call(module, leaves, args, kwargs)
            if isinstance(answer, torch.Tensor):
                return answer * scale.exp().to(answer.dtype)
            return answer

        value = (loss or self._usual)(model, X, y)
        if not (isinstance(value, torch.Tensor) and value.numel() == 1):
            raise TypeError(
                "loss(model, X, y) must return a tensor of one number, to take its "
                f"gradient, found {value!r:.80}"
            )
        held = list(leaves.values())
        *by_parameters, by_scale = torch.autograd.grad(
            value, [*held, scale], allow_unused=True
        )
        gradients = {
            name: as_array(gradient, name)
            for name, gradient in zip(leaves, by_parameters, strict=True)
            if gradient is not None
        }
        found = products(merged.members, gradients, merged.arrays)
        if weights.shape[1] == 1:
            by_weights = sum(found.values(), np.zeros(len(weights)))[:, None]
        else:
            by_weights = np.stack(
                [
                    sum((found[n] for n in names if n in found), np.zeros(len(weights)))
                    for names in merged.layers.values()
                ],
                axis=1,
            )
        by_sharpness = None if by_scale is None else float(by_scale)
        return Slopes(float(value.detach()), by_weights, by_sharpness)


def _check_slopes(found: Slopes, *, needs_tensors: bool) -> None:
    if not (np.isfinite(found.loss) and np.isfinite(found.by_weights).all()):
        raise ValueError(
            f"a loss and its slopes must be finite, found a loss of {found.loss} with "
            f"slopes {found.by_weights.tolist()}; look at the loss, or at the members"
        )
    if needs_tensors and found.by_sharpness is None:
        raise ValueError(
            "temperature must multiply answers that are tensors, the module answers "
            "with something else; leave it out, and see to it in the loss"
        )


def _column_or_all(weights: Float64) -> Float64:
    return weights[:, 0].copy() if weights.shape[1] == 1 else weights
