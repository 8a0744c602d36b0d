"""Members whose average is useless, a surprise, or no longer what was scored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.naive_bayes import (
    BernoulliNB,
    CategoricalNB,
    ComplementNB,
    GaussianNB,
    MultinomialNB,
)
from torch import nn

from ensembles.checkpoints import ModelSoup, get_state, make_soup, train_snapshots
from tests.checkpoints.building import save

X, Y = load_digits(return_X_y=True)
X = (X[:400] / 16).astype(np.float32)
Y = Y[:400]
FAR = "ignore:.* is far from"
HELPS = "ignore:selection .* did not beat the best member"


def trained(start: nn.Module, n_epochs: int, rate: float, seed: int = 0) -> nn.Module:
    model = copy.deepcopy(start).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(X), generator=draws).reshape(-1, 50):
            optimizer.zero_grad()
            answer = model(torch.from_numpy(X)[rows])
            loss = nn.functional.cross_entropy(answer, torch.from_numpy(Y)[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, X: Any, y: Any) -> float:
    with torch.no_grad():
        return float((model(torch.as_tensor(X)).argmax(1).numpy() == y).mean())


class Masked(nn.Module):
    """A body whose mask, a buffer, holds minus infinity."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
        self.a, self.c = nn.Linear(64, 64), nn.Linear(64, 3)


def test_a_mask_of_infinities_does_not_hide_other_seeds() -> None:
    with pytest.raises(ValueError, match="same initialization"):
        ModelSoup(Masked(1), [Masked(1), Masked(2)]).fit()


def test_networks_of_other_seeds_are_averaged_where_the_user_says_so() -> None:
    soup = ModelSoup(Masked(1), [Masked(1), Masked(2)])
    with pytest.warns(UserWarning, match="usually useless"):
        soup.set_params(shared_init="warn").fit()
    with pytest.raises(ValueError, match="shared_init must be one of None, 'error', "):
        soup.set_params(shared_init="ignore").fit()


def far_base() -> nn.Module:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for parameter in base.parameters():
        nn.init.normal_(parameter, std=0.02)
    return trained(base, 1, 1e-3)


@pytest.mark.filterwarnings(HELPS)
def test_from_a_far_base_the_score_decides() -> None:
    base = far_base()
    member = trained(base, 20, 3e-2)
    soup = ModelSoup(base, [member], base=base, weights="wise_ft", scoring=accuracy)
    with pytest.warns(UserWarning, match="is far from base"):
        soup.fit(X, Y)
    assert (soup.soup_score_ or 0) > 0.9


def batch_norm() -> list[nn.Module]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
    start = trained(nn.Sequential(*layers, nn.Linear(64, 10)), 3, 1e-3)
    return [trained(start, 4, 3e-3, seed) for seed in range(3)]


def recalibrate(model: nn.Module) -> None:
    torch.optim.swa_utils.update_bn([torch.from_numpy(X)], model)


def test_running_statistics_are_warned_of_and_may_be_recalculated() -> None:
    members = batch_norm()
    with pytest.warns(UserWarning, match="statistics of BatchNorm, such as 1.running"):
        plain = ModelSoup(members[0], members, scoring=accuracy).fit(X, Y)
    finished = ModelSoup(members[0], members, finish=recalibrate)
    finished.set_params(scoring=accuracy).fit(X, Y)
    by_hand = copy.deepcopy(plain.estimator_)
    recalibrate(by_hand)
    assert not finished.estimator_.training
    # What was scored is what is left.
    assert finished.soup_score_ == accuracy(finished.estimator_, X, Y)
    for ours, theirs in zip(
        finished.estimator_.state_dict().values(),
        by_hand.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_equal_running_statistics_are_no_reason_to_warn() -> None:
    first = batch_norm()[0]
    second = copy.deepcopy(first)
    list(second.parameters())[-1].data += 0.01  # behind statistics that are frozen
    ModelSoup(first, [first, second]).fit()


@pytest.mark.filterwarnings(HELPS)
@pytest.mark.parametrize("select", ["greedy_soup", "greedy", "top_k"])
def test_a_scorer_that_casts_the_model_changes_neither_scores_nor_result(
    select: str,
) -> None:
    torch.manual_seed(0)
    start = trained(
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), 2, 1e-3
    )
    members = [trained(start, 2, 3e-3, seed) for seed in range(3)]
    seen = []

    def in_bfloat16(model: nn.Module, X: Any, y: Any) -> float:
        seen.append({value.dtype for value in model.parameters()})
        score = accuracy(model, X, y)
        model.to(torch.bfloat16)
        return score

    soup = ModelSoup(start, members, weights=select, scoring=in_bfloat16).fit(X, Y)
    plain = ModelSoup(start, members, weights=select, scoring=accuracy).fit(X, Y)
    assert all(dtypes == {torch.float32} for dtypes in seen)
    np.testing.assert_array_equal(soup.weights_, plain.weights_)
    np.testing.assert_array_equal(soup.scores_, plain.scores_)
    for name, value in plain.estimator_.state_dict().items():
        found = soup.estimator_.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, value)


COUNTING = [MultinomialNB, ComplementNB, BernoulliNB, CategoricalNB, GaussianNB]


@pytest.mark.parametrize("kind", COUNTING)
@pytest.mark.parametrize("trains", [True, False])
def test_what_counts_samples_counts_them_once(kind: Any, trains: bool) -> None:
    rng = np.random.default_rng(0)
    counts, labels = rng.poisson(1.0, (60, 20)), rng.integers(3, size=60)
    soup = ModelSoup(kind(), random_state=0)
    with pytest.warns(UserWarning, match="would count the same samples again, so it"):
        found = (
            soup.fit(counts, labels).estimator_
            if trains
            else train_snapshots(kind(), counts, labels)[0]
        )
    alone = kind().fit(counts, labels)
    np.testing.assert_allclose(
        found.predict_proba(counts), alone.predict_proba(counts), rtol=1e-12
    )
    for name, value in get_state(alone).items():
        np.testing.assert_allclose(get_state(found)[name], value, rtol=1e-12)
    if hasattr(alone, "class_count_"):
        np.testing.assert_array_equal(found.class_count_, alone.class_count_)


def scored(path: Path) -> float:
    return float(path.stat().st_mtime_ns)


@pytest.mark.filterwarnings("default")
def test_files_are_warned_of_before_the_first_score(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    start = {
        "0.weight": rng.normal(size=(16, 20)),
        "1.weight": rng.normal(size=(4, 16)),
    }
    statistics = {"bn.running_mean": rng.normal(size=4)}
    paths = [
        save(tmp_path / "a.safetensors", {**start, **statistics}),
        save(tmp_path / "b.safetensors", {**start, **statistics}),
        save(tmp_path / "c.safetensors", {**start, "bn.running_mean": np.ones(4)}),
    ]
    torch.save({k: torch.tensor(v) for k, v in start.items()}, tmp_path / "d.pt")
    said: list[str] = []

    def first_score(path: Path) -> float:
        said.append(str(path))
        raise RuntimeError

    with (
        pytest.warns(UserWarning, match="hold the same tensors, which count twice"),
        pytest.warns(UserWarning, match="statistics of BatchNorm, such as bn.running"),
        pytest.raises(RuntimeError),
    ):
        make_soup(paths, first_score, tmp_path / "out.safetensors")
    assert len(said) == 1
    with (
        pytest.warns(UserWarning, match="have different formats: combinations are"),
        pytest.raises(RuntimeError),
    ):
        make_soup(
            [paths[0], tmp_path / "d.pt"],
            first_score,
            tmp_path / "out.safetensors",
            missing="skip",
        )
