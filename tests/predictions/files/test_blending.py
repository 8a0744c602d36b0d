"""Blends of files are the ensembles of the same predictions as arrays."""

from __future__ import annotations

import mmap
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles._typing import Float64
from ensembles.predictions import EnsembleClassifier, EnsembleRegressor
from ensembles.predictions.files import (
    align,
    blend,
    open_predictions,
    read_target,
)
from ensembles.predictions.files.alignment import _empty_stack, release_memory
from ensembles.predictions.files.judging_splits import judging_splits
from ensembles.predictions.files.learning_data import learning_data
from ensembles.predictions.forecasts import (
    POOLS,
    QuantileEnsemble,
    weighted_interval_score,
)

CLASSES = np.array(["barolo", "grignolino", "barbera"])
SUFFIXES = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".long.csv", ".long.parquet")


class WithoutBarbera(ClassifierMixin, BaseEstimator):
    """Naive Bayes that never saw the class barbera."""

    def fit(self, X: Any, y: Any) -> WithoutBarbera:
        rows = y != "barbera"
        self.model_ = GaussianNB().fit(X[rows], y[rows])
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: Any) -> Any:
        return self.model_.predict_proba(X)

    def predict(self, X: Any) -> Any:
        return self.model_.predict(X)


class Wine(NamedTuple):
    """An ensemble fitted on arrays, and its predictions."""

    folder: Path
    y: Any
    ensemble: Any
    test: Float64
    paths: list[Path]
    test_paths: list[Path]


def models() -> list[tuple[str, Any]]:
    scaled = [
        LogisticRegression(C=0.01),
        LogisticRegression(C=1.0),
        *(KNeighborsClassifier(n) for n in (3, 10, 30)),
    ]
    plain = [
        GaussianNB(),
        LinearDiscriminantAnalysis(),
        *(DecisionTreeClassifier(max_depth=n, random_state=0) for n in (1, 2, 3)),
        DecisionTreeClassifier(min_samples_leaf=10, random_state=1),
        WithoutBarbera(),
    ]
    members = [*(make_pipeline(StandardScaler(), model) for model in scaled), *plain]
    return [(f"m{index}", member) for index, member in enumerate(members)]


def save(path: Path, y_proba: Float64, classes: Any, ids: Any, rng: Any) -> None:
    """Write probabilities in the format of the suffix, with shuffled columns."""
    columns = rng.permutation(len(classes))
    if path.suffix == ".npy":
        np.save(path, y_proba)
        return
    names, values = classes[columns], y_proba[:, columns]
    if path.suffix == ".npz":
        np.savez(path, predictions=values, classes=names, sample=ids)
        return
    frame = pl.DataFrame({"sample": ids} | dict(zip(names, values.T, strict=True)))
    if ".long" in path.suffixes:
        frame = frame.unpivot(
            index="sample", variable_name="output_type_id", value_name="value"
        ).with_columns(output_type=pl.lit("pmf"))
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Wine:
    folder = tmp_path_factory.mktemp("wine")
    rng = np.random.default_rng(0)
    X, codes = load_wine(return_X_y=True)
    parts = train_test_split(X, CLASSES[codes], random_state=0, stratify=codes)
    X_train, X_test, y, _ = parts
    ensemble = EnsembleClassifier(models(), missing_class="zero")
    ensemble.fit(X_train, y)
    test_members = [m.predict_proba(X_test) for m in ensemble.estimators_]
    (folder / "test").mkdir()
    paths, test_paths = [], []
    classes = ensemble.classes_
    ids = np.array([f"w{number}" for number in rng.permutation(1000)[: len(y)]])
    for index, member in enumerate(ensemble.estimators_):
        suffix = SUFFIXES[index % len(SUFFIXES)]
        columns = np.isin(classes, member.classes_)
        oof = ensemble.oof_[index][:, columns]
        name = f"m{index}{suffix}"
        rows = np.arange(len(y)) if suffix == ".npy" else rng.permutation(len(y))
        save(folder / name, oof[rows], classes[columns], ids[rows], rng)
        save(
            folder / "test" / name,
            test_members[index],
            member.classes_,
            np.arange(45),
            rng,
        )
        paths.append(folder / name)
        test_paths.append(folder / "test" / name)
    pl.DataFrame({"sample": ids, "wine": y}).write_csv(folder / "y.csv")
    return Wine(folder, y, ensemble, ensemble.predict_proba(X_test), paths, test_paths)


