"""Slices and modules: layers of models in another order, merged layer by layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import average, plan_recipe, read_recipes, verify, write

State = dict[str, np.ndarray]
PARTS = ("attn.q.weight", "mlp.up.weight")
BEFORE, AFTER = ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight")


def write_model(
    folder: Path, seed: int, n_layers: int = 4, width: int = 3, **config: Any
) -> State:
    rng = np.random.default_rng(seed)
    names = [*BEFORE, *AFTER]
    names += [f"model.layers.{i}.{part}" for i in range(n_layers) for part in PARTS]
    state = {n: rng.standard_normal((width, width)).astype(np.float32) for n in names}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    content = {"model_type": "llama", "num_hidden_layers": n_layers} | config
    (folder / "config.json").write_text(json.dumps(content))
    return state


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, State]:
    monkeypatch.chdir(tmp_path)
    return {name: write_model(tmp_path / name, i) for i, name in enumerate("abc")}


def merged(text: str, out: str = "out") -> State:
    Path("recipe.yml").write_text(text)
    (recipe,) = read_recipes("recipe.yml")
    plan = plan_recipe(recipe, out)
    write(plan)
    assert not verify(out, plan.members, base=plan.base).problems
    return load_file(Path(out, "model.safetensors"))


def layer(state: State, number: int) -> State:
    start = f"model.layers.{number}."
    return {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}


def assert_equal(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name], tensor)


def test_layers_are_stacked_in_the_order_of_the_slices(
    models: dict[str, State],
) -> None:
    state = merged("""\
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 2]}]
  - sources: [{model: a, layer_range: [2, 4]}]
  - sources: [{model: c, layer_range: [3, 4]}]
merge_method: passthrough
""")
    order = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("a", 2), ("a", 3), ("c", 3)]
    for number, (name, own) in enumerate(order):
        assert_equal(layer(state, number), layer(models[name], own))
    for names, model in ((BEFORE, "a"), (AFTER, "c")):
        for name in names:
            np.testing.assert_array_equal(state[name], models[model][name])
    config = json.loads(Path("out", "config.json").read_text())
    assert config == {"model_type": "llama", "num_hidden_layers": 7}


def test_scale_of_passthrough_follows_its_filters(models: dict[str, State]) -> None:
    state = merged("""\
slices:
  - sources: [{model: a, layer_range: [0, 4]}]
  - sources:
      - model: a
        layer_range: [2, 4]
        parameters:
          scale: [{filter: mlp.up, value: 0.0}, {value: 1.0}]
merge_method: passthrough
""")
    for number in (4, 5):
        expected = layer(models["a"], number - 2)
        expected["mlp.up.weight"] = np.zeros((3, 3), np.float32)
        assert_equal(layer(state, number), expected)


def test_slices_may_have_different_numbers_of_sources(
    models: dict[str, State],
) -> None:
    state = merged("""\
slices:
  - sources:
      - {model: a, layer_range: [0, 3], parameters: {weight: [0, 1]}}
      - model: b
        layer_range: [1, 4]
        parameters: {weight: [{filter: layers.2.attn, value: 5}, {value: 1}]}
  - sources:
      - {model: c, layer_range: [0, 1], parameters: {weight: [3, 2]}}
merge_method: linear
""")
    weights = [(0.0, 1.0, 1.0), (0.5, 5.0, 1.0), (1.0, 1.0, 1.0)]
    for number, (of_a, attn, mlp) in enumerate(weights):
        own = layer(models["a"], number), layer(models["b"], number + 1)
        for part, of_b in zip(PARTS, (attn, mlp), strict=True):
            stack = [{part: state[part]} for state in own]
            exact = average(stack, weights=[of_a, of_b])
            np.testing.assert_array_equal(layer(state, number)[part], exact[part])
    assert_equal(layer(state, 3), layer(models["c"], 0))
    (embedding,) = BEFORE
    np.testing.assert_array_equal(state[embedding], models["b"][embedding])


def test_a_slice_may_have_a_base_of_its_own(models: dict[str, State]) -> None:
    state = merged("""\
