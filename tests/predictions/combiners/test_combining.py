"""What must hold of every combiner, read from the facts that it declares."""

from __future__ import annotations

import pickle
import tracemalloc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from scipy.stats import gmean, pmean, rankdata, trim_mean
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from ensembles._typing import Float64
from ensembles.predictions import EnsembleClassifier
from ensembles.predictions.combiners.accumulation import BLOCK
from ensembles.predictions.combiners.builtin import COMBINERS, resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner, ElementwiseCombiner
from ensembles.registry import register
from ensembles.rules.builtin import RULES
from ensembles.rules.elementwise import median
from ensembles.rules.spherical import slerp

WHOLE = [
    resolve_combiner(name)
    for name in RULES
    if name not in COMBINERS
    and RULES[name].is_elementwise
    and RULES[name].n_members is None
    and not RULES[name].weight_sum_matters
]
ALL = [*COMBINERS.values(), *WHOLE]
# What comes back from identical members is each of them.
NORMALISED = [c for c in ALL if c.name not in ("product", "vote", "borda", "rank_mean")]
RANKING = ("vote", "borda", "rank_mean", "quantile_mean")

each = pytest.mark.parametrize("combiner", ALL, ids=lambda c: c.name)
each_streaming = pytest.mark.parametrize(
    "combiner", COMBINERS.values(), ids=lambda c: c.name
)


def shares(n_members: int, n_rows: int = 7, n_columns: int = 3) -> Float64:
    rng = np.random.default_rng([n_members, n_rows, n_columns])
    return np.asarray(rng.dirichlet(np.ones(n_columns), (n_members, n_rows)))


def training_for(combiner: Combiner, n_members: int, n_columns: int = 3) -> Any:
    """What a ranked combiner needs beside its parameters."""
    if not combiner.needs_training_predictions:
        return {}
    return {"training": np.sort(shares(n_members, 20, n_columns), axis=1)}


def row_sums(answer: Float64) -> Float64:
    return np.asarray(answer.sum(axis=1))


@each
@given(order=st.permutations(range(4)))
def test_the_order_of_members_does_not_matter(
    combiner: Combiner, order: list[int]
) -> None:
    members, weights = shares(4), np.array([1.0, 2, 0.5, 3])
    params, moved = training_for(combiner, 4), {}
    if params:
        moved = {"training": params["training"][order]}
    found = combiner(members[order], weights[order], **moved)
    np.testing.assert_allclose(found, combiner(members, weights, **params), rtol=1e-13)


@each
@given(factor=st.floats(0.01, 100))
def test_scaling_all_weights_changes_nothing_unless_their_sum_counts(
    combiner: Combiner, factor: float
) -> None:
    members, weights = shares(3), np.array([1.0, 2, 0.5])
    params = training_for(combiner, 3)
    once = combiner(members, weights, **params)
    if combiner.weight_sum_matters:
        twice = combiner(members, 2 * weights, **params)
        squared = once**2 / row_sums(once**2)[:, None]
        np.testing.assert_allclose(twice, squared, rtol=1e-12)
    else:
        found = combiner(members, factor * weights, **params)
        np.testing.assert_allclose(found, once, rtol=1e-12)


@pytest.mark.parametrize("combiner", NORMALISED, ids=lambda c: c.name)
@given(
    one=arrays(np.float64, (5, 3), elements=st.floats(0.01, 1)),
    n_members=st.integers(1, 6),
)
def test_identical_members_are_a_fixed_point(
    combiner: Combiner, one: Float64, n_members: int
) -> None:
    one = np.sort(one / row_sums(one)[:, None], axis=1)
    found = combiner(np.array([one] * n_members))
    np.testing.assert_allclose(found, one, rtol=1e-13)


