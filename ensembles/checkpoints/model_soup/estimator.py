"""Model soups as scikit-learn estimators."""

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
from ensembles.checkpoints.parameters.template import with_base_first
from ensembles.selection.choose import Chosen
from ensembles.selection.table import named

N_EPOCHS = 5


class ModelSoup(Scoring):
    """Estimator whose parameters are a weighted combination of its members' parameters.

    Parameters
    ----------
    estimator : estimator, PyTorch module or FrozenEstimator
        Estimator that receives the combined parameters: a copy of it, or of the first
        member that is a fitted estimator of its type, with its settings.
    checkpoints : sequence, "epochs" or None, default=None
        The members: paths of checkpoints, fitted estimators or state dicts. With None,
        ``fit`` trains them: ``estimator`` is fitted once, unless it is frozen, and
        ``n_members`` copies continue from there in different sample orders. With
        "epochs", a single copy continues, and its state after every ``n_epochs`` passes
        is a member.
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a rule.
    weights : array-like of shape (n_members,), str or None, default=None
        Member weights; None weights all members equally. The name of a selection
        chooses the weights by their score on the data given to ``fit``, which must be
        unseen by the members: ``"greedy_soup"``, ``"greedy"``, ``"convex"``,
        ``"best"``, ``"top_k"``, ``"wise_ft"`` or ``"optuna"``. For PyTorch modules
        ``"convex"`` is the learned soup, optimized by gradient descent.
    base : path, fitted estimator, state dict or None, default=None
        Common ancestor of the fine-tuned members; required by ``weights="wise_ft"``,
        else None.
    params : dict or None, default=None
        Parameters of the rule and the selection, such as ``{"n_rounds": 20}``, and of
        the soup: ``n_epochs``, passes of further training, default 5; ``integers``,
        "first" or "max" to resolve integer tensors that differ; ``shared_init``, "warn"
        to average networks of different initializations; ``finish``, a callable that
        changes the estimator after each combination, e.g. to recompute BatchNorm
        statistics; ``on_error``, "skip" to continue if a scorer raises.
    n_members : int, default=5
        Number of members to train; ignored if ``checkpoints`` is a sequence.
    scoring : str, callable or None, default=None
        Score to maximize, as in scikit-learn; None is the estimator's ``score``. If
        set, given weights are scored too. A PyTorch module needs a callable
        ``(estimator, X, y) -> float``.
    cv : int, splitter, iterable of splits or None, default=None
        Splits of the samples; a score is the mean over the held-out sets. With
        checkpoints, None scores on all samples. If the soup trains its members, there
        must be exactly one split, and None holds out a fifth of the samples.
    device : str or None, default=None
        Device that a PyTorch module is moved to; None leaves it in place.
    n_jobs : int or None, default=None
        Number of members trained at the same time; None is 1, as in joblib.
    random_state : int, RandomState or None, default=None
        Seeds the training of the members, the held-out split and the selection; None
        draws new seeds in each fit.

    Attributes
    ----------
    estimator_ : object
        Fitted estimator with the combined parameters.
    weights_ : ndarray of shape (n_members,), or (n_members, n_layers)
        Member weights; one for each layer after ``"convex"`` with ``by="layer"``. After
        ``"wise_ft"`` their sum is alpha, and the base has the weight ``1 - alpha``.
    scores_ : ndarray of shape (n_members,) or None
        Score of each member alone; None if nothing was scored.
    best_index_ : int or None
        Index of the best single member; None if nothing was scored.
    soup_score_ : float or None
        Score of the combination; None if nothing was scored.
    base_score_ : float or None
        Score of the base; None without a base.
    history_ : tuple of Trial
        Weights and score of each step of the selection.
    classes_, n_features_in_, feature_names_in_
        Those of ``estimator_``, if it has them.

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
        """Read or train the members, choose their weights, and combine them.

        Parameters
        ----------
        X : array-like or sequence of shape (n_samples, ...), or None
            Samples. With ``checkpoints`` they are used only to score weights, and
            may be None if nothing is scored.
        y : array-like of shape (n_samples, ...) or None, default=None
            Targets; None if neither the estimator nor the scorer needs any.
        **params
            Keyword arguments of the estimator's ``fit`` if it trains the members; with
            metadata routing, of the splitter and the scorer too.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is invalid, the estimator cannot be averaged, or the members
            do not match it or each other.

        Warns
        -----
        UserWarning
            If the chosen weights do not beat the best member, or only one member could
            be trained.
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
        """Estimator with the combined parameters, combined again after `forget`.

        Raises
        ------
        ValueError
            If the checkpoints have changed since `fit`.
        """
        check_is_fitted(self)
        if self._estimator is None:
            given, labels, weights, order = self._again
            merged = merge(
                given._replace(members=with_base_first(*given.members)), labels
            )
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
        """Release the combined parameters until the next access of ``estimator_``.

        A pickle then contains ``checkpoints`` as given, such as paths, instead of the
        combined parameters.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the soup trained its members, or ``estimator_`` was modified.
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
        """Members in ``checkpoints``, after the base if there is one."""
        members = with_base_first(self.checkpoints, self.base)
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
        """Set the fitted attributes, with the entries of the base left out."""
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
