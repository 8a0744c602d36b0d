"""Member predictions in one format: a 2-D array per output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.adapters import (
    decision_values,
    fit_on_codes_if_rejected,
    has_decision_only,
)
from ensembles.predictions.members.columns import (
    align_columns,
    check_finite,
    check_rows,
    encode_labels,
    member_classes,
    one_hot,
    to_dense,
    wrong_count_error,
)

Predictions = list[Float64]  # one per output, of shape (n_samples, n_columns)


class OutputSpec(Protocol):
    """Protocol of the prediction formats: targets, and how members predict them.

    Attributes
    ----------
    several : bool
        Whether the result of ``predict`` is two-dimensional.
    n_outputs : int
        Number of arrays in an `Predictions`.
    """

    @property
    def several(self) -> bool: ...

    @property
    def n_outputs(self) -> int: ...

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member, fitted or not, lacks a method to predict with."""
        ...

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member lacks the required methods or classes."""
        ...

    def of(self, name: str, member: Any, X: Any) -> Predictions:
        """Predictions of a fitted member for ``X``."""
        ...

    def finalize(self, combined: Float64) -> Float64:
        """Normalize the combined predictions of one output, possibly in place."""
        ...

    def to_predictions(self, answer: Predictions) -> Any:
        """Convert combined predictions to the return value of ``predict``."""
        ...


class ClassOutputs(NamedTuple):
    """Prediction format of classifiers: one probability column per class.

    Parameters
    ----------
    classes : list of n_outputs ndarrays
        Sorted labels of each output.
    several : bool
        Whether the targets have the shape (n_samples, n_outputs).
    indicator : bool
        Whether the targets are multilabel, with the classes 0 and 1 for each output.
    voting : bool
        Whether the labels of ``predict`` are used instead of ``predict_proba``.
    missing : {"error", "zero"}
        If a member lacks a class: raise an error, or set its probability to 0.
    """

    classes: list[Any]
    several: bool
    indicator: bool
    voting: bool
    missing: str

    @property
    def n_outputs(self) -> int:
        """Number of targets, and of arrays in an `Predictions`."""
        return len(self.classes)

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Member fitted by ``fit`` on labels or, if that fails, on integer codes."""
        return fit_on_codes_if_rejected(fit, y)

    def needs_link(self, member: Any) -> bool:
        """Whether probabilities must be fitted on the member's decision values."""
        return not (self.voting or self.several) and has_decision_only(member)

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member, fitted or not, lacks a method to predict with."""
        if self.voting:
            if not hasattr(member, "predict"):
                raise ValueError(
                    f"member {name!r} must have predict to vote, "
                    f"{type(member).__name__} has not"
                )
        elif not hasattr(member, "predict_proba") and not self.needs_link(member):
            kind = "" if self.several else " or decision_function"
            raise ValueError(
                f"member {name!r} must have predict_proba{kind} for this rule, "
                f"{type(member).__name__} has not; rule='vote' combines labels, or "
                "wrap it in CalibratedClassifierCV"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member lacks the required methods or classes."""
        self.check_methods(name, member)
        if self.missing == "zero" or self.indicator:
            return
        for known, classes in zip(self._known(name, member), self.classes, strict=True):
            lacking = np.setdiff1d(classes, known)
            if len(lacking):
                raise ValueError(
                    f"member {name!r} does not know class {lacking.tolist()[0]!r} (it "
                    f"knows {known.tolist()}); missing_class='zero' gives it no "
                    "probability there"
                )

    def of(self, name: str, member: Any, X: Any) -> Predictions:
        """Class probabilities of each output; one-hot rows for votes.

        A class that the member lacks gets probability 0, because a member fitted on a
        fold may lack classes of the full data. Returns decision values for a member
        that `needs_link`.
        """
        if self.voting:
            said = to_dense(member.predict(X))
            check_rows(name, said, X)
            codes = self.encode(said, f"member {name!r}")
            pairs = zip(codes, self.classes, strict=True)
            return [one_hot(chosen, len(found)) for chosen, found in pairs]
        if self.needs_link(member):  # not yet wrapped in ByDecision
            values = decision_values(member, X, self.classes[0])
            check_rows(name, values, X)
            check_finite(name, values)
            return [values]
        shares, known = member.predict_proba(X), self._known(name, member)
        if self.indicator and not isinstance(shares, list):
            # Multilabel in one array: the column of a label is P(label = 1).
            shares = [np.column_stack([1 - p, p]) for p in np.asarray(shares).T]
        elif not self.several:
            shares = [shares]
        if len(shares) != self.n_outputs:
            raise wrong_count_error(name, self.n_outputs, len(shares))
        triples = zip(shares, known, self.classes, strict=True)
        answer = [
            align_columns(name, np.asarray(share), *both) for share, *both in triples
        ]
        for placed in answer:
            check_rows(name, placed, X)
        return answer

    def finalize(self, combined: Float64) -> Float64:
        """Clip at 0 and scale rows to sum 1, in place; all-zero rows become uniform."""
        np.maximum(combined, 0, out=combined)  # weights may be negative
        sums = combined.sum(axis=1, keepdims=True)
        empty = sums[:, 0] == 0
        combined[empty], sums[empty] = 1.0, combined.shape[1]
        combined /= sums
        return combined

    def to_predictions(self, answer: Predictions) -> Any:
        """Labels with the highest probability; ties go to the first class."""
        pairs = zip(self.classes, answer, strict=True)
        found = [classes[share.argmax(axis=1)] for classes, share in pairs]
        return np.column_stack(found) if self.several else found[0]

    def encode(self, y: Any, owner: str = "y") -> list[Counts]:
        """Indices of labels in the sorted classes, for each output."""
        columns = np.asarray(y).reshape(len(y), -1).T
        if len(columns) != self.n_outputs:
            raise wrong_count_error(owner, self.n_outputs, len(columns))
        return [
            encode_labels(column, classes, owner)
            for column, classes in zip(columns, self.classes, strict=True)
        ]

    def _known(self, name: str, member: Any) -> list[Any]:
        """Classes of a fitted member, for each output."""
        found = member_classes(member, several=self.several, indicator=self.indicator)
        known = self.classes if found is None else found
        if len(known) != self.n_outputs:
            raise wrong_count_error(f"member {name!r}", self.n_outputs, len(known))
        return known


