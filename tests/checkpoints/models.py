"""Tiny networks of every kind that people average."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn


def cnn() -> nn.Module:
    """Convolutions and BatchNorm, whose count of batches is an integer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


class Tagger(nn.Module):
    """An LSTM over embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(words))
        return torch.as_tensor(out)


class Translator(nn.Module):
    """An encoder and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, dropout=0.0)

    def forward(self, words: Tensor) -> Tensor:
        embedded = self.embedding(words)
        return torch.as_tensor(self.transformer(embedded, embedded))


class TiedGPT(nn.Module):
    """A language model that reads and writes words by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.lm_head = nn.Linear(8, 7, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        hidden = self.block(self.embedding(words), src_mask=mask, is_causal=True)
        return torch.as_tensor(self.lm_head(hidden))


class MixtureOfExperts(nn.Module):
    """Two experts and a router between them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 2)
        self.experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        found = torch.stack([expert(x) for expert in self.experts], -1)
        return torch.as_tensor((found * share[..., None, :]).sum(-1))


def generator() -> nn.Module:
    """What a GAN draws with."""
    return nn.Sequential(
        nn.ConvTranspose2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 1, 3)),
        nn.Tanh(),
    )


def autoencoder() -> nn.Module:
    """Down to two numbers and up again."""
    return nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 6))


KINDS = {
    "cnn": (cnn, (4, 1, 6, 6)),
    "lstm": (Tagger, None),
    "encoder-decoder": (Translator, None),
    "tied GPT": (TiedGPT, None),
    "mixture of experts": (MixtureOfExperts, (4, 6)),
    "GAN generator": (generator, (4, 6, 1, 1)),
    "autoencoder": (autoencoder, (4, 6)),
}


def example(kind: str, seed: int = 0) -> Tensor:
    """An input that a kind of network takes."""
    numbers = torch.Generator().manual_seed(seed)
    shape = KINDS[kind][1]
    if shape is None:
        return torch.randint(7, (4, 5), generator=numbers)
    return torch.randn(shape, generator=numbers)


def snapshots(kind: str, n_members: int = 3) -> list[nn.Module]:
    """Networks along one short training run, the later the longer trained."""
    return copy.deepcopy(_trained(kind, n_members))


@cache
def _trained(kind: str, n_members: int) -> list[nn.Module]:
    found = []
    for steps in range(1, n_members + 1):
        torch.manual_seed(0)
        model = KINDS[kind][0]()
        model(example(kind))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for step in range(steps):
            optimizer.zero_grad()
            out = model(example(kind, seed=step))
            (out**2).mean().backward()
            optimizer.step()
        found.append(model)
    return found