def test_files_of_all_formats_give_the_weights_of_the_estimator(
    wine: Wine, tmp_path: Path
) -> None:
    blended = blend(wine.paths, wine.folder / "y.csv", missing_class="zero")
    np.testing.assert_allclose(blended.weights_, wine.ensemble.weights_, rtol=1e-9)
    np.testing.assert_allclose(blended.intercept_, wine.ensemble.intercept_, rtol=1e-9)
    # The folds are the same, but the estimator's cross-fit stops earlier.
    assert blended.score("blend").score == pytest.approx(
        wine.ensemble.oof_score_, rel=1e-3
    )
    assert any("m11" in note and "missing class" in note for note in blended.notes)
    blended.apply(wine.test_paths, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv")
    by_class = out.sort("sample").select(wine.ensemble.classes_.tolist())
    np.testing.assert_allclose(by_class.to_numpy(), wine.test, rtol=1e-9)


@pytest.mark.parametrize(
    "params",
    [
        {
            "rule": "mean",
            "weights": "greedy",
            "weights_params": {"n_rounds": 4},
            "scoring": "roc_auc_ovr",
        },
        {"rule": "mean", "weights": None},
        {"rule": "median", "weights": None, "calibrate": "temperature"},
        {"weights": [1, 2, 3], "rule_params": {"temperature": 0.5}},
        {"rule": "vote", "weights": None, "scoring": "accuracy", "thresholds": None},
    ],
)
def test_parameters_are_those_of_the_estimator(
    wine: Wine, params: dict[str, Any], tmp_path: Path
) -> None:
    members = wine.paths[:3]
    blended = blend(members, wine.folder / "y.csv", random_state=0, **params)
    rows = np.arange(len(wine.y))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fitted members, and no gain
        prefit = [
            (f"m{i}", Rows(wine.ensemble.oof_[i], wine.ensemble.classes_))
            for i in range(3)
        ]
        ensemble = EnsembleClassifier(prefit, cv="prefit", random_state=0, **params)
        ensemble.fit(rows, wine.y)
    np.testing.assert_array_equal(blended.weights_, ensemble.weights_)
    blended.apply(None, tmp_path / "out.parquet")
    out = pl.read_parquet(tmp_path / "out.parquet")
    truth = pl.read_csv(wine.folder / "y.csv")
    y_proba = truth.join(out, on="sample").select(ensemble.classes_.tolist())
    np.testing.assert_allclose(
        y_proba.to_numpy(), ensemble.predict_proba(rows), rtol=1e-9
    )


class Rows(ClassifierMixin, BaseEstimator):
    """A classifier of rows of an array."""

    def __init__(self, array: Any, classes: Any) -> None:
        self.array = array
        self.classes = classes
        self.classes_ = classes

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any) -> Rows:
        return self

    def predict_proba(self, X: Any) -> Any:
        return self.array[X[:, 0]]

    def predict(self, X: Any) -> Any:
        return self.classes[self.array[X[:, 0]].argmax(axis=1)]


