"""Second moments of members in a merge: matched, read in blocks, recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from torch import nn

from ensembles._typing import Array
from ensembles.checkpoints import (
    Moments,
    average,
    collect_fisher,
    collect_gram,
    inspect,
    plan,
    verify,
)
from ensembles.checkpoints.formats.detection import read_metadata
from ensembles.checkpoints.merging.provenance import KEY
from ensembles.checkpoints.methods.builtin import fisher, regmean
from ensembles.checkpoints.moments.collection import samples_of
from ensembles.dtypes import round_to_dtype
from ensembles_cli.main import cli
from tests.checkpoints.building import save_shards
from tests.checkpoints.moments.test_gram import gpt2, padded

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZE = 2_200_003  # elements: more than one job, and no whole number of blocks


def described(
    kind: Any, tensors: dict[str, Array], member: dict[str, Array]
) -> Moments:
    """Moments with the samples of a member."""
    state = {
        name: torch.from_numpy(np.asarray(member[name], np.float64)).to(
            getattr(torch, str(member[name].dtype))
        )
        for name in tensors
    }
    return Moments(kind, tensors, samples_of(state), {"n_examples": 1})


def members_and_moments(
    rng: np.random.Generator, kind: str
) -> tuple[list[dict[str, Array]], list[Moments]]:
    """Two members of mixed formats with a large tensor, and their moments."""
    shapes = {
        "a.w": (1, SIZE) if kind == "fisher" else (SIZE // 50, 50),
        "b.w": (31, 41),
        "c": (7,),
    }
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    members, moments = [], []
    for dtype in (BFLOAT16, np.float32):
        member = {n: t + rng.normal(size=t.shape) / 4 for n, t in start.items()}
        member = {name: array.astype(dtype) for name, array in member.items()}
        member["n"] = np.array([4])
        tensors = {
            name: rng.exponential(size=array.shape).astype(np.float32)
            for name, array in member.items()
            if name in ("a.w", "b.w")
        }
        if kind == "gram":
            rows = {
                name: rng.normal(size=(90, t.shape[1])) for name, t in tensors.items()
            }
            tensors = {name: (x.T @ x).astype(np.float32) for name, x in rows.items()}
        members.append(member)
        moments.append(described(kind, tensors, member))
    return members, moments


def saved(
    folder: Path, members: list[dict[str, Array]], moments: list[Moments]
) -> tuple[list[Path], list[Path]]:
    """Files of members and moments."""
    paths = [folder / f"{name}.safetensors" for name in "xy"]
    moment_paths = [folder / f"{name}-moments.safetensors" for name in "xy"]
    for path, member in zip(paths, members, strict=True):
        save_file(member, path)
    for path, entry in zip(moment_paths, moments, strict=True):
        entry.save(path)
    return paths, moment_paths


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_memory_threads_and_shards_do_not_change_the_result(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    members, moments = members_and_moments(rng, kind)
    paths, moment_paths = saved(tmp_path, members, moments)
    folders = []
    for name, member in zip("xy", members, strict=True):
        parts = [{"a.w": member["a.w"]}, {n: member[n] for n in ("b.w", "c", "n")}]
        folders.append(save_shards(tmp_path / name, parts))
    rule = {"fisher": "fisher", "gram": "regmean"}[kind]
    params = {"normalize": True} if kind == "fisher" else {"alpha": 0.5}
    how: Any = {"rule": rule, "weights": [1, 2], "rule_params": params}
    contents, digests = set(), set()
    for memory, threads in ((5 << 20, 1), (9 << 20, 2), (256 << 20, 4)):
        out, read = tmp_path / f"{memory}.safetensors", list[int]()
        how |= {"memory": memory, "threads": threads, "moments": moment_paths}
        report = average(paths, out, progress=read.append, **how)
        assert sum(read) == report.plan.read_bytes
        contents.add(out.read_bytes())
        digests.add((report.digest, *report.member_digests, *report.moments_digests))
    plain = average(paths, tmp_path / "plain.safetensors", weights=[1, 2])
    assert plain.member_digests == report.member_digests  # also of whole tensors
    shards = average(folders, tmp_path / "out", **how)
    digests.add((shards.digest, *shards.member_digests, *shards.moments_digests))
    assert len(contents) == len(digests) == 1
    found = load_file(out)
    assert found["n"].tolist() == [4]
    wide = [{n: t.astype(np.float64) for n, t in m.items()} for m in members]
    mean = (wide[0]["c"] + 2 * wide[1]["c"]) / 3
    assert found["c"].tobytes() == round_to_dtype(mean, BFLOAT16).tobytes()
    entries = [[m.tensors[name] for m in moments] for name in ("a.w", "b.w")]
    if kind == "gram":
        for name, grams in zip(("a.w", "b.w"), entries, strict=True):
            stack = np.array([m[name] for m in wide])
            exact = regmean(stack, [1, 2], moments=grams, alpha=0.5)
            assert np.array_equal(found[name], round_to_dtype(exact, BFLOAT16))
    else:
        stack = np.array([np.append(m["a.w"], m["b.w"]) for m in wide])
        joined = [np.append(*pair) for pair in zip(*entries, strict=True)]
        exact = fisher(stack, [1, 2], moments=joined, normalize=True)
        both = np.append(found["a.w"], found["b.w"]).astype(np.float64)
        np.testing.assert_allclose(both, exact, rtol=2**-8, atol=1e-6)


def test_digests_of_moments_are_recorded_and_printed(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    members, moments = members_and_moments(rng, "gram")
    for member, entry in zip(members, moments, strict=True):
        del member["a.w"], entry.tensors["a.w"], entry.samples["a.w"]
    paths, moment_paths = saved(tmp_path, members, moments)
    out = tmp_path / "out.safetensors"
    arguments = ["avg", *paths, "--rule", "regmean", "-o", out, "--json"]
    for path in moment_paths:
        arguments += ["--moments", path]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    recipe = json.loads(read_metadata(out)[KEY])
    assert recipe["moments"] == [entry["digest"] for entry in shown["moments"]]
    assert len(set(recipe["moments"])) == 2
    assert [entry["path"] for entry in shown["moments"]] == list(map(str, moment_paths))
    assert "tensors without Gram matrix are averaged: c" in shown["notes"]
    again = average(members, rule="regmean", moments=moments)
    assert again["b.w"].tobytes() == load_file(out)["b.w"].tobytes()
    assert len(inspect(out).tensors) == 3


def test_moments_are_verified(tmp_path: Path, rng: np.random.Generator) -> None:
    members, moments = members_and_moments(rng, "gram")
    paths, moment_paths = saved(tmp_path, members, moments)
    out = tmp_path / "out.safetensors"
    average(paths, out, rule="regmean", moments=moment_paths)
    without = verify(out, paths)
    assert without.is_intact
    assert "pass moments=PATHS" in without.unverified[-1]
    found = verify(out, paths, moments=moment_paths)
    assert (found.is_intact, found.unverified) == (True, [])
    assert found.verified[-1] == f"moments 2: the tensors of {moment_paths[1]}"
    tensors = {name: 2 * array for name, array in moments[1].tensors.items()}
    replace(moments[1], tensors=tensors).save(moment_paths[1], force=True)
    found = verify(out, paths, moments=moment_paths)
    message = f"{moment_paths[1]} differs from the recorded moments 2"
    assert found.problems[0].startswith(f"{message}; averaged again, the members give")
    arguments = ["verify", out, *paths]
    for path in moment_paths:
        arguments += ["--moments", path]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 1
    assert "moments 2" in result.output
    plain = average(paths, tmp_path / "mean.safetensors").out
    with pytest.raises(ValueError, match="averaged with no moments; leave moments="):
        verify(plain, paths, moments=moment_paths)


def test_processes_that_write_together_give_the_same_files(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    members, moments = members_and_moments(rng, "fisher")
    folders = []
    for name, member in zip("xy", members, strict=True):
        parts = [{"a.w": member["a.w"]}, {n: member[n] for n in ("b.w", "c", "n")}]
        folders.append(save_shards(tmp_path / name, parts))
    _, moment_paths = saved(tmp_path, members, moments)
    how: Any = {"rule": "fisher", "moments": moment_paths}
    whole = average(folders, tmp_path / "whole", **how)
    for rank in range(2):
        report = average(folders, tmp_path / "out", rank=rank, world_size=2, **how)
    assert report.missing == ()
    assert report.digest == whole.digest
    assert report.moments_digests == whole.moments_digests
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_models_their_state_dicts_and_collected_moments() -> None:
    models, data = [linear(0), linear(1)], torch.randn(2, 30, 3)
    states = [model.state_dict() for model in models]
    moments = [
        collect_gram(model, [x], dtype="float64")
        for model, x in zip(models, data, strict=True)
    ]
    found = average(states, rule="regmean", moments=moments, rule_params={"alpha": 1})
    inputs = data.double().numpy().reshape(60, 3)
    outputs = np.concatenate(
        [
            (x @ state["0.weight"].T).double().numpy()
            for x, state in zip(data, states, strict=True)
        ]
    )
    expected = np.linalg.lstsq(inputs, outputs, rcond=None)[0].T
    np.testing.assert_allclose(found["0.weight"], expected, rtol=1e-5)
    np.testing.assert_array_equal(
        found["0.bias"], (states[0]["0.bias"] + states[1]["0.bias"]) / 2
    )


def test_swapped_and_foreign_moments_are_refused(tmp_path: Path) -> None:
    models, x = [linear(seed) for seed in range(3)], torch.ones(1, 3)
    states = [model.state_dict() for model in models]
    moments = [collect_gram(model, [x]) for model in models]
    with pytest.raises(
        ValueError, match=r"moments\[0\] does not belong to members\[0"
    ) as e:
        plan(states[:2], rule="regmean", moments=moments[1::-1])
    assert "they belong to members[1]: pass moments in the order of the members" in str(
        e.value
    )
    with pytest.raises(
        ValueError, match=r"collect them from this member, in the dtype"
    ):
        plan(states[:2], rule="regmean", moments=[moments[0], moments[2]])
    other = collect_gram(nn.Linear(3, 2), [x])
    with pytest.raises(
        ValueError, match=r"of 1 tensors that members\[1\] lacks, such as"
    ):
        plan(states[:2], rule="regmean", moments=[moments[0], other])
    path = tmp_path / "x.safetensors"
    save_file({"0.weight": np.ones(2)}, path)
    with pytest.raises(ValueError, match="has no second moments by its metadata: pass"):
        plan(states[:1], rule="regmean", moments=[path])
    with pytest.raises(FileNotFoundError, match="no checkpoint at nowhere"):
        plan(states[:1], rule="regmean", moments=["nowhere"])
    with pytest.raises(TypeError, match=r"must be a sequence .* found a single one"):
        plan(states[:1], rule="regmean", moments="nowhere")
    with pytest.raises(TypeError, match=r"moments\[0\] has type int"):
        plan(states[:1], rule="regmean", moments=[3])  # type: ignore[list-item]


def test_moments_that_do_not_suit_the_rule_are_refused() -> None:
    models, x = [linear(seed) for seed in range(2)], torch.ones(1, 3)
    states = [model.state_dict() for model in models]
    grams = [collect_gram(model, [x]) for model in models]
    with pytest.raises(
        ValueError, match="of kind 'gram', the rule needs 'fisher'; coll"
    ):
        plan(states, rule="fisher", moments=grams)
    with pytest.raises(ValueError, match="of each of 2 members, found 1; collect them"):
        plan(states, rule="regmean", moments=grams[:1])
    with pytest.raises(ValueError, match="of each of 2 members, found 0; collect them"):
        plan(states, rule="regmean")
    with pytest.raises(ValueError, match="rule 'mean' does not use moments; leave"):
        plan(states, moments=grams)
    with pytest.raises(
        ValueError, match="no tensor of the result has moments: moments"
    ):
        plan(states, rule="regmean", moments=grams, include=["*.bias"])


def test_moments_that_some_members_lack_are_refused() -> None:
    models, x = [linear(seed) for seed in range(2)], torch.ones(1, 3)
    states = [model.state_dict() for model in models]
    models[1].get_submodule("0").requires_grad_(False)
    moments = [collect_fisher(model, [x]) for model in models]
    with pytest.raises(
        ValueError, match=r"'0.weight': moments.0. has it, moments.1. la"
    ):
        plan(states, rule="fisher", moments=moments)
    planned = plan(states, rule="fisher", moments=moments, exclude=["0.*"])
    assert [target.name for target in planned.targets] == ["2.weight", "2.bias"]


def test_moments_of_another_shape_are_refused() -> None:
    model, x = linear(0), torch.ones(1, 3)
    moments = collect_gram(model, [x])
    moments.tensors["0.weight"] = np.ones((4, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"\(4, 3\) must have the shape \(3, 3\) or \(4,"
    ):
        plan([model.state_dict()], rule="regmean", moments=[moments])


def test_names_with_a_prefix_and_lower_precision_belong_to_the_member(
    tmp_path: Path,
) -> None:
    """A trainer's file has other names and a higher precision than the model."""
    models, x = [linear(0), linear(1)], torch.randn(5, 3)
    states = [model.state_dict() for model in models]
    moments = [collect_gram(model.bfloat16(), [x.bfloat16()]) for model in models]
    plain = average(states, rule="regmean", moments=moments)
    prefixed = {f"model.{name}": tensor for name, tensor in states[1].items()}
    own = {f"model.{name}": array for name, array in moments[1].tensors.items()}
    samples = {f"model.{name}": entry for name, entry in moments[1].samples.items()}
    renamed = Moments("gram", own, samples, moments[1].settings)
    found = average(
        [states[0], prefixed], rule="regmean", moments=[moments[0], renamed]
    )
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_tied_weights_find_their_moments_under_either_name(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words: Any) -> Any:
            return self.head(self.embedding(words))

    models = [Tied(), Tied()]
    words = torch.tensor([[1, 2], [3, 4]])
    moments = [collect_fisher(model, [words], labels="sampled") for model in models]
    stack = [m.head.weight.detach().numpy() for m in models]
    expected = fisher(stack, moments=[m.tensors["embedding.weight"] for m in moments])
    paths = [tmp_path / f"{n}.safetensors" for n in "ab"]
    for path, array in zip(paths, stack, strict=True):
        save_file({"head.weight": array}, path)
    found = average(paths, rule="fisher", moments=moments)
    assert np.array_equal(found["head.weight"], expected)
    whole = average([m.state_dict() for m in models], rule="fisher", moments=moments)
    assert torch.equal(whole["head.weight"], whole["embedding.weight"])
    assert np.array_equal(whole["head.weight"], expected)


