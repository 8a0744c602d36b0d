"""Options without effect, and names of other tools for rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.rules.rule import Rule
from tests.checkpoints.building import pair, save

STATE = {"w": np.ones(2), "n": np.array([1])}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"include": ["w", "decoder.*"]},
            "include pattern 'decoder.*' matches no tens",
        ),
        ({"exclude": ["lm_head"]}, "exclude pattern 'lm_head' matches no tensor"),
        (
            {"missing": "skip"},
            "missing='skip' (--missing skip) has no effect: all members have the same",
        ),
        (
            {"integers": "max", "exclude": ["n"]},
            "integers='max' (--integers max) has no effect: all te",
        ),
        ({"weights": [1, 0]}, "members[1] has weight 0, and has no effect"),
    ],
    ids=str,
)
def test_an_option_without_effect_is_noted(options: Any, words: str) -> None:
    (note,) = plan([STATE, STATE], **options).notes
    assert note.startswith(words)


@pytest.mark.parametrize(
    "options",
    [
        {"include": ["w*"]},
        {"integers": "first"},
        {"weights": [2, -1]},
        {"exclude": ["[n]"]},
    ],
)
def test_an_option_with_an_effect_is_not_noted(options: Any) -> None:
    assert plan([STATE, STATE], **options).notes == ()


def test_a_key_has_no_effect_on_safetensors(tmp_path: Path) -> None:
    (note,) = plan(pair(tmp_path), key="ema").notes
    assert note.startswith("the key ema has no effect on ")


def test_a_key_that_some_members_have_is_told_of_the_others(tmp_path: Path) -> None:
    import torch

    torch.save(
        {"ema": {"w": torch.ones(3)}, "x": {"w": torch.ones(3)}}, tmp_path / "t.pt"
    )
    (note,) = plan([tmp_path / "t.pt", pair(tmp_path)[0]], key="ema").notes
    assert "a.safetensors" in note
    assert "t.pt" not in note


def test_an_average_kept_during_training_is_not_mixed_in_silently(
    tmp_path: Path,
) -> None:
    contents = [{"model": {"w": torch.ones(2)}}, {"ema": {"w": torch.ones(2)}}]
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path, content in zip(paths, contents, strict=True):
        torch.save(content, path)
    expected = f"key 'ema' of {paths[1]} is an average that was kept during training"
    assert any(note.startswith(expected) for note in plan(paths).notes)
    assert not any("kept during" in note for note in plan(paths[:1] * 2).notes)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.7, 0.2], "weights sum to 0.9, not to 1"),
        ([0.7, 0.7], "weights sum to 1.4, not to 1"),
        ([0.5, 0.5], None),
        ([0.7, 0.3], None),
        ([3, 1], None),
        ([0.33, 0.66], None),
        ([1, 1], None),
        ([2, -1], None),
        ([1.1, 0.7], None),
        ([0.1, 1.0], "weights sum to 1.1, not to 1"),
        ([1, -0.5], "weights sum to 0.5, not to 1"),
    ],
)
def test_shares_that_are_no_whole_are_noted(weights: Any, words: str | None) -> None:
    """mergekit#214: a sum was expected, not a mean."""
    notes = plan([STATE, STATE], weights=weights).notes
    assert [note for note in notes if "sum" in note] == [
        note for note in notes if words and note.startswith(words)
    ]
    assert bool(notes) == (words is not None)


def test_running_statistics_are_noted() -> None:
    """pytorch/pytorch#84053: they are those of the members, not the result's."""
    state = {"bn.weight": np.ones(2), "bn.running_var": np.ones(2)}
    (note,) = plan([state, state]).notes
    assert note.startswith("running statistics, such as bn.running_var, are combined")
    assert plan([state]).notes == ()


def test_task_arithmetic_is_a_mean_with_signed_weights() -> None:
    rng = np.random.default_rng(0)
    base, a, b = ({"w": rng.normal(size=5)} for _ in range(3))
    found = average([base, a, b], weights=[-1, 1, 1])
    expected = average([a, b], base=base, rule="task_arithmetic")
    np.testing.assert_allclose(found["w"], expected["w"])


@pytest.mark.parametrize(
    "options", [{"memory": "64MiB"}, {"memory": None}, {"shard_size": "5GB"}]
)
def test_a_size_that_is_no_number_is_told(options: Any) -> None:
    message = r"(memory|shard_size) must be a whole number of bytes, such as .* found "
    with pytest.raises(TypeError, match=message):
        plan([STATE], **options)
    with pytest.raises(TypeError, match="threads must be a whole number"):
        plan([STATE], threads="2")  # type: ignore[arg-type]
    plan([STATE], memory=np.int64(1 << 24), threads=np.int32(1))  # type: ignore[arg-type]


