"""What members answer, brought to one form: an array of columns for each output."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.utils.validation import _num_samples

from ensembles.weighting import Counts, Floats

Answer = list[Floats]  # of each output, shape (n_samples, n_columns)


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

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member cannot answer."""
        ...

    def of(self, name: str, member: Any, X: Any) -> Answer:
        """Answer of a member to ``X``."""
        ...

    def finished(self, combined: Floats) -> Floats:
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

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member cannot answer, or lacks some of the classes."""
        if self.voting and not hasattr(member, "predict"):
            raise ValueError(
                f"member {name!r} must have predict to vote, {type(member).__name__} "
                "has not"
            )
        if not self.voting and not hasattr(member, "predict_proba"):
            raise ValueError(
                f"member {name!r} must have predict_proba for this rule, "
                f"{type(member).__name__} has not; rule='vote' combines labels, or "
                "wrap it in CalibratedClassifierCV"
            )
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
            said = _dense(member.predict(X))
            _check_rows(name, said, X)
            codes = self.codes(said, f"member {name!r}")
            pairs = zip(codes, self.classes, strict=True)
            return [_ballots(chosen, len(found)) for chosen, found in pairs]
        shares, known = member.predict_proba(X), self._known(name, member)
        if self.indicator and not isinstance(shares, list):
            # Multilabel in one array: the probability of 1 for each label.
            shares = [np.column_stack([1 - p, p]) for p in np.asarray(shares).T]
        elif not self.several:
            shares = [shares]
        if len(shares) != self.n_outputs:
            raise _count_error(name, self.n_outputs, len(shares))
        triples = zip(shares, known, self.classes, strict=True)
        answer = [_placed(name, np.asarray(share), *both) for share, *both in triples]
        for placed in answer:
            _check_rows(name, placed, X)
        return answer

    def finished(self, combined: Floats) -> Floats:
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
            raise _count_error(owner, self.n_outputs, len(columns))
        return [
            _codes(column, classes, owner)
            for column, classes in zip(columns, self.classes, strict=True)
        ]

    def _known(self, name: str, member: Any) -> list[Any]:
        """Classes of each output that a member knows."""
        found = known_classes(member, several=self.several, indicator=self.indicator)
        known = self.classes if found is None else found
        if len(known) != self.n_outputs:
            raise _count_error(f"member {name!r}", self.n_outputs, len(known))
        return known


def known_classes(member: Any, *, several: bool, indicator: bool) -> list[Any] | None:
    """Classes that a fitted member knows, of each output.

    Parameters
    ----------
    member : classifier
    several, indicator : bool
        As in `Labels`.

    Returns
    -------
    list of ndarrays, or None where the member does not say, or 0 and 1 are meant
    """
    found = getattr(member, "classes_", None)
    if found is None or (indicator and not isinstance(found, list)):
        return None  # of labels in one array, classes_ are the columns
    return [np.asarray(one) for one in (found if several else [found])]


def _codes(column: Any, classes: Any, owner: str) -> Counts:
    if classes.dtype.kind == column.dtype.kind == "i" and _follow_on(classes):
        # Found without a search, which takes longer than all the rest of a vote.
        codes: Counts = np.subtract(column, classes[0], dtype=np.int64)
    else:
        codes = np.searchsorted(classes, column)
    strange = classes.take(codes, mode="clip") != column
    if strange.any():
        raise ValueError(
            f"labels of {owner} must be among the classes {classes.tolist()}: found "
            f"{column[strange].tolist()[0]!r}"
        )
    return codes


def _follow_on(classes: Any) -> bool:
    """Whether sorted whole numbers leave none out."""
    return int(classes[-1]) - int(classes[0]) == len(classes) - 1


def _ballots(codes: Counts, n_classes: int) -> Any:
    """A row for each code, in which its place alone is True."""
    ballots = np.zeros((len(codes), n_classes), bool)
    firsts = np.arange(0, ballots.size, n_classes)
    ballots.reshape(-1)[firsts + codes] = True
    return ballots


def _dense(said: Any) -> Any:
    return said.toarray() if hasattr(said, "toarray") else np.asarray(said)


def _check_rows(name: str, said: Any, X: Any) -> None:
    if len(said) != _num_samples(X):
        raise ValueError(
            f"member {name!r} must answer for each of {_num_samples(X)} rows, found "
            f"{len(said)} answers"
        )


def _count_error(owner: str, n_outputs: int, found: int) -> ValueError:
    return ValueError(
        f"{owner} must answer for each of {n_outputs} targets, found {found}"
    )


def _placed(name: str, share: Floats, known: Any, classes: Any) -> Floats:
    """Columns in the order of the classes."""
    if share.ndim != 2 or share.shape[1] != len(known):
        raise ValueError(
            f"member {name!r} must give a probability for each of its {len(known)} "
            f"classes, found an array of shape {share.shape}"
        )
    least = share.min(initial=0)
    if not least >= 0:
        raise ValueError(
            f"member {name!r} must give probabilities, found {least} among them"
        )
    if np.array_equal(known, classes):
        return share
    out = np.zeros((len(share), len(classes)), share.dtype)
    out[:, np.searchsorted(classes, known)] = share
    return out


def _check_finite(name: str, said: Any) -> None:
    wrong = said[~np.isfinite(said)] if said.dtype.kind in "biuf" else said.ravel()
    if len(wrong):
        raise ValueError(
            f"member {name!r} must predict finite numbers, found {wrong.tolist()[0]!r}"
        )


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

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no predictions."""
        if not hasattr(member, "predict"):
            raise ValueError(
                f"member {name!r} must have predict, {type(member).__name__} has not"
            )

    def of(self, name: str, member: Any, X: Any) -> Answer:
        """Predictions, a column for each target."""
        said = np.asarray(member.predict(X))
        _check_rows(name, said, X)
        _check_finite(name, said)
        said = said.reshape(len(said), -1)
        if self.width not in (None, said.shape[1]):
            raise _count_error(f"member {name!r}", self.width or 1, said.shape[1])
        return [said]

    def finished(self, combined: Floats) -> Floats:
        """As it is."""
        return combined

    def result(self, answer: Answer) -> Any:
        """Values in the shape of the targets."""
        return answer[0] if self.several else answer[0][:, 0]
