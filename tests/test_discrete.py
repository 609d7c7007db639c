"""Discrete processes on a law of two tokens, small enough that everything can be enumerated."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import one_hot

from fromnoise.process import (
    MaskedTokens,
    TokenProcess,
    UniformTokens,
    ancestral,
    by_confidence,
    token_bound,
    token_samplers,
)

V = 3
PROCESSES = [kind(vocabulary=V, schedule=schedule) for kind in (MaskedTokens, UniformTokens)
             for schedule in ("linear", "cosine")]
IDS = [f"{p.kind}-{p.schedule}" for p in PROCESSES]
double = {"dtype": torch.float64}


def law(tokens: int) -> torch.Tensor:
    """A joint law ``[V, ..., V]`` of dependent tokens."""
    p = torch.rand((V,) * tokens, generator=torch.Generator().manual_seed(4), **double) ** 3 + 0.01
    return p / p.sum()


def words(tokens: int, states: int = V) -> torch.Tensor:
    """Every sequence ``[states^tokens, tokens]``."""
    return torch.tensor(list(itertools.product(range(states), repeat=tokens)))


class Exact:
    """p(x0_i | x_t) by enumeration: the perfect denoiser of ``law(tokens)``."""

    def __init__(self, process: TokenProcess, tokens: int):
        self.process, self.tokens = process, tokens
        self.p, self.words = law(tokens).flatten(), words(tokens)

    def chance(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """q(x_t = x | x0 = every word) ``[B, words]``."""
        marginal = self.process.marginal(one_hot(self.words, V).double(), t.double())  # [words, tokens, states]
        return torch.stack([marginal[:, i, x[:, i]].T for i in range(self.tokens)]).prod(0)

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        joint = self.chance(x, t.flatten()[0]) * self.p
        joint = joint / joint.sum(1, keepdim=True)
        return torch.einsum("bw,wiv->biv", joint, one_hot(self.words, V).double()).clamp(min=1e-300).log()


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_schedules_and_their_derivatives(process):
    t = torch.linspace(0, 1, 41, **double)
    torch.testing.assert_close(process.alpha(t), 1 - process.lost(t))
    assert process.alpha(torch.ones(())) == 0
    assert process.lost(torch.zeros(())) == 0
    t = t[1:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(process.alpha(t).sum(), t)
    torch.testing.assert_close(process.alpha_dot(t.detach()), slope)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_corruption_has_the_marginals(process):
    count, t = 300_000, torch.tensor(0.4)
    x0 = torch.arange(V).repeat(count // V)
    x = process.corrupt(x0, t, torch.Generator().manual_seed(1))
    for v in range(V):
        want = process.marginal(one_hot(torch.tensor([v]), V).double(), t.double())[0]
        found = torch.bincount(x[x0 == v], minlength=process.states)
        assert not bool(found[want == 0].any())
        assert chisquare(found[want > 0], want[want > 0] * int(found.sum())).pvalue > 1e-4
    assert torch.equal(process.corrupt(x0, torch.zeros(())), x0)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_posterior_is_bayes_rule(process):
    """By enumeration of x0 and x_s on one token with a clean law p: q(x_s | x_t) from the joint."""
    s, t, p, S = torch.tensor(0.35, **double), torch.tensor(0.8, **double), law(1), process.states
    pi, kept = process.noise(p), process.alpha(t) / process.alpha(s)
    to_s = process.marginal(torch.eye(V, **double), s)
    step = kept * torch.eye(S, **double) + (1 - kept) * pi  # q(x_t | x_s)
    torch.testing.assert_close(to_s @ step, process.marginal(torch.eye(V, **double), t))
    joint = torch.einsum("v,vj,jk->vjk", p, to_s, step)  # x0, x_s, x_t
    evidence = joint.sum(1) / joint.sum((0, 1))  # p(x0 | x_t)
    want = joint.sum(0) / joint.sum((0, 1))
    found = process.posterior(evidence.T, torch.arange(S), s, t)
    torch.testing.assert_close(found, want.T)
    for v in range(V):
        possible = joint[v].sum(0) > 0
        given = process.posterior(one_hot(torch.full((S,), v), V).double(), torch.arange(S), s, t)
        torch.testing.assert_close(given[possible], (joint[v] / joint[v].sum(0)).T[possible])


def bound_by_quadrature(process: TokenProcess, denoise, x0: torch.Tensor, tokens: int, nodes: int = 60) -> float:
    """The integral over t of the expected loss of the word ``x0``, over every x_t, by Gauss and Legendre."""
    from numpy.polynomial.legendre import leggauss

    x, exact, total = words(tokens, process.states), Exact(process, tokens), 0.0
    which = int((exact.words == x0).all(1).nonzero())
    for node, weight in zip(*leggauss(nodes), strict=True):
        u = (node + 1) / 2
        t = torch.tensor(u**3, **double)  # dense near t = 0, where the integrand has a logarithm
        chance = exact.chance(x, t)[:, which]
        loss = process.loss(denoise(x, t), x0.expand(len(x), -1), x, t).sum(1)
        there = chance > 0
        total += weight / 2 * 3 * u**2 * float((chance[there] * loss[there]).sum())
    return total


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_bound_of_the_exact_denoiser_is_the_likelihood(process, tokens):
    exact = Exact(process, tokens)
    for word in exact.words[::2]:
        want = -math.log(float(law(tokens)[tuple(word)]))
        assert bound_by_quadrature(process, exact, word, tokens) == pytest.approx(want, abs=2e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_worse_denoiser_has_a_worse_bound(process):
    """In expectation over the data, since it bounds -E log p from above for every denoiser."""
    exact, p = Exact(process, 2), law(2).flatten()

    def worse(x, t):
        return 0.6 * exact(x, t).clamp(min=-30)

    mean = sum(float(q) * bound_by_quadrature(process, worse, w, 2, 30) for q, w in zip(p, exact.words, strict=True))
    assert mean > float(-(p * p.log()).sum()) + 0.02


def test_masked_cross_entropy_equals_the_general_bound():
    for schedule in ("linear", "cosine"):
        process = MaskedTokens(vocabulary=5, schedule=schedule)
        x0, t = torch.randint(5, (64, 7)), torch.rand(64, **double) * 0.98 + 0.01
        x, logits = process.corrupt(x0, t), 3 * torch.randn(64, 7, 5, **double)
        torch.testing.assert_close(process.loss(logits, x0, x, t), TokenProcess.loss(process, logits, x0, x, t))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_losses_are_finite_in_float32_with_finite_gradients(process):
    x0, t = torch.randint(V, (7, 4, 3)), torch.tensor([0, 1e-6, 1e-3, 0.5, 0.999, 1 - 1e-6, 1])
    x = process.corrupt(x0, t)
    for scale in (1.0, 60.0):
        logits = (scale * torch.randn(7, 4, 3, V)).requires_grad_()
        loss = process.loss(logits, x0, x, t)
        assert loss.shape == x0.shape
        assert bool(torch.isfinite(loss).all())
        assert float(loss.detach().min()) > -1e-2
        loss.sum().backward()
        assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_estimated_bound_is_within_its_error(process):
    exact, count = Exact(process, 2), 400

    def denoise(x, t):
        return torch.cat([exact(row[None], time) for row, time in zip(x, t, strict=True)])

    x0 = torch.tensor([[1, 2]]).expand(count, -1)
    nats, error = token_bound(process, denoise, x0, 8, torch.Generator().manual_seed(0))
    want = -math.log(float(law(2)[1, 2]))
    assert abs(float(nats.mean()) - want) < 4 * float(nats.std()) / count**0.5
    assert float(error.mean()) > 0
    with pytest.raises(ValueError, match="at least two"):
        token_bound(process, denoise, x0, 1, torch.Generator())


# ---- the bound of a number of steps -----------------------------------------------------------------------


def bound_by_steps(process: TokenProcess, denoise, x0: torch.Tensor, steps: int) -> float:
    """The mean of ``step_loss`` over every x_t, summed over the steps."""
    x, exact, total = words(len(x0), process.states), Exact(process, len(x0)), 0.0
    which = int((exact.words == x0).all(1).nonzero())
    for k in range(1, steps + 1):
        s, t = (torch.tensor(i / steps, **double) for i in (k - 1, k))
        chance, there = exact.chance(x, t)[:, which], exact.chance(x, t)[:, which] > 0
        loss = process.step_loss(denoise(x, t), x0.expand(len(x), -1), x, s, t).sum(1)
        total += float((chance[there] * loss[there]).sum())
    return total


def bound_by_trajectories(process: TokenProcess, denoise, x0: torch.Tensor, steps: int) -> float:
    """E log q(x_1 .. x_T | x0) / p(x_0 .. x_T) over every trajectory of the chain, forward and back: brute force."""
    S, tokens = process.states, len(x0)
    every, start = words(tokens, S), torch.zeros(S**tokens, **double)
    index = (every * S ** torch.arange(tokens - 1, -1, -1)).sum(1)
    start[int(index[(every == x0).all(1)])] = 1
    pi, grid = process.noise(torch.ones((), **double)), torch.arange(steps + 1, **double) / steps
    log_q, log_p, prob = torch.zeros((), **double), torch.zeros((), **double), start  # over (x_0, x_1, .. x_k)
    for s, t in itertools.pairwise(grid):
        kept = process.alpha(t) / process.alpha(s)
        step = kept * torch.eye(S, **double) + (1 - kept) * pi
        forward = torch.stack([step[every[:, i]][:, every[:, i]] for i in range(tokens)]).prod(0)  # [x_s, x_t]
        back = process.posterior(denoise(every, t).softmax(-1), every, s, t)  # [x_t, tokens, S]
        reverse = torch.stack([back[:, i][:, every[:, i]] for i in range(tokens)]).prod(0).T  # [x_s, x_t]
        prob = prob[..., None] * forward
        log_q = log_q[..., None] + forward.clamp(min=1e-300).log()
        log_p = log_p[..., None] + reverse.clamp(min=1e-300).log()
    prior = torch.stack([pi[every[:, i]] for i in range(tokens)]).prod(0)
    log_p = log_p + prior.clamp(min=1e-300).log()
    return float(torch.where(prob > 0, prob * (log_q - log_p), 0.0).sum())


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_bound_of_steps_is_that_of_all_trajectories(process, steps):
    exact = Exact(process, 2)

    def worse(x, t):
        return 0.6 * exact(x, t).clamp(min=-30)

    for word in exact.words[::4]:
        want = bound_by_trajectories(process, worse, word, steps)
        assert bound_by_steps(process, worse, word, steps) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_one_token_is_bounded_exactly_in_any_number_of_steps(process):
    exact = Exact(process, 1)
    for word, steps in itertools.product(exact.words, (1, 2, 7)):
        assert bound_by_steps(process, exact, word, steps) == pytest.approx(-math.log(float(law(1)[word])), rel=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_bound_of_steps_falls_to_that_of_continuous_time(process):
    """In expectation over the data, for the exact denoiser and for a worse one: half the gap in twice the steps."""
    exact, p = Exact(process, 2), law(2).flatten()

    def worse(x, t):
        return exact(x, t) + torch.tensor([0.6, -0.4, 0.0], **double)

    for denoise in (exact, worse):
        def mean(bound, denoise=denoise):
            return sum(float(q) * bound(denoise, w) for q, w in zip(p, exact.words, strict=True))

        limit = mean(lambda d, w: bound_by_quadrature(process, d, w, 2, 60))
        gaps = [mean(lambda d, w, n=n: bound_by_steps(process, d, w, n)) - limit for n in (32, 64)]
        assert gaps[1] > 0 or denoise is worse
        assert abs(gaps[1]) < 0.02
        assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_estimated_bound_of_steps_is_within_its_error(process):
    exact, count, word = Exact(process, 2), 400, torch.tensor([1, 2])

    def denoise(x, t):
        return torch.cat([exact(row[None], time) for row, time in zip(x, t, strict=True)])

    nats, _ = token_bound(process, denoise, word.expand(count, -1), 6, torch.Generator().manual_seed(0), steps=3)
    assert abs(float(nats.mean()) - bound_by_steps(process, exact, word, 3)) < 4 * float(nats.std()) / count**0.5
    with pytest.raises(ValueError, match="steps should be at least 1"):
        token_bound(process, denoise, word[None], 2, torch.Generator(), steps=0)


# ---- samplers ---------------------------------------------------------------------------------------------


def fits(samples: torch.Tensor) -> float:
    """p-value of the samples ``[B, tokens]`` under the law."""
    tokens = samples.shape[1]
    index = (samples * V ** torch.arange(tokens - 1, -1, -1)).sum(1)
    return float(chisquare(torch.bincount(index, minlength=V**tokens), law(tokens).flatten() * len(samples)).pvalue)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_one_token_is_exact_in_any_number_of_steps(process, steps):
    assert fits(ancestral(process, Exact(process, 1), (20_000, 1), steps, seed=1)) > 1e-3


def law_of_ancestral(process: TokenProcess, tokens: int, steps: int) -> torch.Tensor:
    """The exact law of the sampler's result, by pushing all of it through every step."""
    exact, x = Exact(process, tokens), words(tokens, process.states)
    p = process.noise(torch.ones((), **double))[x].prod(1)
    grid = torch.linspace(1, 0, steps + 1, **double)
    for t, s in itertools.pairwise(grid):
        there = p > 0
        go = process.posterior(exact(x[there], t).softmax(-1), x[there], s, t)  # [from, tokens, states]
        step = torch.stack([go[:, i, x[:, i]] for i in range(tokens)]).prod(0)
        p = p[there] @ step
    return p[(x < V).all(1)]


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_ancestral_sampling_is_first_order_in_its_steps(process):
    error = [float((law_of_ancestral(process, 2, n) - law(2).flatten()).abs().sum() / 2) for n in (16, 64, 256)]
    assert error[2] < 0.01
    assert math.log(error[0] / error[1], 4) == pytest.approx(1, abs=0.25)
    assert math.log(error[1] / error[2], 4) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_ancestral_samples_have_the_law_of_their_steps(process):
    samples = ancestral(process, Exact(process, 2), (20_000, 2), 4)
    index = (samples * torch.tensor([V, 1])).sum(1)
    want = law_of_ancestral(process, 2, 4)
    assert float(chisquare(torch.bincount(index, minlength=V**2), want * len(samples)).pvalue) > 1e-3


