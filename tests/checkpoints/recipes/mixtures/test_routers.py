"""Routers from prompts, and mixtures that transformers runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ensembles.checkpoints import Expert, Mixture, plan_recipe, read_recipes, write
from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.merging.average import silent
from ensembles.checkpoints.recipes.mixtures import hidden_states
from ensembles.checkpoints.recipes.mixtures.routers import (
    prompted_rows,
    similarity_notes,
)
from tests.checkpoints.recipes.mixtures.languages import (
    CLASSES,
    LANGUAGES,
    ids,
    loss,
    model,
    save_tokenizer,
    text,
    train,
    transformers,
)

PROMPTS = ("red green", "one two three four five", "mi", "blue so one")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads take longer than these models do."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an expert in each of three languages, of Qwen's shape."""
    folder = tmp_path_factory.mktemp("languages")
    rng = np.random.default_rng(0)
    base = model("qwen3")
    train(base, rng, (0, 1, 2), 30, 1e-2)
    base.save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    for language in range(3):
        expert = CLASSES["qwen3"][1].from_pretrained(folder / "base")
        train(expert, rng, (language,), 15, 5e-3)
        expert.save_pretrained(folder / f"expert{language}")
    return folder


def states_by_transformers(base: Any) -> list[list[np.ndarray[Any, Any]]]:
    """Hidden states of each prompt at the input of each layer, run one by one."""
    states = []
    for prompt in PROMPTS:
        with torch.no_grad():
            out = base(input_ids=ids([prompt]), output_hidden_states=True)
        states.append([state[0].numpy() for state in out.hidden_states[:-1]])
    return states


@pytest.mark.parametrize(
    ("kind", "limit", "average"),
    [
        ("llama", 1, False),
        ("mistral", 7, True),
        ("qwen2", 7, False),
        ("qwen3", 1000, True),
    ],
)
def test_hidden_states_are_those_of_the_whole_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    limit: int,
    average: bool,
) -> None:
    monkeypatch.setattr(hidden_states, "TOKENS", limit)
    empty: list[Any] = []
    make = hidden_states._empty_model

    def make_and_keep(base: Checkpoint) -> Any:
        empty.append(make(base))
        return empty[0]

    monkeypatch.setattr(hidden_states, "_empty_model", make_and_keep)
    base = model(kind)
    base.save_pretrained(tmp_path)
    states = hidden_states.prompt_states(
        read_layout(tmp_path, 0),
        [ids([prompt])[0].tolist() for prompt in PROMPTS],
        average=average,
        progress=silent,
    )
    for state, want in zip(states, states_by_transformers(base), strict=True):
        exact = [layer.mean(0) if average else layer[-1] for layer in want]
        np.testing.assert_allclose(state, exact, rtol=1e-4, atol=1e-5)
    # No layer stays in memory after it ran.
    assert all(parameter.is_meta for parameter in empty[0].parameters())


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("mode", ["hidden", "hidden_avg"])
def test_rows_are_means_of_prompts_without_those_of_negative_ones(
    folder: Path, mode: str
) -> None:
    base = CLASSES["qwen3"][1].from_pretrained(folder / "base")
    states = states_by_transformers(base)
    experts = [Expert("a", PROMPTS[:2], PROMPTS[2:3]), Expert("b", PROMPTS[3:])]
    rows = prompted_rows(read_layout(folder / "base", 0), experts, mode, silent)
    for layer in range(2):
        a, b, c, d = (
            state[layer][-1] if mode == "hidden" else state[layer].mean(0)
            for state in states
        )
        want = [(a + b) / 2 - c, d]
        np.testing.assert_allclose(rows[layer], [*map(unit, want)], atol=1e-5)


def test_cheap_embeddings_are_those_of_the_tokens(folder: Path) -> None:
    table = CLASSES["qwen3"][1].from_pretrained(folder / "base").model.embed_tokens
    sums = [table(ids([p]))[0].detach().double().sum(0).numpy() for p in PROMPTS]
    experts = [Expert("a", PROMPTS[:2], PROMPTS[2:3]), Expert("b", PROMPTS[3:])]
    base = read_layout(folder / "base", 0)
    rows = prompted_rows(base, experts, "cheap_embed", silent)
    want = [unit(unit(sums[0] + sums[1]) - unit(sums[2])), unit(sums[3])]
    np.testing.assert_allclose(rows, [want, want], atol=1e-6)


