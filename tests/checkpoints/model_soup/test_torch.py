"""Soups of torch modules, nets of skorch, encoders: from memory and from files."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from ensembles.checkpoints import ModelSoup, average, get_state, set_state
from ensembles.embeddings import SentenceEncoder
from tests.checkpoints.hugging_face import encoder, llama, saved

pytestmark = pytest.mark.filterwarnings("ignore:running statistics of BatchNorm")
X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.body(X))
        return answer


def trained(base: nn.Module, seed: int, n_steps: int = 15) -> nn.Module:
    found = copy.deepcopy(base).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(found.parameters(), lr=0.05)
    for _ in range(n_steps):
        rows = torch.randint(len(X), (20,), generator=generator).numpy()
        optimizer.zero_grad()
        answer = found(torch.from_numpy(X[rows]))
        loss = nn.functional.cross_entropy(answer, torch.from_numpy(Y[rows]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found.eval()


def accuracy(model: nn.Module, X: Any, y: Any) -> float:
    assert not torch.is_grad_enabled()
    assert not model.training
    return float((model(torch.as_tensor(X)).argmax(1).numpy() == y).mean())


@pytest.fixture
def base() -> nn.Module:
    torch.manual_seed(0)
    return trained(Classifier(), 0, n_steps=5)


@pytest.fixture
def members(base: nn.Module) -> list[nn.Module]:
    return [trained(base, seed) for seed in range(3)]


def test_a_module_gets_the_average_and_the_given_one_is_left(
    base: nn.Module, members: list[nn.Module]
) -> None:
    before = {name: value.clone() for name, value in base.state_dict().items()}
    soup = ModelSoup(base, members).fit()
    expected = average([member.state_dict() for member in members])
    found = soup.estimator_.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert torch.equal(base.state_dict()[name], before[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_module_of_any_format_rounds_once_into_its_own(
    dtype: torch.dtype, base: nn.Module, members: list[nn.Module]
) -> None:
    home = copy.deepcopy(base).to(dtype)
    soup = ModelSoup(home, members).fit()
    name = str(dtype).removeprefix("torch.")
    expected = average([member.state_dict() for member in members], dtype=name)
    found = soup.estimator_.state_dict()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_files_are_streamed_into_a_module(
    base: nn.Module, members: list[nn.Module], tmp_path: Path
) -> None:
    paths = [tmp_path / "0.safetensors", tmp_path / "1.pt", tmp_path / "2.safetensors"]
    for path, member in zip(paths, members, strict=True):
        save = torch.save if path.suffix == ".pt" else save_file
        save(member.state_dict(), path)
    soup = ModelSoup(base, paths, weights="greedy_soup", scoring=accuracy)
    with pytest.warns(UserWarning, match="did not beat the best member"):
        soup.fit(X, Y)
    inside = ModelSoup(base, members, weights="greedy_soup", scoring=accuracy)
    with pytest.warns(UserWarning, match="did not beat the best member"):
        inside.fit(X, Y)
    assert soup.weights_.tolist() == inside.weights_.tolist()
    for name, value in inside.estimator_.state_dict().items():
        assert torch.equal(soup.estimator_.state_dict()[name], value)


def test_tied_tensors_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

    torch.manual_seed(0)
    base = Tied()
    members = [copy.deepcopy(base) for _ in range(3)]
    with torch.no_grad():
        for place, member in enumerate(members):
            member.embed.weight += 0.1 * place
    soup = ModelSoup(base, members).fit()
    found = soup.estimator_
    assert found.head.weight is found.embed.weight
    expected = average([{"w": member.embed.weight} for member in members])
    assert torch.equal(found.embed.weight, expected["w"])
    # A file that was written without the second name fits too.
    states = [{"embed.weight": member.embed.weight.detach()} for member in members]
    assert torch.equal(
        ModelSoup(base, states).fit().estimator_.head.weight, expected["w"]
    )


def test_what_the_estimator_ties_must_be_one_tensor_in_members(tmp_path: Path) -> None:
    tied, untied = llama(0), llama(0, tied=False)
    paths = [tmp_path / f"{place}.safetensors" for place in range(2)]
    for path, model in zip(
        paths, [beside(untied, seed) for seed in (0, 1)], strict=True
    ):
        save_file(model.state_dict(), path)
    with pytest.raises(
        ValueError, match=r"are one tensor in the estimator, but .*0\.safe"
    ):
        ModelSoup(tied, paths).fit()
    # Two copies of one tensor will do.
    for path, seed in zip(paths, (0, 1), strict=True):
        state = beside(tied, seed).state_dict()
        save_file({name: value.clone() for name, value in state.items()}, path)
    found = ModelSoup(tied, paths).fit().estimator_
    expected = average(paths)["lm_head.weight"]
    np.testing.assert_array_equal(found.lm_head.weight.detach().numpy(), expected)


def test_a_head_is_read_whatever_the_member_ties(tmp_path: Path) -> None:
    models = [beside(llama(0), seed) for seed in (0, 1)]
    paths = saved(tmp_path, models)
    for path, model in zip(paths, models, strict=True):
        (path / "model.safetensors").unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    home = llama(7, tied=False)
    found = ModelSoup(home, paths).fit().estimator_
    wanted = average([model.state_dict() for model in models])["lm_head.weight"]
    assert torch.equal(found.lm_head.weight, wanted)
    assert torch.equal(found.get_input_embeddings().weight, wanted)


def test_ties_are_seen_where_reading_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = llama(0)
    models = [beside(base, seed) for seed in (0, 1)]
    paths = saved(tmp_path, models)
    # As from an accelerator.
    monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)
    expected = average([model.state_dict() for model in models])
    found = ModelSoup(base, paths).fit().estimator_
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name])


def head_on_a_body(seed: int, *, deep: bool) -> nn.Module:
    """Large frozen body that is always the same, and a head of its own start."""
    torch.manual_seed(0)
    body = nn.Linear(4, 64)
    with torch.no_grad():
        body.weight *= 20
    torch.manual_seed(seed)
    head = (
        [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2)] if deep else [nn.Linear(64, 2)]
    )
    return nn.Sequential(body, nn.ReLU(), *head)


def test_heads_from_other_seeds_are_refused_behind_a_common_body() -> None:
    first, second = (head_on_a_body(seed, deep=True) for seed in (1, 2))
    with pytest.raises(ValueError, match="same initialization"):
        ModelSoup(first, [first, second]).fit()
    # The mean of linear heads is their ensemble.
    first, second = (head_on_a_body(seed, deep=False) for seed in (1, 2))
    found = ModelSoup(first, [first, second]).fit().estimator_
    rows = torch.from_numpy(X)
    mean = (first(rows) + second(rows)) / 2
    torch.testing.assert_close(found(rows), mean)


class Heads(nn.Module):
    """A body, and two heads beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 16)
        self.policy = nn.Linear(16, 3)
        self.value = nn.Linear(16, 5)


