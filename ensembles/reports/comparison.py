"""Result of a comparison: rows with scores, intervals and costs, and their table."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ensembles.reports.cost import Cost

# Members with a row of their own in the printed table; more are summarized.
MOST_MEMBERS = 12
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
SMALL_PREFIXES = ((1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
Kind = Literal["member", "soup", "run average", "ensemble"]
Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One model of a comparison.

    Parameters
    ----------
    model : str
        Name of the model.
    kind : {"member", "soup", "run average", "ensemble"}
        How the model was made: alone, by averaging parameters, by averaging along a
        run, or by combining predictions.
    members : tuple of str
        Members with a weight other than 0.
    weights : tuple of float
        Weights of these members. In a soup and a mean they sum to 1.
    score : float
        Score on the reported data.
    interval : (float, float) or None, default=None
        Bootstrap interval of the score; None if there are no predictions to resample.
    difference : float or None, default=None
        Score minus that of the reference; None without a reference.
    difference_interval : (float, float) or None, default=None
        Bootstrap interval of the difference, on the same resamples.
    cost : Cost
        Cost of a prediction.
    is_best_member : bool, default=False
        Whether this is the member with the best score on the selection data.
    is_median_member : bool, default=False
        Whether this is the member with the median score on the reported data; the
        better one of the two in the middle.
    """

    model: str
    kind: Kind
    members: tuple[str, ...]
    weights: tuple[float, ...]
    score: float
    interval: Ends | None = None
    difference: float | None = None
    difference_interval: Ends | None = None
    cost: Cost
    is_best_member: bool = False
    is_median_member: bool = False

    @property
    def label(self) -> str:
        """Name, with the number of members, or a mark of the best or median one."""
        marks = ["best single"] * self.is_best_member
        marks += ["median member"] * self.is_median_member
        if self.kind in ("soup", "ensemble"):
            return f"{self.model} of {len(self.members)}"
        return f"{self.model} ({', '.join(marks)})" if marks else self.model


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Members, soups and ensembles on the same data, with intervals and costs.

    Parameters
    ----------
    rows : tuple of ComparisonRow
        The members, then their averages and ensembles.
    metric : str
        Name of the score.
    reference : str or None
        Model that the differences are to; None without differences.
    lower_is_better : bool, default=False
        Whether lower scores are better.
    n_samples : int or None, default=None
        Number of samples of the reported data; None if unknown.
    n_resamples : int or None, default=None
        Number of bootstrap resamples; None without intervals.
    level : float, default=0.95
        Level of the intervals, which are percentile intervals.
    seed : int or None, default=None
        Seed of the resampling; None without intervals.
    notes : tuple of str, default=()
        Choices, models that were left out, and limits of the numbers.
    """

    rows: tuple[ComparisonRow, ...]
    metric: str
    reference: str | None
    lower_is_better: bool = False
    n_samples: int | None = None
    n_resamples: int | None = None
    level: float = 0.95
    seed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> ComparisonRow:
        """Row with the best score.

        Among equals, the one of the lowest cost, then the reference, then the first.
        """
        sign = 1 if self.lower_is_better else -1
        return min(
            self.rows,
            key=lambda row: (
                sign * row.score,
                row.cost.n_models,
                row.model != self.reference,
            ),
        )

    @property
    def summary(self) -> str:
        """Sentences on the best model, its gain over the reference, and its cost."""
        best, sentences = self.best, list[str]()
        sentences.append(f"Best of {len(self.rows)} rows: {self._with_gain(best)}.")
        if best.cost.n_models > 1:
            singles = [row for row in self.rows if row.cost.n_models == 1]
            single = Comparison(
                rows=tuple(singles),
                metric=self.metric,
                reference=self.reference,
                lower_is_better=self.lower_is_better,
            ).best
            sentences.append(f"Best of one model: {self._with_gain(single)}.")
        n_hidden = len(self.rows) - len(self._shown())
        if n_hidden:
            sentences.append(f"{n_hidden} more members are not shown in the table.")
        return " ".join(sentences)

    def _with_gain(self, row: ComparisonRow) -> str:
        text = f"{row.label}, {self.metric} {number(row.score)}"
        if row.difference is not None and row.model != self.reference:
            text += f", {signed(row.difference)} against {self.reference}"
            if row.difference_interval is not None:
                low, high = row.difference_interval
                text += f" ({self.level:.0%} interval {signed(low)} to {signed(high)}"
                text += ", which includes 0)" if low <= 0 <= high else ")"
        n_models = row.cost.n_models
        if n_models > 1:
            text += f", for {n_models} times the computation of one model"
        return text

    def to_frame(self) -> Any:
        """Table with one row per model, as numbers.

        Returns
        -------
        pandas.DataFrame
            Indexed by model; intervals and quartiles in columns of their own.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        records = list(map(as_record, self.rows))
        return pd.DataFrame(records).set_index("model")

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells of the table as text, without columns that are empty.

        Returns
        -------
        header : list of str
            Names of the columns.
        rows : list of list of str
            Cells of each row; with many members, only of the best and the median one.
        """
        shown = self._shown()
        columns = [
            (name, [cell(row) for row in shown]) for name, cell in self._columns()
        ]
        columns = [(name, cells) for name, cells in columns if any(cells)]
        return (
            [name for name, _ in columns],
            [list(row) for row in zip(*(cells for _, cells in columns), strict=True)],
        )

    def _shown(self) -> list[ComparisonRow]:
        """Rows of the table: without most members if there are many."""
        n_members = sum(row.kind == "member" for row in self.rows)
        return [
            row
            for row in self.rows
            if n_members <= MOST_MEMBERS
            or row.kind != "member"
            or row.is_best_member
            or row.is_median_member
        ]

    def _columns(self) -> list[tuple[str, Callable[[ComparisonRow], str]]]:
        """Names of the columns, and functions from a row to its cell."""
        interval = f"{self.level:.0%} interval"
        against = "" if self.reference is None else f"against {self.reference}"
        return [
            ("model", lambda row: row.label),
            (self.metric, lambda row: number(row.score)),
            (interval, lambda row: ends(row.interval, number)),
            (against, lambda row: optional(row.difference, signed)),
            (interval, lambda row: ends(row.difference_interval, signed)),
            ("models", lambda row: str(row.cost.n_models)),
            ("parameters", lambda row: optional(row.cost.parameters, si)),
            ("memory", lambda row: optional(row.cost.n_bytes, si, "B")),
            ("peak memory", lambda row: optional(row.cost.peak_bytes, si, "B")),
            ("FLOPs", lambda row: optional(row.cost.flops, si)),
            ("time", lambda row: _time(row.cost)),
        ]

    def __str__(self) -> str:
        header, rows = self.cells()
        lines = [header, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([*table, "", self.summary, *notes])

    def _repr_html_(self) -> str:
        """Table for notebooks."""
        header, rows = self.cells()
        body = "".join(_html_row(row, "td") for row in rows)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            f"<table><thead>{_html_row(header, 'th')}</thead><tbody>{body}</tbody>"
            f"</table><p>{html.escape(self.summary)}</p><ul>{notes}</ul>"
        )


def as_record(row: ComparisonRow) -> dict[str, Any]:
    """Values of a row by column, for JSON and data frames.

    Parameters
    ----------
    row : ComparisonRow
        Row of a comparison.

    Returns
    -------
    dict of str to value
    """
    low, high = row.interval or (None, None)
    difference_low, difference_high = row.difference_interval or (None, None)
    return {
        "model": row.model,
        "kind": row.kind,
        "is_best_member": row.is_best_member,
        "is_median_member": row.is_median_member,
        "members": row.members,
        "weights": row.weights,
        "score": row.score,
        "score_low": low,
        "score_high": high,
        "difference": row.difference,
        "difference_low": difference_low,
        "difference_high": difference_high,
        **vars(row.cost),
    }


def number(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.4g}"


def signed(value: float) -> str:
    """Format a difference with its sign and three significant digits."""
    return f"{value:+.3g}"


def si(value: float, unit: str = "") -> str:
    """Format a quantity with an SI prefix.

    Parameters
    ----------
    value : float
        Quantity in ``unit``.
    unit : str, default=""
        Unit, such as "B" or "s".

    Returns
    -------
    str

    Examples
    --------
    >>> si(22_713_216), si(0.00123, "s")
    ('22.7 M', '1.23 ms')
    """
    prefixes = PREFIXES if value >= 1 or value == 0 else SMALL_PREFIXES
    # A value that three digits round up to 1000 has the next prefix.
    factor, prefix = next(
        ((f, p) for f, p in prefixes if value >= f * 0.9995), prefixes[-1]
    )
    return f"{value / factor:.3g} {prefix}{unit}".rstrip()


def optional(value: Any, format_value: Callable[..., str], *args: Any) -> str:
    """Format a value; None is empty."""
    return "" if value is None else format_value(value, *args)


def ends(interval: Ends | None, format_value: Callable[[float], str]) -> str:
    """Format the ends of an interval; None is empty."""
    return "" if interval is None else " to ".join(map(format_value, interval))


def _time(cost: Cost) -> str:
    if cost.seconds is None or cost.seconds_low is None or cost.seconds_high is None:
        return optional(cost.seconds, si, "s")
    low, high = si(cost.seconds_low, "s"), si(cost.seconds_high, "s")
    return f"{si(cost.seconds, 's')} ({low} to {high})"


def _html_row(cells: Sequence[str], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"
