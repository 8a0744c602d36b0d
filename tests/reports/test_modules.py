"""Tables of PyTorch modules, each row against the same module measured alone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ensembles.reports import Comparison, compare
from ensembles.reports.modules import Batches, as_probabilities
from tests.checkpoints.hugging_face import WORDS, transformers

IMAGES, TARGETS = load_digits(return_X_y=True)
X = torch.tensor(IMAGES / 16, dtype=torch.float32).view(-1, 1, 8, 8)
Y = torch.tensor(TARGETS)
TRAIN, SELECT, TEST = slice(0, 400), slice(400, 700), slice(700, 1000)
SELECTION: dict[str, Any] = {"X_select": X[SELECT], "y_select": Y[SELECT]}
FAST: dict[str, Any] = {"n_repeats": 1, "n_resamples": 50}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def train(network: nn.Module, seed: int, n_epochs: int, rate: float) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
    for _ in range(n_epochs):
        for rows in torch.randperm(400, generator=generator).view(-1, 50):
            optimizer.zero_grad()
            loss: Any = nn.functional.cross_entropy(network(X[rows]), Y[rows])
            loss.backward()
            optimizer.step()
    return network


@cache
def networks(n_members: int = 8) -> list[nn.Module]:
    """Convolutional networks fine-tuned from one initialization."""
    torch.manual_seed(0)
    start = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )
    train(start, 0, 6, 0.05)
    return [
        train(deepcopy(start), seed, 4, 0.05 + 0.02 * seed) for seed in range(n_members)
    ]


@cache
def comparison() -> Comparison:
    return compare(networks(), X[TEST], Y[TEST], **SELECTION, n_repeats=1)


def accuracy(y_proba: Tensor) -> float:
    return float((y_proba.argmax(1) == Y[TEST]).double().mean())


def averaged(members: list[nn.Module], weights: list[float]) -> nn.Module:
    module = deepcopy(members[0])
    states = [member.state_dict() for member in members]
    module.load_state_dict(
        {
            name: sum(
                w * s[name].double() for w, s in zip(weights, states, strict=True)
            )
            for name in states[0]
        }
    )
    return module


def test_the_score_of_each_row_is_that_of_the_module_alone() -> None:
    members = networks()
    rows = {row.model: row for row in comparison().rows}
    for index, member in enumerate(members):
        assert rows[f"member {index}"].score == pytest.approx(accuracy(member(X[TEST])))
    uniform = averaged(members, [1 / 8] * 8)
    assert rows["uniform soup"].score == pytest.approx(accuracy(uniform(X[TEST])))
    greedy = rows["greedy soup"]
    chosen = [members[int(name.split()[1])] for name in greedy.members]
    soup = averaged(chosen, list(greedy.weights))
    assert greedy.score == pytest.approx(accuracy(soup(X[TEST])))
    y_proba = sum(member(X[TEST]).double().softmax(1) for member in members)
    assert isinstance(y_proba, Tensor)
    assert rows["prediction ensemble"].score == pytest.approx(accuracy(y_proba))
    fitted = rows["fitted ensemble"]
    assert 0 < fitted.cost.n_models <= 8


def test_costs_are_those_of_the_layers() -> None:
    cost = comparison().rows[0].cost
    assert cost.parameters == 8 * 9 + 8 + 72 * 10 + 10
    assert cost.n_bytes == 4 * cost.parameters
    assert cost.flops == 2 * (8 * 9 * 9 + 72 * 10)


def test_state_dicts_and_loaders_give_the_same_scores() -> None:
    def loader(part: slice) -> Any:
        return DataLoader(TensorDataset(X[part], Y[part]), batch_size=64)

    states = [network.state_dict() for network in networks()]
    table = compare(
        states,
        loader(TEST),
        X_select=loader(SELECT),
        estimator=networks()[0],
        **FAST,
    )
    expected = [(row.model, row.score) for row in comparison().rows]
    assert [(row.model, row.score) for row in table.rows] == expected


def test_a_loader_that_shuffles_is_refused() -> None:
    """Also if the targets do not show it, because all are equal."""
    for targets in (Y[TEST], torch.ones(300, dtype=torch.long)):
        loader = DataLoader(TensorDataset(X[TEST], targets), shuffle=True)
        with pytest.raises(ValueError, match=r"each time: .*pass shuffle=False"):
            compare(networks(), loader)


def test_a_loader_that_ends_after_one_pass_is_refused() -> None:
    batches = iter(DataLoader(TensorDataset(X[TEST], Y[TEST]), 64))
    with pytest.raises(ValueError, match="0 of 5 batches are left; pass a loader"):
        list(Batches(batches, None, 64))


def test_loaders_of_the_same_samples_do_not_choose() -> None:
    data = TensorDataset(X[TEST], Y[TEST])
    with pytest.raises(ValueError, match="X_select must be other samples than X"):
        compare(networks(), DataLoader(data, 64), X_select=DataLoader(data, 64))


def test_each_layer_keeps_its_mode() -> None:
    members = [deepcopy(network).train() for network in networks(2)]
    members[0][0].eval()  # type: ignore[index]
    modes = [[part.training for part in member.modules()] for member in members]
    compare(members, X[TEST], Y[TEST], **FAST)
    assert modes == [[part.training for part in m.modules()] for m in members]


def test_batchnorm_of_soups_can_be_recalibrated() -> None:
    """Public reports: averaged networks need new statistics of BatchNorm."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)]
    start = train(nn.Sequential(nn.Flatten(), *layers), 0, 4, 0.05)
    members = [train(deepcopy(start), seed, 2, 0.1) for seed in range(2)]
    recalibrated: list[nn.Module] = []

    def finish(module: nn.Module) -> None:
        torch.optim.swa_utils.update_bn([X[TRAIN]], module)
        recalibrated.append(module)

    plain = compare(members, X[TEST], Y[TEST], **FAST)
    assert any("BatchNorm" in note for note in plain.notes)
    params = {"finish": finish}
    table = compare(members, X[TEST], Y[TEST], soup_params=params, **FAST)
    assert recalibrated
    assert not any("BatchNorm" in note for note in table.notes)
    soup = averaged(members, [0.5, 0.5])
    torch.optim.swa_utils.update_bn([X[TRAIN]], soup)
    with torch.no_grad():
        expected = accuracy(soup.eval()(X[TEST]))
    assert table.rows[2].score == pytest.approx(expected)