class RegressionOutputs(NamedTuple):
    """Prediction format of regressors: one column per target or quantile.

    Parameters
    ----------
    several : bool
        Whether the result of ``predict`` is two-dimensional.
    width : int or None
        Required number of columns; None allows any number, e.g. for quantiles.
    """

    several: bool
    width: int | None

    @property
    def n_outputs(self) -> int:
        """Always 1: all targets are columns of one array."""
        return 1

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Member fitted by ``fit`` on the targets."""
        return fit(y)

    def needs_link(self, member: Any) -> bool:
        """Always False: regressors need no conversion to probabilities."""
        return False

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member has no ``predict``."""
        if not hasattr(member, "predict"):
            raise ValueError(
                f"member {name!r} must have predict, {type(member).__name__} has not"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no ``predict``."""
        self.check_methods(name, member)

    def of(self, name: str, member: Any, X: Any) -> Predictions:
        """Predictions of a fitted member for ``X``, one column per target."""
        said = np.asarray(member.predict(X))
        check_rows(name, said, X)
        check_finite(name, said)
        said = said.reshape(len(said), -1)
        if self.width not in (None, said.shape[1]):
            raise wrong_count_error(f"member {name!r}", self.width or 1, said.shape[1])
        return [said]

    def finalize(self, combined: Float64) -> Float64:
        """Return the combined values unchanged."""
        return combined

    def to_predictions(self, answer: Predictions) -> Any:
        """Combined values in the shape of the targets."""
        return answer[0] if self.several else answer[0][:, 0]
