"""The best checkpoints of a run, and windows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.checkpoints import Run, RunCheckpoint, choose_checkpoints
from ensembles.checkpoints.runs.metrics import is_lower_better
from ensembles.checkpoints.runs.windows import parse_window


def run_of(
    metrics: Sequence[Mapping[str, float]],
    *,
    steps: Sequence[int] | None = None,
    **options: Any,
) -> Run:
    """Run with a checkpoint for each mapping of metrics, at steps 100, 200, …."""
    steps = steps or [100 * (i + 1) for i in range(len(metrics))]
    checkpoints = [
        RunCheckpoint(
            path=Path(f"run/c-{step}"),
            step=Decimal(step),
            epoch=Decimal(i),
            metrics=values,
        )
        for i, (step, values) in enumerate(zip(steps, metrics, strict=True))
    ]
    return Run(
        folder=Path("run"), layout="x", checkpoints=tuple(checkpoints), **options
    )


def steps_of(run: Run, **choice: Any) -> list[int]:
    return [int(step or 0) for step in choose_checkpoints(run, **choice).steps]


LOSSES = run_of([{"val_loss": value} for value in (4, 2, 3, 1, 5)])


def test_the_best_are_in_the_order_of_training() -> None:
    assert steps_of(LOSSES, best=3) == [200, 300, 400]
    assert steps_of(LOSSES, best=2, lower_is_better=False) == [100, 500]
    assert steps_of(LOSSES, best=1, steps=":300") == [200]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_no_checkpoint_left_out_is_better(values: list[int], data: Any) -> None:
    run = run_of([{"acc": value} for value in values])
    n = data.draw(st.integers(1, len(values)))
    chosen = choose_checkpoints(run, best=n, metric="acc")
    kept = [c.metrics["acc"] for c in chosen.checkpoints]
    left_out = [
        c.metrics["acc"] for c in run.checkpoints if c not in chosen.checkpoints
    ]
    assert len(kept) == n
    assert min(kept) >= max(left_out, default=0)
    steps = [step or 0 for step in chosen.steps]
    assert steps == sorted(steps)
    is_tied = bool(left_out) and min(kept) == max(left_out)
    assert [("has the same acc" in note) for note in chosen.notes] == [True] * is_tied


@pytest.mark.parametrize(("name", "direction"), [("loss", "lower"), ("acc", "higher")])
def test_a_metric_that_was_not_passed_is_named(name: str, direction: str) -> None:
    run = run_of([{name: 1.0}, {name: 2.0}])
    notes = choose_checkpoints(run, best=1).notes
    assert notes == [f"the best by {name}, {direction} is better"]


def test_of_equal_values_the_earlier_is_chosen_with_a_note() -> None:
    run = run_of([{"loss": 1}, {"loss": 1}, {"loss": 1}])
    chosen = choose_checkpoints(run, best=1, metric="loss")
    assert chosen.steps == [100]
    assert chosen.notes == [
        "skipped c-200, c-300: c-100 has the same loss, 1, and is earlier"
    ]


def test_checkpoints_without_a_finite_value_are_skipped_with_a_note() -> None:
    values = ({"loss": x} for x in (3, math.nan, -math.inf, 2))
    run = run_of([*values, {}])
    chosen = choose_checkpoints(run, best=2, metric="loss")
    assert chosen.steps == [100, 400]
    assert chosen.notes == ["skipped c-200, c-300, c-500: they have no finite loss"]
    with pytest.raises(ValueError, match="number of checkpoints, 2 in run: found 3"):
        choose_checkpoints(run, best=3)


def test_the_metric_of_the_trainer_is_the_default() -> None:
    values = [{"eval_loss": 1, "eval_acc": 0.5}, {"eval_loss": 2, "eval_acc": 0.75}]
    by_accuracy = run_of(values, monitor="eval_acc")
    assert steps_of(by_accuracy, best=1) == [200]
    assert steps_of(by_accuracy, best=1, metric="eval_loss") == [100]
    with pytest.raises(
        ValueError,
        match=r"--metric NAME.* several; .*: eval_loss, eval_acc",
    ):
        choose_checkpoints(run_of(values), best=1)


def test_an_unknown_metric_is_one_error_with_the_metrics_of_the_run() -> None:
    message = r"unknown metric 'val_los'; did you mean 'val_loss'\? .*: val_loss\)"
    with pytest.raises(ValueError, match=message):
        choose_checkpoints(LOSSES, best=1, metric="val_los")
    with pytest.raises(ValueError, match=r"needs metrics .* 'x'\) has none; score"):
        choose_checkpoints(run_of([{}, {}]), best=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eval_loss", True),
        ("val/perplexity", True),
        ("validWer", True),
        ("valid.cer_ctc", True),
        ("test_rmse", True),
        ("val_bpb", True),
        ("top1", False),
        ("acc", False),
        ("val_f1", False),
        ("eval_rougeL", False),
        ("sacrebleu", None),
        ("neg_mean_squared_error", False),
        ("norm", None),
        ("acc_loss", None),
        ("bits_per_byte", True),
        ("nDCG@10", False),
        ("samples_per_second", None),
    ],
)
def test_the_name_of_a_metric_has_a_direction(name: str, expected: bool | None) -> None:
    run = run_of([{name: 1}])
    if expected is None:
        with pytest.raises(ValueError, match=f"unknown whether .*'{name}'.*--lower-is"):
            is_lower_better(run, name)
    else:
        assert is_lower_better(run, name) == expected
    assert is_lower_better(run_of([{}], lower_is_better={name: True}), name)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"steps": "200:400"}, [200, 300, 400]),
        ({"steps": ":200"}, [100, 200]),
        ({"steps": "0.3k:"}, [300, 400, 500]),
        ({"steps": "200"}, [200]),
        ({"steps": ":"}, [100, 200, 300, 400, 500]),
        ({"steps": "::200"}, [200, 400]),
        ({"steps": "100::200"}, [100, 300, 500]),
        ({"epochs": "3:4"}, [400, 500]),
        ({"epochs": ":3", "steps": "200:"}, [200, 300, 400]),
        ({"steps": ":400", "last": 2}, [300, 400]),
    ],
)
def test_both_ends_of_a_window_are_included(
    choice: dict[str, Any], expected: list[int]
) -> None:
    assert steps_of(LOSSES, **choice) == expected
    assert choose_checkpoints(LOSSES, **choice).notes == []


def test_steps_of_a_stride_that_do_not_exist_are_noted() -> None:
    run = run_of([{}] * 4, steps=[100, 150, 300, 500])
    chosen = choose_checkpoints(run, steps="100:600:100")
    assert chosen.steps == [100, 300, 500]
    assert chosen.notes == ["no checkpoints at step 200, 400, 600"]
    assert choose_checkpoints(run, steps="100::200").notes == []
    (note,) = choose_checkpoints(run, steps="100:1T:100").notes
    assert note.endswith("and 992 more, at least")


def test_a_window_that_the_run_has_not_reached_is_noted() -> None:
    (note,) = choose_checkpoints(LOSSES, steps="300:1k").notes
    assert note == "the last step is 500, before the end of steps=300:1k"
    assert choose_checkpoints(LOSSES, steps=":1k").notes == []


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"steps": "a:b"}, r"steps \(--steps\) must be START:STOP or .* found 'a:b'"),
        ({"steps": "1:2:3:4"}, "must be START:STOP"),
        ({"steps": "1:2:0"}, "must be START:STOP"),
        ({"steps": ""}, "must be START:STOP"),
        ({"steps": "-1:5"}, "must be START:STOP"),
        ({"epochs": "5:3"}, r"epochs \(--epochs\) must not begin after it ends"),
        ({"steps": "600:"}, r"no checkpoint in run is in steps='600:'.*100 to 500"),
        ({"tokens": ":1B"}, r"whose tokens is known, and run .* has step and epoch"),
        ({"last": 2, "best": 2}, "not both: found 2 and 2"),
        ({"metric": "val_loss"}, r"metric=NAME .* needs best=N \(--best N\)"),
        ({"lower_is_better": True}, r"lower_is_better .* needs best=N"),
        ({"last": 6}, r"last=N \(--last N\) must be .* 5 in run: found 6"),
        ({"last": 0}, "found 0"),
        ({"best": 6}, r"best=N \(--best N\) must be .* 5 in run: found 6"),
    ],
)
def test_contradictions_are_one_error(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_checkpoints(LOSSES, **choice)


def test_windows_of_numbers_of_any_length_are_exact() -> None:
    first = 10**40
    window = parse_window(f"{first}::0.5", "steps")
    assert Decimal(first + 1) in window
    assert Decimal(f"{first}.3") not in window
    assert parse_window(str(first + 1), "steps").start == first + 1
    assert parse_window("1e3:1.0005K", "steps").stop == Decimal("1000.5")


@given(
    st.integers(0, 30) | st.none(),
    st.integers(0, 60) | st.none(),
    st.integers(1, 7) | st.none(),
    st.sets(st.integers(0, 60)),
)
def test_a_window_has_what_a_loop_over_its_numbers_has(
    start: int | None, stop: int | None, stride: int | None, numbers: set[int]
) -> None:
    if start is not None and stop is not None and start > stop:
        return
    text = ":".join("" if n is None else str(n) for n in (start, stop))
    window = parse_window(text + (f":{stride}" if stride else ""), "steps")
    end = 60 if stop is None else stop
    wanted = set(range(start or 0, end + 1, stride or 1))
    existing = {Decimal(number) for number in numbers}
    assert {int(n) for n in existing if n in window} == wanted & numbers
    if stride:
        last = max(numbers, default=-1) if stop is None else stop
        begin = stride if start is None else start
        missing = [n for n in range(begin, last + 1, stride) if n not in numbers]
        assert list(map(int, window.missing(existing))) == missing


def test_paths_and_patterns_of_a_run_have_its_metrics(tmp_path: Path) -> None:
    import torch

    for epoch, loss in enumerate((0.5, 0.25, 0.75)):
        name = f"epoch={epoch}-val_loss={loss}.ckpt"
        torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / name)
    pattern = str(tmp_path / "epoch=*.ckpt")
    paths = [str(path) for path in tmp_path.iterdir()]
    for members in (tmp_path, pattern, [pattern], paths):
        chosen = choose_checkpoints(members, best=1, metric="val_loss")
        assert [Path(path).name for path in chosen.paths] == [
            "epoch=1-val_loss=0.25.ckpt"
        ]
        assert chosen.notes == []
    assert choose_checkpoints(paths[:1], best=1).paths == paths[:1]


def test_the_order_is_that_of_a_counter_of_the_window() -> None:
    """Of three checkpoints, only two have a step, and epochs in another order."""
    checkpoints = (
        RunCheckpoint(path=Path("a"), step=Decimal(30), epoch=Decimal(1)),
        RunCheckpoint(path=Path("b"), step=Decimal(20), epoch=Decimal(2)),
        RunCheckpoint(path=Path("c"), epoch=Decimal(3)),
    )
    run = Run(folder=Path(), layout="x", checkpoints=checkpoints)
    chosen = choose_checkpoints(run, steps=":", last=1)
    assert chosen.paths == ["a"]
    assert chosen.notes == ["skipped c: their step is unknown"]


def test_a_last_checkpoint_is_of_the_same_model() -> None:
    names = ("epoch=1.ckpt", "last-v1.ckpt")
    checkpoints = tuple(
        RunCheckpoint(path=Path(name), step=Decimal(n)) for n, name in enumerate(names)
    )
    run = Run(folder=Path(), layout="numbers", checkpoints=checkpoints)
    assert choose_checkpoints(run, last=2).notes == []


def test_different_keys_are_one_error() -> None:
    checkpoints = (
        RunCheckpoint(path=Path("a-1"), step=Decimal(1), key=("ema", "model")),
        RunCheckpoint(path=Path("a-2"), step=Decimal(2)),
    )
    run = Run(folder=Path(), layout="x", checkpoints=checkpoints)
    with pytest.raises(ValueError, match=r"found ema and model \(a-1\), None \(a-2\)"):
        _ = choose_checkpoints(run, last=2).key
    assert choose_checkpoints(run, last=1).key == ()