def test_heads_beside_each_other_may_have_starts_of_their_own() -> None:
    torch.manual_seed(0)
    one, other = Heads(), Heads()
    with torch.no_grad():
        one.body.weight *= 20
        other.body.load_state_dict(one.body.state_dict())
    soup = ModelSoup(one, [one, other]).fit()
    mean = (one.policy.weight + other.policy.weight) / 2
    torch.testing.assert_close(soup.estimator_.policy.weight, mean)


def test_a_net_around_a_module_leaves_it(base: nn.Module) -> None:
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(base, verbose=0)
    fitted = [
        net.__class__(trained(base, seed), verbose=0).initialize() for seed in (1, 2)
    ]
    before = {name: value.clone() for name, value in base.state_dict().items()}
    soup = ModelSoup(net, fitted).fit()
    assert soup.estimator_.module_ is not base
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_a_scorer_that_trains_a_module_changes_nothing(
    base: nn.Module, members: list[nn.Module]
) -> None:
    def meddling(model: nn.Module, X: Any, y: Any) -> float:
        assert not model.training
        value = accuracy(model, X, y)
        model.train()(torch.as_tensor(X))  # BatchNorm counts anew
        return value

    soup = ModelSoup(base, members, weights="top_k", scoring=meddling).fit(X, Y)
    plain = ModelSoup(base, members, weights="top_k", scoring=accuracy).fit(X, Y)
    assert not soup.estimator_.training
    assert soup.soup_score_ == plain.soup_score_
    for name, value in plain.estimator_.state_dict().items():
        assert torch.equal(soup.estimator_.state_dict()[name], value)


def test_a_module_without_a_scorer_is_told_so(
    base: nn.Module, members: list[nn.Module]
) -> None:
    with pytest.raises(TypeError, match=r"scoring must be a callable .*Classifier"):
        ModelSoup(base, members, weights="greedy_soup").fit(X, Y)


def test_modules_from_other_seeds_are_refused(base: nn.Module) -> None:
    torch.manual_seed(5)
    other = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9))
    torch.manual_seed(6)
    another = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9))
    with pytest.raises(ValueError, match="same initialization"):
        ModelSoup(other, [other, another]).fit()