def test_one_token_at_a_time_in_random_order_is_exact():
    process = MaskedTokens(vocabulary=V, schedule="linear")
    for tokens in (2, 3):
        samples = by_confidence(process, Exact(process, tokens), (20_000, tokens), tokens, temperature=math.inf)
        assert fits(samples) > 1e-3


def test_confidence_orders_tokens_and_any_number_of_steps_will_do():
    process, seen = MaskedTokens(vocabulary=4), []

    def denoise(x, t):  # surer to the left, and always of token 2
        seen.append(x.clone())
        return one_hot(torch.full_like(x, 2), 4) * torch.linspace(30, 20, x.shape[1])[:, None]

    for steps in (1, 3, 8, 50):
        seen.clear()
        out = by_confidence(process, denoise, (5, 8), steps, temperature=0.0)
        assert out.shape == (5, 8)
        assert int(out.max()) < 4
        assert len(seen) <= min(steps, 8)
        for x in seen:  # what is known is a stretch from the left
            known = (x != process.mask).long()
            assert bool((known.diff(dim=1) <= 0).all())
    with pytest.raises(ValueError, match="at least 1"):
        by_confidence(process, denoise, (5, 8), 0)
    with pytest.raises(ValueError, match="needs masked tokens"):
        by_confidence(UniformTokens(vocabulary=4), denoise, (5, 8), 2)


