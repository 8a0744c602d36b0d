from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from ensembles.checkpoints.methods.builtin import RULES
from ensembles.registry import RegisteredFunction, Table, lookup, register
from ensembles.selection import SELECTIONS


class Fact(NamedTuple):
    function: Callable[..., Any]
    cut: str


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def largest(values: list[float]) -> float:
    return max(values)


@pytest.fixture
def table() -> Table[Callable[..., Any]]:
    rules: Table[Callable[..., Any]] = Table("rule")
    register(rules)(middle)
    register(rules)(largest)
    return rules


def test_a_function_is_found_under_its_own_name(
    table: Table[Callable[..., Any]],
) -> None:
    assert lookup(table, "middle") is middle
    assert list(table) == ["middle", "largest"]


def test_the_decorator_returns_what_it_stores() -> None:
    plain: Table[Callable[..., Any]] = Table("rule")
    assert register(plain)(middle) is middle
    made = Table("rule", Fact)
    assert register(made, cut="row")(middle) is made["middle"]


def test_make_builds_the_entry_from_function_and_properties() -> None:
    made = Table("rule", Fact)
    register(made, cut="row")(middle)
    assert lookup(made, "middle") == Fact(middle, "row")


def test_a_class_can_be_registered() -> None:
    formats: Table[type] = Table("format")
    register(formats)(Fact)
    assert lookup(formats, "Fact") is Fact


def test_properties_that_make_does_not_know_are_its_error() -> None:
    made = Table("rule", Fact)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        register(made, colour="red")(middle)
    assert not made


def test_properties_without_make_are_refused(table: Table[Callable[..., Any]]) -> None:
    message = "^a rule must be registered without properties, found cut for 'min'; to"
    with pytest.raises(TypeError, match=message):
        register(table, cut="row")(min)


def test_a_name_is_registered_once(table: Table[Callable[..., Any]]) -> None:
    message = f"^rule 'middle' must be registered once, found .* {__name__}; rename it$"
    with pytest.raises(ValueError, match=message):
        register(table)(middle)


@pytest.mark.parametrize(
    ("name", "offer"),
    [("midle", "; did you mean 'middle'?"), ("LARGEST", "; did you mean 'largest'?")],
)
def test_a_misspelt_name_is_offered_the_nearest(
    table: Table[Callable[..., Any]], name: str, offer: str
) -> None:
    with pytest.raises(ValueError, match="unknown rule") as found:
        lookup(table, name)
    assert str(found.value) == f"unknown rule {name!r}{offer} (known: largest, middle)"


def test_a_name_like_no_other_is_offered_all(table: Table[Callable[..., Any]]) -> None:
    message = r"^unknown rule 'xyz' \(known: largest, middle\)$"
    with pytest.raises(ValueError, match=message):
        lookup(table, "xyz")


def test_what_is_no_name_is_a_type_error(table: Table[Callable[..., Any]]) -> None:
    message = r"^rule must be a name, found 3 \(known: largest, middle\)$"
    with pytest.raises(TypeError, match=message):
        lookup(table, 3)  # type: ignore[arg-type]


def scaled(stack: Any, weights: Any, *, factor: float = 2.0, record: Any) -> Any:
    return factor * weights @ stack


class Reserved(RegisteredFunction):
    noun = "rule"
    reserved = frozenset(("record",))


def test_parameters_come_after_the_inputs_without_what_the_caller_sets() -> None:
    assert Reserved(scaled).params == {"factor": 2.0}


def test_parameters_of_another_name_are_refused_with_the_known_ones() -> None:
    Reserved(scaled).check_names(["factor"])
    message = r"^rule 'scaled' has no parameter 'p' \(known: factor\)$"
    with pytest.raises(ValueError, match=message):
        Reserved(scaled).check_names(["factor", "p"])


@pytest.mark.parametrize(
    "entry", [RULES["mean"], SELECTIONS["greedy"]], ids=["rule", "selection"]
)
def test_entries_are_pickled_by_name(entry: Any) -> None:
    assert pickle.loads(pickle.dumps(entry)) is entry
    assert entry.__doc__ == entry.function.__doc__