def test_values_are_compared_by_r2() -> None:
    torch.manual_seed(0)
    members = [nn.Linear(3, 1) for _ in range(2)]
    members[1].load_state_dict(
        {name: value * 1.01 for name, value in members[0].state_dict().items()}
    )
    inputs = torch.randn(40, 3)
    y = inputs.sum(1)
    table = compare(members, inputs, y, **FAST)
    assert table.metric == "r2"
    with torch.no_grad():
        y_pred = members[0](inputs)[:, 0]
    expected = 1 - ((y - y_pred) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert table.rows[0].score == pytest.approx(float(expected), rel=1e-5)


def test_hugging_face_models_take_mappings_and_return_logits() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    first = transformers.BertForSequenceClassification(config)
    second = deepcopy(first)
    with torch.no_grad():
        second.classifier.bias += 0.01
    tokens = {"input_ids": torch.randint(0, 7, (12, 5))}
    labels = torch.arange(12) % 2
    table = compare([first, second], tokens, labels, batch_size=5, **FAST)
    with torch.no_grad():
        y_pred = first.eval()(**tokens).logits.argmax(1)
    assert table.rows[0].score == pytest.approx(
        float((y_pred == labels).double().mean())
    )
    batches = [
        {"input_ids": tokens["input_ids"][rows], "labels": labels[rows]}
        for rows in (slice(0, 5), slice(5, 12))
    ]
    loaded = compare([first, second], iter_again(batches), **FAST)
    scores = [row.score for row in table.rows]
    assert [row.score for row in loaded.rows] == scores


class iter_again:
    """An iterable without indices, as a DataLoader is."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_one_column_needs_its_meaning() -> None:
    members = [nn.Linear(3, 1) for _ in range(2)]
    inputs, y = torch.randn(20, 3), np.arange(20) % 2
    with pytest.raises(ValueError, match="output must be 'logits', 'probabilities'"):
        compare(members, inputs, y)
    table = compare(members, inputs, y, output="logits", **FAST)
    with torch.no_grad():
        y_pred = members[0](inputs)[:, 0] > 0
    expected = np.mean(y_pred.numpy() == y)
    assert table.rows[0].score == pytest.approx(expected)


def test_probabilities_are_recognized_and_log_probabilities_are_logits() -> None:
    for layer, meaning in ((nn.Softmax(1), "probabilities"), (nn.LogSoftmax(1), "log")):
        members = [nn.Sequential(network, layer) for network in networks()]
        table = compare(members, X[TEST], Y[TEST], **FAST)
        assert any(f"read as {meaning}" in note for note in table.notes)
        scores = {row.model: row.score for row in table.rows}
        for row in comparison().rows:
            if row.model in scores:
                assert scores[row.model] == pytest.approx(row.score)


def test_probabilities_of_logits_are_their_softmax(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(4, 3)) * 100
    expected = torch.tensor(logits).softmax(1)
    np.testing.assert_allclose(as_probabilities(logits, "logits"), expected)


def test_wrong_data_are_reported() -> None:
    members = networks()
    with pytest.raises(ValueError, match="class index from 0 to 9"):
        compare(members, X[TEST], Y[TEST] + 1)
    with pytest.raises(ValueError, match="same number of samples, found 300 and 299"):
        compare(members, X[TEST], Y[TEST][1:])
    with pytest.raises(
        ValueError, match="targets must come from y or from a DataLoader"
    ):
        compare(members, X[TEST])
    with pytest.raises(TypeError, match="return a tensor or an object with logits"):
        compare([nn.LSTM(8, 2), nn.LSTM(8, 2)], X[TEST][:, 0], Y[TEST])
    broken = deepcopy(members[0])
    with torch.no_grad():
        next(broken.parameters()).fill_(np.nan)
    with pytest.raises(ValueError, match="'member 1' must predict finite"):
        compare([members[0], broken], X[TEST], Y[TEST])
