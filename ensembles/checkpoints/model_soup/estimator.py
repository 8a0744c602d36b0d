"""Model soups behind scikit-learn's interface."""

from __future__ import annotations

from typing import Any

from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from ensembles.checkpoints.model_soup.merged_estimator import (
    Combining,
    merge,
    named_rule,
)
from ensembles.checkpoints.model_soup.metadata import Scoring
from ensembles.checkpoints.model_soup.soup_score import (
    Part,
    SoupScore,
    Splits,
    held_out,
    parts_of,
)
from ensembles.checkpoints.model_soup.training import (
    Training,
    as_seed,
    branches,
    epochs,
)
from ensembles.checkpoints.model_soup.weight_selection import (
    chosen_for,
    divided,
    is_counted,
)
from ensembles.checkpoints.parameters.access import fingerprint
from ensembles.checkpoints.parameters.template import members_of
from ensembles.selection.choose import Chosen
from ensembles.selection.table import named

N_EPOCHS = 5


class ModelSoup(Scoring):
    """Estimator whose parameters are a combination of those of its members.

    Parameters
    ----------
    estimator : estimator, torch module or FrozenEstimator
        What the parameters are put into: a copy of it, or of the first of the members
        that are fitted estimators.
    checkpoints : sequence, "epochs" or None, default=None
        The members: paths of checkpoints, fitted estimators or state dicts. None makes
        them: ``estimator`` is fitted once, unless it is frozen, and ``n_members``
        copies go on from there, each in an order of its own. With "epochs" one goes
        on, and its last epochs are the members.
    rule : str or Rule, default="mean"
        How members are combined, a name of `ensembles.rules.RULES`.
    weights : array-like of shape (n_members,), str or None, default=None
        How much each member counts. None counts all alike. A name chooses the weights
        by the data given to ``fit``, which no member may have seen: ``"greedy_soup"``,
        ``"greedy"``, ``"convex"``, ``"best"``, ``"top_k"``, ``"wise_ft"`` or
        ``"optuna"``. ``"convex"`` of torch modules is the learned soup, by gradient.
    base : path, fitted estimator, state dict or None, default=None
        What the members were fine-tuned from, for ``weights="wise_ft"``.
    params : dict or None, default=None
        Of the rule and the selection, such as ``{"n_rounds": 20}``, and: ``n_epochs``,
        passes that members go on for, 5 unless given; ``integers``, "first" or "max"
        where they differ; ``shared_init``, "warn" to average networks of different
        initializations; ``finish``, a callable that changes the estimator after each
        combination, as for BatchNorm; ``on_error``, "skip" if a score may raise.
    n_members : int, default=5
        How many are made, where none are given.
    scoring : str, callable or None, default=None
        What selections maximise, as in scikit-learn; None is the estimator's ``score``.
        If it is given, weights that are not chosen are scored too. A torch module takes
        a callable ``(estimator, X, y) -> float``.
    cv : int, splitter, iterable of splits or None, default=None
        What a combination is scored on: the mean over the parts that are held out. None
        takes all samples. Where the soup makes its members it must hold out once, and
        None holds out a fifth.
    device : str or None, default=None
        Where a torch module is scored and stays; None leaves it where it is.
    n_jobs : int or None, default=None
        Members made at the same time.
    random_state : int, RandomState or None, default=None
        Draws seeds and orders of members, and what is held out and selected.

    Attributes
    ----------
    estimator_ : object
        With the combined parameters.
    weights_ : ndarray of shape (n_members,), or (n_members, n_layers)
        The latter for ``"convex"`` with ``by="layer"``. With ``"wise_ft"`` their sum is
        alpha, and what is left of 1 is the base's.
    scores_ : ndarray of shape (n_members,) or None
        Each member's own, where something was scored.
    best_index_ : int or None
        The member that scores best alone.
    soup_score_ : float or None
        Of the combination.
    base_score_ : float or None
        Of the base, where there is one.
    history_ : tuple of Trial
        Weights and score of each step of the selection.
    classes_, n_features_in_, feature_names_in_
        Of ``estimator_``, where it has them.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> soup = ModelSoup(SGDClassifier(), random_state=0).fit(X, y)
    >>> soup.weights_
    array([1., 1., 1., 1., 1.])
    >>> soup.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator: Any,
        checkpoints: Any = None,
        *,
        rule: Any = "mean",
        weights: Any = None,
        base: Any = None,
        params: Any = None,
        n_members: Any = 5,
        scoring: Any = None,
        cv: Any = None,
        device: Any = None,
        n_jobs: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.checkpoints = checkpoints
        self.rule = rule
        self.weights = weights
        self.base = base
        self.params = params
        self.n_members = n_members
        self.scoring = scoring
        self.cv = cv
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any = None, y: Any = None, **params: Any) -> ModelSoup:
        """Bring members in, or make them, choose their weights, and combine them.

        Parameters
        ----------
        X : array-like or sequence of shape (n_samples, ...), or None
            With ``checkpoints`` it is what weights are chosen by, and needed for that
            alone.
        y : array-like of shape (n_samples, ...) or None, default=None
        **params
            For the estimator's ``fit`` where members are made; with metadata routing,
            for the splitter and the scorer too.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is wrong, the estimator cannot be averaged, or members do
            not fit it, or each other.

        Warns
        -----
        UserWarning
            If chosen weights do not beat the best member, or there is only one.
        """
        rule = named_rule(self.rule)
        makes = self._makes_members()
        own, others = divided(self.params, rule, self.weights, makes=makes)
        routed, parts = self._routed(params), list[Part]()
        splits = Splits(self.cv, is_classifier(self), as_seed(self.random_state))
        if makes:
            training = Training(X, y, routed.estimator.fit)
            self._check_targets(y)
            if self._is_scored():
                training, parts = held_out(training, splits, routed)
            members = self._made(training, others)
        else:
            members = self._given()
            if self._is_scored():
                has_data = callable(self.scoring)
                parts = parts_of(X, y, splits, routed, has_data=has_data)
        on_error = others.pop("on_error", "stop")
        combining = self._combining(members, own, others)
        merged = merge(combining, y)
        score = SoupScore(merged, self._scorer(), parts, on_error) if parts else None
        chosen = chosen_for(
            self.weights, merged, score, rule, others, as_seed(self.random_state)
        )
        self._estimator = merged.put(chosen.weights)
        self._again: Any = None
        if not makes:
            given = combining._replace(members=(self.checkpoints, self.base))
            labels = getattr(self._estimator, "classes_", None)
            self._again = (given, labels, chosen.weights, merged.pool.order)
            self._print = fingerprint(self._estimator)
        self._keep(chosen, int(self.base is not None))
        return self

    @property
    def estimator_(self) -> Any:
        """Estimator with the combined parameters, combined again if forgotten.

        Raises
        ------
        ValueError
            If the checkpoints are no longer what they were.
        """
        check_is_fitted(self)
        if self._estimator is None:
            given, labels, weights, order = self._again
            merged = merge(given._replace(members=members_of(*given.members)), labels)
            merged.pool.order = list(order)
            found = merged.put(weights)
            if fingerprint(found) != self._print:
                raise ValueError(
                    "checkpoints must be those that were combined: they give other "
                    "parameters than the soup forgot; fit it again"
                )
            self._estimator = found
        return self._estimator

    def forget(self) -> ModelSoup:
        """Let the combined parameters go, until they are asked for.

        A pickle then holds ``checkpoints`` as given, such as paths, no parameters.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the soup made its members, or ``estimator_`` was changed.
        """
        check_is_fitted(self)
        if self._again is None:
            raise ValueError(
                "a soup that made its members cannot forget them; give it checkpoints"
            )
        if self._estimator is not None and fingerprint(self._estimator) != self._print:
            raise ValueError(
                "estimator_ must be as it was fitted to be forgotten, it was changed "
                "since; pickle the soup as it is"
            )
        self._estimator = None
        return self

    def _given(self) -> list[Any]:
        """Members that are given, the base first where there is one."""
        members = members_of(self.checkpoints, self.base)
        if len(members) == (self.base is not None):
            raise ValueError("there must be at least one member, checkpoints are empty")
        if (self.base is not None) != self._needs_base:
            raise ValueError(
                "base and weights='wise_ft' go together, found "
                f"base={self.base!r:.80} and weights={self.weights!r:.80}"
            )
        return members

    @property
    def _needs_base(self) -> bool:
        selection = named(self.weights)
        return selection is not None and selection.needs_base

    def _made(self, training: Training, params: dict[str, Any]) -> list[Any]:
        if self.base is not None or self._needs_base:
            raise ValueError("weights='wise_ft' needs checkpoints and their base")
        facts = {
            "n_members": self.n_members,
            "n_epochs": params.pop("n_epochs", N_EPOCHS),
            "random_state": self.random_state,
        }
        if self.checkpoints is None:
            return branches(self.estimator, training, n_jobs=self.n_jobs, **facts)
        return epochs(self.estimator, training, **facts)

    def _combining(
        self, members: list[Any], own: dict[str, Any], others: dict[str, Any]
    ) -> Combining:
        noun = "member {}" if self._makes_members() else "checkpoints[{}]"
        names = [noun.format(place) for place in range(len(members))]
        return Combining(
            self.estimator,
            members,
            names if self.base is None else ["base", *names[:-1]],
            self.rule,
            own,
            is_counted(self.weights),
            others.pop("integers", "error"),
            self.device,
            others.pop("shared_init", "warn" if self._needs_base else "error"),
            others.pop("finish", None),
        )

    def _keep(self, chosen: Chosen, first: int) -> None:
        """Attributes of the members alone, without the base."""
        self.weights_: Any = chosen.weights[first:]
        self.scores_: Any = None
        self.soup_score_ = chosen.score
        self.best_index_ = self.base_score_ = None
        if chosen.scores is not None:
            self.scores_ = chosen.scores[first:]
            self.best_index_ = int(self.scores_.argmax())
            self.base_score_ = float(chosen.scores[0]) if first else None
        self.history_ = tuple(
            trial._replace(weights=trial.weights[first:]) for trial in chosen.history
        )
