"""Recipes in the shapes of mergekit's examples, from small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.recipe_examples import EXAMPLES
from benchmarks.recipe_models import Example, make_members, tensors_of, unit
from ensembles_cli.main import cli

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


def merged(folder: Path, example: Example, monkeypatch: Any) -> Path:
    """Result of a recipe, carried out in the folder of the members."""
    make_members(folder, example)
    monkeypatch.chdir(folder)
    Path("recipe.yml").write_text(example.recipe)
    result = CliRunner().invoke(cli, ["merge", "recipe.yml", "-o", "out"])
    assert result.exit_code == 0, result.output
    return folder / "out"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_the_tensors_of_its_formula_and_loads(
    tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    example = EXAMPLES[name]
    out = merged(tmp_path, example, monkeypatch)
    members = {path: tensors_of(tmp_path / path) for path in example.members}
    tensors = tensors_of(out)
    assert example.formula is not None
    for tensor, array in tensors.items():
        exact = example.formula(tensor, members)
        # Rounded once, from a sum in float64 that may be off by a few units.
        limit = unit(exact, example.dtype) * (0.5 + 1e-6)
        assert np.abs(array - exact).max() <= limit, tensor
    model_class = getattr(transformers, example.kind[1])
    model, info = model_class.from_pretrained(out, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], info
    config = model.config.get_text_config()
    assert config.num_hidden_layers == example.n_layers
    inputs = model.dummy_inputs
    if model.main_input_name == "input_features":
        inputs["input_features"] = torch.zeros(3, 4, 16)
        inputs["decoder_input_ids"] = inputs.pop("input_ids")
    assert model.float()(**inputs).logits.isfinite().all()
