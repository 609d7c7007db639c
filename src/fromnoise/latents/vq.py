"""Vector quantisation (van den Oord et al. 2017; VQ-GAN, Esser et al. 2021): every latent is one of K learned vectors.

    k = argmin_j |z - e_j|        loss + |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2        sg: no gradient

With ``learned`` "average" the second term gives way to a running average (appendix A.1): an entry moves to the mean of
the latents that chose it, by the share of its usage that is new.  Entries that hardly anybody chooses are put where a
latent is (Dhariwal et al. 2020, Jukebox), which is also how a fresh codebook comes to lie among the latents.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.latents.pictures import Count, Mean, Std, Widths, check_statistics, check_widths
from fromnoise.latents.quantised import QuantisedLatents, Quantiser, check_attended, closest, networks

Level = Annotated[int, Field(ge=0)]


@spec
class VQ:
    """A vector-quantised autoencoder over GroupNorm residual blocks."""

    kind: Literal["vq"] = "vq"
    codebook: Annotated[int, Field(ge=2)] = 8192
    """Entries of the codebook."""
    channels: Count = 3
    """Width of an entry, which is channels of the latents."""
    inner: Count | None = None
    """Features between the networks and the codebook, from and to which 1x1 convolutions lead; by default channels."""
    widths: Widths = (128, 256, 512)
    """Features of each level; every level but the last halves the picture."""
    decoder_widths: Widths | None = None
    """Those of the decoder, also from the picture inwards; by default the encoder's."""
    depth: Count = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    groups: Count = 32
    """Groups of the normalisation."""
    attention: bool = True
    """Whether there is attention inside the innermost level."""
    attended: tuple[Level, ...] = ()
    """Levels, from the picture inwards, each of whose blocks is followed by attention too."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """Weight of what keeps latents near their entries (beta)."""
    learned: Literal["gradient", "average"] = "gradient"
    """Whether entries follow their latents by gradient, or by a running average."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """How much of the running averages of usage and entries is kept at each pass."""
    restart: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """An entry used less than this share of even use, on average, is put at a latent of the pass; 0 for never."""
    unit: bool = False
    """Latents and entries are of unit length, so that only directions tell entries apart (Yu et al. 2021)."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
    """What they are then divided by."""

    def __post_init__(self):
        check_widths(self.groups, self.widths, self.decoder_widths)
        check_statistics(self.channels, self.mean, self.std)
        check_attended(self.attended, len(self.widths))

    def build(self, channels: int) -> VQLatents:
        """The autoencoder of media with ``channels``."""
        return VQLatents(self, channels)


class VQLatents(QuantisedLatents):
    """Latents with a learned codebook."""

    def __init__(self, spec: VQ, channels: int):
        inner = spec.inner or spec.channels
        parts = networks(channels, inner, spec.widths, spec.decoder_widths, spec.depth, spec.groups, spec.attention,
                         spec.attended)
        super().__init__(*parts, Codebook(spec), 2 ** (len(spec.widths) - 1), inner, spec.channels, spec.mean, spec.std)
        self.spec = spec


class Codebook(Quantiser):
    """K learned entries ``[K, c]``, and how much each has been used of late, 1 for even use."""

    def __init__(self, spec: VQ):
        super().__init__()
        self.spec, self.size = spec, spec.codebook
        bound = 1.0 if spec.unit else 1 / spec.codebook
        start = torch.empty(spec.codebook, spec.channels).uniform_(-bound, bound)
        # What no optimiser moves is a parameter too: it is saved and averaged as all weights are.
        self.entries = nn.Parameter(start, requires_grad=spec.learned == "gradient")
        self.usage = nn.Parameter(torch.zeros(spec.codebook), requires_grad=False)

    def confined(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.spec.unit else x

    def table(self) -> Tensor:
        """The entries as they are compared and looked up."""
        return self.confined(self.entries)

    def nearest(self, raw: Tensor) -> Tensor:
        return closest(raw.detach().flatten(0, -2), self.table().detach()).view(raw.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.table())

    def penalties(self, raw: Tensor, entries: Tensor) -> dict[str, Tensor]:
        found = {"commitment": self.spec.commitment * F.mse_loss(raw, entries.detach())}
        if self.spec.learned == "gradient":
            found["codebook"] = F.mse_loss(entries, raw.detach())
        return found

    @torch.no_grad()
    def learn(self, raw: Tensor, codes: Tensor, noise: Tensor) -> None:
        raw, codes, noise = raw.flatten(0, -2), codes.flatten(), noise.flatten(0, -2)
        count = torch.bincount(codes, minlength=self.size).to(raw)
        even = len(codes) / self.size
        self.usage.lerp_((count / even).to(self.usage), 1 - self.spec.decay)
        if self.spec.learned == "average":
            total = torch.zeros_like(self.entries).index_add_(0, codes, raw)
            mean = self.confined(total / count.clamp(min=1)[:, None])
            new = (1 - self.spec.decay) * count / even / self.usage.clamp(min=1e-12)  # the share of usage that is new
            self.entries.copy_(self.confined(torch.lerp(self.entries, mean, new[:, None])))
        if self.spec.restart:
            self._restart(raw, noise)

    def _restart(self, raw: Tensor, noise: Tensor) -> None:
        """Unused entries to places in the order of their noise, as many as there are places."""
        unused = (self.usage < self.spec.restart).nonzero()[:, 0][: len(raw)]
        places = noise[:, 0].argsort()[: len(unused)]
        self.entries[unused], self.usage[unused] = raw[places].to(self.entries), 1.0