@each_streaming
@pytest.mark.parametrize("n_rows", [0, 1, BLOCK // 3 + 10])
def test_streaming_equals_stacked_and_block_by_block(
    combiner: Combiner, n_rows: int
) -> None:
    members, params = shares(3, n_rows), training_for(combiner, 3)
    stack_folds = combiner(members, [1, 2, 3], **params)
    given = np.array([1.0, 2, 3])
    found = combiner.function((member for member in members), given, **params)
    assert found.tobytes() == stack_folds.tobytes()
    rows = [
        combiner(members[:, i : i + 1], [1, 2, 3], **params) for i in (0, n_rows - 1)
    ]
    if n_rows:
        assert np.concatenate(rows).tobytes() == stack_folds[[0, -1]].tobytes()


@each_streaming
def test_a_member_is_let_go_before_the_next_is_asked_for(combiner: Combiner) -> None:
    alive: list[weakref.ref[Float64]] = []

    def said() -> Iterator[Float64]:
        for member in shares(4):
            assert not any(known() is not None for known in alive)
            fresh = member.copy()
            alive.append(weakref.ref(fresh))
            yield fresh
            del fresh

    combiner.function(said(), np.ones(4), **training_for(combiner, 4))
    assert len(alive) == 4


@pytest.mark.parametrize("n_columns", [10, 1000])
@each_streaming
def test_temporaries_are_the_running_sum_and_little_more(
    combiner: Combiner, n_columns: int
) -> None:
    n_members, n_rows = 12, 1_000_000 // n_columns
    one = shares(1, n_rows, n_columns)[0]
    params = training_for(combiner, n_members, n_columns)
    combiner.function([one[:1]] * n_members, np.ones(n_members), **params)
    tracemalloc.start()
    combiner.function(iter([one] * n_members), np.ones(n_members), **params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < one.nbytes + 6e6


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_members_of_any_dtype_are_combined_in_float64(
    combiner: Combiner, dtype: Any
) -> None:
    members = (100 * shares(3)).astype(dtype)
    params = training_for(combiner, 3)
    found = combiner(members, [0.1, 0.2, 0.3], **params)
    expected = combiner(members.astype(np.float64), [0.1, 0.2, 0.3], **params)
    assert found.dtype == np.float64
    assert found.tobytes() == expected.tobytes()


@each
def test_members_without_weight_do_not_count(combiner: Combiner) -> None:
    members, params = shares(3), training_for(combiner, 3)
    expected = combiner(
        members[[0, 2]],
        [1, 2],
        **{name: value[[0, 2]] for name, value in params.items()},
    )
    members[1] = np.nan
    found = combiner(members, [1, 0, 2], **params)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@each
def test_one_class_is_a_class(combiner: Combiner) -> None:
    found = combiner(np.ones((3, 4, 1)), **training_for(combiner, 3, 1))
    assert found.shape == (4, 1)
    assert np.isfinite(found).all()


@each
def test_nan_is_never_ranked_and_never_lost(combiner: Combiner) -> None:
    members, params = shares(3), training_for(combiner, 3)
    members[1, 4, 2] = np.nan
    if combiner.name in RANKING:
        with pytest.raises(
            ValueError,
            match=r"^predictions must not be NaN .*: members\[1\] contains NaN$",
        ):
            combiner(members, **params)
    else:
        missing = np.isnan(combiner(members, **params))
        assert missing[4, 2]
        assert not missing[np.arange(7) != 4].any()


@each
def test_what_is_wrong_with_members_is_reported(combiner: Combiner) -> None:
    params, one = training_for(combiner, 2), shares(1)[0]
    with pytest.raises(ValueError, match=r"found 1 members for 2 weights$"):
        combiner.function(iter([one]), np.ones(2), **params)
    with pytest.raises(ValueError, match=r"found 2 weights for more members$"):
        combiner.function(iter([one] * 3), np.ones(2), **params)
    expected = r"members\[0\] has \(7, 3\), members\[1\] has \(7, 1\)$"
    with pytest.raises(ValueError, match=expected):
        combiner.function(iter([one, one[:, :1]]), np.ones(2), **params)
    with pytest.raises(ValueError, match=r"members\[0\] has \(7,\)"):
        combiner.function(iter([one[:, 0]] * 2), np.ones(2), **params)
    with pytest.raises(ValueError, match=r"n_columns\), found \(7, 3\)$"):
        combiner(one, **params)
    with pytest.raises(ValueError, match=r"at least one"):
        combiner(np.ones((0, 7, 3)), **params)


@each
def test_what_is_wrong_with_parameters_is_told_before_members_come(
    combiner: Combiner,
) -> None:
    expected = rf"^rule '{combiner.name}' has no parameter 'q' \(known: "
    with pytest.raises(ValueError, match=expected):
        combiner.check(2, {"q": 1})
    combiner.check(2, combiner.params)
    for floor in (0, 1, -1, np.nan):
        if "floor" in combiner.params:
            with pytest.raises(
                ValueError, match=r"^floor must lie between 0 and 1, fou"
            ):
                combiner.check(2, {"floor": floor})


@each
def test_negative_weights_are_refused_unless_signed(combiner: Combiner) -> None:
    members, params = shares(2), training_for(combiner, 2)
    if combiner.signed:
        assert combiner(members, [2, -1], **params).shape == (7, 3)
    else:
        with pytest.raises(ValueError, match=r"must not be negative: weights\[1\]"):
            combiner(members, [2, -1], **params)


@each
def test_combiners_are_pickled(combiner: Combiner) -> None:
    found = pickle.loads(pickle.dumps(combiner))
    assert found.name == combiner.name
    members, params = shares(3), training_for(combiner, 3)
    assert found(members, **params).tobytes() == combiner(members, **params).tobytes()


# Second opinions.


@given(weights=st.lists(st.floats(0.1, 9), min_size=4, max_size=4))
def test_means_are_numpys_and_scipys(weights: list[float]) -> None:
    members = shares(4)
    wide = np.broadcast_to(np.array(weights)[:, None, None], members.shape)
    expected = np.average(members, axis=0, weights=weights)
    np.testing.assert_allclose(
        COMBINERS["mean"](members, weights), expected, rtol=1e-14
    )
    expected = gmean(members, axis=0, weights=wide)
    expected /= row_sums(expected)[:, None]
    found = COMBINERS["geometric_mean"](members, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    expected = pmean(members, 3, axis=0, weights=wide)
    found = resolve_combiner("power_mean")(members, weights, p=3)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_trimmed_means_and_medians_are_scipys_and_numpys() -> None:
    members = shares(10)
    found = resolve_combiner("trimmed_mean")(members, proportion=0.3)
    np.testing.assert_allclose(found, trim_mean(members, 0.3, axis=0), rtol=1e-14)
    expected = np.median(members, axis=0)
    np.testing.assert_allclose(
        resolve_combiner("median")(members), expected, rtol=1e-15
    )


def test_a_log_pool_whose_weights_sum_to_1_is_the_geometric_mean() -> None:
    members = shares(4)
    geometric, pool = COMBINERS["geometric_mean"], COMBINERS["log_pool"]
    np.testing.assert_allclose(pool(members), geometric(members), rtol=1e-14)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    found = pool(members, weights)
    np.testing.assert_allclose(found, geometric(members, weights), rtol=1e-13)


@given(weights=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_log_pool_of_two_classes_adds_weighted_logits(weights: list[float]) -> None:
    one = shares(3, n_columns=2)
    found = COMBINERS["log_pool"].function(one, np.array(weights))
    logits = np.tensordot(weights, logit(one[..., 1]), 1)
    np.testing.assert_allclose(found[:, 1], expit(logits), rtol=1e-9)
    np.testing.assert_allclose(row_sums(found), 1, rtol=1e-15)


def test_a_product_is_bayes_rule_for_independent_witnesses() -> None:
    members = shares(2)
    found = COMBINERS["product"](members)
    joint = members[0] * members[1]
    np.testing.assert_allclose(found, joint / row_sums(joint)[:, None], rtol=1e-14)


def test_pools_of_many_sure_members_neither_vanish_nor_overflow() -> None:
    members = np.tile([[1.0, 0.0]], (500, 1, 1))
    members[:200] = [[0.0, 1.0]]
    assert COMBINERS["product"](members).tolist() == [[1, 0]]
    half = COMBINERS["product"](np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    np.testing.assert_allclose(half, [[0.5, 0.5]], rtol=1e-14)


@pytest.mark.parametrize("name", ["product", "geometric_mean", "log_pool"])
def test_the_floor_is_the_least_probability_also_of_float32(name: str) -> None:
    members = np.array([[[1, 0]], [[0.5, 0.5]]], np.float32)
    found = COMBINERS[name](members, [1, 1], floor=1e-60)
    power = 0.5 if name == "geometric_mean" else 1
    assert found[0, 1] == pytest.approx(1e-60**power, rel=1e-12)
    with pytest.raises(ValueError, match=r"negative: members\[1\] has -0.5$"):
        COMBINERS[name](np.array([[[1, 0]], [[1.5, -0.5]]]))


@given(arrays(np.int8, (3, 6, 4), elements=st.integers(0, 3)))
def test_borda_counts_pairs(scores: Any) -> None:
    higher = scores[..., :, None] > scores[..., None, :]
    equal = scores[..., :, None] == scores[..., None, :]
    beaten = higher.sum(-1) + (equal.sum(-1) - 1) / 2
    expected = np.average(beaten, axis=0, weights=[1, 2, 3])
    np.testing.assert_allclose(COMBINERS["borda"](scores, [1, 2, 3]), expected)


def test_a_row_is_ranked_as_if_it_came_among_the_training_rows() -> None:
    training, members = shares(2, 30), shares(2, 5)
    members[:, 0] = training[:, 3]  # ties
    expected = np.zeros((5, 3))
    for row in range(5):
        for one, known in zip(members[:, row], training, strict=True):
            ranks = rankdata(np.vstack([known, one]), axis=0)[-1]
            expected[row] += (ranks - 1) / 30 / 2
    found = COMBINERS["rank_mean"](members, training=np.sort(training, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_training_ranks_must_fit_the_members() -> None:
    members, rank_mean = shares(2), COMBINERS["rank_mean"]
    training = np.sort(shares(2, 20), axis=1)
    with pytest.raises(ValueError, match=r"found 1 arrays for 2 members$"):
        rank_mean(members, training=training[:1])
    with pytest.raises(ValueError, match=r"members\[0\] has 3, training\[0\] has 2$"):
        rank_mean(members, training=training[:, :, :2])
    unsorted, missing = training[:, ::-1], training.copy()
    missing[1, -1, 0] = np.nan
    for wrong in (unsorted, missing, training[:, :0], training[:, :1] * np.nan):
        with pytest.raises(
            ValueError, match=r"sorted .*: training\[[01]\], of shape \("
        ):
            rank_mean(members, training=wrong)


def test_whole_weights_tie_exactly_and_the_first_class_wins() -> None:
    weights = [1, 2, 3, 1]  # thirds and sevenths have no exact sums
    votes = np.eye(4, dtype=bool)[[[1], [1], [0], [3]]]
    found = COMBINERS["vote"](votes, weights)
    assert found[0, 0] == found[0, 1]
    assert found.argmax() == 0


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float32])
def test_votes_may_come_as_truth_values_or_numbers(dtype: Any) -> None:
    members = shares(3)
    votes = members.argmax(-1)[..., None] == np.arange(3)
    expected = COMBINERS["vote"](members, [1, 2, 4])
    assert (
        COMBINERS["vote"](votes.astype(dtype), [1, 2, 4]).tolist() == expected.tolist()
    )


def test_a_row_without_any_vote_abstains() -> None:
    votes = np.array([[[False, False]], [[False, True]]])
    assert COMBINERS["vote"](votes, [3, 1]).tolist() == [[0, 0.25]]


@pytest.mark.parametrize("voting", ["soft", "hard"])
@pytest.mark.parametrize("weights", [None, [2, 1], [1, 2]], ids=str)
def test_voting_is_that_of_scikit_learn(
    voting: Any, weights: list[int] | None, rng: np.random.Generator
) -> None:
    X = rng.normal(size=(120, 4))
    y = (X[:, 0] + X[:, 1] ** 2 > 1).astype(int) + (X[:, 2] > 1)
    models = [LogisticRegression().fit(X, y), GaussianNB().fit(X, y)]
    named = [(str(i), FrozenEstimator(model)) for i, model in enumerate(models)]
    theirs = VotingClassifier(named, voting=voting, weights=weights).fit(X, y)
    if voting == "soft":
        ours = COMBINERS["mean"]([m.predict_proba(X) for m in models], weights)
        np.testing.assert_allclose(ours, theirs.predict_proba(X), rtol=1e-13)
    else:
        votes = [m.predict(X)[:, None] == np.arange(3) for m in models]
        ours = COMBINERS["vote"](votes, weights)
        assert ours.argmax(axis=1).tolist() == theirs.predict(X).tolist()


# Which combiner a name means.


def test_names_mean_combiners_first_then_rules_cut_by_element() -> None:
    assert resolve_combiner("mean") is COMBINERS["mean"]
    assert resolve_combiner("geometric_mean") is COMBINERS["geometric_mean"]
    assert isinstance(resolve_combiner("median"), ElementwiseCombiner)
    assert resolve_combiner("power_mean").params == {"p": 2.0}
    assert resolve_combiner("log_pool").params == {"floor": 1e-5, "temperature": 1.0}
    assert resolve_combiner("rank_mean").params == {}
    assert resolve_combiner(COMBINERS["vote"]) is COMBINERS["vote"]
    assert resolve_combiner(median)(shares(3)).shape == (7, 3)


def test_values_are_combined_by_the_rule_where_the_combiner_is_of_classes() -> None:
    assert resolve_combiner("mean", of="values") is COMBINERS["mean"]
    assert resolve_combiner("quantile_mean", of="values") is COMBINERS["quantile_mean"]
    geometric = resolve_combiner("geometric_mean", of="values")
    assert geometric.input == "values"
    np.testing.assert_allclose(geometric([[[2.0]], [[8.0]]]), [[4]], rtol=1e-15)
    with pytest.raises(ValueError, match=r"not be negative: members\[1\] has -8.0$"):
        geometric([[[2.0]], [[-8.0]]])


def test_what_is_no_combiner_is_reported() -> None:
    with pytest.raises(ValueError, match=r"^unknown rule 'maen'; did you mean 'mean'"):
        resolve_combiner("maen")
    with pytest.raises(ValueError, match=r"^unknown rule 'slerp'"):
        resolve_combiner("slerp")
    with pytest.raises(
        ValueError, match=r"^rule must be elementwise to combine .*: 'slerp'"
    ):
        resolve_combiner(slerp)
    with pytest.raises(TypeError, match=r"^rule must be a name, found 3"):
        resolve_combiner(3)  # type: ignore[arg-type]


def test_equal_weights_are_shares_where_their_sum_counts() -> None:
    assert COMBINERS["mean"].equal_weights(4).tolist() == [1] * 4
    assert COMBINERS["product"].equal_weights(4).tolist() == [1] * 4
    assert COMBINERS["log_pool"].equal_weights(4).tolist() == [0.25] * 4


def test_a_rule_of_ones_own_is_one_function(rng: np.random.Generator) -> None:
    def boldest(
        members: Iterable[Float64], weights: Float64, *, least: float = 0.0
    ) -> Float64:
        """Member that is surest of the row."""
        stack = np.array(list(members))
        surest = np.where(weights[:, None] > least, stack.max(axis=2), -1).argmax(
            axis=0
        )
        return np.asarray(stack[surest, np.arange(stack.shape[1])])

    register(COMBINERS)(boldest)
    try:
        assert resolve_combiner("boldest").params == {"least": 0.0}
        X = rng.normal(size=(60, 2))
        y = np.where(X[:, 0] > 0, "up", "down")
        members = [("lr", LogisticRegression()), ("nb", GaussianNB())]
        model = EnsembleClassifier(members, rule="boldest", weights=None).fit(X, y)
        said = np.array([m.predict_proba(X) for m in model.estimators_])
        expected = said[said.max(axis=2).argmax(axis=0), np.arange(60)]
        np.testing.assert_allclose(model.predict_proba(X), expected)
    finally:
        del COMBINERS["boldest"]
