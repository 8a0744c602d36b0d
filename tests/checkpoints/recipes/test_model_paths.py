"""Models of recipes are paths, or names in the local cache of the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensembles.checkpoints.recipes.model_paths import hub_cache, model_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the model org/a at two commits."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "hub" / "models--org--a"
    for commit in ("c0ffee", "beef"):
        (model / "snapshots" / commit).mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("c0ffee\n")
    return model / "snapshots"


def test_names_are_found_in_the_cache(cache: Path) -> None:
    assert model_path("org/a") == cache / "c0ffee"
    assert model_path("org/a@main") == cache / "c0ffee"
    assert model_path("org/a@beef") == cache / "beef"


def test_a_path_comes_before_the_cache(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "org" / "a").mkdir(parents=True)
    assert model_path("org/a") == Path("org/a")
    assert model_path("org/a+org/a") == Path("org/a+org/a")
    (tmp_path / "b").mkdir()
    assert model_path("org/a@beef+b") == Path(f"{cache}/beef+b")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("org/b", "no model at org/b, .*hub; download it: hf download org/b$"),
        ("org/a@no", "download it: hf download org/a --revision no$"),
        ("./b", "^no model at ./b$"),
        ("org/a+/lora", "^no model at /lora$"),
    ],
)
def test_a_missing_model_is_an_error_with_the_way_to_get_it(
    cache: Path, model: str, message: str
) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        model_path(model)


def test_the_cache_is_where_hugging_face_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("HF_HOME", "/data/hf")
    assert hub_cache() == Path("/data/hf/hub")