def test_thresholds_are_judged_on_other_rows(wine: Wine, tmp_path: Path) -> None:
    """A single member with thresholds is compared with a blend with thresholds."""
    members = wine.paths[:3]
    params: Any = {"scoring": "balanced_accuracy", "rule": "mean", "weights": None}
    blended = blend(members, wine.folder / "y.csv", cv=2, **params)
    assert blended.thresholds_.shape == (3,)
    y = wine.y
    predicted = np.empty_like(y)
    for train, test in judging_splits(y, cv=2, classifier=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            classes = wine.ensemble.classes_
            prefit = [(f"m{i}", Rows(wine.ensemble.oof_[i], classes)) for i in range(3)]
            ensemble = EnsembleClassifier(prefit, cv="prefit", **params)
            ensemble.fit(train[:, None], y[train])
        predicted[test] = ensemble.predict(test[:, None])
    expected = balanced_accuracy_score(y, predicted)
    assert blended.score("blend").score == pytest.approx(expected)
    blended.apply(None, tmp_path / "labels.csv", labels=True)
    labels = pl.read_csv(tmp_path / "labels.csv")
    assert labels.columns == ["sample", "wine"]
    rows = np.arange(len(y))[:, None]
    np.testing.assert_array_equal(labels["wine"], blended.ensemble.predict(rows))
    with pytest.raises(ValueError, match="must be a csv, tsv or parquet file"):
        blended.apply(None, tmp_path / "labels.npy", labels=True)
    for entry, y_proba in zip(blended.scores_, wine.ensemble.oof_[:3], strict=False):
        most_probable = wine.ensemble.classes_[y_proba.argmax(axis=1)]
        alone = balanced_accuracy_score(y, most_probable)
        assert entry.score == pytest.approx(alone)


class Noise(NamedTuple):
    """Files of members that know nothing, with groups and times in the target."""

    folder: Path
    paths: list[Path]
    target: Any
    stack: Float64


@pytest.fixture
def noise(tmp_path: Path, rng: np.random.Generator) -> Noise:
    n_rows = 60
    y = np.arange(n_rows) % 2
    stack = rng.dirichlet([1, 1], (8, n_rows))
    paths = [tmp_path / f"member_{index}.csv" for index in range(8)]
    for path, y_proba in zip(paths, stack, strict=True):
        frame = pl.DataFrame({"id": np.arange(n_rows), "0": y_proba[:, 0]})
        frame.with_columns(pl.Series("1", y_proba[:, 1])).write_csv(path)
    days = [f"2026-01-{1 + row % 30:02d}" for row in range(n_rows)]
    pl.DataFrame(
        {"id": np.arange(n_rows), "y": y, "site": np.arange(n_rows) // 4, "day": days}
    ).write_csv(tmp_path / "y.csv")
    target = read_target(tmp_path / "y.csv", column="y")
    return Noise(tmp_path, paths, target, stack)


def test_the_blend_is_judged_on_rows_that_chose_nothing(noise: Noise) -> None:
    """Greedy weights of noise look good only on the rows that chose them."""
    params: Any = {"rule": "mean", "weights": "greedy", "thresholds": None}
    blended = blend(noise.paths, noise.target, scoring="accuracy", **params)
    on_own_rows = blended.ensemble.history_[-1].score
    assert on_own_rows > 0.6
    assert blended.score("blend").score < on_own_rows - 0.05
    best = blended.score("best single file").score
    assert best <= max(entry.score for entry in blended.scores_[:8])


def test_the_best_single_file_is_scored_without_calibration(noise: Noise) -> None:
    """Calibration of few rows makes a file worse, and the blend no better than it."""
    params: Any = {"rule": "mean", "weights": "greedy", "cv": 2}
    plain = blend(noise.paths[:3], noise.target, **params)
    calibrated = blend(noise.paths[:3], noise.target, calibrate="isotonic", **params)
    names = [entry.name for entry in calibrated.scores_[3:]]
    assert names == [
        "best single file",
        "best file, calibrated",
        "equal weights",
        "blend",
    ]
    best = calibrated.score("best single file")
    assert best == plain.score("best single file")
    assert calibrated.score("best file, calibrated").score != best.score


@pytest.mark.parametrize("order", [{"groups": "site"}, {"time": "day"}])
def test_scores_are_of_ensembles_without_the_group_and_the_future(
    noise: Noise, order: dict[str, Any]
) -> None:
    blended = blend(
        noise.paths, noise.target, rule="mean", weights="greedy", cv=3, **order
    )
    column = np.array(noise.target.ids[next(iter(order.values()))].to_list())
    y, name = noise.target.y, next(iter(order))
    keyword: Any = {name: column}
    splits = judging_splits(y, cv=3, classifier=True, **keyword)
    rows = np.arange(len(y))[:, None]
    members = [(f"m{i}", Rows(noise.stack[i], np.array([0, 1]))) for i in range(8)]
    losses = []
    for train, test in splits:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ensemble = EnsembleClassifier(
                members, rule="mean", weights="greedy", cv="prefit"
            ).fit(rows[train], y[train])
        y_proba = ensemble.predict_proba(rows[test])
        losses.append(-np.log(y_proba[np.arange(len(test)), y[test]]))
    expected = -np.concatenate(losses).mean()
    assert blended.score("blend").score == pytest.approx(expected)
    assert blended.score("blend").fold_scores == pytest.approx(
        [-loss.mean() for loss in losses]
    )
    assert blended.n_judged == sum(len(test) for _, test in splits)


def test_rows_that_a_member_lacks_are_blended_from_the_others(
    noise: Noise, tmp_path: Path
) -> None:
    frame = pl.read_csv(noise.paths[0])
    frame.filter(pl.col("id") >= 10).write_csv(noise.paths[0])
    files = noise.paths[:3]
    with pytest.raises(ValueError, match=r"lacks 10 of 60 rows.*missing='drop'"):
        blend(files, noise.target)
    weights = [1.0, 2.0, 3.0]
    kept = blend(files, noise.target, rule="mean", weights=weights, missing="member")
    assert kept.n_learned == 50
    assert any("50 of 60 rows" in note for note in kept.notes)
    notes = kept.apply(None, tmp_path / "kept.npz")
    assert notes[-1] == (
        "10 rows are blended without the members that lack them: member_0 10"
    )
    with np.load(tmp_path / "kept.npz") as saved:
        order = np.argsort(saved["id"].astype(int))
        y_proba = saved["predictions"][order]
    stack = noise.stack[:3]
    expected = np.average(stack, axis=0, weights=weights)
    expected[:10] = np.average(stack[1:, :10], axis=0, weights=weights[1:])
    np.testing.assert_allclose(y_proba, expected)
    dropped = blend(files, noise.target, rule="mean", weights=weights, missing="drop")
    dropped.apply(None, tmp_path / "dropped.csv")
    assert len(pl.read_csv(tmp_path / "dropped.csv")) == 50


def test_groups_of_files_without_identifiers_are_those_of_their_positions(
    noise: Noise,
) -> None:
    stack = noise.stack[:2].copy()
    stack[:, :4] = np.nan  # the first site
    paths = [noise.folder / "a.npy", noise.folder / "b.npy"]
    for path, y_proba in zip(paths, stack, strict=True):
        np.save(path, y_proba)
    files = [open_predictions(path) for path in paths]
    aligned = align(files, noise.target, missing="member")
    data = learning_data(aligned, noise.target, groups="site", time=None)
    assert data.groups.tolist() == [str(row // 4) for row in range(4, 60)]


def test_rows_of_members_without_weight_get_equal_weights(
    noise: Noise, tmp_path: Path
) -> None:
    frame = pl.read_csv(noise.paths[0])
    frame.filter(pl.col("id") > 0).write_csv(noise.paths[0])
    blended = blend(
        noise.paths[:3], noise.target, rule="mean", weights=[1, 0, 0], missing="member"
    )
    notes = blended.apply(None, tmp_path / "out.csv")
    assert any("1 rows have only members with weight 0" in note for note in notes)
    out = pl.read_csv(tmp_path / "out.csv").sort("id")
    np.testing.assert_allclose(
        out.row(0)[1:], noise.stack[1:3, 0].mean(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(out.row(1)[1:], noise.stack[0, 1], rtol=1e-12)


def test_large_files_are_learned_from_a_sample(
    noise: Noise, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ensembles.predictions.files.learning_data.LEARNING_BYTES", 640)
    monkeypatch.setattr("ensembles.predictions.files.application.BLOCK_BYTES", 100)
    blended = blend(noise.paths[:2], noise.target, rule="mean", weights=None, cv=2)
    assert (blended.n_rows, blended.n_learned) == (60, 20)
    assert any("a random sample of 20 of 60 rows" in note for note in blended.notes)
    blended.apply(None, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv").sort("id")
    np.testing.assert_allclose(out["0"], noise.stack[:2, :, 0].mean(axis=0))


def test_the_memory_of_a_mapped_stack_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensembles.predictions.files.alignment.LARGEST_IN_MEMORY", 0)
    stack = _empty_stack((2, 1 << 20, 2))
    stack[:] = 1.5
    before = resident_bytes()
    release_memory(stack)
    assert sys.platform != "linux" or before - resident_bytes() > stack.nbytes // 2
    assert (stack[1, ::4096] == 1.5).all()


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_one_column_of_probabilities_stays_one_column(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    y = np.arange(40) % 2
    for name in ("a", "b"):
        p = np.clip(y * 0.4 + 0.3 + rng.normal(0, 0.1, 40), 0, 1)
        pl.DataFrame({"SK_ID_CURR": np.arange(40), "TARGET": p}).write_csv(
            tmp_path / f"{name}.csv"
        )
    pl.DataFrame({"SK_ID_CURR": np.arange(40), "TARGET": y}).write_csv(
        tmp_path / "y.csv"
    )
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    blended = blend(
        files, tmp_path / "y.csv", scoring="roc_auc", rule="mean", weights=None
    )
    assert blended.kind == "probabilities"
    blended.apply(None, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv")
    mean = (pl.read_csv(files[0])["TARGET"] + pl.read_csv(files[1])["TARGET"]) / 2
    assert out.columns == ["SK_ID_CURR", "TARGET"]
    np.testing.assert_allclose(out["TARGET"], mean)


def test_values_are_blended_as_the_regressor_does(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    y = rng.normal(size=80)
    stack = y + rng.normal(0, [[0.5], [1.0], [2.0]], (3, 80))
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for path, values in zip(paths, stack, strict=True):
        pl.DataFrame({"id": np.arange(80), "price": values}).write_csv(path)
    pl.DataFrame({"id": np.arange(80), "price": y}).write_csv(tmp_path / "y.csv")
    blended = blend(paths, tmp_path / "y.csv")
    members = [(f"m{i}", Values(stack[i])) for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble = EnsembleRegressor(members, cv="prefit").fit(
            np.arange(80)[:, None], y
        )
    np.testing.assert_array_equal(blended.weights_, ensemble.weights_)
    assert blended.score("blend").score > blended.score("b").score
    blended.apply(None, tmp_path / "out.csv")
    assert pl.read_csv(tmp_path / "out.csv").columns == ["id", "price"]


def test_scores_of_two_classes_that_are_not_probabilities_are_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    y = np.arange(20) % 2
    for name in ("a", "b"):
        frame = pl.DataFrame({"id": np.arange(20), "score": rng.normal(0, 50, 20)})
        frame.write_csv(tmp_path / f"{name}.csv")
    pl.DataFrame({"id": np.arange(20), "y": y}).write_csv(tmp_path / "y.csv")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(ValueError, match="of two classes must be between 0 and 1"):
        blend(files, tmp_path / "y.csv", scoring="roc_auc")


class Values(BaseEstimator):
    """A regressor of rows of an array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any) -> Values:
        return self

    def predict(self, X: Any) -> Any:
        return self.array[X[:, 0]]


def test_files_without_a_target_are_blended_with_given_weights(
    noise: Noise, tmp_path: Path
) -> None:
    files = noise.paths[:2]
    with pytest.raises(ValueError, match=r"target must be given to learn.*equal"):
        blend(files)
    blended = blend(files, rule="mean", weights=[3, 1])
    assert blended.scores_ == ()
    blended.apply(None, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv")
    expected = np.average(noise.stack[:2], axis=0, weights=[3, 1])
    np.testing.assert_allclose(out.select("0", "1").to_numpy(), expected)


def test_columns_that_do_not_sum_to_one_are_blended_as_values(tmp_path: Path) -> None:
    for name, toxic in (("a", 0.2), ("b", 0.4)):
        frame = pl.DataFrame(
            {"id": ["x", "y"], "toxic": [toxic] * 2, "rude": [0.9] * 2}
        )
        frame.write_csv(tmp_path / f"{name}.csv")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(ValueError, match="sum"):
        blend(files, weights=None).apply(None, tmp_path / "out.csv")
    with pytest.raises(
        ValueError, match="'vote' combines labels, and the files have values"
    ):
        blend(files, weights=None, kind="values", rule="vote")
    divided = blend(files, weights=None, rule="mean", normalize=True)
    divided.apply(None, tmp_path / "divided.csv")
    divided_by_sum = pl.read_csv(tmp_path / "divided.csv")["toxic"]
    np.testing.assert_allclose(divided_by_sum, (0.2 / 1.1 + 0.4 / 1.3) / 2)
    blend(files, weights=None, kind="values").apply(None, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv")
    assert out.columns == ["id", "toxic", "rude"]
    np.testing.assert_allclose(out["toxic"], 0.3)
    np.testing.assert_allclose(out["rude"], 0.9)


def test_quantiles_are_averaged_and_judged_by_the_interval_score(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    y, levels = rng.normal(size=40), np.array([0.1, 0.5, 0.9])
    spreads = (0.5, 3.0)
    stack = np.array(
        [y[:, None] + rng.normal(0, s, (40, 1)) + s * norm.ppf(levels) for s in spreads]
    )
    for name, quantiles in zip("ab", stack, strict=True):
        columns = dict(zip(map(str, levels), quantiles.T, strict=True))
        frame = pl.DataFrame({"id": np.arange(40)} | columns)
        frame.write_csv(tmp_path / f"{name}.csv")
    pl.DataFrame({"id": np.arange(40), "y": y}).write_csv(tmp_path / "y.csv")
    blended = blend([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "y.csv")
    assert blended.kind == "quantiles"
    expected = -weighted_interval_score(y, stack, levels).mean(axis=1)
    scores = [entry.score for entry in blended.scores_[:2]]
    np.testing.assert_allclose(scores, expected)
    assert blended.weights_[0] > blended.weights_[1]


@pytest.mark.parametrize("rule", sorted(POOLS))
def test_rules_of_quantiles_are_those_of_the_quantile_ensemble(
    tmp_path: Path, rng: np.random.Generator, rule: str
) -> None:
    y, levels = rng.normal(size=30), np.array([0.25, 0.5, 0.75])
    stack = y[:, None] + rng.normal(size=(3, 30, 1)) + [-1, 0, 1]
    stack[0, :4] = np.nan
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for path, quantiles in zip(paths, stack, strict=True):
        columns = dict(zip(map(str, levels), quantiles.T, strict=True))
        frame = pl.DataFrame({"id": np.arange(30)} | columns)
        frame.filter(pl.col("0.5").is_not_nan()).write_csv(path)
    pl.DataFrame({"id": np.arange(30), "y": y}).write_csv(tmp_path / "y.csv")
    blended = blend(paths, tmp_path / "y.csv", rule=rule, missing="member", cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble = QuantileEnsemble(levels, rule=rule)
        ensemble.fit(stack[:, 4:].transpose(1, 0, 2), y[4:])
    np.testing.assert_allclose(blended.weights_, ensemble.weights_, rtol=1e-6)
    blended.apply(None, tmp_path / "out.csv")
    out = pl.read_csv(tmp_path / "out.csv").sort("id").drop("id").to_numpy()
    expected = ensemble.predict(stack.transpose(1, 0, 2))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_crossing_quantiles_are_sorted_on_request(tmp_path: Path) -> None:
    for name in "ab":
        frame = pl.DataFrame({"id": ["x"], "0.1": [2.0], "0.9": [1.0]})
        frame.write_csv(tmp_path / f"{name}.csv")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(ValueError, match="sort"):
        blend(files, weights=None).apply(None, tmp_path / "out.csv")
    blend(files, weights=None, crossing="sort").apply(None, tmp_path / "out.csv")
    assert pl.read_csv(tmp_path / "out.csv").row(0) == ("x", 1.0, 2.0)


def test_a_failure_while_writing_leaves_no_file(
    noise: Noise, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blended = blend(noise.paths[:2], noise.target, rule="mean", weights=None)
    before = set(tmp_path.iterdir())

    def fail(*args: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr("ensembles.predictions.files.application._combine", fail)
    with pytest.raises(OSError, match="disk full"):
        blended.apply(None, tmp_path / "out.csv")
    assert set(tmp_path.iterdir()) == before


def test_test_files_must_be_of_the_members(noise: Noise, tmp_path: Path) -> None:
    blended = blend(noise.paths[:2], noise.target, rule="mean", weights=None)
    with pytest.raises(ValueError, match="one file for each of the 2 members, found 1"):
        blended.apply(noise.paths[:1], tmp_path / "out.csv")
    with pytest.raises(ValueError, match="files must be at least two, found 1"):
        blend(noise.paths[:1], noise.target)
    with pytest.raises(ValueError, match="no column 'clinic' for groups or time"):
        blend(noise.paths[:2], noise.target, groups="clinic")
    truth = pl.read_csv(noise.folder / "y.csv").with_columns(
        pl.when(pl.col("id") > 2).then("site").alias("site")
    )
    truth.write_csv(noise.folder / "gaps.csv")
    gaps = read_target(noise.folder / "gaps.csv", column="y")
    with pytest.raises(ValueError, match="a value in each row: 3 of 60 have none"):
        blend(noise.paths[:2], gaps, groups="site")


def test_test_files_of_the_members_in_another_order_are_refused(
    noise: Noise, tmp_path: Path
) -> None:
    blended = blend(noise.paths[:3], noise.target, rule="mean", weights=[1, 2, 3])
    with pytest.raises(ValueError, match="in the order of the members"):
        blended.apply(noise.paths[2::-1], tmp_path / "out.csv")


def test_a_class_rarer_than_the_folds_is_a_note(noise: Noise, tmp_path: Path) -> None:
    y = (np.arange(60) == 7).astype(int)
    pl.DataFrame({"id": np.arange(60), "y": y}).write_csv(tmp_path / "rare.csv")
    blended = blend(noise.paths[:2], tmp_path / "rare.csv", rule="mean", weights=None)
    assert any("least populated class" in note for note in blended.notes)


def test_columns_that_become_further_classes_are_noted(noise: Noise) -> None:
    frames = [pl.read_csv(path) for path in noise.paths[:2]]
    for frame, path in zip(frames, noise.paths, strict=False):
        frame.with_columns(pl.lit(0).alias("2")).write_csv(path)
    params: Any = {"rule": "mean", "weights": None, "cv": 2}
    blended = blend(noise.paths[:2], noise.target, **params)
    assert blended.columns.tolist() == [0, 1, 2]
    assert any("without a row of the target: 2;" in note for note in blended.notes)
    frames[1].write_csv(noise.paths[1])
    with pytest.raises(ValueError, match=r"member_0.csv has the column '2'.*--columns"):
        blend(noise.paths[:2], noise.target, **params)
    blended = blend(noise.paths[:2], noise.target, columns=["0", "1"], **params)
    assert blended.columns.tolist() == [0, 1]
    assert all(note.endswith("columns left out: 2") for note in blended.notes)
