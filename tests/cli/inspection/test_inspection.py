"""``ensemble inspect``, ``ensemble diff``, ``ensemble verify`` as users type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import ensembles
from ensembles.checkpoints import average, convert
from ensembles_cli.main import cli
from tests.checkpoints.building import pair, save, save_shards

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own; its exit status must be as expected."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(cli, list(map(str, arguments)))
        assert result.exit_code == exit_code, result.output
        return result

    return call


def layered(value: float = 1.0) -> dict[str, Any]:
    """A model of four layers."""
    names = [f"h.{i}.{n}" for i in range(4) for n in ("fc.weight", "fc.bias", "ln.w")]
    return {"emb.weight": np.ones((3, 2)), **{n: np.full(5, value) for n in names}}


def test_repeated_layers_are_one_line(run: Run) -> None:
    save(Path("a.safetensors"), layered())
    lines = run("inspect", "a.safetensors").stdout.splitlines()
    assert lines == [
        "a.safetensors: safetensors",
        "module\tshape\tparameters\tdtype\tsize",
        "emb.weight\t[3, 2]\t6\tfloat64\t48 B",
        "h.0-3\t4 x 3 tensors\t4 x 15\tfloat64\t4 x 120 B",
        "  fc\t2 tensors\t10\tfloat64\t80 B",
        "    weight\t[5]\t5\tfloat64\t40 B",
        "    bias\t[5]\t5\tfloat64\t40 B",
        "  ln.w\t[5]\t5\tfloat64\t40 B",
        "total\t13 tensors\t66\tfloat64\t528 B",
    ]
    shallow = run("inspect", "a.safetensors", "--depth", 1).stdout.splitlines()
    assert shallow == [*lines[:4], lines[-1]]


def test_every_tensor_is_listed_on_request(run: Run) -> None:
    save(Path("a.safetensors"), layered())
    lines = run("inspect", "a.safetensors", "--tensors").stdout.splitlines()
    assert lines[2:4] == [
        "emb.weight\t[3, 2]\t6\tfloat64\t48 B",
        "h.0.fc.weight\t[5]\t5\tfloat64\t40 B",
    ]
    assert len(lines) == 2 + 13 + 1


def test_everything_else_in_a_pytorch_file_is_listed(run: Run) -> None:
    w = torch.ones(2, 2)
    content = {"state_dict": {"a": w, "b": w}, "weights_ema": {"a": w + 1}, "epoch": 3}
    torch.save(content, "a.ckpt")
    result = run("inspect", "a.ckpt")
    lines = result.stdout.splitlines()
    assert lines[0] == "a.ckpt: pytorch, state dict state_dict"
    assert "tied: b = a" in lines
    assert "weights_ema\t1\t4\t16 B" in lines
    assert "epoch: 3" in lines
    assert "note: took 'state_dict'" in result.stderr


def test_files_metadata_and_provenance_of_a_directory_are_listed(run: Run) -> None:
    a = save_shards(Path("a"), [{"w": np.ones(2)}, {"v": np.ones(2)}])
    (a / "config.json").write_text("{}")
    average([a, a], "out")
    (Path("out") / "training_args.bin").write_bytes(b"12")
    lines = run("inspect", "out").stdout.splitlines()
    assert "config.json\t2 B\tcopied" in lines
    assert "training_args.bin\t2 B\tleft out" in lines
    assert "metadata format: pt" in lines
    assert any(": mean of 2 members, weights [1.0, 1.0]" in line for line in lines)
    assert not any("ensembles.tensors" in line for line in lines)


def test_a_conversion_is_not_listed_as_an_average(run: Run) -> None:
    members = [{"w": np.ones(2)}, {"w": np.zeros(2)}]
    average(members, "average.safetensors", weights=[1, 3])
    convert("average.safetensors", "converted.npz")
    (line,) = (
        x for x in run("inspect", "converted.npz").stdout.splitlines() if "by" in x
    )
    assert line.startswith("converted by ensembles ")
    assert line.endswith(": mean of 2 members, weights [1.0, 3.0]")
    convert(members[0], "plain.npz")
    assert (
        f"converted by ensembles {ensembles.__version__}\n"
        in run("inspect", "plain.npz").stdout
    )


def test_what_cannot_be_averaged_is_listed_and_said(run: Run) -> None:
    save(Path("a.safetensors"), {"q.lora_A.weight": np.ones((2, 4), np.float32)})
    lines = run("inspect", "a.safetensors").stdout.splitlines()
    assert lines[2].startswith("q.lora_A.weight\t[2, 4]")
    assert lines[-1].startswith("cannot be averaged: a.safetensors is a PEFT adapter")
    found = json.loads(run("inspect", "a.safetensors", "--json").stdout)
    assert not found["averageable"]


def test_contents_are_printed_as_json(run: Run) -> None:
    save(Path("a.safetensors"), layered(), {"format": "pt"})
    found = json.loads(run("inspect", "a.safetensors", "--json", "--depth", 2).stdout)
    assert (found["n_tensors"], found["n_parameters"], found["bytes"]) == (13, 66, 528)
    names = [module["name"] for module in found["modules"]]
    assert names == ["emb", "h.0-3"]
    assert [m["name"] for m in found["modules"][1]["modules"]] == ["fc", "ln"]
    assert "modules" not in found["modules"][1]["modules"][0]
    assert found["tensors"][0]["shape"] == [3, 2]
    assert found["metadata"] == {"format": "pt"}


def test_control_characters_in_names_do_not_reach_the_terminal(run: Run) -> None:
    save(Path("a.safetensors"), {"w\x1b[2J": np.ones(2)}, {"k\x1b": "v\x1b"})
    save(Path("b.safetensors"), {"v\x1b[2J": np.ones(2)})
    for arguments in (["inspect", "a.safetensors"], ["diff", *"ab"]):
        paths = [f"{p}.safetensors" if len(p) == 1 else p for p in arguments]
        assert "\x1b" not in run(*paths).output


def test_changed_layers_come_first_and_unchanged_ones_are_counted(run: Run) -> None:
    changed = {"h.1.ln.w": np.full(5, 1.5), "h.3.fc.bias": np.full(5, 1.1)}
    save(Path("a.safetensors"), layered())
    save(Path("b.safetensors"), {**layered(), **changed})
    lines = run("diff", "a.safetensors", "b.safetensors").stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines[1:3]] == [
        ["h.1", "1 of 3", "0.289"],
        ["h.3", "1 of 3", "0.0577"],
    ]
    assert lines[1].split("\t")[4:] == ["0.5", "ln.w"]
    assert lines[3] == "3 modules with identical tensors only"
    assert lines[4].startswith("13 tensors compared, 11 identical: relative change ")
    tensors = run("diff", "a.safetensors", "b.safetensors", "--tensors").stdout
    assert [line.split("\t")[0] for line in tensors.splitlines()[1:3]] == [*changed]
    whole = run("diff", "a.safetensors", "b.safetensors", "--depth", 1).stdout
    assert whole.splitlines()[1].startswith("h\t2 of 12\t")


def test_identical_checkpoints_are_said_to_be_so(run: Run) -> None:
    save(Path("a.safetensors"), layered())
    lines = run("diff", "a.safetensors", "a.safetensors").stdout.splitlines()
    assert lines[-1] == "identical: 13 tensors, byte for byte"
    assert "identical tensors only" in lines[0]  # no table without rows


def test_checkpoints_without_common_tensors_have_no_numbers(run: Run) -> None:
    save(Path("a.safetensors"), {"w": np.ones(2)})
    save(Path("b.safetensors"), {"v": np.ones(3)})
    lines = run("diff", "a.safetensors", "b.safetensors").stdout.splitlines()
    assert lines[0] == "no tensor compared: no name and shape is in both"


def test_tensors_that_cannot_be_compared_are_printed(run: Run) -> None:
    save(Path("a.safetensors"), {"w": np.array([1, np.nan]), "s": np.ones(2)})
    other = {"w": np.array([1, 2], np.float32), "s": np.ones(3), "x": np.ones(1)}
    save(Path("b.safetensors"), other)
    lines = run("diff", "a.safetensors", "b.safetensors").stdout.splitlines()
    assert lines[-4:] == [
        "only in b.safetensors: 1 tensor: x",
        "shapes differ, not compared: 1 tensor: s (2,) (3,)",
        "dtypes differ: 1 tensor: w float64 float32",
        "NaN or infinity, left out: 1 tensor: w (1)",
    ]


def test_differences_are_printed_as_json_without_nan(run: Run) -> None:
    save(Path("a.safetensors"), {"w": np.zeros(2), "v": np.ones(2)})
    save(Path("b.safetensors"), {"w": np.ones(2), "v": np.ones(2)})
    text = run("diff", "a.safetensors", "b.safetensors", "--json").stdout
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["tensors"][0]["name"] == "w"
    assert found["tensors"][0]["relative"] is None
    assert found["relative"] == 1.0
    assert (found["n_identical"], found["n_tensors"]) == (1, 2)


def test_a_plot_is_written_beside_the_table(run: Run) -> None:
    save(Path("a.safetensors"), layered())
    save(Path("b.safetensors"), layered(2.0))
    run("diff", "a.safetensors", "b.safetensors", "--plot", "x.svg")
    assert Path("x.svg").read_text().startswith("<?xml")
    again = run("diff", "a.safetensors", "b", "--plot", "x.svg", exit_code=1)
    assert again.stderr.startswith("error: x.svg exists")
    wrong = run("diff", "a.safetensors", "b", "--plot", "x.gif", exit_code=1)
    assert "suffix .png, .svg, .pdf" in wrong.stderr


def test_an_intact_result_lists_what_was_verified(run: Run, tmp_path: Path) -> None:
    members = pair(tmp_path)
    average(members, "out.safetensors")
    lines = run("verify", "out.safetensors", *members).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["verified"] * 4
    assert lines[-1] == "out.safetensors matches everything that is recorded"
    found = json.loads(run("verify", "out.safetensors", "--json").stdout)
    assert found["intact"]
    assert len(found["verified"]) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_a_difference_is_one_red_line_and_exit_1(
    run: Run, tmp_path: Path, as_json: bool
) -> None:
    average(pair(tmp_path), "out.safetensors")
    content = bytearray(Path("out.safetensors").read_bytes())
    content[-1] ^= 1
    Path("out.safetensors").write_bytes(content)
    flags = ["--json"] * as_json
    result = run("verify", "out.safetensors", *flags, exit_code=1)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: out.safetensors: tensor 'w' of 1 differs")
    if as_json:
        assert json.loads(result.stdout)["differing_tensors"] == ["w"]
    else:
        assert "differs: out.safetensors: tensor 'w' of 1" in result.stdout


def test_nothing_heavy_is_loaded(
    loaded: Callable[..., set[str]], tmp_path: Path
) -> None:
    a, b = pair(tmp_path)
    out = average([a, b], tmp_path / "out.safetensors").out
    code = (
        "import sys; from ensembles_cli.main import cli;"
        "cli(['inspect', sys.argv[1]], standalone_mode=False);"
        "cli(['diff', *sys.argv[1:3]], standalone_mode=False);"
        "cli(['verify', sys.argv[3], *sys.argv[1:3]], standalone_mode=False)"
    )
    heavy = {"torch", "numba", "matplotlib", "scipy", "sklearn", "transformers"}
    assert not loaded(code, a, b, out) & heavy


def test_the_state_of_an_optimizer_is_one_line(run: Run) -> None:
    state = {index: {"exp_avg": torch.ones(5)} for index in range(12)}
    content = {"model": {"w": torch.ones(2, 3)}, "optim": {"state": state}, "epoch": 3}
    torch.save(content | {"losses": [torch.ones(2)]}, "a.pt")
    lines = run("inspect", "a.pt").stdout.splitlines()
    assert "optim.state.*\t12\t60\t240 B" in lines
    assert "optim: 12 tensors, 240 bytes" in lines
    assert "losses: 1 tensor, 8 bytes" in lines
    assert len(json.loads(run("inspect", "a.pt", "--json").stdout)["state_dicts"]) == 12