def test_members_may_be_an_array_or_any_iterable_of_paths(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    expected = average(paths)["w"].tolist()
    given: list[Any] = [np.array(list(map(str, paths))), np.array(paths), iter(paths)]
    for members in given:
        found = average(members)
        assert found["w"].tolist() == expected


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_nested_is_told() -> None:
    import torch

    with pytest.raises(
        TypeError, match=r"tensor 'model' must be an array or a tensor, found a mapping"
    ):
        average([{"model": {"w": np.ones(2)}}])
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(ValueError, match=r"tensor 'w' is nested"):
        average([{"w": nested}])


def test_an_output_inside_a_member_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m1"
    save(folder / "model.safetensors", STATE)
    for out in (
        folder / "out",
        folder / "out.safetensors",
        folder / "1_X" / ".." / "o",
    ):
        (folder / "1_X").mkdir(exist_ok=True)
        with pytest.raises(
            ValueError, match=r"is inside the member .*m1, which must not change"
        ):
            plan([folder], out)
    beside = plan([folder / "model.safetensors"], folder / "out.safetensors")
    assert beside.out == folder / "out.safetensors"


def test_standard_output_is_no_output() -> None:
    with pytest.raises(ValueError, match=r"must be a path, found - \("):
        plan([STATE], "-")


def test_two_models_are_told_once(tmp_path: Path) -> None:
    one = save(tmp_path / "a.safetensors", {f"x{i}": np.ones(1) for i in range(73)})
    other = save(tmp_path / "b.safetensors", {f"y{i}": np.ones(1) for i in range(54)})
    with pytest.raises(ValueError, match="are they checkpoints of one model") as caught:
        plan([one, other])
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"73 tensors of {one} are not in {other}, such as 'x0'")
    assert second.startswith(f"54 tensors of {other} are not in {one}, such as 'y0'")


@pytest.mark.parametrize("rows", [(1200, 1264), (12, 13)])
def test_vocabularies_that_differ_name_the_way_round(rows: tuple[int, int]) -> None:
    members = [
        {"model.embed_tokens.weight": np.ones((n, 2)), "w": np.ones(2)} for n in rows
    ]
    with pytest.raises(ValueError, match="vocabularies differ in size") as caught:
        plan(members)
    assert "--exclude '*embed*' --exclude '*lm_head*'" in str(caught.value)
    assert average(members, exclude=["*embed*", "*lm_head*"]).keys() == {"w"}
    wte = [{"transformer.wte.weight": np.ones((n, 2))} for n in rows]
    with pytest.raises(ValueError, match=r"--exclude 'transformer\.wte\.weight'"):
        plan(wte)


def test_a_path_that_is_given_twice_is_noted_once(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for value, path in enumerate((a, b)):
        save(path, {"w": np.full(3, value, np.float32)})
    assert f"{a} is passed 3 times, and counts 3 times" in plan([a, b, a, a]).notes
    assert not any("is given" in note for note in plan([a, b]).notes)


def test_a_base_in_memory_is_no_member() -> None:
    base = {"w": np.eye(3), "b": np.ones(2)}
    other = {name: tensor.copy() for name, tensor in base.items()}
    how: Any = {"rule": "task_arithmetic"}
    for same in (base, {name: tensor[:] for name, tensor in base.items()}):
        with pytest.raises(ValueError, match=r"^members\[1\] is the base, from which"):
            plan([other, same], base=base, **how)
    assert plan([other, {**base, "b": np.zeros(2)}], base=base, **how).base is not None


def test_a_base_of_a_rule_that_is_not_registered_is_no_member() -> None:
    def _added(stack: Any, weights: Any, *, base: Any) -> Any:
        return base + weights @ (stack - base)

    base, other = {"w": np.zeros(2)}, {"w": np.ones(2)}
    rule = Rule(_added, needs_base=True)
    with pytest.raises(ValueError, match=r"^members\[1\] is the base, from which"):
        plan([other, base], base=base, rule=rule)
    assert plan([other], base=base, rule=rule).base is not None
    compared = plan([other, base], base=base, base_may_be_member=True, rule=rule)
    assert compared.base is not None


def test_a_module_that_is_the_base_is_no_member() -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    members = [other.state_dict(), module.state_dict()]
    with pytest.raises(ValueError, match=r"^members\[1\] is the base, from which"):
        plan(members, base=module.state_dict(), rule="task_arithmetic")
