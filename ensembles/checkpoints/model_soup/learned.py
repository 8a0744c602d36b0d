"""Learned soup: member weights optimized by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import check_bool
from ensembles._typing import Float64
from ensembles.checkpoints.formats.state_dict import as_array, as_torch, import_torch
from ensembles.checkpoints.model_soup.gradients import products
from ensembles.checkpoints.model_soup.losses import (
    default_loss,
    is_flat,
    warn_if_falling,
)
from ensembles.checkpoints.model_soup.merged_estimator import MergedEstimator
from ensembles.checkpoints.model_soup.soup_score import Part, n_rows, take_rows
from ensembles.registry import parameters_of
from ensembles.selection.score import CachedScore, Trial
from ensembles.selection.table import (
    Record,
    Selection,
    check_integer,
    check_real,
)

# loss(model, X, y) -> scalar tensor; model has the arguments and outputs of the module.
Loss = Callable[[Callable[..., Any], Any, Any], Any]


class LossGradients(NamedTuple):
    """A loss, and its gradients by the weights and by the inverse temperature.

    Parameters
    ----------
    loss : float
        Loss on a batch.
    by_weights : ndarray of shape (n_members, 1) or (n_members, n_layers)
        Gradient by the member weights.
    by_temperature : float or None
        Gradient by the logarithm of the inverse temperature; None if the output of the
        module is not a tensor.
    """

    loss: float
    by_weights: Float64
    by_temperature: float | None


class LearnedSoup:
    """Learns weights by gradient descent, for each member or each member and layer.

    The gradient by a weight is the inner product of the gradient by the parameters with
    the member's parameters. Members are streamed in blocks, without a copy in memory.

    Parameters
    ----------
    merged : MergedEstimator
        Members whose estimator holds a PyTorch module.
    parts : sequence of (X, y, params)
        Training data of the weights, as in `SoupScore`.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML, appendix I. As
    in the paper, the weights are a softmax. The paper holds all members in memory;
    here the gradient is streamed.
    """

    def __init__(self, merged: MergedEstimator, parts: Sequence[Part]) -> None:
        self.merged = merged
        self._parts = parts

    @classmethod
    def parameter_names(cls) -> list[str]:
        """Names of the parameters of `convex`."""
        return list(parameters_of(cls.convex, 3, Selection.reserved))

    def convex(
        self,
        n_members: int,
        score: CachedScore,
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
        score : CachedScore
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
        if temperature and loss is None and hasattr(self.merged.estimator, "get_loss"):
            raise ValueError(
                "temperature=True needs a custom loss for a skorch net, because its "
                "outputs may be probabilities; pass loss in weights_params"
            )
        torch = import_torch("weights='convex' of a PyTorch module")
        n_columns = len(self.merged.layers) if by == "layer" else 1
        logits = torch.zeros((n_members, n_columns), dtype=torch.float64)
        log_scale = torch.zeros((), dtype=torch.float64)
        optimizer = torch.optim.AdamW([logits, log_scale], lr=learning_rate)
        rng = np.random.default_rng(random_state)
        trials = _baselines(n_members, score, n_columns if by == "layer" else None)
        losses: list[float] = []
        while len(losses) < n_passes and not is_flat(losses):
            total, n_seen = 0.0, 0
            for X, y in self._batches(batch_size, rng):
                weights = torch.softmax(logits, 0).numpy()
                scale = float(log_scale.exp())
                gradients = self.loss_gradients(weights, X, y, loss, scale)
                _check_gradients(gradients, needs_tensor=bool(temperature))
                total += gradients.loss * n_rows(X)
                n_seen += n_rows(X)
                by_weights = gradients.by_weights
                centered = by_weights - (weights * by_weights).sum(0)
                logits.grad = torch.from_numpy(weights * centered)
                log_scale.grad = torch.tensor(
                    (gradients.by_temperature or 0.0) * bool(temperature),
                    dtype=torch.float64,
                )
                optimizer.step()
            losses.append(total / n_seen)
            weights = torch.softmax(logits, 0).numpy().copy()
            weights = weights[:, 0] if by == "model" else weights
            trials.append(Trial(weights, score(weights)))
            record(trials[-1])
        warn_if_falling(losses)
        # The latest of equals: an accuracy has steps, and the loss may still decrease.
        return max(reversed(trials), key=lambda trial: trial.score).weights

    def _batches(
        self, size: int, rng: np.random.Generator
    ) -> Iterator[tuple[Any, Any]]:
        for X, y, _ in self._parts:
            if X is None:
                raise ValueError(
                    "weights='convex' of a PyTorch module must have training data, "
                    "found X=None; call fit(X, y) with samples that no member was "
                    "trained on"
                )
            order = rng.permutation(n_rows(X))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                yield take_rows(X, rows), None if y is None else take_rows(y, rows)

    def loss_gradients(
        self, weights: Float64, X: Any, y: Any, loss: Loss | None, scale: float
    ) -> LossGradients:
        """Loss of a combination on a batch, and its gradients.

        Parameters
        ----------
        weights : ndarray of shape (n_members, 1) or (n_members, n_layers)
            Member weights, one column for the whole model or one for each layer.
        X, y : array-like of shape (n_samples, ...)
            Samples and targets of the batch; ``X`` may be a mapping, ``y`` None.
        loss : callable or None
            Loss as in `convex`; None is `default_loss`.
        scale : float
            Inverse temperature, which multiplies the outputs of the module.

        Returns
        -------
        LossGradients
            The gradient by the weights is correct up to a constant added to each
            column, which has no effect because the sum of a column is fixed.

        Raises
        ------
        TypeError
            If the loss is not a scalar tensor.
        """
        torch = import_torch("weights='convex' of a PyTorch module")
        merged = self.merged
        column = weights[:, 0].copy() if weights.shape[1] == 1 else weights
        module = merged.module_of(merged.set_weights(column))
        # Buffers, such as the running statistics of BatchNorm, have no gradient.
        parameters = dict(module.named_parameters())
        leaves = {
            name: as_torch(array).to(parameters[name].device).requires_grad_()
            for name, array in merged.arrays.items()
            if name in parameters
        }
        log_scale = torch.tensor(np.log(scale), requires_grad=True)

        def model(*args: Any, **kwargs: Any) -> Any:
            output = torch.func.functional_call(module, leaves, args, kwargs)
            if isinstance(output, torch.Tensor):
                return output * log_scale.exp().to(output.dtype)
            return output

        value = loss(model, X, y) if loss else default_loss(merged, model, X, y)
        if not (isinstance(value, torch.Tensor) and value.numel() == 1):
            raise TypeError(
                "loss(model, X, y) must return a tensor of one number, which has a "
                f"gradient, found {value!r:.80}"
            )
        *by_parameters, by_scale = torch.autograd.grad(
            value, [*leaves.values(), log_scale], allow_unused=True
        )
        gradients = {
            name: as_array(gradient, name)
            for name, gradient in zip(leaves, by_parameters, strict=True)
            if gradient is not None
        }
        by_tensor = products(merged.members, gradients, merged.arrays)
        groups = [list(by_tensor)]
        if weights.shape[1] > 1:
            groups = list(merged.layers.values())
        by_weights = np.zeros(weights.shape)
        for index, names in enumerate(groups):
            for name in names:
                if name in by_tensor:
                    by_weights[:, index] += by_tensor[name]
        by_temperature = None if by_scale is None else float(by_scale)
        return LossGradients(float(value.detach()), by_weights, by_temperature)


def check_convex(
    *,
    loss: Any = None,
    by: Any = "model",
    temperature: Any = False,
    n_passes: Any = 1,
    batch_size: Any = 1,
    learning_rate: Any = 0.3,
    random_state: Any = None,
) -> None:
    """Raise if a parameter of `LearnedSoup.convex` has a wrong value.

    Parameters
    ----------
    loss, by, temperature, n_passes, batch_size, learning_rate, random_state
        As in `LearnedSoup.convex`.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    TypeError
        If a parameter has the wrong type.
    """
    check_integer(n_passes=n_passes, batch_size=batch_size)
    check_real(learning_rate=learning_rate)
    check_bool("temperature", temperature)
    if not (loss is None or callable(loss)):
        raise TypeError(f"loss must be a callable or None, found {loss!r}")
    if by not in ("model", "layer") or min(n_passes, batch_size) < 1:
        raise ValueError(
            "by must be 'model' or 'layer', n_passes and batch_size at least 1: "
            f"found {by=}, {n_passes=}, {batch_size=}"
        )


def _baselines(n_members: int, score: CachedScore, n_layers: int | None) -> list[Trial]:
    """Trials of the best single member and of equal weights, for each layer if any."""
    scores = score.member_scores(n_members)
    equal = np.full(n_members, 1 / n_members)
    trials = [
        Trial(np.eye(n_members)[np.argmax(scores)], float(scores.max())),
        Trial(equal, score(equal)),
    ]
    if n_layers is None:
        return trials
    return [
        Trial(np.repeat(trial.weights[:, None], n_layers, 1), trial.score)
        for trial in trials
    ]


def _check_gradients(gradients: LossGradients, *, needs_tensor: bool) -> None:
    if not np.isfinite([gradients.loss, *gradients.by_weights.flat]).all():
        raise ValueError(
            "the loss and its gradients must be finite: the loss is "
            f"{gradients.loss}, its gradients are {gradients.by_weights.tolist()}; "
            "check the loss and the members"
        )
    if needs_tensor and gradients.by_temperature is None:
        raise ValueError(
            "temperature=True multiplies the output of the module, which must be a "
            "tensor; set temperature=False, and scale the output in the loss"
        )