def test_the_device_is_kept(base: nn.Module, members: list[nn.Module]) -> None:
    soup = ModelSoup(base, members, device="cpu").fit()
    assert next(soup.estimator_.parameters()).device.type == "cpu"


def test_nets_of_skorch_are_estimators() -> None:
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(
        Classifier, max_epochs=20, lr=0.5, verbose=0, train_split=None
    )
    torch.manual_seed(0)
    soup = ModelSoup(net, n_members=3, random_state=0)
    soup.fit(X, Y)
    assert soup.predict(X).shape == (60,)
    assert soup.score(X, Y) > 0.5
    assert soup.weights_.tolist() == [1, 1, 1]
    learned = ModelSoup(net, n_members=2, weights="convex", random_state=0)
    with pytest.warns(UserWarning, match="did not beat the best member"):
        learned.fit(X, Y)
    assert learned.weights_.sum() == pytest.approx(1)


class Dropping(Classifier):
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(X, 0.5, self.training))


def test_draws_of_torch_are_seeded_and_those_of_others_left() -> None:
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(
        Dropping, max_epochs=2, verbose=0, train_split=None
    )
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    soup = ModelSoup(net, n_members=2, random_state=0)
    soup.fit(X, Y)
    assert torch.equal(torch.rand(2), expected)
    again = get_state(clone(soup).fit(X, Y).estimator_)
    for name, value in get_state(soup.estimator_).items():
        assert torch.equal(value, again[name])


def test_a_net_of_skorch_takes_files(tmp_path: Path, members: list[nn.Module]) -> None:
    skorch = pytest.importorskip("skorch")
    paths = [tmp_path / f"{place}.safetensors" for place in range(3)]
    for path, member in zip(paths, members, strict=True):
        save_file(member.state_dict(), path)
    net = skorch.NeuralNetClassifier(Classifier, verbose=0)
    soup = ModelSoup(net, paths).fit(X, Y)
    expected = average([member.state_dict() for member in members])
    found = get_state(soup.estimator_)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert set(np.unique(soup.predict(X))) <= {0, 1}
    search = GridSearchCV(soup, {"weights": [None, [1, 0, 0]]}, cv=2)
    search.fit(X, Y)
    assert search.best_score_ > 0.5


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1, bias=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(X)
        return found


def minus_error(net: Any, X: Any, y: Any) -> float:
    return -float(((net.predict(X).reshape(-1) - np.reshape(y, -1)) ** 2).mean())


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_targets_of_a_net_are_held_against_its_answers_one_by_one() -> None:
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    base = Regression()
    states = [beside(base, seed).state_dict() for seed in range(3)]
    net = skorch.NeuralNetRegressor(Regression, verbose=0)
    target = np.round(4 * X[:, 0]).astype(np.int64)
    soup = ModelSoup(net, states, weights="convex", scoring=minus_error)
    soup.set_params(weights_params={"n_passes": 3}, random_state=0)
    flat, column = (
        clone(soup).fit(X, y) for y in (target, target[:, None].astype(np.float32))
    )
    np.testing.assert_allclose(flat.weights_, column.weights_, rtol=1e-6)
    assert not np.allclose(flat.weights_, 1 / 3)


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_labels_of_a_binary_net_may_be_whole_numbers() -> None:
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    net = skorch.NeuralNetBinaryClassifier(Regression, verbose=0)
    base = Regression()
    states = [beside(base, seed).state_dict() for seed in range(2)]
    soup = ModelSoup(net, states, weights="convex").fit(X, Y)
    assert soup.weights_.sum() == pytest.approx(1)


class Nine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.inner(X), -1)


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_labels_of_a_net_are_its_columns_though_some_are_not_met() -> None:
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    base = Nine()
    states = [beside(base, seed).state_dict() for seed in range(3)]
    net = skorch.NeuralNetClassifier(Nine, verbose=0)

    def loss(model: Any, X: Any, y: Any) -> Any:
        answer = model(torch.as_tensor(X)).log()
        return nn.functional.nll_loss(answer, torch.as_tensor(y))

    soups = [
        ModelSoup(
            net,
            states,
            weights="convex",
            weights_params={"n_passes": 3, **more},
            random_state=0,
        )
        for more in ({}, {"loss": loss})
    ]
    # No sample is of the first class.
    usual, given = (soup.fit(X, Y + 1).history_[-1].weights for soup in soups)
    np.testing.assert_allclose(usual, given, rtol=1e-5)


