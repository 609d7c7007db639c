"""Discrete processes: tokens that are lost, one by one, to a mask or to random tokens.

Every token on its own is kept with probability alpha(t) and is otherwise drawn anew from a fixed law pi:

    q(x_t | x0)  = alpha_t x0 + (1 - alpha_t) pi,          q(x_t | x_s) = alpha_t/alpha_s x_s + (1 - alpha_t/alpha_s) pi

(Austin et al. 2021, D3PM, in continuous time).  pi on an extra token gives masked (absorbing) diffusion; pi uniform
gives uniform diffusion; all else follows from pi.  Tokens are integers ``[B, ...]`` below the vocabulary, times are as
for media: ``[]``, ``[B]`` or ``[B, T]``, 0 clean and 1 noise.  A denoiser is ``(x_t, t) -> logits [B, ..., V]`` of each
clean token given all of x_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, pad

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, expand
from fromnoise.process.times import stratified

TokenDenoise = Callable[[Tensor, Tensor], Tensor]
Vocabulary = Annotated[int, Field(ge=2)]
Schedule = Literal["linear", "cosine"]
NEVER = 1e-30  # a probability that is taken to be none


class TokenProcess:
    """How many tokens are left at time t, and what the others become."""

    vocabulary: int
    schedule: Schedule

    @property
    def states(self) -> int:
        """How many values a noisy token can take."""
        raise NotImplementedError

    def noise(self, like: Tensor) -> Tensor:
        """pi ``[states]``, the law of a token of which nothing is left, on the device and in the dtype of ``like``."""
        raise NotImplementedError

    # ---- the clock --------------------------------------------------------------------------------

    def alpha(self, t: Tensor) -> Tensor:
        """The share of tokens that are kept: 1 - t, or with the cosine schedule 1 - sin(pi t / 2) of MaskGIT."""
        return 1 - t if self.schedule == "linear" else 2 * torch.sin(math.pi / 4 * (1 - t)).square()

    def lost(self, t: Tensor) -> Tensor:
        """1 - alpha, without cancellation near t = 0."""
        return t if self.schedule == "linear" else torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return -torch.ones_like(t) if self.schedule == "linear" else -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    # ---- forward and back -------------------------------------------------------------------------

    def marginal(self, probs: Tensor, t: Tensor) -> Tensor:
        """q(x_t) ``[B, ..., states]`` of tokens whose clean law is ``probs`` ``[B, ..., V]`` (one-hot: q(x_t | x0))."""
        t = expand(t, probs)
        return self.alpha(t) * self._as_states(probs) + self.lost(t) * self.noise(probs)

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t ``[B, ...]`` given x0 ``[B, ...]``."""
        u = torch.rand(x0.shape, generator=generator).to(x0.device)
        fresh = torch.multinomial(self.noise(torch.ones(())), x0.numel(), True, generator=generator).view(x0.shape)
        return torch.where(u < self.alpha(expand(t, x0)), x0, fresh.to(x0.device))

    def posterior(self, probs: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_s | x_t = x) ``[B, ..., states]`` for s < t, where each clean token has the law ``probs`` given x_t.

        q(x_s | x_t) = q(x_t | x_s) sum_v q(x_s | x0 = v) p(v | x_t) / q(x_t | x0 = v), by Bayes.  With one-hot
        ``probs`` it is q(x_s | x_t, x0).
        """
        s, t = (expand(time.to(probs), probs) for time in (s, t))
        pi, here = self.noise(probs), one_hot(x, self.states).to(probs)
        kept = self.alpha(t) / self.alpha(s)
        reached = kept * here + (1 - kept) * pi[x][..., None]
        share = self._over_evidence(probs, x, t)
        there = self.alpha(s) * self._as_states(share) + self.lost(s) * pi * share.sum(-1, keepdim=True)
        joint = reached * there
        return joint / joint.sum(-1, keepdim=True)

    # ---- the bound --------------------------------------------------------------------------------

    def loss(self, logits: Tensor, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """``[B, ...]``: what each token adds to the bound on -log p(x0), in nats per unit of t, at x_t = x.

        Its mean over t uniform and x_t ~ q(x_t | x0) is the negative ELBO in continuous time, which is -log p(x0)
        itself where the logits are exact.  With the ratios r(y) = q(y | x0) / q(x | x0), and s(y) their mean under
        the denoiser, it is  beta pi(x) sum_{y != x} [ s - r + r log(r / s) ],  beta = -alpha'/alpha
        (Lou et al. 2024, SEDD; Schiff et al. 2024, UDLM).
        """
        t = expand(t, logits)
        probs, clean = logits.softmax(-1), one_hot(x0, self.vocabulary).to(logits)
        s, r, away = (self._ratios(p, x, t) for p in (probs, clean, probs - clean))  # away = s - r, to full accuracy
        change = away / r.clamp(min=NEVER)
        log = torch.where(change.abs() < 0.5, torch.log1p(change.clamp(-0.5, 0.5)),
                          s.clamp(min=NEVER).log() - r.clamp(min=NEVER).log())
        others = 1 - one_hot(x, self.states).to(logits)
        rate = -self.alpha_dot(t) / self.alpha(t).clamp(min=TINY) * self.noise(logits)[x][..., None]
        return (rate * others * (away - r * log)).sum(-1)

    def step_loss(self, logits: Tensor, x0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """``[B, ...]``: KL(q(x_s | x_t = x, x0) || p(x_s | x_t = x)) of each token in nats, for a step from t to s.

        Summed over the steps of a grid from 1 to 0 and averaged over x_t ~ q(x_t | x0) it is D3PM's bound on -log p(x0)
        (Austin et al. 2021), whose last step, with s = 0, is -log p(x0 | x_t).
        """
        clean = one_hot(x0, self.vocabulary).to(logits)
        true, found = (self.posterior(probs, x, s, t) for probs in (clean, logits.softmax(-1)))
        log = true.clamp(min=NEVER).log() - found.clamp(min=NEVER).log()
        return (true * log - true + found).sum(-1)  # both sum to 1; so no state adds less than nothing

    def _ratios(self, probs: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """sum_v p(v) q(y | v) / q(x | v) for every state y."""
        share = self._over_evidence(probs, x, t)
        return self.alpha(t) * self._as_states(share) + self.lost(t) * self.noise(probs) * share.sum(-1, keepdim=True)

    def _over_evidence(self, probs: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """p(v) / q(x | x0 = v) ``[B, ..., V]``, nothing where x cannot come from v."""
        here = one_hot(x, self.states)[..., : self.vocabulary].to(probs)
        evidence = self.alpha(t) * here + self.lost(t) * self.noise(probs)[x][..., None]
        possible = evidence > 0
        # A denoiser that rules out the one token that is possible is overruled.
        sure = torch.where(possible.sum(-1, keepdim=True) == 1, probs.clamp(min=NEVER), probs)
        return torch.where(possible, sure / torch.where(possible, evidence, 1.0), 0.0)

    def _as_states(self, probs: Tensor) -> Tensor:
        """A law over the vocabulary as one over the states."""
        return pad(probs, (0, self.states - self.vocabulary))


@spec
class MaskedTokens(TokenProcess):
    """Tokens are lost to a mask, which is token ``vocabulary`` (absorbing D3PM; MaskGIT, MDLM, Shi et al. 2024)."""

    vocabulary: Vocabulary
    """How many clean tokens there are."""
    kind: Literal["masked"] = "masked"
    schedule: Schedule = "cosine"
    """How many tokens are left at time t: linear 1 - t, cosine 1 - sin(pi t / 2)."""

    @property
    def mask(self) -> int:
        return self.vocabulary

    @property
    def states(self) -> int:
        return self.vocabulary + 1

    def noise(self, like: Tensor) -> Tensor:
        return one_hot(torch.tensor(self.mask, device=like.device), self.states).to(like)

    def loss(self, logits: Tensor, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The general bound here is cross-entropy where x is masked, times -alpha'/(1 - alpha) (MDLM; Shi et al.)."""
        t = expand(t, x0)
        entropy = cross_entropy(logits.movedim(-1, 1), x0, reduction="none")
        return -self.alpha_dot(t) / self.lost(t).clamp(min=TINY) * entropy * (x == self.mask)


