"""
A soup of fine-tuned networks
=============================

Fine-tunes of one network can be averaged into a *model soup*: one network, as fast as each of
them. This example trains a network on handwritten digits, fine-tunes eight copies with different
seeds and learning rates, and compares three soups with the members.
"""

# %%
# Train the members
# -----------------
# All copies start from the same fitted network. Networks that are trained from different seeds
# have their hidden units in different orders, and cannot be averaged.

from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_rest, y_train, y_rest = train_test_split(
    X / 16, y, test_size=0.6, random_state=0
)
X_valid, X_test, y_valid, y_test = train_test_split(
    X_rest, y_rest, test_size=0.6, random_state=0
)

start = MLPClassifier((128,), solver="sgd", learning_rate_init=0.02, random_state=0)
for _ in range(20):
    start.partial_fit(X_train, y_train, classes=np.arange(10))

members = []
for seed in range(8):
    rng = np.random.default_rng(seed)
    member = deepcopy(start)
    optimizer = member._optimizer
    optimizer.learning_rate = optimizer.learning_rate_init = rng.uniform(0.05, 0.3)
    for _ in range(20):
        rows = rng.choice(len(X_train), int(0.3 * len(X_train)), replace=False)
        member.partial_fit(X_train[rows], y_train[rows])
    members.append(member)

# %%
# Average them
# ------------
# Without ``weights`` all members count equally. ``"greedy_soup"`` adds members from the best to
# the worst, and keeps each one that does not lower the score on the validation data,
# here the log-loss.

from ensembles.checkpoints import ModelSoup

uniform = ModelSoup(start, members).fit()
median = ModelSoup(start, members, rule="median").fit()
greedy = ModelSoup(start, members, weights="greedy_soup", scoring="neg_log_loss").fit(
    X_valid, y_valid
)
print("members in the greedy soup:", np.flatnonzero(greedy.weights_))

# %%
# Compare on test data
# --------------------
# The validation data chose the greedy soup, so only the test data compare it fairly. Two members
# were trained with a learning rate that is too high: they spoil the uniform soup, and the greedy
# soup leaves them out.


def accuracy(model):
    """Accuracy on the test data."""
    return accuracy_score(y_test, model.predict(X_test))


soups = {"uniform soup": uniform, "median soup": median, "greedy soup": greedy}
accuracies = [accuracy(member) for member in members]

figure, axes = plt.subplots()
axes.barh([f"member {n}" for n in range(8)], accuracies, color="tab:gray", alpha=0.6)
axes.barh(list(soups), [accuracy(soup) for soup in soups.values()])
axes.invert_yaxis()
axes.set(xlabel="accuracy on test data", xlim=(0.8, 1))
axes.bar_label(axes.containers[1], fmt="%.3f", padding=3)
axes.bar_label(axes.containers[0], fmt="%.3f", padding=3)
plt.show()
