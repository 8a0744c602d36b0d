"""
What averaging brings, and what it costs
========================================

Eight networks are fine-tuned from one initialization. They can be averaged into a soup, which costs
as much as one of them, or be combined in an ensemble of predictions, which costs eight times as
much. `compare` scores all of them on the same data, with intervals.
"""

# %%
# Train the members
# -----------------
# Small convolutional networks on handwritten digits. The copies are fine-tuned with different
# sample orders and learning rates.

from copy import deepcopy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

X, y = load_digits(return_X_y=True)
order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
X = torch.tensor(X / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order]
y = torch.tensor(y)[order]
train, select, test = slice(0, 600), slice(600, 1200), slice(1200, None)


def fine_tune(network, n_epochs, learning_rate, seed):
    """Train a network on the training images."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9)
    for _ in range(n_epochs):
        for rows in torch.randperm(600, generator=generator).view(-1, 50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(X[rows]), y[rows]).backward()
            optimizer.step()
    return network


torch.manual_seed(0)
torch.set_num_threads(1)  # small networks are slower on several threads
start = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)),
)
fine_tune(start, 10, 0.02, seed=0)
members = [
    fine_tune(deepcopy(start), 10, 0.02 + 0.015 * seed, seed) for seed in range(8)
]

# %%
# Compare
# -------
# The second half of the held-out images is reported. The first half chooses the best single
# member, the members of the greedy soup and the weights of the fitted ensemble: on the reported
# images, the choice would look too good.

from ensembles.reports import compare

table = compare(members, X[test], y[test], X_select=X[select], y_select=y[select])
print(table)

# %%
# The gain of each model over the best single member, with its 95 % bootstrap interval. A model
# whose interval includes 0 may not be better.

figure, axes = plt.subplots(layout="constrained")
for position, row in enumerate(table.rows):
    color = {"member": "tab:gray", "soup": "tab:blue", "ensemble": "tab:orange"}[
        row.kind
    ]
    axes.plot(row.difference_interval, [position, position], color=color)
    axes.plot(row.difference, position, "o", color=color)
axes.axvline(0, color="black", linewidth=0.8)
axes.set_yticks(
    range(len(table.rows)),
    [f"{row.label}, cost {row.cost.n_models}" for row in table.rows],
)
axes.invert_yaxis()
axes.set_xlabel(f"accuracy against {table.reference}")
plt.show()
