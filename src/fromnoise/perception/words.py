"""A feature network of one's own: fitted to say which words stand in the caption of a picture.

It needs nothing but captioned pictures, takes seconds, and has to see what captions speak of: colours, shapes, letters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.perception.features import Convolutions
from fromnoise.types import UserError

WIDTHS = (16, 32, 48)
RARE = 0.01  # share of captions below which a word is too rare to learn, and above one less this, too common
STEPS, BATCH = 300, 64


class WordFeatures(Convolutions):
    """Convolutions, each but the first at half the size of the one before, and a score for each word."""

    def __init__(self, channels: int, words: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = (channels, *WIDTHS[:-1])
            self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=1 if i == channels else 2, padding=1)
                                       for i, o in zip(before, WIDTHS, strict=True))
            self.head = nn.Linear(2 * WIDTHS[-1], words)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, words]``, from the mean and the largest of the last features."""
        last = self.maps(images)[-1]
        return self.head(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))


def words_in(caption: str) -> set[str]:
    """The words of a caption, in lower case."""
    return set(re.findall(r"\w+", caption.lower()))


def common_words(captions: Sequence[str]) -> list[str]:
    """The words that stand in some captions and not in others, often enough to be learned."""
    counts = Counter(word for caption in captions for word in words_in(caption))
    least = max(2.0, RARE * len(captions))
    return sorted(word for word, count in counts.items() if least <= count <= len(captions) - least)


def fit_words(images: Tensor, captions: Sequence[str], seed: int = 0, steps: int = STEPS) -> WordFeatures:
    """The network that says which of their common words stand in the captions of ``images`` ``[n, C, H, W]``.

    The same for the same seed.  UserError where no word tells the pictures apart.
    """
    words = common_words(captions)
    if not words:
        raise UserError("The perceptual distance cannot be learned from captions, since none of their words tells "
                        "pictures apart: choose random instead of captions.")
    net = WordFeatures(images.shape[1], len(words), seed)
    truth = torch.tensor([[word in found for word in words] for found in map(words_in, captions)]).float()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=random)
        loss = F.binary_cross_entropy_with_logits(net(images[chosen]), truth[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()
