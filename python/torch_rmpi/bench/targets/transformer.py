"""A decoder like GPT-2's, whole or split over the ranks of a group, for the targets that are end to end.

Split (tensor parallelism as in Megatron-LM): each rank has some of the heads and some of the hidden units of each
block, and its part of the vocabulary. A block then takes two all-reduces, and the logits one all-gather.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

#: Keys and values of the positions so far, of each block: (batch, heads, longest, width of a head).
Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shape:
    """How large the whole model is."""

    vocabulary: int
    width: int
    heads: int
    layers: int
    #: Positions.
    longest: int

    @property
    def hidden(self) -> int:
        """Units of a block's feed-forward part."""
        return 4 * self.width


class Attention(nn.Module):
    """Causal self-attention with some of the heads; the sum over all parts is the whole's output."""

    def __init__(self, shape: Shape, parts: int) -> None:
        super().__init__()
        self.heads, self.width = shape.heads // parts, shape.width // shape.heads
        self.inputs = nn.Linear(shape.width, 3 * self.heads * self.width, bias=False)
        self.output = nn.Linear(self.heads * self.width, shape.width, bias=False)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None, position: int) -> Tensor:
        """(batch, length, width) to the same; `position` is that of the first, 0 if length is above 1."""
        batch, length, _ = x.shape
        inputs = self.inputs(x).view(batch, length, 3, self.heads, self.width)
        queries, keys, values = inputs.permute(2, 0, 3, 1, 4)
        if cache is not None:
            end = position + length
            cache[0][:, :, position:end], cache[1][:, :, position:end] = keys, values
            keys, values = cache[0][:, :, :end], cache[1][:, :, :end]
        mixed = scaled_dot_product_attention(queries, keys, values, is_causal=length > 1)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        return output


class Block(nn.Module):
    """Attention and feed-forward part."""

    def __init__(self, shape: Shape, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        parts = 1 if group is None else group.size()
        self.group = group
        self.before_attention = nn.LayerNorm(shape.width)
        self.attention = Attention(shape, parts)
        self.before_hidden = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.hidden // parts, bias=False)
        self.down = nn.Linear(shape.hidden // parts, shape.width, bias=False)

    def _sum(self, x: Tensor) -> Tensor:
        if self.group is not None:
            dist.all_reduce(x, group=self.group)
        return x

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None, position: int) -> Tensor:
        """As Attention.forward, but the whole output."""
        x = x + self._sum(self.attention(self.before_attention(x), cache, position))
        y: Tensor = self.down(gelu(self.up(self.before_hidden(x))))
        return x + self._sum(y)


class Transformer(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, shape: Shape, group: dist.ProcessGroup | None = None) -> None:
        """With a group: this rank's part; see `split`. Heads, hidden units and vocabulary divide by its size."""
        super().__init__()
        self.shape, self.group = shape, group
        parts = 1 if group is None else group.size()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.longest, shape.width)
        self.blocks = nn.ModuleList(Block(shape, group) for _ in range(shape.layers))
        self.last = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary // parts, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None, position: int = 0) -> Tensor:
        """With a cache: of tokens from `position` on, one at a time or, at 0, several; it takes them in."""
        length = tokens.shape[1]
        if cache is not None and position > 0 and length > 1:
            raise ValueError("after the first position the tokens come one at a time")
        x = self.tokens(tokens) + self.positions.weight[position : position + length]
        for number, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[number], position)
        logits: Tensor = self.head(self.last(x))
        if self.group is None:
            return logits
        batch, _, part = logits.shape
        # One after another along the first dimension: Gloo takes no other form.
        gathered = logits.new_empty((self.group.size() * batch, length, part))
        dist.all_gather_into_tensor(gathered, logits, group=self.group)
        return gathered.view(-1, batch, length, part).permute(1, 2, 0, 3).flatten(2)

    def cache(self, batch: int) -> Cache:
        """An empty cache for so many sequences."""
        parts = 1 if self.group is None else self.group.size()
        size = (batch, self.shape.heads // parts, self.shape.longest, self.shape.width // self.shape.heads)
        like = self.head.weight
        return [(like.new_zeros(size), like.new_zeros(size)) for _ in self.blocks]


def split(whole: Transformer, group: dist.ProcessGroup) -> Transformer:
    """This rank's part of a model that all ranks of the group have, alike."""
    part = Transformer(whole.shape, group).to(whole.head.weight.dtype)
    rank, parts = group.rank(), group.size()
    taken = {}
    for name, weight in whole.state_dict().items():
        if name.endswith("attention.inputs.weight"):
            # Rows of all queries, then of all keys, then of all values; by heads within.
            rows = weight.view(3, -1, whole.shape.width).chunk(parts, dim=1)[rank]
            taken[name] = rows.reshape(-1, whole.shape.width)
        elif name.endswith(("up.weight", "head.weight")):
            taken[name] = weight.chunk(parts, dim=0)[rank]
        elif name.endswith(("attention.output.weight", "down.weight")):
            taken[name] = weight.chunk(parts, dim=1)[rank]
        else:
            taken[name] = weight
    part.load_state_dict(taken)
    return part
