"""``ensemble convert`` as users type it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.building import load, pair, save, save_shards


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pair(tmp_path)
    return tmp_path


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_a_file_is_converted_and_the_source_named() -> None:
    result = convert("a.safetensors", "-o", "a.npz")
    assert result.exit_code == 0, result.output
    members = [li for li in result.stderr.splitlines() if not li.startswith("compil")]
    assert members == ["member a.safetensors"]
    wrote, digest = result.stdout.splitlines()
    assert wrote.startswith("wrote a.npz: conversion of a.safetensors, 1 tensor, 12 B")
    assert digest.startswith("digest xxh3-128:")
    assert np.load("a.npz")["w"].tolist() == [1, 2, 3]


def test_options_reach_the_library() -> None:
    save_shards(Path("m"), [{"w": np.ones((4, 4)), "v": np.ones(3)}])
    options = ["--dtype", "bf16", "--shard-size", "16B", "--json", "--sha256"]
    result = convert("m", "-o", "out", *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["rule"] == "conversion"
    assert facts["files"] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert facts["dtypes"] == ["bfloat16"]
    assert len(facts["sha256"]) == 3


def test_only_weights_leaves_the_optimizer_out() -> None:
    import torch

    torch.save({"model": {"w": torch.ones(2)}, "step": 3}, "t.pt")
    assert convert("t.pt", "-o", "all.pt").exit_code == 0
    assert torch.load("all.pt")["step"] == 3
    assert convert("t.pt", "-o", "w.pt", "--only-weights").exit_code == 0
    assert list(torch.load("w.pt")) == ["w"]


def test_a_plan_writes_nothing() -> None:
    before = sorted(os.listdir())
    result = convert("a.safetensors", "-o", "a.npz", "--plan")
    assert result.exit_code == 0
    assert "rule\tconversion" in result.stdout
    assert sorted(os.listdir()) == before


def test_an_output_is_replaced_only_by_force() -> None:
    result = convert("a.safetensors", "-o", "b.safetensors")
    assert result.exit_code == 1
    assert "b.safetensors exists; pass force=True (--force)" in result.stderr
    assert convert("a.safetensors", "-o", "b.safetensors", "--force").exit_code == 0
    assert load(Path("b.safetensors"))["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.safetensors"], 2, "Missing option '-o'"),
        (["a.safetensors", "b.safetensors", "-o", "x.npz"], 2, "unexpected extra"),
        (["none.pt", "-o", "x.npz"], 1, "no checkpoint at none.pt"),
        (["a.safetensors", "-o", "x.gguf"], 1, "a first member of the format 'gguf'"),
        (["a.safetensors", "-o", "x.h5"], 1, "x.h5 has an unknown suffix"),
        (["bf16.safetensors", "-o", "x.npz"], 1, "dtype='float32' (--dtype float32)"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line_and_nothing_written(
    arguments: list[str], code: int, message: str
) -> None:
    import ml_dtypes

    save(Path("bf16.safetensors"), {"w": np.ones(2, ml_dtypes.bfloat16)})
    before = sorted(os.listdir())
    result = convert(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir()) == before


def test_processes_convert_a_directory_together() -> None:
    save_shards(Path("m"), [{f"w{i}": np.full((4, 4), float(i))} for i in range(4)])
    assert convert("m", "-o", "whole", "--dtype", "f16").exit_code == 0
    for part in ("1/2", "2/2"):
        assert not Path("out").exists()
        result = convert("m", "-o", "out", "--dtype", "f16", "--part", part)
        assert result.exit_code == 0, result.output
    for path in Path("whole").iterdir():
        assert (Path("out") / path.name).read_bytes() == path.read_bytes()