def test_cooling_is_by_the_ratio_or_by_all_ratios_so_far(monkeypatch):
    """With known noise, against the loop as it is written down: which tokens stay after each step."""
    process, seen, count, steps = MaskedTokens(vocabulary=4, schedule="linear"), [], 12, 12
    sure = torch.linspace(0.55, 0.95, count, **double)  # of token 0, which stands at quantile 0.5
    logits = torch.stack([sure, *[(1 - sure) / 3] * 3], 1).log()

    def denoise(x, t):
        seen.append(x.clone())
        return logits.expand(*x.shape, 4)

    draws = torch.rand(steps, 1, count, generator=torch.Generator().manual_seed(2), **double)
    monkeypatch.setattr(token_samplers, "_uniforms", lambda shape, seed, first, stream, step, device:
                        draws[step] if stream == token_samplers.ORDER else torch.full((1, count), 0.5, **double))
    orders = {}
    for cooling in ("linear", "cumulative"):
        seen.clear()
        by_confidence(process, denoise, (1, count), steps, temperature=0.5, cooling=cooling)
        known, heat = torch.zeros(count, dtype=torch.bool), 0.5
        for step, x in enumerate(seen):
            assert torch.equal(x[0] != process.mask, known), (cooling, step)
            ratio = (step + 1) / steps
            heat = heat * (1 - ratio) if cooling == "cumulative" else 0.5 * (1 - ratio)
            score = sure.log() - heat * torch.log(-torch.log(draws[step, 0]))
            known[score.masked_fill(known, -math.inf).argmax()] = True
        orders[cooling] = torch.stack([x[0] for x in seen])
    assert not torch.equal(orders["linear"], orders["cumulative"])
    with pytest.raises(ValueError, match='"linear" or "cumulative"'):
        by_confidence(process, denoise, (1, count), steps, cooling="fast")


def test_samples_are_the_same_in_any_batch():
    for process in PROCESSES:
        exact = Exact(process, 2)
        together = ancestral(process, exact, (6, 2), 5, seed=3)
        assert torch.equal(together[2:], ancestral(process, exact, (4, 2), 5, seed=3, first=2))
    masked = PROCESSES[0]
    together = by_confidence(masked, Exact(masked, 3), (6, 3), 2, seed=3)
    assert torch.equal(together[4:], by_confidence(masked, Exact(masked, 3), (2, 3), 2, seed=3, first=4))