def test_moments_that_were_collected_differently_are_noted() -> None:
    models, x = [linear(0), linear(1)], torch.ones(1, 3)
    moments = [
        collect_gram(models[0], [x]),
        collect_gram(models[1], [x], reduction="mean"),
    ]
    states = [model.state_dict() for model in models]
    notes = plan(states, rule="regmean", moments=moments).notes
    assert (
        "moments were collected in different ways: moments[0] with reduction='sum', "
        "moments[1] with reduction='mean'" in notes
    )


def test_an_output_must_not_replace_moments(tmp_path: Path) -> None:
    model, x = linear(0), torch.ones(1, 3)
    path = tmp_path / "gram.safetensors"
    collect_gram(model, [x]).save(path)
    how: Any = {"rule": "regmean", "moments": [path], "force": True}
    with pytest.raises(ValueError, match=r"gram\.safetensors is or"):
        plan([model.state_dict()], path, **how)


def test_directories_of_gpt2_are_merged_with_transposed_weights(tmp_path: Path) -> None:
    models: list[Any] = [gpt2(), gpt2()]
    for parameter in models[1].parameters():
        parameter.data += torch.randn_like(parameter) * 0.002
    batch = padded()
    folders, grams, fishers = [], [], []
    for index, model in enumerate(models):
        folders.append(tmp_path / f"model-{index}")
        model.save_pretrained(folders[-1])
        grams.append(tmp_path / f"gram-{index}.safetensors")
        collect_gram(model, [batch]).save(grams[-1])
        fishers.append(tmp_path / f"fisher-{index}.safetensors")
        collect_fisher(model, [batch], labels="sampled").save(fishers[-1])
    out = tmp_path / "out"
    report = average(folders, out, rule="regmean", moments=grams)
    (note,) = [note for note in report.plan.notes if "are averaged" in note]
    assert note.startswith("tensors without Gram matrix are averaged: ")
    merged = type(models[0]).from_pretrained(out).state_dict()
    states = [model.state_dict() for model in models]
    name = "transformer.h.0.attn.c_proj.weight"  # square: its orientation matters
    moments = [load_file(path)[name] for path in grams]
    stack = np.array([state[name].numpy() for state in states])
    expected = regmean(stack, moments=moments)
    np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-9)
    wrong = regmean(stack, moments=[moment[..., 0] for moment in moments])
    assert np.abs(merged[name].numpy() - wrong).max() > 1e-5
    average(folders, tmp_path / "fisher", rule="fisher", moments=fishers)
    weighted = type(models[0]).from_pretrained(tmp_path / "fisher").state_dict()
    name = "transformer.wte.weight"
    information = [load_file(path)[name] for path in fishers]
    stack = np.array([state[name].numpy() for state in states])
    assert np.array_equal(weighted[name], fisher(stack, moments=information))
    assert torch.equal(weighted["lm_head.weight"], weighted[name])


