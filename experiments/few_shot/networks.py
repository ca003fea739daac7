"""Networks of (x, y, shots) for the n examples of one task: they predict every y, and may look at the first ones.

Example i is predicted from its own x and, in networks that look at the support, from the examples before it, but never
from those beyond the first `shots`: the support is a sequence, and each query sees all of it and no other query.

All take x (n, D), y (n, C) and the number of support examples, and give predictions (n, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from agents.policy import orthogonal_linear
from agents.transformer import Block, Norm


class MLP(nn.Module):
    """Looks at x alone: what it knows of the task is in its parameters."""

    def __init__(self, sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers = [part for ends in pairwise(sizes) for part in (nn.Linear(*ends), activation())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, y: Tensor | None = None, shots: int = 0) -> Tensor:
        return self.layers(x)


class Windows(nn.Module):
    """A small convolutional network for square images of one channel: looks at x alone.

    The same features of every 3 x 3 window, the largest of each 2 x 2 neighbours, and a linear layer. As a product with
    gathered windows it is as fast with other weights for each task as with shared ones, which a convolution is not.
    """

    pixels: Tensor  # (windows, 9): which ones each window has

    def __init__(self, side: int, outputs: int, channels: int = 32) -> None:
        super().__init__()
        self.inner = side - 2
        pixels = torch.arange(side**2).view(side, side).unfold(0, 3, 1).unfold(1, 3, 1)
        self.register_buffer("pixels", pixels.reshape(self.inner**2, 9))
        self.first = nn.Linear(9, channels)
        self.last = nn.Linear(channels * (self.inner // 2) ** 2, outputs)

    def forward(self, x: Tensor, y: Tensor | None = None, shots: int = 0) -> Tensor:
        features = torch.relu(self.first(x[:, self.pixels]))
        blocks = features.unflatten(1, (self.inner // 2, 2, self.inner // 2, 2))
        return self.last(blocks.amax((2, 4)).flatten(1))


class Transformer(nn.Module):
    """The blocks of `agents.transformer` on tokens (x, previous x, previous y, first flag), as a policy's are.

    The tokens do not say where they stand: the queries see the support as a set.

    Args:
        inputs: D. outputs: C. width, layers, heads: of the blocks.
        gain: of x in the tokens. At 1, a long x, such as an image or a scaled one-hot, drowns y, and the network takes
            thousands of iterations before it looks at the support at all.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 32, layers: int = 2, heads: int = 2, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.gain = gain
        self.embed = nn.Sequential(
            orthogonal_linear(2 * inputs + outputs + 1, width), nn.ReLU(), orthogonal_linear(width, width)
        )
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = Norm(width)
        self.head = orthogonal_linear(width, outputs)

    def forward(self, x: Tensor, y: Tensor, shots: int) -> Tensor:
        x, position = self.gain * x, torch.arange(len(x))
        seen = position.clamp(max=shots)  # how many examples each one sees
        pair = torch.cat([x, y], -1)[(seen - 1).clamp(min=0)]
        first = (seen == 0)[:, None]
        hidden = self.embed(torch.cat([x, pair.masked_fill(first, 0.0), first.to(x.dtype)], -1))[None]
        visible = (position < seen[:, None]) | (position == position[:, None])
        for block in self.blocks:
            assert isinstance(block, Block)
            query, key, value = block.split(hidden)
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            hidden = block.merge(hidden, torch.softmax(scores.masked_fill(~visible, -math.inf), -1) @ value)
        return self.head(self.norm(hidden[0]))


class Prototypes(nn.Module):
    """Logits are minus the squared distances to each class's mean in the support, after an embedding.

    Snell et al. 2017, arXiv 1703.05175, eqs. 1 and 2. Without an embedding it is the nearest mean in the inputs.
    """

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, x: Tensor, y: Tensor, shots: int) -> Tensor:
        features, members = self.embed(x), y[:shots]
        means = members.mT @ features[:shots] / members.sum(0)[:, None]
        return -(features[:, None] - means).square().sum(-1)


class NearestNeighbour(nn.Module):
    """The y of the support example that is nearest in x."""

    def forward(self, x: Tensor, y: Tensor, shots: int) -> Tensor:
        return y[(x[:, None] - x[:shots]).square().sum(-1).argmin(-1)]
