"""Names that differ by one prefix are matched, and it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average, plan


def state(prefix: str = "", value: float = 1.0, inner: str = "") -> dict[str, Any]:
    return {
        f"{prefix}layers.0.{inner}weight": np.full((2, 3), value),
        f"{prefix}layers.0.{inner}bias": np.full(2, value),
        f"{prefix}head.weight": np.full((4, 2), value),
    }


@pytest.mark.parametrize("prefix", ["module.", "model.", "bert.", "_orig_mod.", "a.b."])
@pytest.mark.parametrize("first", ["plain", "prefixed"])
def test_one_prefix_in_all_names_of_a_member_is_matched(
    prefix: str, first: str
) -> None:
    members = [state(), state(prefix, 3.0)][:: 1 if first == "plain" else -1]
    found = average(members)
    assert list(found) == list(members[0])
    assert all((value == 2).all() for value in found.values())
    (note,) = plan(members).notes
    assert "names of members[1] are matched to those of members[0]" in note
    assert repr(prefix) in note


def test_wrapped_modules_are_matched_wherever_they_stand() -> None:
    found = average([state(), state(value=3.0, inner="_checkpoint_wrapped_module.")])
    assert found.keys() == state().keys()
    assert all((value == 2).all() for value in found.values())


def test_an_exchanged_prefix_is_another_model() -> None:
    with pytest.raises(ValueError, match=r"'encoder\.layers\.0\.weight'.*lacks it"):
        average([state("encoder."), state("decoder.")])


def test_shapes_must_agree() -> None:
    other = {name: np.ones(7) for name in state("model.")}
    with pytest.raises(ValueError, match="lacks it"):
        average([state(), other])


def test_a_body_is_matched_below_a_head_that_only_one_member_has(
    tmp_path: Path,
) -> None:
    """BertModel and BertForMaskedLM: what both have is averaged where asked for."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
    )
    for name, make in (
        ("body", transformers.BertModel),
        ("whole", transformers.BertForMaskedLM),
    ):
        make(config).save_pretrained(tmp_path / name)
    for names in (("body", "whole"), ("whole", "body")):
        members = [tmp_path / name for name in names]
        with pytest.raises(ValueError, match="lacks it; pass missing='skip'") as caught:
            plan(members)
        assert "pooler" in str(caught.value)
        assert "embeddings" not in str(caught.value)
        planned = plan(members, missing="skip")
        assert any("'bert.'" in note for note in planned.notes)
        assert len(planned.targets) > 15