def test_nets_say_nothing_of_settings_that_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(Classifier, max_epochs=1, train_split=None)
    fitted = net.fit(X, Y)
    capsys.readouterr()
    ModelSoup(net, [fitted, fitted]).fit()
    assert capsys.readouterr().out == ""


def test_an_estimator_is_given_back_what_it_had(base: nn.Module) -> None:
    other = trained(base, 7)
    set_state(base, get_state(other))
    for name, value in other.state_dict().items():
        assert torch.equal(base.state_dict()[name], value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_hugging_face_takes_directories(tmp_path: Path) -> None:
    base = llama(0)
    models = [beside(base, seed) for seed in range(3)]
    paths = saved(tmp_path, models)
    soup = ModelSoup(base, paths, weights=[1, 2, 1]).fit()
    expected = average([model.state_dict() for model in models], weights=[1, 2, 1])
    for name, value in soup.estimator_.state_dict().items():
        assert torch.equal(value, expected[name])
    assert (
        soup.estimator_.lm_head.weight is soup.estimator_.get_input_embeddings().weight
    )


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "gelu"), ("quantization_config", {"bits": 4})]
)
def test_what_lies_beside_the_weights_is_looked_at(
    key: str, value: Any, tmp_path: Path
) -> None:
    base = llama(0)
    paths = saved(tmp_path, [beside(base, seed) for seed in range(2)])
    config = json.loads((paths[1] / "config.json").read_text())
    (paths[1] / "config.json").write_text(json.dumps({**config, key: value}))
    soup = ModelSoup(base, paths)
    if key == "hidden_act":
        with pytest.warns(
            UserWarning, match=r"config.json of .*m1 differs .*hidden_act"
        ):
            soup.fit()
    else:
        with pytest.raises(ValueError, match=r"m1 has quantized weights"):
            soup.fit()


def beside(base: Any, seed: int) -> Any:
    found, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * parameter.std() * noise)
    return found


@pytest.mark.filterwarnings("ignore")
def test_encoders_of_sentences_take_directories_of_several_modules(
    tmp_path: Path,
) -> None:
    from sentence_transformers import SentenceTransformer

    base = SentenceTransformer(str(encoder(tmp_path, 0)), device="cpu")
    paths = [tmp_path / f"member-{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        beside(base, seed).save(str(path))
    average(paths, tmp_path / "mean")
    merged = SentenceTransformer(str(tmp_path / "mean"), device="cpu")
    sentences = ["mean of models", "models"]
    expected = merged.encode(sentences)
    soup = ModelSoup(base, paths).fit()
    np.testing.assert_array_equal(soup.encode(sentences), expected)
    behind = ModelSoup(SentenceEncoder(str(tmp_path / "st")), paths).fit()
    np.testing.assert_array_equal(behind.transform(sentences), expected)
    assert list(behind.get_feature_names_out()) == [
        f"sentenceencoder{place}" for place in range(3)
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells")
def test_a_greedy_soup_holds_less_than_three_models(tmp_path: Path) -> None:
    """Twenty files, each of which would be seen at once if it were held."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path

        import numpy as np
        import torch
        from torch import nn

        from ensembles.checkpoints import ModelSoup
        from ensembles.kernels import jit

        jit.WORTHWHILE = -1  # load the compiled loops before memory is measured

        def anonymous():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(l.split()[1]) for l in lines if l.startswith("RssAnon"))

        def score_small(model, X, y):
            return float(model.weight[0, 0])

        def score(model, X, y):
            global peak
            peak = max(peak, anonymous())
            return float(model.weight[0, 0])

        small = nn.Linear(3, 2)  # what is imported and compiled is no model's memory
        own = small.state_dict()
        states = [{name: v + i / 99 for name, v in own.items()} for i in range(3)]
        soup = ModelSoup(small, states, weights="greedy_soup", scoring=score_small)
        soup.fit([0], [0])
        peak, start = 0, anonymous()
        model = nn.Linear(2500, 10_000, bias=False)
        soup = ModelSoup(model, sys.argv[1:], weights="greedy_soup", scoring=score)
        soup.fit([0], [0])
        assert sum(soup.weights_ > 0) > 3
        print((peak - start) * 1024 / 100_000_000)
        """
    )
    paths = [tmp_path / f"{place:02}.safetensors" for place in range(20)]
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.normal(size=(10_000, 2500)).astype(np.float32))
    for place, path in enumerate(paths):
        if place < 3:
            save_file({"weight": start + 0.1 * place}, path)
        else:
            path.hardlink_to(paths[place % 3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3
