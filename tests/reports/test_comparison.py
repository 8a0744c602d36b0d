"""The table of a comparison as text, HTML and a data frame."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ensembles.reports import Comparison, ComparisonRow, Cost
from ensembles.reports.comparison import si

COST = Cost(parameters=12_345, n_bytes=49_380, flops=2e9, seconds=1.5e-3)
MEMBERS = tuple(
    ComparisonRow(
        model=f"m{n}",
        kind="member",
        members=(f"m{n}",),
        weights=(1.0,),
        score=0.9 + n / 100,
        interval=(0.85, 0.95),
        difference=(n - 1) / 100,
        difference_interval=(-0.02, 0.03),
        cost=COST,
        is_best_member=n == 1,
        is_median_member=n == 0,
    )
    for n in range(2)
)
ENSEMBLE = ComparisonRow(
    model="prediction ensemble",
    kind="ensemble",
    members=("m0", "m1"),
    weights=(1.0, 1.0),
    score=0.95,
    interval=(0.9, 0.98),
    difference=0.04,
    difference_interval=(0.01, 0.06),
    cost=replace(COST, n_models=2),
)
TABLE = Comparison(
    rows=(*MEMBERS, ENSEMBLE),
    metric="accuracy",
    reference="m1",
    n_samples=100,
    n_resamples=1000,
    seed=0,
    notes=("a <note>",),
)


def test_the_text_has_all_rows_and_the_notes() -> None:
    lines = str(TABLE).splitlines()
    assert lines[0].split()[:2] == ["model", "accuracy"]
    assert lines[1].startswith("m0 (median member)")
    assert lines[2].startswith("m1 (best single)")
    assert lines[3].startswith("prediction ensemble of 2")
    assert "0.9 to 0.98" in lines[3]
    assert "+0.01 to +0.06" in lines[3]
    assert "12.3 k  49.4 kB    2 G  1.5 ms" in lines[1]
    assert lines[-1] == "- a <note>"
    assert len({len(line) for line in lines[1:4]}) == 1  # aligned


def test_the_summary_has_the_gain_with_its_interval_and_the_cost() -> None:
    assert TABLE.summary == (
        "Best of 3 rows: prediction ensemble of 2, accuracy 0.95, +0.04 against m1 "
        "(95% interval +0.01 to +0.06), for 2 times the computation of one model. "
        "Best of one model: m1 (best single), accuracy 0.91."
    )


def test_a_gain_within_the_noise_is_said_to_include_0() -> None:
    other = replace(TABLE, rows=MEMBERS, reference="m0")
    assert "which includes 0" in other.summary


def test_a_loss_is_best_if_lowest() -> None:
    assert TABLE.best.model == "prediction ensemble"
    assert replace(TABLE, lower_is_better=True).best.model == "m0"


def test_among_equal_scores_the_cheapest_is_best() -> None:
    rows = (replace(ENSEMBLE, score=0.91), MEMBERS[1])
    assert replace(TABLE, rows=rows).best.model == "m1"
    equal = [replace(MEMBERS[0], model=name) for name in ("a", "b", "c")]
    assert replace(TABLE, rows=tuple(equal), reference="b").best.model == "b"
    assert replace(TABLE, rows=tuple(equal), reference=None).best.model == "a"


def test_empty_columns_are_left_out() -> None:
    rows = [
        replace(row, interval=None, difference_interval=None, cost=Cost())
        for row in TABLE.rows
    ]
    header, _ = replace(TABLE, rows=tuple(rows)).cells()
    assert header == ["model", "accuracy", "against m1", "models"]


def test_of_many_members_the_best_and_the_median_are_shown() -> None:
    others = [replace(MEMBERS[0], model=f"o{n}") for n in range(20)]
    others = [replace(row, is_median_member=False) for row in others]
    table = replace(TABLE, rows=(*others, *TABLE.rows))
    _, rows = table.cells()
    assert [row[0].split()[0] for row in rows] == ["m0", "m1", "prediction"]
    assert "20 more members" in str(table)


def test_html_is_escaped() -> None:
    html = TABLE._repr_html_()
    assert "<li>a &lt;note&gt;</li>" in html
    assert html.count("<tr>") == 4


def test_a_frame_has_numbers() -> None:
    pytest.importorskip("pandas")
    frame = TABLE.to_frame()
    assert frame.loc["m0", "score"] == 0.9
    assert frame.loc["prediction ensemble", "n_models"] == 2
    assert frame.loc["m1", "difference_low"] == -0.02


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0 s"), (999, "999 s"), (999.9, "1 ks"), (1e-6, "1 µs")],
        *[(5e-10, "0.5 ns"), (1234567, "1.23 Ms"), (0.9999, "1 s")],
    ],
)
def test_quantities_have_prefixes(value: float, text: str) -> None:
    assert si(value, "s") == text