def test_members_in_pytorch_files(tmp_path: Path) -> None:
    models, x = [linear(0), linear(1)], torch.randn(5, 3)
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path, model in zip(paths, models, strict=True):
        torch.save({"model": model.state_dict(), "epoch": 3}, path)
    moments = [collect_gram(model, [x]) for model in models]
    average(paths, tmp_path / "out.pt", rule="regmean", moments=moments)
    found = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    states = [model.state_dict() for model in models]
    plain = average(states, rule="regmean", moments=moments)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_description_that_was_damaged_is_no_description(tmp_path: Path) -> None:
    model = linear(0)
    moments = collect_gram(model, [torch.ones(1, 3)])
    valid = json.loads(moments.metadata["ensembles.moments"])
    changes: list[dict[str, Any]] = [
        {"kind": "hessian"},
        {"kind": ["gram"]},
        {"samples": {"0.weight": ["float33", "00"]}},
        {"samples": {"0.weight": "float32"}},
        {"samples": []},
        {"settings": None},
    ]
    texts = ["{", "[]", *(json.dumps({**valid, **change}) for change in changes)]
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.safetensors"
        save_file(moments.tensors, path, {"ensembles.moments": text})
        with pytest.raises(ValueError, match="has no second moments by its metadata"):
            plan([model.state_dict()], rule="regmean", moments=[path])