def test_similar_rows_are_noted() -> None:
    rows = np.array([[[1.0, 0.0], [0.96, 0.28]], [[1.0, 0.0], [0.0, 1.0]]])
    (note,) = similarity_notes(rows)
    assert "almost equal in 1 of 2 layers" in note
    assert "the cosine of experts 0 and 1 is 0.960" in note
    assert not [*similarity_notes(rows[1:])]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_a_mixture_of_equal_experts_computes_what_the_model_does(
    tmp_path: Path, kind: str
) -> None:
    dense = model(kind, tie_word_embeddings=kind == "qwen3")
    dense.save_pretrained(tmp_path / "dense")
    expert = Expert(str(tmp_path / "dense"))
    mixture = Mixture(expert.model, (expert,) * 3, gate_mode="random")
    write(plan_recipe(mixture, tmp_path / "out"))
    loaded, information = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(information.values())
    with torch.no_grad():
        logits, want = (
            m(input_ids=ids(["red one la"])).logits for m in (loaded, dense)
        )
    np.testing.assert_allclose(logits, want, atol=1e-5)


def test_a_mixture_with_a_shared_expert_adds_it(tmp_path: Path) -> None:
    dense = model("qwen2")
    dense.save_pretrained(tmp_path / "dense")
    expert = Expert(str(tmp_path / "dense"))
    silenced = Expert(expert.model, residual_scale=0.0)
    for name, shared in {"silenced": silenced, "added": expert}.items():
        mixture = Mixture(expert.model, (expert,) * 2, (shared,), gate_mode="random")
        write(plan_recipe(mixture, tmp_path / name))
    logits = []
    for name in ("dense", "silenced", "added"):
        loaded, information = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not any(information.values())
        with torch.no_grad():
            logits.append(loaded(input_ids=ids(["red one la"])).logits.numpy())
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)
    assert abs(logits[2] - logits[0]).max() > 0.01


@pytest.mark.parametrize("mode", ["hidden", "hidden_avg", "cheap_embed"])
def test_the_router_follows_its_prompts(
    folder: Path, tmp_path: Path, rng: Generator, mode: str
) -> None:
    experts = ""
    for language in range(3):
        prompts = [text(rng, language, int(rng.integers(3, 9))) for _ in range(6)]
        experts += f"- source_model: {folder}/expert{language}\n"
        experts += f"  positive_prompts: {prompts}\n"
    recipe = tmp_path / "moe.yml"
    recipe.write_text(
        f"base_model: {folder}/base\ngate_mode: {mode}\nexperts:\n{experts}"
    )
    (mixture,) = read_recipes(recipe)
    write(plan_recipe(mixture, tmp_path / "out"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    losses = []
    for language in range(3):
        batch = ids([text(rng, language) for _ in range(20)])
        with torch.no_grad():
            routed = loaded(input_ids=batch, output_router_logits=True).router_logits
        for layer in routed:
            chosen = layer.reshape(*batch.shape, 3)[:, 1:].argmax(-1)
            shares = np.bincount(chosen.reshape(-1), minlength=3) / chosen.numel()
            assert shares[language] > 0.6, (language, shares)
        pair = (loss(m, np.random.default_rng(1), language) for m in (loaded, base))
        losses.append(next(pair) - next(pair))
    assert np.mean(losses) < 0  # it predicts better than the base
    start = ids([LANGUAGES[0][0]])
    written = loaded.generate(start, max_new_tokens=5, do_sample=False, pad_token_id=1)
    assert written.shape == (1, 7)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").bos_token


def test_prompts_without_known_words_are_refused(folder: Path) -> None:
    experts = tuple(
        Expert(str(folder / f"expert{i}"), (prompt,))
        for i, prompt in enumerate(("red", "?", "do"))
    )
    with pytest.raises(ValueError, match=r"prompt '\?' has no tokens that the token"):
        plan_recipe(Mixture(str(folder / "base"), experts))


def test_a_base_without_a_tokenizer_is_refused(folder: Path) -> None:
    model = str(folder / "expert1")
    experts = tuple(Expert(model, (prompt,)) for prompt in ("red", "one"))
    with pytest.raises(ValueError, match="expert1 must have a tokenizer"):
        plan_recipe(Mixture(model, experts))
