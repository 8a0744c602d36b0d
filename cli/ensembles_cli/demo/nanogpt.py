"""A GPT that trains in a minute, as a plain PyTorch module.

The architecture follows Karpathy's nanoGPT, in the size gpt-nano of his minGPT: three
blocks, three heads, width 48.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Size(NamedTuple):
    """Size of a GPT."""

    n_tokens: int
    context: int = 64
    width: int = 48
    n_heads: int = 3
    n_blocks: int = 3


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.n_heads = size.n_heads
        self.input_projection = nn.Linear(size.width, 3 * size.width)
        self.output_projection = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend each position to those up to it; the result has the shape of ``x``."""
        query, key, value = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.input_projection(x).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        output: Tensor = self.output_projection(mixed.transpose(1, 2).flatten(-2))
        return output


class Block(nn.Module):
    """Pre-norm transformer block: attention and a two-layer MLP with residuals."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = Attention(size)
        self.mlp_norm = nn.LayerNorm(size.width)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(),
            nn.Linear(4 * size.width, size.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, in the shape of ``x``."""
        x = x + self.attention(self.attention_norm(x))
        mlp_output: Tensor = self.mlp(self.mlp_norm(x))
        return x + mlp_output


class GPT(nn.Module):
    """GPT language model with tied input and output embeddings."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.n_tokens, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.n_blocks)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.n_tokens, bias=False)
        self.head.weight = self.embedding.weight
        self.apply(draw_parameters)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (n_texts, length, n_tokens) for tokens (n_texts, length)."""
        positions = torch.arange(tokens.shape[1])
        x = self.blocks(self.embedding(tokens) + self.positions(positions))
        logits: Tensor = self.head(self.norm(x))
        return logits


def draw_parameters(module: nn.Module) -> None:
    """Initialize a layer as in GPT-2: standard deviation 0.02, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def next_token_loss(model: GPT, windows: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each token after the first of a window.

    Parameters
    ----------
    model : GPT
        Model that predicts the tokens.
    windows : tensor of shape (n_windows, length)
        Windows of tokens; ``length`` is at most the context plus one.
    """
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def window_losses(model: GPT, windows: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the tokens after the first of each window.

    Parameters
    ----------
    model : GPT
        Model that predicts the tokens.
    windows : tensor of shape (n_windows, length)
        Windows of tokens; ``length`` is at most the context plus one.

    Returns
    -------
    tensor of shape (n_windows,)
    """
    logits = model(windows[:, :-1])
    losses = functional.cross_entropy(
        logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(windows), -1).mean(dim=1)
