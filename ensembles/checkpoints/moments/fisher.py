"""The diagonal of the Fisher information of a model, from gradients of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from ensembles.checkpoints.compatibility.moments import Moments
from ensembles.checkpoints.moments.collection import (
    Forward,
    check_dtype,
    evaluation_mode,
    is_collection,
    like,
    on_device,
    parameters_of,
    rounded,
    run,
    samples_of,
    unwrapped,
)
from ensembles.checkpoints.moments.linear_layers import is_encoder_decoder, masks_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Labels = Literal["expected", "sampled", "data"]
# Problem types of transformers whose outputs are not logits of classes.
NOT_CLASSES = ("regression", "multi_label_classification")
HINT = "pass labels='data' to take the labels of the batches"


def collect_fisher(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    labels: Labels = "expected",
    forward: Forward | None = None,
    n_samples: int = 1,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Moments:
    """Collect the diagonal Fisher information of a model, for the rule "fisher".

    It is the mean over examples x of the squared gradient of log p(y | x) by each
    parameter. Gradients are those of single examples: the square of the gradient of a
    batch is something else, because gradients of examples cancel. Squares are added in
    float64. Parameters that do not require gradients are left out. Run the model in
    float32 or bfloat16: small gradients are rounded to 0 in float16.

    Parameters
    ----------
    model : Module
        Member of the merge, a torch module or a Hugging Face model. It is in evaluation
        mode while it runs; its modes and gradients are restored.
    batches : iterable
        Batches of the data of the member, such as a DataLoader. They are divided into
        examples along the first axis, whose length is that of ``input_ids`` or else of
        the first tensor, and must be the same for all tensors that have one value per
        example; tensors are moved to the device of the model.
    labels : {"expected", "sampled", "data"}, default="expected"
        Labels y of the gradients. "expected" is the mean over all classes with the
        probabilities of the model, as the paper defines it, and takes a backward pass
        per class. "sampled" draws labels from these probabilities, for a language
        model at each position that is not padding, as in `collect_gram`. "data" takes
        the labels of the batch (the empirical Fisher information), which differs from
        the others unless the model predicts the labels well.
    forward : callable (model, example) -> Tensor or None, default=None
        Function of an example, a batch of size 1. It returns logits of shape
        (*shape, n_classes), or for labels="data" the loss, a scalar. None runs the
        model, as `collect_gram` does, and takes ``logits`` or ``loss`` of its output,
        or a tensor that it returns. ``loss`` of transformers is a mean over positions.
    n_samples : int, default=1
        Number of labels that are drawn for each example with labels="sampled".
    seed : int, default=0
        Seed of the drawn labels.
    dtype : {"float32", "float64"}, default="float32"
        Format of the result.
    device : torch.device, str or None, default=None
        Device of the sums; None is that of each parameter. "cpu" frees the memory of an
        accelerator.
    progress : callable or None, default=None
        Called with 1 after each example.

    Returns
    -------
    Moments
        With ``kind="fisher"``.

    Raises
    ------
    ValueError
        If there are no batches, the output does not suit ``labels``, logits are NaN, or
        a sum is not finite, or is 0 for all parameters.

    References
    ----------
    Matena and Raffel (2022), "Merging models with Fisher-weighted averaging",
    arXiv:2111.09832, section 3. The labels are explained in Kunstner et al. (2019),
    "Limitations of the empirical Fisher approximation for natural gradient descent",
    arXiv:1905.12558.

    Examples
    --------
    >>> import torch
    >>> from ensembles.checkpoints import collect_fisher
    >>> model = torch.nn.Linear(1, 2)
    >>> _ = torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    >>> collect_fisher(model, [torch.tensor([[2.0], [4.0]])]).tensors["weight"]
    array([[2.5],
           [2.5]], dtype=float32)
    """
    import torch

    check_dtype(dtype)
    inner = unwrapped(model)
    _check(inner, labels, n_samples)
    parameters, aliases = parameters_of(inner)
    parameters = {n: p for n, p in parameters.items() if p.requires_grad}
    if not parameters:
        raise ValueError(
            "a parameter of the model must require gradients, found none; call "
            "model.requires_grad_()"
        )
    generator = torch.Generator().manual_seed(seed)
    totals = {
        name: torch.zeros_like(parameter, dtype=torch.float64, device=device)
        for name, parameter in parameters.items()
    }
    n_examples = 0
    with evaluation_mode(inner), torch.enable_grad():
        for example in _examples(on_device(batches, inner)):
            output = (forward or run)(inner, example)
            for weight, value in _weighted_values(
                output, _mask(inner, example), labels, n_samples, generator
            ):
                _add_squares(totals, parameters, value, weight)
            n_examples += 1
            if progress is not None:
                progress(1)
    if not n_examples:
        raise ValueError("batches must have at least one example, found none")
    tensors = {n: rounded(n, t / n_examples, dtype) for n, t in totals.items()}
    if not any(array.any() for array in tensors.values()):
        raise ValueError(
            f"the Fisher information must differ from 0, found 0 for all "
            f"{len(tensors)} parameters: the output does not depend on them, or the "
            "model predicts every label with probability 1"
        )
    settings = {"labels": labels, "n_examples": n_examples}
    if labels == "sampled":
        settings |= {"n_samples": n_samples, "seed": seed}
    aliases = {alias: name for alias, name in aliases.items() if name in tensors}
    return Moments("fisher", tensors, samples_of(parameters), settings, aliases)


def _check(model: nn.Module, labels: Labels, n_samples: int) -> None:
    """Raise for values that are not allowed, and outputs that are not logits."""
    if labels not in get_args(Labels):
        allowed = ", ".join(map(repr, get_args(Labels)))
        raise ValueError(f"labels must be one of {allowed}, found {labels!r}")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, found {n_samples}")
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if labels != "data" and problem in NOT_CLASSES:
        raise ValueError(
            f"labels={labels!r} needs the logits of classes, found a model with "
            f"problem_type {problem!r}; {HINT}"
        )


def _examples(batches: Iterable[Any]) -> Iterator[Any]:
    """Divide batches into batches of one example."""
    for batch in batches:
        size = _size_of(batch)
        for index in range(size):
            yield _example(batch, index, size)


def _size_of(batch: Any) -> int:
    """Number of examples: the length of ``input_ids``, or of the first tensor."""
    import torch

    if isinstance(batch, torch.Tensor) and batch.ndim:
        return len(batch)
    values = batch
    if isinstance(batch, Mapping):
        # Other tensors may precede it, such as positions of the shape (1, n_positions).
        values = [batch.get("input_ids"), *batch.values()]
    if isinstance(batch, Mapping | tuple | list):
        for value in values:
            if isinstance(value, torch.Tensor) and value.ndim:
                return len(value)
    raise ValueError(
        "a batch must be a tensor, or have a tensor with one row per example, found "
        f"{type(batch).__name__}"
    )


def _example(value: Any, index: int, size: int) -> Any:
    """Rows of one example in all tensors and lists with a row per example."""
    import torch

    if isinstance(value, Mapping):
        return {key: _example(item, index, size) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value[index : index + 1] if value.ndim and len(value) == size else value
    if is_collection(value):
        if len(value) == size and not any(isinstance(v, torch.Tensor) for v in value):
            return value[index : index + 1]
        return like(value, [_example(item, index, size) for item in value])
    return value


def _weighted_values(
    output: Any,
    mask: Tensor | None,
    labels: Labels,
    n_samples: int,
    generator: torch.Generator,
) -> Iterator[tuple[float, Tensor]]:
    """Yield scalars whose squared gradients are added, with their weights."""
    import torch

    if labels == "data":
        yield 1.0, _loss_of(output)
        return
    logits = _logits_of(output)
    log_p = torch.log_softmax(logits.double(), dim=-1)
    if labels == "sampled" and mask is not None and mask.shape == logits.shape[:-1]:
        log_p = log_p[mask]
    if log_p.isnan().any():
        raise ValueError(
            "logits must be finite, or -infinity for some classes, found NaN or "
            "infinity for an example; check the batches, and run the model in float32 "
            "or bfloat16"
        )
    if labels == "sampled":
        log_p = log_p.reshape(-1, logits.shape[-1])
        for _ in range(n_samples):
            drawn = torch.multinomial(
                log_p.detach().exp().cpu(), 1, generator=generator
            )
            yield 1 / n_samples, log_p.gather(1, drawn.to(log_p.device)).sum()
        return
    if logits.shape[:-1].numel() != 1:
        raise ValueError(
            "labels='expected' needs one row of logits per example, found logits of "
            f"shape {tuple(logits.shape)}; pass labels='sampled' for models that "
            "predict a label at each position"
        )
    for value in log_p.reshape(-1):
        if value.detach() > -torch.inf:
            yield float(value.detach().exp()), value


def _loss_of(output: Any) -> Tensor:
    """Scalar loss of an output."""
    import torch

    loss = output if isinstance(output, torch.Tensor) else _entry(output, "loss")
    if loss is None or loss.numel() != 1:
        shape = "no loss" if loss is None else f"a tensor of shape {tuple(loss.shape)}"
        raise ValueError(
            f"labels='data' needs a scalar loss, found {shape}; add labels to the "
            "batches of a Hugging Face model, or pass forward=FUNCTION, which returns "
            "the loss of an example"
        )
    return loss.reshape(())


def _logits_of(output: Any) -> Tensor:
    """Logits of an output."""
    import torch

    logits = output if isinstance(output, torch.Tensor) else _entry(output, "logits")
    if logits is None or not logits.ndim or logits.shape[-1] < 2:
        shape = "no logits" if logits is None else f"shape {tuple(logits.shape)}"
        raise ValueError(
            f"the output must have logits of two or more classes, found {shape}; "
            f"{HINT}, or pass forward=FUNCTION, which returns logits"
        )
    return logits


def _entry(output: Any, name: str) -> Any:
    """Entry of an output of transformers, which are mappings, or of another object."""
    if isinstance(output, Mapping):
        return output.get(name)
    return getattr(output, name, None)


def _mask(model: nn.Module, example: Any) -> Tensor | None:
    """Mask of the positions of logits that are not padding."""
    mask, decoder_mask = masks_of(model, example)
    return decoder_mask if is_encoder_decoder(model) else mask


def _add_squares(
    totals: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    value: Tensor,
    weight: float,
) -> None:
    """Add the squared gradient of a scalar, times a weight, to each total."""
    import torch

    gradients = torch.autograd.grad(
        value, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    for total, gradient in zip(totals.values(), gradients, strict=True):
        if gradient is not None:
            squared = gradient.detach().double().to(total.device) ** 2
            total.add_(squared, alpha=weight)
