"""Files of torch whose state dict lies beside other tensors or above them."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, inspect, plan
from ensembles.checkpoints.formats.pytorch import pytorch

STATE = {"layer.w": torch.arange(6.0).view(2, 3), "layer.b": torch.ones(3)}
STRAY = torch.tensor(0.5)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "a.pt")
    return folder / "a.pt"


EMA = {name: value + 1 for name, value in STATE.items()}
ADAM = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3)}}}
ARGS = argparse.Namespace(lr=0.1, path=Path("data"))
# Contents of the files of trainers, with the keys of the state dict and its average.
TRAINERS: dict[str, tuple[dict[str, Any], tuple[str, ...], str | None]] = {
    "Lightning": (
        {
            "epoch": 1,
            "state_dict": STATE,
            "loops": {"fit_loop": {}},
            "callbacks": {"EarlyStopping": {"best_score": STRAY}},
            "optimizer_states": [ADAM],
            "hyper_parameters": {"path": Path("data")},
        },
        ("state_dict",),
        None,
    ),
    "skorch, WeNet, epochs of ESPnet": (STATE, (), None),
    "fairseq": (
        {"args": None, "cfg": ARGS, "model": STATE, "last_optimizer_state": ADAM},
        ("model",),
        None,
    ),
    "OpenNMT-py": (
        {
            "model": STATE,
            "generator": {"0.weight": STRAY},
            "vocab": {},
            "opt": ARGS,
            "optim": {"optimizer": ADAM},
        },
        ("model", "generator"),
        None,
    ),
    "ESPnet": (
        {"model": STATE, "reporter": {}, "optimizers": [ADAM], "scaler": None},
        ("model",),
        None,
    ),
    "icefall": (
        {"model": STATE, "model_avg": EMA, "optimizer": ADAM, "sampler": {}},
        ("model",),
        "model_avg",
    ),
    "timm": (
        {"arch": "x", "state_dict": STATE, "optimizer": ADAM, "state_dict_ema": EMA},
        ("state_dict",),
        "state_dict_ema",
    ),
    "torchvision references": (
        {
            "model": STATE,
            "optimizer": ADAM,
            "args": ARGS,
            "model_ema": {f"module.{name}": value for name, value in EMA.items()},
        },
        ("model",),
        "model_ema",
    ),
    "MMEngine": (
        {"meta": {"seed": 1}, "state_dict": STATE, "message_hub": {}},
        ("state_dict",),
        None,
    ),
    "Detectron2": (
        {"model": STATE, "optimizer": ADAM, "iteration": 3},
        ("model",),
        None,
    ),
    "BasicSR": ({"params": STATE, "params_ema": EMA}, ("params",), "params_ema"),
    "nanoGPT": (
        {
            "model": {f"_orig_mod.{name}": value for name, value in STATE.items()},
            "optimizer": ADAM,
            "model_args": {"n_layer": 1},
        },
        ("model",),
        None,
    ),
    "DeepSpeed": ({"module": STATE, "optimizer": None}, ("module",), None),
    "PyTorch's tutorials": (
        {"model_state_dict": STATE, "optimizer_state_dict": ADAM, "loss": STRAY},
        ("model_state_dict",),
        None,
    ),
}


@pytest.mark.parametrize(
    ("content", "keys", "ema"), TRAINERS.values(), ids=TRAINERS.keys()
)
def test_the_model_in_the_file_of_a_trainer_is_found(
    tmp_path: Path, content: dict[str, Any], keys: tuple[str, ...], ema: str | None
) -> None:
    path = saved(tmp_path, content)
    checkpoint = pytorch.read(path)
    assert checkpoint.keys == keys
    assert set(STATE) <= {n.removeprefix("model.") for n in checkpoint.layout}
    notes = [note for note in checkpoint.notes if "kept during training" in note]
    assert len(notes) == (ema is not None)
    if ema is not None:
        assert f"(--key {ema})" in notes[0]
        result = average([path], key=ema)
        assert all(np.array_equal(result[name], EMA[name]) for name in STATE)


def test_pickled_modules_of_a_trainer_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    path = saved(tmp_path, {"model": model, "ema": ema, "optimizer": ADAM})
    for key, module in ((None, model), ("ema", ema)):
        result = average([path], key=key)
        assert np.array_equal(result["weight"], module.weight.detach())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "must contain a state dict, found empty dict"),
        (ARGS, "has no state dict: its contents (lr, path) have no named tensors"),
        ({"epoch": 3, "best": 0.5}, "its contents (epoch, best) have no named tensors"),
    ],
    ids=str,
)
def test_an_error_describes_contents_without_tensors(
    tmp_path: Path, content: Any, found: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(found)):
        plan([saved(tmp_path, content)])


def test_an_object_at_the_key_is_named_by_its_class(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": STATE, "args": ARGS})
    with pytest.raises(
        ValueError, match=r"no tensors at key 'args': found an object of argparse\."
    ):
        plan([path], key="args")


@pytest.mark.parametrize("key", [None, "net"])
def test_a_module_that_contains_itself_is_an_error_of_its_file(
    tmp_path: Path, key: str | None
) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.add_module("again", module)
    path = saved(tmp_path, {"net": module} if key else module)
    for read in (inspect, lambda path: plan([path], key=key)):
        with pytest.raises(
            ValueError, match=rf"{path}: module 'again.* must not contain"
        ):
            read(path)


def test_a_stray_tensor_is_not_taken_for_the_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path, {"net": STATE, "loss": STRAY})
    assert average([path]).keys() == STATE.keys()


def test_a_stray_tensor_does_not_hide_two_state_dicts(tmp_path: Path) -> None:
    path = saved(tmp_path, {"gen": STATE, "disc": STATE, "step": STRAY})
    with pytest.raises(
        ValueError, match=r"one obvious state dict, found gen \(.*, disc \(.* key="
    ):
        plan([path])


def test_a_small_dict_does_not_hide_the_tensors_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE | {"extra": {"scale": STRAY}})
    with pytest.raises(ValueError, match=r"one obvious state dict, found extra \("):
        plan([path])


@pytest.mark.parametrize("key", [None, "model"])
@pytest.mark.parametrize(
    ("inner", "at"), [(STATE, "enc"), ({"deep": STATE}, r"enc\.deep")]
)
def test_tensors_deeper_down_are_not_left_out(
    tmp_path: Path, key: str | None, inner: Any, at: str
) -> None:
    path = saved(tmp_path, {"model": {"enc": inner, "temp": STRAY}})
    with pytest.raises(
        ValueError, match=rf"has nested tensors at '{at}'.* pass key=NAME"
    ):
        plan([path], key=key)


def test_only_the_records_of_the_state_dict_are_verified(tmp_path: Path) -> None:
    moment = torch.full((1000,), 7.0)
    path = saved(tmp_path, {"model": STATE, "optimizer": {"state": {0: {"m": moment}}}})
    names = [Path(record.name).name for record in pytorch.read(path).records]
    assert names == ["0", "1"]
    content = bytearray(path.read_bytes())
    content[content.index(moment.numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert average([path]).keys() == STATE.keys()


def test_a_flipped_bit_in_the_pickle_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes().replace(b"layer.w", b"layer.v", 1))
    with pytest.raises(ValueError, match=r"a\.pt is damaged: entry '.*data\.pkl'"):
        average([path])


LIKE = {name: value + 1 for name, value in STATE.items()}
OTHER = {"proj.weight": torch.ones(4, 2)}


@pytest.mark.parametrize(
    ("content", "taken", "also"),
    [
        ({"state_dict": STATE, "state_dict_ema": LIKE}, "state_dict", "state_dict_ema"),
        ({"model": STATE, "model_ema": LIKE}, "model", "model_ema"),
        ({"model": STATE, "model_avg": LIKE}, "model", "model_avg"),
        ({"model": STATE, "shadow": {"layer.w": LIKE["layer.w"]}}, "model", "shadow"),
        ({"module": STATE, "module_ema": LIKE}, "module", "module_ema"),
        ({"state_dict": STATE, "ema_state_dict": LIKE}, "state_dict", "ema_state_dict"),
        ({"model": STATE, "ema": {"model": LIKE}}, "model", "ema.model"),
        ({"model": STATE, "teacher": {"module.x": LIKE}}, "model", "teacher.module.x"),
        ({"state_dict": STATE, "current_model_state": LIKE}, "state_dict", "current"),
        (
            {"state_dict": STATE, "callbacks": {"EMA": {"weights": LIKE}}},
            "state_dict",
            "callbacks.EMA.weights",
        ),
        (
            {"model": STATE, "ema": {f"module.{n}": v for n, v in LIKE.items()}}
            | {"ema": {"shadow": LIKE}},
            "model",
            "ema.shadow",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_state_dict_of_the_same_names_is_told(
    tmp_path: Path, content: Any, taken: str, also: str
) -> None:
    found = pytorch.read(saved(tmp_path, content))
    (note,) = found.notes
    assert note.startswith(f"took '{taken}'; '{also}")
    assert re.search(
        r"has the same tensor names|is an average of the same tensors", note
    )
    assert f"pass key='{also}" in note
    assert found.state_dict == taken
    assert plan([tmp_path / "a.pt"]).notes == (f"{tmp_path / 'a.pt'}: {note}",)


def test_other_tensors_beside_the_state_dict_are_told(tmp_path: Path) -> None:
    found = pytorch.read(saved(tmp_path, {"model": STATE, "discriminator": OTHER}))
    assert found.notes == [
        "took 'model'; 'discriminator' has other tensors, which are left out: pass "
        "key='discriminator' (--key discriminator) to take them instead"
    ]


def test_an_output_layer_under_a_key_of_its_own_is_part_of_the_model(
    tmp_path: Path,
) -> None:
    content = {"model": STATE, "generator": OTHER, "optim": {"step": 3}, "vocab": None}
    path = saved(tmp_path, content)
    found = pytorch.read(path)
    assert found.notes == ["took 'model' and 'generator', which are parts of one model"]
    assert found.keys == ("model", "generator")
    assert found.beside == {path.name: ["optim", "vocab"]}
    names = [f"model.{name}" for name in STATE] + ["generator.proj.weight"]
    assert list(found.layout) == names
    assert list(pytorch.read(path, ["model", "generator"]).layout) == names
    assert pytorch.read(path, "model").layout.keys() == STATE.keys()


def test_candidates_are_listed_with_their_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path, {"encoder": STATE, "decoder": OTHER, "step": 3})
    with pytest.raises(
        ValueError,
        match=r"found encoder \(2 tensors, \d+ parameters\), "
        r"decoder \(1 tensor, 8 parameters\); pass key=NAME \(--key NAME\)",
    ):
        plan([path])
    assert average([path], key=["encoder", "decoder"]).keys() == {
        "encoder.layer.w",
        "encoder.layer.b",
        "decoder.proj.weight",
    }


@pytest.mark.parametrize(
    "key", ["a.b", "callbacks.pytorch.callbacks.Averaging.current_model_state"]
)
def test_a_key_may_hold_dots_itself(tmp_path: Path, key: str) -> None:
    callbacks = {"pytorch.callbacks.Averaging": {"current_model_state": dict(LIKE)}}
    content = {"a.b": LIKE, "a": {}, "state_dict": STATE, "callbacks": callbacks}
    path = saved(tmp_path, content)
    assert any(f"pass key={key!r} (" in note for note in pytorch.read(path).notes)
    assert average([path], key=key)["layer.b"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("place", ["ema_list.0", "emas.1"])
def test_a_state_dict_in_a_list_is_told_and_reached_by_its_key(
    tmp_path: Path, place: str
) -> None:
    name, index = place.split(".")
    content = {"model": STATE, name: [{}] * int(index) + [LIKE]}
    path = saved(tmp_path, content)
    (note,) = pytorch.read(path).notes
    assert note.startswith(f"took 'model'; {place!r} ")
    assert f"pass key={place!r} (--key {place})" in note
    assert average([path], key=place)["layer.b"].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=rf"no key '{name}.7': '7' is not among"):
        plan([path], key=f"{name}.7")


@pytest.mark.parametrize(
    ("beside", "note"),
    [
        (
            {"ema": {"shadow_params": list(LIKE.values()), "decay": 0.9}},
            "'ema.shadow_params' has 2 tensors without names",
        ),
        (
            {"optimizer_states": [{"ema": tuple(LIKE.values())}]},
            "'optimizer_states.0.ema' has 2 tensors without names",
        ),
        (
            {"prototypes": torch.ones(4, 2), "step": STRAY},
            "tensors next to it are left out: prototypes",
        ),
    ],
    ids=["score_sde", "NeMo", "loose"],
)
def test_tensors_without_a_state_dict_of_their_own_are_told(
    tmp_path: Path, beside: Any, note: str
) -> None:
    found = pytorch.read(saved(tmp_path, {"model": STATE} | beside))
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"took 'model'; {note}")


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer": {"state": {0: {"m": torch.ones(3)}}}},
        {"exp_avg": LIKE},
        {"optimizer_ema": LIKE},
        {"callbacks": {"best": {"score": torch.ones(3)}}},
        {"rng_states": {"cpu": torch.ones(3)}, "loss": {"x": torch.ones(2)}},
        {"metrics": {"accuracy": torch.ones(3)}},
        {"step": {"n": torch.tensor(3)}},
        {"step": torch.tensor(3), "cuda_rng_state": torch.ones(9), "lr": STRAY},
        {"optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}]},
        {"losses": [torch.ones(3), torch.ones(3)], "sizes": [STRAY]},
    ],
    ids=str,
)
def test_states_of_training_beside_it_are_not_worth_a_word(
    tmp_path: Path, beside: Any
) -> None:
    found = pytorch.read(saved(tmp_path, {"model": STATE} | beside))
    assert found.notes == []
    assert found.state_dict == "model"


def test_a_key_that_was_asked_for_is_taken_without_a_word(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": STATE, "model_ema": LIKE})
    found = pytorch.read(path, "model_ema")
    assert (found.state_dict, found.notes) == ("model_ema", [])
    assert pytorch.read(saved(tmp_path, STATE)).state_dict is None


def test_where_tensors_lie_is_listed(tmp_path: Path) -> None:
    nested = {"model": {"embedding": {"word": LIKE}, "encoder": STATE}}
    with pytest.raises(
        ValueError,
        match=r"found model\.encoder \(.*\), model\.embedding\.word \(2 tensors",
    ):
        plan([saved(tmp_path, nested)])


@pytest.mark.parametrize("name", [0, None, 1.5])
def test_names_that_are_no_strings_are_refused(tmp_path: Path, name: Any) -> None:
    path = saved(tmp_path, {name: torch.ones(2)})
    with pytest.raises(
        ValueError, match=rf"a\.pt: names of tensors must be .*{name!r}"
    ):
        plan([path])


def test_objects_beside_the_tensors_are_read_as_data(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": STATE, "args": argparse.Namespace(lr=0.1)})
    assert average([path]).keys() == STATE.keys()


@pytest.mark.parametrize(
    "beside", [{"metrics": {"loss": STRAY}}, {"rng_states": {"cpu": torch.zeros(8)}}]
)
def test_training_state_is_not_taken_for_the_model(tmp_path: Path, beside: Any) -> None:
    path = saved(tmp_path, {"ema": STATE, **beside})
    assert pytorch.read(path).keys == ("ema",)
    with pytest.raises(ValueError, match=r"one obvious state dict, found .*; pass key"):
        pytorch.read(saved(tmp_path, beside))


def test_the_class_of_an_object_without_tensors_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"state dict, found an object of fractions\."):
        plan([saved(tmp_path, Fraction(1, 2))])
    path = saved(tmp_path, {"model": STATE, "config": Fraction(1, 2)})
    with pytest.raises(ValueError, match=r"at key 'config': found an object of fract"):
        plan([path], key="config")
