"""What users type, turned into values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from ensembles_cli.options.types import Param, Size, Weights, split_weights


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("5GB", 5 * 10**9),
        ("5gb", 5 * 10**9),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1.5k", 1500),
        (".5Gi", 1 << 29),
        ("123", 123),
        ("123B", 123),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes_are_bytes(text: str, n_bytes: int) -> None:
    assert Size().convert(text, None, None) == n_bytes


def test_a_size_that_is_a_number_already_stays() -> None:
    assert Size().convert(5, None, None) == 5


@pytest.mark.parametrize(
    "text", ["", "GB", "5XB", "-5GB", "5e9", "five", "1.2.3", "5 5"]
)
def test_what_is_no_size_is_reported(text: str) -> None:
    with pytest.raises(click.BadParameter, match="must be a size such as 5GB"):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("p=2", 2), ("p=.5", 0.5), ("p=0.5", 0.5), ("p=a=b", "a=b"), ("p=", "")],
        *[("p=true", True), ("p=True", True), ("p=null", None), ("p=None", None)],
        *[("p=[0.7, 0.8]", [0.7, 0.8]), ("p=[.7,.8]", [0.7, 0.8])],
        *[("p=.7,.8", (0.7, 0.8)), ("p=count", "count"), ("p=(", "(")],
    ],
)
def test_params_are_names_and_values(text: str, value: Any) -> None:
    assert Param().convert(text, None, None) == ("p", value)


@pytest.mark.parametrize("text", ["p", "=3", ""])
def test_what_is_no_param_is_reported(text: str) -> None:
    with pytest.raises(click.BadParameter, match="must be name=value"):
        Param().convert(text, None, None)


def test_weights_are_numbers_with_commas() -> None:
    assert Weights().convert(".7, .3,1e-2", None, None) == [0.7, 0.3, 0.01]
    for text in ("", "1,", "a,b", ".7;.3"):
        with pytest.raises(click.BadParameter, match="must be numbers with commas"):
            Weights().convert(text, None, None)


def test_weights_may_stand_behind_members() -> None:
    assert split_weights(("a:.7", "b:-.3")) == (["a", "b"], [0.7, -0.3])
    assert split_weights(("a", "b")) == (["a", "b"], None)
    assert split_weights(("C:model", "b:")) == (["C:model", "b:"], None)


def test_every_member_has_a_weight_or_none() -> None:
    with pytest.raises(click.UsageError, match="found b without a weight, and 1 of 2"):
        split_weights(("a:.7", "b"))


def test_a_name_that_exists_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "step:5"
    path.write_text("")
    assert split_weights((str(path),)) == ([str(path)], None)
    assert split_weights((f"{path}:.5",)) == ([str(path)], [0.5])


@pytest.mark.parametrize(
    ("text", "number"), [("70%", 0.7), ("1/4", 0.25), ("1e-1", 0.1), ("50.0%", 0.5)]
)
def test_weights_may_be_percentages_and_fractions(text: str, number: float) -> None:
    paths, weights = split_weights((f"a:{text}",))
    assert paths == ["a"]
    assert weights == pytest.approx([number])
    assert Weights().convert(f"{text},1", None, None) == [pytest.approx(number), 1]


def test_weights_may_be_separated_by_spaces_in_quotes() -> None:
    assert Weights().convert(".7 .3", None, None) == [0.7, 0.3]
    assert Weights().convert("[.7, .3]", None, None) == [0.7, 0.3]


@pytest.mark.parametrize("text", ["0,7", "half", "1/0", "70%%", ""])
def test_a_weight_of_a_path_that_is_no_number_is_reported(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "a"
    path.write_text("")
    message = rf"weight of .*a must be a number such as .7.* 0\.\.1, found {text!r}"
    with pytest.raises(click.UsageError, match=message):
        split_weights((f"{path}:{text}",))


def test_weights_that_are_given_twice_are_told_so_first() -> None:
    with pytest.raises(click.UsageError, match="given twice"):
        split_weights(("a:.7", "b"), [0.7, 0.3])


def test_a_list_of_weights_with_spaces_is_told_how_to_be_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(click.UsageError, match=r"write --weights 0\.7,0\.3"):
        split_weights(("a", "b", ".3"), [0.7])
    with pytest.raises(click.UsageError, match=r"write --weights 1,2,3"):
        split_weights(("a", "2,", "3"), [1.0])


def test_weights_by_depth_have_two_dots_between_their_points(tmp_path: Path) -> None:
    parsed = Weights().convert("0..1, 1,.5...25..1/2", None, None)
    assert parsed == [(0.0, 1.0), 1.0, (0.5, 0.25, 0.5)]
    assert split_weights(("../a:1..0", "b:50%")) == (["../a", "b"], [(1.0, 0.0), 0.5])
    (tmp_path / "a").write_text("")
    for text in ("0..", "..", "0..x"):
        with pytest.raises(click.BadParameter, match="must be numbers"):
            Weights().convert(f"{text},1", None, None)
        with pytest.raises(click.UsageError, match="must be a number"):
            split_weights((f"{tmp_path / 'a'}:{text}",))