slices:
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [1, 2]}]
  - sources: [{model: c, layer_range: [3, 4]}, {model: b, layer_range: [0, 1]}]
    base_model: b
merge_method: task_arithmetic
base_model: a
parameters: {weight: 0.5}
""")
    pairs = [("a", 0, "b", 1), ("b", 0, "c", 3)]
    for number, (base, own, member, other) in enumerate(pairs):
        exact = average(
            [layer(models[member], other)],
            base=layer(models[base], own),
            rule="task_arithmetic",
            weights=[0.5],
        )
        assert_equal(layer(state, number), exact)


def test_slices_of_whole_models_are_the_models(models: dict[str, State]) -> None:
    text = """\
slices:
  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
merge_method: slerp
base_model: a
parameters: {t: 0.25}
"""
    sliced = merged(text)
    (recipe,) = read_recipes("recipe.yml")
    assert [member.made_from for member in plan_recipe(recipe).members] == [(), ()]
    whole = average(["a", "b"], rule="slerp", weights=[0.75, 0.25])
    assert_equal(sliced, load_file("out/model.safetensors"))
    for number in range(4):
        for part in PARTS:
            name = f"model.layers.{number}.{part}"
            np.testing.assert_array_equal(sliced[name], whole[name])


def test_layers_of_one_model_are_merged_with_each_other(
    models: dict[str, State],
) -> None:
    state = merged("""\
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: a, layer_range: [2, 4]}]
merge_method: linear
parameters: {weight: 0.5}
""")
    for number in range(2):
        pair = [layer(models["a"], number), layer(models["a"], number + 2)]
        assert_equal(layer(state, number), average(pair))


def test_a_head_that_is_tied_in_all_models_stays_tied(
    models: dict[str, State],
) -> None:
    import torch

    for name in "ab":
        state = {n: torch.from_numpy(t) for n, t in models[name].items()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        Path(f"{name}/model.safetensors").unlink()
        torch.save(state, f"{name}/pytorch_model.bin")
    state = merged(
        "slices:\n"
        + ONE.format("a", "0, 2")
        + ONE.format("b", "2, 4")
        + "merge_method: "
        "passthrough\n"
    )
    tied = models["a"]["model.embed_tokens.weight"]
    np.testing.assert_array_equal(state["model.embed_tokens.weight"], tied)
    np.testing.assert_array_equal(state.get("lm_head.weight", tied), tied)


def test_files_are_sharded_like_those_of_the_first_model(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "a", 0)
    (tmp_path / "a" / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:6]}
    parts["model-00002-of-00002.safetensors"] = names[6:]
    for file, own in parts.items():
        save_file({name: weights[name] for name in own}, tmp_path / "a" / file)
    index = {name: file for file, own in parts.items() for name in own}
    (tmp_path / "a" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    (tmp_path / "recipe.yml").write_text(
        "slices:\n"
        + 3 * ONE.format(tmp_path / "a", "0, 4")
        + "merge_method: passthrough\n"
    )
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    plan = plan_recipe(recipe, tmp_path / "out")
    sizes = [sum(t.nbytes for t in targets) for targets in plan.parts.values()]
    assert len(sizes) == 5
    assert max(sizes) <= 6 * 36
    assert len(plan_recipe(recipe, tmp_path / "out.safetensors").parts) == 1


ONE = "  - sources: [{{model: {}, layer_range: [{}]}}]\n"


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (
            ONE.format("a", "0, 4") + ONE.format("b", "2, 9"),
            r"recipe.yml:3: layer_range \[2, 9\] must be in the 4 layers of b",
        ),
        (
            ONE.format("a", "0, 4") + ONE.format("wide", "0, 1"),
            r"recipe.yml:3: layers of wide do not fit into a: .*\(5, 5\).*\(3, 3\)",
        ),
        (
            ONE.format("none", "0, 4") + ONE.format("neither", "0, 1"),
            r"recipe.yml:2: no model at none\n.*yml:3: no model at neither",
        ),
        (
            ONE.format("flat", "0, 1"),
            r"recipe.yml:1: slices need a model with one stack of layers: flat has n",
        ),
        (
            ONE.format("odd", "1, 3"),
            r"layer 0 of the result is layer 1 of odd, which has experts by "
            r"decoder_sparse_step=2",
        ),
        (
            ONE.format("miscounted", "1, 3"),
            r"must have one number of layers that is 4.*num_hidden_layers': 5",
        ),
    ],
)
def test_slices_that_do_not_fit_are_refused_with_their_line(
    models: dict[str, State], slices: str, message: str
) -> None:
    write_model(Path("wide"), 3, width=5)
    write_model(Path("odd"), 4, decoder_sparse_step=2)
    write_model(Path("miscounted"), 5).clear()
    Path("miscounted/config.json").write_text('{"num_hidden_layers": 5}')
    Path("flat").mkdir()
    save_file({"w": np.ones(3, np.float32)}, "flat/model.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        merged("slices:\n" + slices + "merge_method: passthrough\n")
    assert not Path("out").exists()


def test_whole_models_with_other_numbers_of_layers_are_refused(
    models: dict[str, State],
) -> None:
    write_model(Path("deep"), 3, n_layers=6)
    message = r"recipe.yml:3: models must have the same number of layers: deep has 6"
    with pytest.raises(ValueError, match=message):
        merged(
            "models:\n  - {model: a}\n  - {model: deep}\n"
            "merge_method: linear\nparameters: {weight: 1}\n"
        )


def test_notes_say_which_slices_embeddings_and_head_are_of(
    models: dict[str, State],
) -> None:
    Path("recipe.yml").write_text(
        "slices:\n"
        + ONE.format("a", "0, 2")
        + ONE.format("b", "2, 4")
        + "merge_method: "
        "passthrough\n"
    )
    (recipe,) = read_recipes("recipe.yml")
    notes = plan_recipe(recipe).notes
    assert "model.embed_tokens.weight is of the first slice: a" in notes
    assert "lm_head.weight, model.norm.weight are of the last slice: b" in notes


def test_modules_are_merged_with_slices_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = ["shared.weight", "lm_head.weight"]
    for part in ("encoder", "decoder"):
        names += [f"{part}.block.{i}.w" for i in range(2)] + [f"{part}.norm.w"]
    states = {}
    for name in "ab":
        states[name] = {n: rng.standard_normal(4).astype(np.float32) for n in names}
        Path(name).mkdir()
        save_file(states[name], f"{name}/model.safetensors")
        Path(name, "config.json").write_text(
            '{"is_encoder_decoder": true, "num_layers": 2, "num_decoder_layers": 2}'
        )
    a, b = states["a"], states["b"]
    state = merged("""\
modules:
  encoder:
    slices:
      - sources: [{model: a, layer_range: [0, 2]}]
      - sources: [{model: b, layer_range: [1, 2]}]
  decoder:
    models: [{model: b}]
  shared:
    models: [{model: a}]
merge_method: passthrough
""")
    expected = {f"encoder.block.{i}.w": a[f"encoder.block.{i}.w"] for i in range(2)}
    expected |= {"encoder.block.2.w": b["encoder.block.1.w"]}
    expected |= {"encoder.norm.w": b["encoder.norm.w"]}
    expected |= {n: b[n] for n in names if n.startswith("decoder")}
    expected |= {n: a[n] for n in names[:2]}
    assert_equal(state, expected)
    config = json.loads(Path("out/config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (3, 2)
    with pytest.raises(ValueError, match=r"yml:1: modules must have all tensors of a"):
        merged(
            "modules:\n  encoder:\n    models: [{model: a}]\n"
            "merge_method: passthrough\n"
        )
    with pytest.raises(ValueError, match=r"encoder.block \(2 layers\).*under modules"):
        merged("slices:\n" + ONE.format("a", "0, 2") + "merge_method: passthrough\n")
