"""
Weights learned out of fold against soft voting
===============================================

``VotingClassifier`` counts every member equally, however bad it is. `EnsembleClassifier` learns the
weights from out-of-fold predictions: each member predicts samples that it was not fitted on.
"""

# %%
# Fit both
# --------
# The members are the same, and so is the interface.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensembles.predictions import EnsembleClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
members = [
    ("linear", linear),
    ("forest", RandomForestClassifier(random_state=0)),
    ("tree", DecisionTreeClassifier(min_samples_leaf=5, random_state=0)),
    ("bayes", GaussianNB()),
]
voting = VotingClassifier(members, voting="soft").fit(X_train, y_train)
ensemble = EnsembleClassifier(members).fit(X_train, y_train)

# %%
# Compare the log-loss
# --------------------
# ``oof_score_`` estimates the score of the ensemble without test data: the weights that predict
# a fold are learned on the other folds.

losses = {
    name: log_loss(y_test, member.predict_proba(X_test))
    for name, member in ensemble.named_estimators_.items()
}
losses["soft voting"] = log_loss(y_test, voting.predict_proba(X_test))
losses["EnsembleClassifier"] = log_loss(y_test, ensemble.predict_proba(X_test))
print(f"estimated: {-ensemble.oof_score_:.3f}")
print(f"on test data: {losses['EnsembleClassifier']:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=[3, 2])
colors = ["tab:gray"] * 4 + ["tab:blue"] * 2
left.barh(list(losses), list(losses.values()), color=colors)
left.bar_label(left.containers[0], fmt="%.2f", padding=3)
left.invert_yaxis()
left.margins(x=0.15)
left.set(xlabel="log-loss on test data", xscale="log")
right.barh([name for name, _ in members], ensemble.weights_, color="tab:blue")
right.invert_yaxis()
right.set(xlabel="learned weight")
plt.show()

# %%
# A member with zero weight does not predict, so it costs nothing after ``fit``.

for name, weight in zip(ensemble.named_estimators_, ensemble.weights_, strict=True):
    print(f"{name}: {weight:.2f}")
