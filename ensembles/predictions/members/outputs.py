"""What members answer, brought to one form: an array of columns for each output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.adapters import (
    decision_values,
    fitted_by_codes_if_refused,
    has_decision_only,
)
from ensembles.predictions.members.columns import (
    ballots,
    check_finite,
    check_rows,
    codes_among,
    count_error,
    dense,
    known_classes,
    placed_by_class,
)

Answer = list[Float64]  # of each output, shape (n_samples, n_columns)


class Answers(Protocol):
    """What an estimator knows of its targets.

    Attributes
    ----------
    several : bool
        Whether predictions have two dimensions.
    n_outputs : int
        How many arrays an answer has.
    """

    @property
    def several(self) -> bool: ...

    @property
    def n_outputs(self) -> int: ...

    def check_before(self, name: str, member: Any) -> None:
        """Raise if a member that need not be fitted will not be able to answer."""
        ...

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member cannot answer."""
        ...

    def of(self, name: str, member: Any, X: Any) -> Answer:
        """Answer of a member to ``X``."""
        ...

    def finished(self, combined: Float64) -> Float64:
        """What a combiner made of one output, as it should be; may write to it."""
        ...

    def result(self, answer: Answer) -> Any:
        """Combined answer as ``predict`` gives it."""
        ...


class Labels(NamedTuple):
    """Classes by value, for one target or several.

    Parameters
    ----------
    classes : list of ndarrays
        Sorted labels of each output.
    several : bool
        Whether the targets have the shape (n_samples, n_outputs).
    indicator : bool
        Whether they are multilabel: of each output the classes are 0 and 1.
    voting : bool
        Whether members answer by ``predict`` rather than ``predict_proba``.
    missing : {"error", "zero"}
        What to do with a member that does not know a class.
    """

    classes: list[Any]
    several: bool
    indicator: bool
    voting: bool
    missing: str

    @property
    def n_outputs(self) -> int:
        """How many arrays an answer has."""
        return len(self.classes)

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """A member fitted to labels, or to their codes where it refuses them."""
        return fitted_by_codes_if_refused(fit, y)

    def needs_link(self, member: Any) -> bool:
        """Whether probabilities have to be learned from decision values."""
        return not (self.voting or self.several) and has_decision_only(member)

    def check_before(self, name: str, member: Any) -> None:
        """Raise if a member that need not be fitted has nothing to answer by."""
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
        """Raise if a fitted member cannot answer, or lacks some of the classes."""
        self.check_before(name, member)
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

    def of(self, name: str, member: Any, X: Any) -> Answer:
        """Probabilities of each output's classes; those of votes are 0 and 1.

        A class that the member does not know has probability 0: in a fold it may lack
        what it knows of all data.
        """
        if self.voting:
            said = dense(member.predict(X))
            check_rows(name, said, X)
            codes = self.codes(said, f"member {name!r}")
            pairs = zip(codes, self.classes, strict=True)
            return [ballots(chosen, len(found)) for chosen, found in pairs]
        if self.needs_link(member):  # as yet without one
            values = decision_values(member, X, self.classes[0])
            check_rows(name, values, X)
            check_finite(name, values)
            return [values]
        shares, known = member.predict_proba(X), self._known(name, member)
        if self.indicator and not isinstance(shares, list):
            # Multilabel in one array: the probability of 1 for each label.
            shares = [np.column_stack([1 - p, p]) for p in np.asarray(shares).T]
        elif not self.several:
            shares = [shares]
        if len(shares) != self.n_outputs:
            raise count_error(name, self.n_outputs, len(shares))
        triples = zip(shares, known, self.classes, strict=True)
        answer = [
            placed_by_class(name, np.asarray(share), *both) for share, *both in triples
        ]
        for placed in answer:
            check_rows(name, placed, X)
        return answer

    def finished(self, combined: Float64) -> Float64:
        """Rows scaled to sum 1; alike where no class has anything."""
        np.maximum(combined, 0, out=combined)  # weights may be negative
        sums = combined.sum(axis=1, keepdims=True)
        empty = sums[:, 0] == 0
        combined[empty], sums[empty] = 1.0, combined.shape[1]
        combined /= sums
        return combined

    def result(self, answer: Answer) -> Any:
        """The most probable labels, the first of the classes where several are."""
        pairs = zip(self.classes, answer, strict=True)
        found = [classes[share.argmax(axis=1)] for classes, share in pairs]
        return np.column_stack(found) if self.several else found[0]

    def codes(self, y: Any, owner: str = "y") -> list[Counts]:
        """Places of labels among each output's classes."""
        columns = np.asarray(y).reshape(len(y), -1).T
        if len(columns) != self.n_outputs:
            raise count_error(owner, self.n_outputs, len(columns))
        return [
            codes_among(column, classes, owner)
            for column, classes in zip(columns, self.classes, strict=True)
        ]

    def _known(self, name: str, member: Any) -> list[Any]:
        """Classes of each output that a member knows."""
        found = known_classes(member, several=self.several, indicator=self.indicator)
        known = self.classes if found is None else found
        if len(known) != self.n_outputs:
            raise count_error(f"member {name!r}", self.n_outputs, len(known))
        return known


class Values(NamedTuple):
    """Numbers, a column for each target or quantile.

    Parameters
    ----------
    several : bool
        Whether predictions have two dimensions.
    width : int or None
        How many columns there must be; None for any number, as of quantiles.
    """

    several: bool
    width: int | None

    @property
    def n_outputs(self) -> int:
        """All targets stand in one array."""
        return 1

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """A member fitted to values."""
        return fit(y)

    def needs_link(self, member: Any) -> bool:
        """No: values are taken as they are."""
        return False

    def check_before(self, name: str, member: Any) -> None:
        """Raise if a member has no predictions."""
        if not hasattr(member, "predict"):
            raise ValueError(
                f"member {name!r} must have predict, {type(member).__name__} has not"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no predictions."""
        self.check_before(name, member)

    def of(self, name: str, member: Any, X: Any) -> Answer:
        """Predictions, a column for each target."""
        said = np.asarray(member.predict(X))
        check_rows(name, said, X)
        check_finite(name, said)
        said = said.reshape(len(said), -1)
        if self.width not in (None, said.shape[1]):
            raise count_error(f"member {name!r}", self.width or 1, said.shape[1])
        return [said]

    def finished(self, combined: Float64) -> Float64:
        """As it is."""
        return combined

    def result(self, answer: Answer) -> Any:
        """Values in the shape of the targets."""
        return answer[0] if self.several else answer[0][:, 0]
