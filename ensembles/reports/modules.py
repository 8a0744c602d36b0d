"""Members that are PyTorch modules, or checkpoints of one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import check_choice
from ensembles.checkpoints.formats.state_dict import is_torch
from ensembles.checkpoints.model_soup.soup_score import n_rows, take_rows
from ensembles.reports.estimators import merging
from ensembles.reports.members import Data, Members

OUTPUTS = ("logits", "probabilities", "values")
SUM_TOLERANCE = 1e-3  # of the sum of probabilities, in half precision too
TARGETS = "labels"  # key of the targets in batches of Hugging Face models


class Batches:
    """Inputs of a module, in batches, with their targets.

    Parameters
    ----------
    X : Tensor, ndarray, mapping of these, or DataLoader
        Inputs. A loader yields pairs of inputs and targets, or mappings with "labels".
    y : array-like or None
        Targets; None takes those of a loader.
    batch_size : int
        Number of samples in a batch, unless a loader sets it.

    Raises
    ------
    ValueError
        If targets are missing, or given twice.
    """

    def __init__(self, X: Any, y: Any, batch_size: int) -> None:
        self._is_loader = not (hasattr(X, "__getitem__") or hasattr(X, "shape"))
        self._X, self._batch_size = X, batch_size
        if self._is_loader == (y is not None):
            raise ValueError(
                "targets must come from y or from a DataLoader: found "
                f"X={type(X).__name__} and y={type(y).__name__}"
            )
        self._sums: list[list[int]] = []
        targets = [y]
        if self._is_loader:
            targets = []
            for inputs, target in self._loaded():
                self._sums.append(_checksums(inputs))
                targets.append(target)
        self.y: Any = np.concatenate([_as_numpy(target) for target in targets])
        if len(self.y) == 0:
            raise ValueError("X and y must have at least one sample, found none")
        if not self._is_loader and n_rows(X) != len(self.y):
            raise ValueError(
                f"X and y must have the same number of samples, found {n_rows(X)} and "
                f"{len(self.y)}"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[Any]:
        """Yield the inputs of each batch.

        Raises
        ------
        ValueError
            If a loader yields other samples, or another order, than before.
        """
        if not self._is_loader:
            for start in range(0, len(self.y), self._batch_size):
                stop = min(start + self._batch_size, len(self.y))
                yield take_rows(self._X, np.arange(start, stop))
            return
        n_batches = 0
        for inputs, _ in self._loaded():
            if self._sums[n_batches : n_batches + 1] != [_checksums(inputs)]:
                raise ValueError(
                    "a DataLoader must yield the same samples in the same order each "
                    f"time: batch {n_batches} has changed; pass shuffle=False, and no "
                    "random transforms"
                )
            n_batches += 1
            yield inputs
        if n_batches < len(self._sums):
            raise ValueError(
                f"a DataLoader must yield the same samples each time: {n_batches} of "
                f"{len(self._sums)} batches are left; pass a loader, not an iterator"
            )

    def has_samples_of(self, other: Batches) -> bool:
        """Whether two loaders yield the same batches.

        Parameters
        ----------
        other : Batches
            Other batches.

        Returns
        -------
        bool
        """
        return self._is_loader and self._sums == other._sums

    def first(self) -> list[Any]:
        """First batch, as batches."""
        return [next(iter(self))]

    def data(self) -> Data:
        """Batches with their targets."""
        return Data(self, self.y)

    def _loaded(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._X:
            if isinstance(batch, Mapping):
                inputs = dict(batch)
                yield inputs, inputs.pop(TARGETS)
            elif isinstance(batch, Sequence) and len(batch) == 2:
                yield tuple(batch)
            else:
                raise ValueError(
                    "a DataLoader must yield pairs of inputs and targets, or mappings "
                    f"with {TARGETS!r}, found {type(batch).__name__}"
                )


class ModulePredictor:
    """Predictions of a module as NumPy arrays, in evaluation mode without gradients.

    Parameters
    ----------
    module : torch.nn.Module
        Module; it must return a tensor, or an object with ``logits``.
    output : {"logits", "probabilities", "values"}
        Meaning of the tensor that the module returns.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or None
        Indices of the classes; None before the first prediction.
    """

    def __init__(self, module: Any, output: str) -> None:
        self.module = module
        self.output = output
        self.classes_: Any = None

    def predict(self, X: Any) -> Any:
        """Values of the targets.

        Parameters
        ----------
        X : iterable of batches
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        values = self._outputs(X)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def predict_proba(self, X: Any) -> Any:
        """Class probabilities.

        Parameters
        ----------
        X : iterable of batches
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        y_proba = as_probabilities(self._outputs(X), self.output)
        self.classes_ = np.arange(y_proba.shape[1])
        return y_proba

    def _outputs(self, X: Any) -> Any:
        import torch

        modes = {module: module.training for module in self.module.modules()}
        self.module.eval()
        try:
            with torch.no_grad():
                return np.concatenate([run_module(self.module, inputs) for inputs in X])
        finally:
            for module, mode in modes.items():
                module.training = mode


def run_module(module: Any, inputs: Any) -> Any:
    """Output of a module for one batch, as a NumPy array in float64.

    Parameters
    ----------
    module : torch.nn.Module
        Module.
    inputs : Tensor, array, or mapping of these
        Inputs; a mapping is passed as keyword arguments.

    Returns
    -------
    ndarray of shape (n_samples, ...), float64

    Raises
    ------
    TypeError
        If the module returns neither a tensor nor an object with ``logits``.
    """
    device = next((p.device for p in module.parameters()), None)
    if isinstance(inputs, Mapping):
        output = module(**{k: _as_tensor(v, device) for k, v in inputs.items()})
    else:
        output = module(_as_tensor(inputs, device))
    output = getattr(output, "logits", output)
    if not is_torch(output):
        raise TypeError(
            "a module must return a tensor or an object with logits, found "
            f"{type(output).__name__}; wrap it in a module that returns a tensor"
        )
    return output.double().cpu().numpy()


def as_probabilities(values: Any, output: str) -> Any:
    """Class probabilities from the output of a classifier.

    Parameters
    ----------
    values : ndarray of shape (n_samples,) or (n_samples, n_classes)
        Output; a single column is the logit or probability of the second class.
    output : {"logits", "probabilities"}
        Meaning of the values.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)

    Raises
    ------
    ValueError
        If the values have more than two axes.
    """
    from scipy.special import expit, softmax

    if values.ndim > 2:
        raise ValueError(
            "a classifier must return one row of classes per sample, found the shape "
            f"{values.shape}"
        )
    values = values.reshape(len(values), -1)
    if values.shape[1] > 1:
        return values if output == "probabilities" else softmax(values, axis=1)
    second = values if output == "probabilities" else expit(values)
    return np.hstack([1 - second, second])


def module_members(
    members: Sequence[Any],
    estimator: Any,
    names: list[str],
    soup_params: Mapping[str, Any],
    *,
    batches: Batches,
    output: str | None,
) -> Members:
    """Members that are modules, or checkpoints for a module.

    Parameters
    ----------
    members : sequence of modules, paths or state dicts
        Members.
    estimator : torch.nn.Module or None
        Module that receives the parameters of checkpoints; None for modules.
    names : list of str
        Name of each member.
    soup_params : mapping of str to value
        Arguments of `build_merged_estimator`.
    batches : Batches
        Data that the meaning of the outputs is recognized on.
    output : {"logits", "probabilities", "values"} or None
        Meaning of the outputs; None recognizes it.

    Returns
    -------
    Members
    """
    check_choice("output", output, (None, *OUTPUTS))
    load, merge = merging(members, estimator, names, soup_params)
    notes = []
    if output is None:
        output = _recognized(load(0), batches)
        notes = [
            f"the outputs of the modules are read as {output}; pass output= to change "
            "this"
        ]
    is_classifier = output != "values"
    predictor = ModulePredictor(load(0), output)
    if is_classifier:
        predictor.predict_proba(batches.first())
        _check_indices(batches.y, len(predictor.classes_))
    return Members(
        names=names,
        load=load,
        predictor=lambda model: ModulePredictor(model, output),
        merge=merge,
        first=lambda X, batch_size: (batch := X.first(), n_rows(batch[0])),
        scoring="accuracy" if is_classifier else "r2",
        is_classifier=is_classifier,
        classes=[(names[0], predictor)] if is_classifier else (),
        notes=notes,
    )


def _recognized(module: Any, batches: Batches) -> str:
    """Meaning of the outputs, by the dtype of the targets and the sums of the rows."""
    if batches.y.dtype.kind not in "biu":
        return "values"
    values = ModulePredictor(module, "values").predict(batches.first())
    if values.ndim == 1:
        raise ValueError(
            "output must be 'logits', 'probabilities' or 'values' for a module that "
            "returns one number per sample and targets that are integers, found None"
        )
    is_proba = (values >= 0).all() and np.allclose(
        values.sum(axis=-1), 1, atol=SUM_TOLERANCE
    )
    return "probabilities" if is_proba else "logits"


def _check_indices(y: Any, n_classes: int) -> None:
    if y.ndim != 1 or y.min() < 0 or y.max() >= n_classes:
        raise ValueError(
            f"y must have one class index from 0 to {n_classes - 1} per sample, found "
            f"the shape {y.shape} and values from {y.min()} to {y.max()}"
        )


def _as_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if is_torch(values) else np.asarray(values)


def _checksums(inputs: Any) -> list[int]:
    """Checksum of each array of a batch."""
    import torch

    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    flat = [torch.as_tensor(p).detach().cpu().contiguous().flatten() for p in parts]
    return [zlib.crc32(part.view(torch.uint8).numpy().data) for part in flat]


def _as_tensor(values: Any, device: Any) -> Any:
    import torch

    return torch.as_tensor(values, device=device)
