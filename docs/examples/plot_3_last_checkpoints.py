"""
Average the last checkpoints of a training run
==============================================

Towards the end of a run with a constant learning rate, the parameters fluctuate around a minimum.
The average of the last checkpoints is closer to it than each of them.
"""

# %%
# A training run that saves checkpoints
# -------------------------------------
# A small network is trained with minibatches, and saves its parameters after every epoch.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from ensembles.checkpoints import average, get_state, set_state

X, y = load_digits(return_X_y=True)
X_train, X_valid, y_train, y_valid = train_test_split(
    X / 16, y, test_size=0.5, random_state=0
)

network = MLPClassifier(
    (32,),
    solver="sgd",
    learning_rate_init=0.1,
    batch_size=8,
    alpha=0.01,
    random_state=0,
)
run = Path(tempfile.mkdtemp())
losses = []
for epoch in range(16):
    network.partial_fit(X_train, y_train, classes=np.arange(10))
    path = run / f"checkpoint-{epoch}.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in get_state(network).items()}, path)
    losses.append(log_loss(y_valid, network.predict_proba(X_valid)))

# %%
# Average the last five
# ---------------------
# The command for the same result is ``ensemble avg run/ --last 5 -o averaged.safetensors``.

paths = [run / f"checkpoint-{epoch}.safetensors" for epoch in range(11, 16)]
set_state(network, average(paths))
loss = log_loss(y_valid, network.predict_proba(X_valid))
print(f"best checkpoint {min(losses):.3f}, average of the last five {loss:.3f}")

figure, axes = plt.subplots()
axes.plot(losses, "o-", color="tab:gray", label="checkpoints")
axes.plot(range(11, 16), losses[11:], "o", color="tab:blue", label="the last five")
axes.plot([15], [loss], "*", markersize=16, color="tab:red", label="their average")
axes.set(xlabel="epoch", ylabel="validation loss")
axes.legend()
plt.show()
