"""What a prediction costs."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from ensembles.reports.cost import Cost, count_flops, measure_cost, total_cost

X = np.random.default_rng(0).normal(size=(30, 4))
Y = np.arange(30) % 3


def test_a_multilayer_perceptron_multiplies_by_its_matrices() -> None:
    model = MLPClassifier((5,), max_iter=300, tol=1).fit(X, Y)
    cost = measure_cost(model, lambda: model.predict(X), 30, 3)
    assert cost.parameters == 4 * 5 + 5 + 5 * 3 + 3
    assert cost.n_bytes == 8 * cost.parameters
    assert cost.flops == 2 * (4 * 5 + 5 * 3)
    assert cost.peak_bytes is None


def test_a_pipeline_costs_its_steps() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    cost = measure_cost(model, lambda: model.predict(X), 30, 1)
    assert cost.flops == 2 * 4 * 3
    assert cost.parameters == 4 * 3 + 3 + 3 * 4


@pytest.mark.parametrize("model", [DecisionTreeClassifier(), GaussianNB()])
def test_unknown_operations_are_none(model: object) -> None:
    assert measure_cost(model, lambda: None, 30, 1).flops is None


def test_the_time_is_the_median_for_each_prediction() -> None:
    waits = iter([0.05, 0.0, 0.02, 0.0])  # the first call warms up

    def predict() -> None:
        time.sleep(next(waits))

    cost = measure_cost(DecisionTreeClassifier(), predict, 10, 3)
    assert cost.seconds is not None
    assert cost.seconds < 0.001
    assert cost.seconds_high is not None
    assert cost.seconds_high * 10 >= 0.01


def test_an_ensemble_costs_the_sum_of_its_members() -> None:
    part = Cost(parameters=10, n_bytes=40, flops=None, seconds=0.5)
    total = total_cost([part, part])
    assert (total.n_models, total.parameters, total.n_bytes) == (2, 20, 80)
    assert (total.flops, total.seconds) == (None, 1.0)


def test_convolutions_are_counted() -> None:
    conv, images = nn.Conv2d(2, 3, 3), torch.zeros(5, 2, 8, 8)
    assert count_flops(lambda: conv(images)) == 5 * 2 * (3 * 6 * 6) * (2 * 3 * 3)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attention_on_a_cpu_is_counted(context: type) -> None:
    """Public reports: it counts as 0, and everything does in inference mode."""
    query = torch.zeros(1, 2, 7, 4)

    def attend() -> None:
        with context():
            nn.functional.scaled_dot_product_attention(query, query, query)

    assert count_flops(attend) == 2 * (2 * 7 * 7 * 4) * 2


def test_fused_encoder_layers_are_counted() -> None:
    """Public report: layers of nn.TransformerEncoder count as 0 without gradients."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    texts = torch.zeros(1, 5, 8)

    def encode() -> None:
        with torch.no_grad():
            layer(texts)

    projections, feed_forward = 4 * 2 * 5 * 8 * 8, 2 * 2 * 5 * 8 * 16
    assert count_flops(encode) == projections + feed_forward + 2 * 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()