@spec
class UniformTokens(TokenProcess):
    """Tokens are lost to random tokens (uniform D3PM; SEDD): none is sure, and each can be mended later."""

    vocabulary: Vocabulary
    """How many tokens there are."""
    kind: Literal["uniform_tokens"] = "uniform_tokens"
    schedule: Schedule = "linear"
    """How many tokens are left at time t: linear 1 - t, cosine 1 - sin(pi t / 2)."""

    @property
    def states(self) -> int:
        return self.vocabulary

    def noise(self, like: Tensor) -> Tensor:
        return torch.full((self.states,), 1 / self.states, dtype=like.dtype, device=like.device)


Tokens = Annotated[MaskedTokens | UniformTokens, Field(discriminator="kind")]


def token_bound(process: TokenProcess, denoise: TokenDenoise, x0: Tensor, draws: int,
                generator: torch.Generator, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """(an upper bound on -log p(x0) ``[B]`` in nats, its standard error ``[B]``) from ``draws`` >= 2 times each.

    steps: the bound of ancestral sampling in so many even steps, which tends to that in continuous time, the default.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps should be at least 1 (got {steps})")
    if draws < 2:
        raise ValueError("a standard error needs at least two draws")
    found = []
    times = torch.stack([stratified(draws, generator) for _ in range(len(x0))], 1).to(x0.device)
    for t in times:
        if steps is not None:
            t = (t * steps).floor().clamp(max=steps - 1).add(1) / steps  # the ends of the steps, each as often
        x = process.corrupt(x0, t, generator)
        loss = process.loss(denoise(x, t), x0, x, t) if steps is None else steps * process.step_loss(
            denoise(x, t), x0, x, (t - 1 / steps).clamp(min=0), t)
        found.append(loss.flatten(1).sum(1))
    losses = torch.stack(found)
    return losses.mean(0), losses.std(0) / draws**0.5
