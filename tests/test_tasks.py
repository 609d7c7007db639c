"""One model, many tasks: training with given frames, sampling them, rollouts, and the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dots import FRAMES, SIDE, DotSource, films, places
from PIL import Image
from torch.testing import assert_close

from fromnoise import windows
from fromnoise.cli import sample as cli
from fromnoise.cli.frames import Wanted, at_rate, read_frames, sheet_of
from fromnoise.config import from_dict
from fromnoise.denoise import APG, Guidance, Held, Reconstructed, Replaced
from fromnoise.films import Film, write_film
from fromnoise.generate import Model
from fromnoise.given import Given, Known, known_of
from fromnoise.latents import PixelLatents
from fromnoise.media import from_uint8, sheets, to_uint8
from fromnoise.nets import UNet, house
from fromnoise.nets.trunk import Learned, MaskDiT, Rotary, SinCos, Temporal, TextSpec
from fromnoise.output import read_picture
from fromnoise.process import Elbo, Flow, Frames, LogNormal, Objective, Uniform
from fromnoise.random import frame_noise
from fromnoise.recipe import without_effect
from fromnoise.recipes import digits
from fromnoise.sample import Pyramid
from fromnoise.system import System
from fromnoise.terms import Contrastive, Direction, Dispersive, Step
from fromnoise.train import train
from fromnoise.train.methods import Diffusion
from fromnoise.types import Batch, UserError

PROMPTS = ["a dot"] * 2


def system_of(recipe, seed=0):
    system = System.of(recipe, ["a dot"])
    torch.manual_seed(seed)
    with torch.no_grad():  # weights that start at zero would hide faults
        for p in system.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return system


@pytest.fixture(scope="module")
def model():
    return Model(system_of(films(Frames(clock="each"))))


@pytest.fixture(scope="module", params=["all tokens", "along time"])
def causal(request):
    recipe = films(Frames(clock="each"), causal=True)
    how = {} if request.param == "all tokens" else {"mask": "full", "temporal": Temporal(every=1, causal=True)}
    return Model(system_of(replace(recipe, net=replace(recipe.net, single=1, **how))))


def clip(count=FRAMES, samples=None):
    media = DotSource(count).pictures(range(5, 5 + (samples or 1)), [0])
    return media if samples else media[0]


# ---- which frames are given in training -------------------------------------------------------------


TASKS = ("first", "ends", "prefix", "suffix", "every", "random")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_tasks_give_what_they_say(task, frames):
    known = Frames(**{task: 1.0}).draw(400, frames, torch.Generator().manual_seed(0))
    assert not bool(known.all(1).any())  # something is always left to make
    if frames < 3:
        return
    rows = {tuple(row) for row in known.int().tolist()}
    T, one = frames, {tuple(int(f == 0) for f in range(frames))}
    assert rows == {
        "first": one, "ends": {tuple(int(f in (0, T - 1)) for f in range(T))},
        "prefix": {tuple(int(f < n) for f in range(T)) for n in range(1, T)},
        "suffix": {tuple(int(f >= T - n) for f in range(T)) for n in range(1, T)},
        "every": {tuple(int(f % n == 0) for f in range(T)) for n in range(2, max(2, T // 2) + 1)},
        "random": rows,
    }[task]
    if task == "random":
        assert len(rows) > 2 ** (frames - 1) - 8
        assert 0.4 < float(known.float().mean()) < 0.52  # where all would be given, the last is not


def test_shares_are_shares():
    known = Frames(first=0.3, suffix=0.2).draw(20000, 8, torch.Generator().manual_seed(0))
    first, suffix = known[:, 0] & ~known[:, 7], known[:, 7]
    assert abs(float(first.float().mean()) - 0.3) < 0.01
    assert abs(float(suffix.float().mean()) - 0.2) < 0.01
    with pytest.raises(UserError, match="1 or less in all"):
        from_dict(Frames, {"first": 0.6, "prefix": 0.5})


def test_clocks_of_a_batch():
    objective, flow = Objective(times=LogNormal()), Flow()

    def clocks(frames, T=8, B=16):
        noise, tasks = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
        return frames.clocks(objective, flow, B, T, noise, tasks)

    plain = objective.draw_times(16, flow, torch.Generator().manual_seed(1))
    assert torch.equal(clocks(Frames()).t, plain[:, None])
    assert torch.equal(clocks(Frames(first=1.0), T=1).t, plain[:, None])  # pictures
    each = clocks(Frames(clock="each"))
    assert each.t.shape == (16, 8)
    assert len(each.t.unique()) == 128
    given = clocks(Frames(first=0.5, every=0.5))
    known = given.t == 0
    assert torch.equal(given.asked, (~known).flatten().nonzero()[:, 0])
    assert torch.equal(torch.where(known, plain[:, None], given.t), plain[:, None].expand(16, 8))
    noisy = clocks(Frames(first=1.0, noise=0.1)).t
    assert float(noisy[:, 0].max()) < 0.1
    assert len(noisy[:, 0].unique()) == 16


def loss_of(recipe, perturb=None, step=3):
    """The loss of a step, of media changed at the frames that are given in it by ``perturb``."""
    system = system_of(recipe)
    method = Diffusion(system)
    media = clip(samples=4)
    if perturb is not None:
        output = system.denoiser.output
        known = recipe.train.frames.clocks(recipe.objective, recipe.path, 4, FRAMES, torch.Generator(),
                                           generator_of(step)).t == 0
        system.denoiser.output = lambda x, t, c, **k: output(x, t, c, **k) + perturb * known[:, :, None, None, None]
    return method.loss(Batch(media, ["a dot"] * 4, list(range(4))), 0, step)


def generator_of(step):
    from fromnoise.random import TASKS as stream
    from fromnoise.random import generator

    return generator(0, stream, step)


@pytest.mark.parametrize("extra", [
    {}, {"contrastive": Contrastive(weight=0.05)}, {"dispersive": Dispersive(weight=0.5)},
    {"self_conditioning": 1.0}, {"weighting": Elbo()}, {"learned_variance": True},
], ids=lambda e: next(iter(e), "plain"))
def test_given_frames_are_in_no_loss(extra):
    """What the network says of them changes nothing, and the gradient is finite."""
    objective = Objective(**{k: v for k, v in extra.items() if k in ("weighting", "learned_variance")})
    terms = {k: v for k, v in extra.items() if k not in ("weighting", "learned_variance")}
    recipe = replace(films(Frames(random=1.0), **terms), objective=objective)
    if extra.get("self_conditioning"):
        recipe = replace(recipe, net=replace(recipe.net, image_channels=1))
    a, b = loss_of(recipe), loss_of(recipe, perturb=100.0)
    assert bool(a.isfinite())
    if not extra.get("self_conditioning"):  # there the estimate that the network is told changes with it
        assert_close(a, b, rtol=1e-6, atol=0)
    a.backward()


@pytest.mark.parametrize("term", [Contrastive(weight=0.05), Direction(weight=1.0)], ids=lambda t: type(t).__name__)
def test_terms_are_of_the_frames_that_are_made(term):
    """As of clips that have no others."""
    random = torch.Generator().manual_seed(0)
    output, x0, eps = (torch.randn(4, 6, 3, 2, 2, generator=random) for _ in range(3))
    t = torch.full((4, 6), 0.5)
    t[:, [0, 3]] = 0
    asked = (t > 0).flatten().nonzero()[:, 0]

    def loss(frames, *, output=output, asked=None):
        parts = (part[:, frames] for part in (output, Flow().add_noise(x0, eps, t), x0, eps, t))
        return term.loss(Step(*parts, Flow(), Objective(), asked))

    want = loss([1, 2, 4, 5])
    assert_close(loss(range(6), asked=asked), want)
    other = output.clone()
    other[:, [0, 3]] += 5
    assert_close(loss(range(6), asked=asked, output=other), want)
    assert abs(float(loss(range(6)) - want)) > 1e-4


def test_the_loss_is_the_mean_over_frames_that_are_made():
    recipe = films(Frames(ends=1.0))
    system = system_of(recipe)
    said = []
    output = system.denoiser.output
    system.denoiser.output = lambda x, t, c, **k: said.append((x, t, output(x, t, c, **k))) or said[-1][2]
    media = clip(samples=4)
    loss = Diffusion(system).loss(Batch(media, ["a dot"] * 4, list(range(4))), 0, 3)
    (x, t, v), = said
    assert torch.equal(x[:, [0, -1]], media[:, [0, -1]])
    assert bool((t[:, [0, -1]] == 0).all())
    assert bool((t[:, 1:-1] > 0).all())
    eps = (x - (1 - t[..., None, None, None]) * media) / t[..., None, None, None].clamp(min=1e-9)
    want = (v - (eps - media))[:, 1:-1].square().mean()
    assert_close(loss, want, rtol=1e-4, atol=1e-5)


def test_what_has_no_effect_and_what_cannot_be():
    assert "train.frames.first" in without_effect(digits())
    assert "sample.schedule.kind" in without_effect(digits())
    assert "train.frames.noise" in without_effect(films())
    assert "train.frames.noise" not in without_effect(films(Frames(first=1.0)))
    recipe = films(Frames(first=1.0))
    recipe = replace(recipe, net=replace(recipe.net, routing=MaskDiT()))
    with pytest.raises(UserError, match="tread or sprint"):
        Diffusion(system_of(recipe))


def test_diffusion_forcing_finds_the_exact_linear_denoiser():
    """Frames of one number, AR(1).  At two clocks the best x0 is linear in x; the loss of the closed form, and of
    nothing else, is a minimum of the training loss: its gradient there is 0 to the noise of the estimate."""
    from fromnoise.analytic import GaussianFrames

    process, flow, frames = GaussianFrames.walk(2, keep=0.8), Flow(), Frames(clock="each", first=0.5)
    objective = Objective(prediction="x0", loss="x0")
    count = 200_000
    x0 = process.whole.sample(count, torch.Generator().manual_seed(0))[0].view(count, 2, 1, 1, 1)
    clocks = frames.clocks(objective, flow, count, 2, torch.Generator().manual_seed(1),
                           torch.Generator().manual_seed(2))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = clocks.t.double()
    x = flow.add_noise(x0, eps, t)
    best = process.x0(x, t, flow)
    error = clocks.of(best) - clocks.of(x0)
    for feature in (x, x.flip(1), t[..., None, None, None] * x, t.flip(1)[..., None, None, None] * x.flip(1)):
        gradient = (error * clocks.of(feature)).flatten()
        assert abs(float(gradient.mean())) < 4 * float(gradient.std()) / len(gradient) ** 0.5
    worse = clocks.of(0.95 * best) - clocks.of(x0)
    assert float(worse.square().mean()) > float(error.square().mean())


# ---- sampling -----------------------------------------------------------------------------------------


def test_a_clip_of_one_frame_or_of_any_number(model):
    for frames in (1, 5, 12):
        assert model.sample(PROMPTS, frames=frames, steps=2).media.shape == (2, frames, 1, SIDE, SIDE)
    usual = model.sample(PROMPTS, steps=3, seed=4)
    assert usual.settings.frames == FRAMES
    assert torch.equal(usual.media, model.sample(PROMPTS, steps=3, seed=4, schedule="full_sequence", keep="held").media)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "ancestral", "auto"])
@pytest.mark.parametrize("schedule", ["full_sequence", "autoregressive", Pyramid(delay=2)], ids=str)
def test_given_frames_come_back_bit_for_bit(model, solver, schedule):
    media = clip()
    out = model.sample(PROMPTS, given={0: media[0], -1: media[7]}, steps=2, solver=solver, schedule=schedule).media
    assert torch.equal(out[:, 0], media[0].expand(2, -1, -1, -1))
    assert torch.equal(out[:, 7], media[7].expand(2, -1, -1, -1))
    free = model.sample(PROMPTS, steps=2, solver=solver, schedule=schedule).media
    assert float((out - free)[:, 1:7].abs().max()) > 1e-3  # the others heed them


def test_given_in_its_forms(model):
    media = clip()

    def sample(given, **kw):
        return model.sample(PROMPTS, given=given, steps=2, **kw).media

    picture = Image.fromarray(((media[3, 0] + 1) * 127.5).round().byte().numpy())
    a = sample({3: picture})
    assert_close(a[:, 3], media[3].expand(2, -1, -1, -1), atol=1 / 127, rtol=0)
    for given in ({3: a[0, 3]}, {3: a[:, 3:4]}, {-5: a[0, 3].numpy()}, Given(a[0, 3], [3]), Given(a[:, 3:4], [3])):
        assert torch.equal(sample(given), a)
    own = sample(Given(clip(2, samples=2)))
    assert torch.equal(own[:, :2], clip(2, samples=2))
    alone = torch.cat([model.sample(PROMPTS[:1], first=i, steps=2, given=Given(clip(2, samples=2)[i])).media
                       for i in range(2)])
    assert_close(own, alone, atol=2e-5, rtol=1e-4)
    assert torch.equal(sample(Given(clip(2, samples=2)), batch=1)[:, :2], own[:, :2])


@pytest.mark.parametrize("keep", ["held", "replaced", "reconstructed", "measured"])
def test_pixels_within_frames_are_kept(model, keep):
    media, known = clip(), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    known[:, :5] = True
    out = model.sample(PROMPTS, given=Given(media, known=known), steps=2, keep=keep).media
    assert torch.equal(out[..., :5], media[..., :5].expand(2, -1, -1, -1, -1))
    hole = media.clone()
    hole[..., 5:] = 0.3
    assert torch.equal(model.sample(PROMPTS, given=Given(hole, known=known), steps=2, keep=keep).media, out)


def test_pictures_may_be_inpainted_and_have_no_more_frames():
    recipe = replace(films(), data=type(digits().data)())
    one = Model(system_of(recipe))
    known = torch.rand(SIDE, SIDE) > 0.5
    out = one.sample(PROMPTS, given=Given(clip()[0], known=known), steps=2).media
    assert torch.equal(out[..., known], clip()[0][..., known].expand(2, 1, -1, -1))
    with pytest.raises(UserError, match="makes pictures"):
        one.sample(PROMPTS, frames=4)
    with pytest.raises(UserError, match="have no overlap"):
        one.sample(PROMPTS, overlap=2)
    assert one.sample(PROMPTS, schedule="pyramid", steps=1).notes == (
        "schedule pyramid has no effect here: there is one frame.",)
    for given in ({0: clip()[0]}, Given(clip(3))):
        with pytest.raises(UserError, match="only a part can be given"):
            one.sample(PROMPTS, given=given)


def test_keeping_says_how(model):
    given = {0: clip()[0]}
    plain = model.sample(PROMPTS, given=given, steps=3).media
    for keep in (Held(history=0.1), Held(guidance=2.0), Held(guidance=2.0, less=0.5), Replaced(),
                 Reconstructed(weight=3.0)):
        other = model.sample(PROMPTS, given=given, steps=3, keep=keep)
        assert float((other.media - plain).abs().max()) > 1e-4
        assert torch.equal(other.media[:, :1], plain[:, :1])
        assert other.settings.keep == keep
    guided = model.sample(PROMPTS, given=given, steps=3, keep=Held(guidance=0.0)).media
    assert float((guided - plain)[:, 1:].abs().max()) > 1e-4


def test_notes_say_what_was_not_trained():
    plain = Model(system_of(films()))
    given = {0: clip()[0]}
    assert "without given frames" in plain.sample(PROMPTS, given=given, steps=1).notes[0]
    assert "one clock" in plain.sample(PROMPTS, schedule="pyramid", steps=1).notes[0]
    assert plain.sample(PROMPTS, given=given, keep="reconstructed", steps=1).notes == ()
    assert plain.sample(PROMPTS, keep="replaced", steps=1).notes == (
        "keep replaced has no effect here: nothing is given.",)
    assert "one window" in plain.sample(PROMPTS, overlap=2, steps=1, keep="replaced").notes[0]
    trained = Model(system_of(films(Frames(first=0.5))))
    assert trained.sample(PROMPTS, given=given, steps=1).notes == ()


class Pairs(PixelLatents):
    """An autoencoder of which a latent frame stands for one frame at first and then for two, their mean."""

    def latent_frames(self, frames):
        if frames % 2 == 0 and frames != FRAMES:
            raise UserError(f"{frames} frames leave half a pair.")
        return 1 + (frames - 1) // 2

    def spans(self, frames):
        return [range(1), *(range(i, i + 2) for i in range(1, frames, 2))]

    def encode(self, media, noise=None):
        return torch.stack([media[:, s.start : s.stop].mean(1) for s in self.spans(media.shape[1])], 1)

    def decode(self, latents):
        return torch.cat([latents[:, :1], latents[:, 1:].repeat_interleave(2, dim=1)], 1)


def test_latents_that_stand_for_several_frames():
    few = Model(system_of(films(Frames(first=0.5))))
    few.system.latents = Pairs(1)
    media = clip(7)
    out = few.sample(PROMPTS, frames=7, given={f: media[f] for f in (0, 3, 4)}, steps=2).media
    assert out.shape[1] == 7
    assert torch.equal(out[:, [0, 3, 4]], media[[0, 3, 4]].expand(2, -1, -1, -1, -1))
    known = Known(torch.zeros(1, 7, 1, SIDE, SIDE), torch.tensor([1, 0, 0, 1, 1, 0, 0]).bool()[:, None, None, None])
    assert known.latent(few.system).whole.tolist() == [True, False, True, False]
    with pytest.raises(UserError, match="An overlap of 4 cannot be: 4 frames leave"):
        few.sample(PROMPTS, frames=13, overlap=4)
    assert few.rollout(PROMPTS, 13, steps=1).settings.overlap == 3  # of the 4 that are half, those of whole latents
    with pytest.raises(UserError, match="one latent of the frames 3 to 4, of which only 3 is given"):
        few.sample(PROMPTS, frames=7, given={0: media[0], 3: media[3]}, steps=2)


# ---- rollouts -----------------------------------------------------------------------------------------


def test_windows_cover_all_frames():
    assert windows.windows(5, 8, 2) == [range(5)]
    assert windows.windows(20, 8, 0) == [range(20)]
    for frames in (9, 14, 20, 33):
        found = windows.windows(frames, 8, 3)
        assert sorted({f for span in found for f in span}) == list(range(frames))
        assert all(len(span) == 8 for span in found)
        assert all(b.start <= a.stop - 3 for a, b in zip(found, found[1:], strict=False))


def test_a_rollout_is_windows_each_given_the_end_of_the_one_before(model):
    out = model.rollout(PROMPTS, 18, overlap=3, steps=2, seed=7).media
    assert out.shape[1] == 18
    noise = frame_noise((2, 18, 1, SIDE, SIDE), 7)
    first = model.sample(PROMPTS, noise=noise[:, :8], steps=2).media
    assert torch.equal(out[:, :8], first)
    part = model.settings(PROMPTS, steps=2, seed=7)
    latents, _ = model._solve(part, noise[:, :8], None)  # a rollout goes on from what was not yet cut to [-1, 1]
    values = torch.cat([latents[:, 5:], torch.zeros(2, 5, 1, SIDE, SIDE)], 1)
    known = Known(values, (torch.arange(8) < 3)[:, None, None, None])
    second, _ = model._solve(part, noise[:, 5:13], None, None, known)
    assert_close(out[:, 5:13], second.clamp(-1, 1), atol=1e-5, rtol=0)
    again = model.rollout(PROMPTS[:1], 18, overlap=3, steps=2, seed=7, first=1).media
    assert_close(again, out[1:], atol=2e-5, rtol=1e-4)
    longer = model.rollout(PROMPTS, 23, overlap=3, steps=2, seed=7).media
    assert torch.equal(longer[:, :13], out[:, :13])  # frames depend on (seed, sample, frame), not on how many there are
    both = model.rollout(PROMPTS, 18, overlap=3, steps=2, given={0: clip()[0], -1: clip()[7]}).media
    assert torch.equal(both[:, [0, 17]], clip()[[0, 7]].expand(2, -1, -1, -1, -1))
    steps = []
    model.rollout(PROMPTS, 18, overlap=3, steps=2, callback=steps.append)
    assert len(steps) == 6


CAUSAL = {
    "words at the origin": {"positions": Rotary()},
    "words before": {"positions": Rotary(words="before")},
    "words first": {"positions": Rotary(words="first")},
    "words after": {"positions": Rotary(words="after", centred=True)},
    "words nowhere": {"positions": Rotary(words="none")},
    "learned offsets": {},
    "no order": {"positions": SinCos()},
    "along time": {"mask": "full", "temporal": Temporal(every=1, causal=True)},
    "along time, convolved": {"mask": "full", "temporal": Temporal(every=1, causal=True, kernel=4, reach=3)},
}
FEW = {"frames": 19, "overlap": 3, "steps": 3, "seed": 1, "guidance": 2.0}


@pytest.fixture
def rolled(monkeypatch):
    """``rolled(model, count, remembers, **choices)``: the latents of a rollout in float64 that goes on from so many
    frames, and how many frames the network was shown in all."""
    def run(model, count, remembers, **choices):
        calls, net = [], type(model.system.denoiser.net)
        forward = net.forward
        settings = model.settings(PROMPTS, **(FEW | choices))
        noise = frame_noise((2, settings.frames, 1, SIDE, SIDE), 1).double()
        known = known_of(Given(clip(count)), settings, 1).latent(model.system) if count else None
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(net, "forward", lambda self, x, *a, **k: calls.append(x.shape[1]) or forward(
                self, x, *a, **k))
            if not remembers:
                patch.setattr(windows, "remembers", lambda *_: False)
            return model._solve(settings, noise, None, None, known)[0], sum(calls)

    return run


def causal_model(name, prediction="velocity"):
    recipe = films(Frames(clock="each"), causal=True)
    model = Model(system_of(replace(recipe, net=replace(recipe.net, **CAUSAL[name]), objective=Objective(
        prediction=prediction, times=Uniform()))))
    model.system.double()
    return model


@pytest.mark.parametrize("count", [0, 6])
@pytest.mark.parametrize("name", CAUSAL)
def test_what_is_remembered_is_what_would_be_shown_again(rolled, name, count):
    """Two blocks, more frames given than an overlap, and a last window that is moved back."""
    model = causal_model(name)
    kept, few = rolled(model, count, True, keep=Held(history=0.1))
    shown, many = rolled(model, count, False, keep=Held(history=0.1))
    assert_close(kept, shown, atol=1e-10, rtol=0)
    assert many > 1.2 * few
    if count:
        assert torch.equal(kept[:, :count], clip(count)[None].expand(2, -1, -1, -1, -1).double())


@pytest.mark.parametrize("choices", [
    {"keep": Held(), "guidance": 1.0},
    {"solver": "dpmpp_2m_sde"},
    {"guidance": Guidance(scale=3.0, rescale=0.7, method=APG(norm=2.0))},
    {"schedule": Pyramid(delay=1), "keep": Held(history=0.1)},
], ids=["alone", "with noise added on the way", "guided by all of the clip", "in an order"])
def test_what_is_remembered_changes_no_way_of_sampling(rolled, choices):
    """Twelve frames given, more than a window; what such a network says of these is not what they are."""
    model = causal_model("words before", prediction="x0")
    assert_close(rolled(model, 12, True, **choices)[0], rolled(model, 12, False, **choices)[0], atol=1e-10, rtol=0)


def test_each_window_looks_once_at_the_frames_it_knows(causal, monkeypatch):
    calls, net = [], type(causal.system.denoiser.net)
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda self, x, *a, **k: calls.append(x.shape[1]) or forward(self, x, *a, **k))
    causal.rollout(PROMPTS, 18, overlap=3, steps=2, guidance=1.0)
    assert calls == [8, 8, 3, 5, 5, 3, 5, 5]


def test_what_a_cache_cannot_follow_is_shown_again(causal):
    def remembers(**choices):
        return windows.remembers(causal, causal.settings(PROMPTS, frames=20, overlap=3, seed=0, **choices))

    assert remembers(guidance=3.0)
    assert remembers(guidance=1.0)
    assert not remembers(guidance=Guidance(scale=3.0, interval=(0.1, 0.5)))
    assert not remembers(guidance=Guidance(scale=3.0, max_batch=2))
    assert not remembers(keep=Held(guidance=2.0))
    assert not remembers(keep="replaced")
    learned = films(Frames(clock="each"), causal=True)
    learned = replace(learned, net=replace(learned.net, positions=Learned(places=FRAMES * 16, words=4)))
    out = Model(system_of(learned)).rollout(PROMPTS, 13, overlap=3, steps=1)  # it takes a whole window and no less
    assert out.media.shape[1] == 13


# ---- what cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "choices", "sentence"), [
    ({0: torch.zeros(1, 4, 4)}, {}, "The samples are 8x8 in 1 channels"),
    ({0: torch.zeros(3, 8, 8)}, {}, "in 3: bring them"),
    (Given(torch.zeros(9, 1, 8, 8)), {}, "9 frames are given of clips of 8"),
    (Given(torch.zeros(8, 1, 8, 8)), {}, "All of the clip is given"),
    ({8: torch.zeros(1, 8, 8)}, {}, "no frame 8 in a clip of 8: frames count from 0 to 7"),
    ({-9: torch.zeros(1, 8, 8)}, {}, "no frame -9"),
    ({0: torch.zeros(1, 8, 8), -8: torch.zeros(1, 8, 8)}, {}, "have one place"),
    ({0: torch.full((1, 8, 8), 2.0)}, {}, r"values in \[-1, 1\]"),
    ({0: torch.full((1, 8, 8), float("nan"))}, {}, "finite"),
    ({0: "a.png"}, {}, "array of numbers"),
    ({}, {}, "given is a Given"),
    ("a.png", {}, "given is a Given"),
    ({0: torch.zeros(1, 8, 8), 1: torch.zeros(1, 4, 4)}, {}, "have one size"),
    (Given(torch.zeros(2, 1, 8, 8), [0]), {}, "2 frames are given and 1 places"),
    ({"first": torch.zeros(1, 8, 8)}, {}, r"whole numbers.*\(got first\)"),
    (Given(torch.zeros(2, 1, 8, 8), [0, 0.5]), {}, r"whole numbers.*\(got 0, 0.5\)"),
    (Given(torch.zeros(3, 1, 1, 8, 8)), {}, "given for 3 samples, and 2"),
    (Given(torch.zeros(2, 1, 8, 8), known=torch.ones(4, 4)), {}, "give it the size of the samples, 8x8"),
    (Given(torch.zeros(2, 1, 8, 8), known=torch.zeros(8, 8)), {}, "Nothing is given"),
    (None, {"frames": 0}, "frames must be"), (None, {"overlap": 8, "frames": 20}, "overlap from 1 to 7"),
    (None, {"schedule": "circular"}, "kind"), (None, {"keep": 3}, "keep|valid"),
    (None, {"frames": 10**7}, "ask for fewer"), (None, {"frames": 10**4}, r"in the network.*--overlap 4"),
    ({0: torch.zeros(1, 8, 8)}, {"solver": "rk45", "steps": None}, "solvers that are tables"),
    (None, {"solver": "rk45", "steps": None, "schedule": "pyramid"}, "solvers that are tables"),
])
def test_what_cannot_be_is_one_sentence(model, monkeypatch, given, choices, sentence):
    monkeypatch.setattr(windows, "memory", lambda: 2.0**30)
    with pytest.raises(UserError, match=sentence) as found:
        model.sample(PROMPTS, given=given, **{"steps": 2, **choices})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("net", "frames"), [
    ({"positions": Rotary()}, 100_000),  # in one attention, which holds nothing of pairs
    ({"positions": Rotary(), "mask": "causal", "text": TextSpec(clean=True)}, 1_000),
    ({"positions": SinCos(), "temporal": Temporal(every=1)}, 100_000),
    (UNet(width=32), 30_000),
], ids=["tokens", "who sees whom", "along time", "convolutions"])
def test_more_frames_at_once_than_there_is_room_for_are_refused(monkeypatch, net, frames):
    recipe = films(Frames(clock="each"))
    net = replace(recipe.net, **net) if isinstance(net, dict) else net
    large = Model(System.of(replace(recipe, net=net), ["a dot"]))
    monkeypatch.setattr(windows, "memory", lambda: 2.0**30)
    with pytest.raises(UserError, match=r"in the network.*--overlap 4"):
        windows.check_room(large, large.settings(PROMPTS, seed=0, frames=frames))
    windows.check_room(large, large.settings(PROMPTS, seed=0, frames=frames, overlap=4))
    windows.check_room(large, large.settings(PROMPTS, seed=0, frames=frames // 5))


@pytest.mark.parametrize(("choices", "sentence"), [
    ({}, "8 frames of 512x512 at once would"), ({"frames": 1}, "1 frame of 512x512 at once would"),
    ({"frames": 20}, "20 frames of"), ({"frames": 20, "overlap": 4}, "8 frames of")], ids=str)
def test_frames_that_are_too_large_are_to_be_smaller_where_windows_do_not_help(model, monkeypatch, choices, sentence):
    monkeypatch.setattr(windows, "memory", lambda: 2.0**30)
    with pytest.raises(UserError, match=rf"^{sentence}.*in the network.*\(--size\)"):
        model.sample(PROMPTS, size=(512, 512), **choices)


def test_history_guidance_and_self_conditioning_do_not_go_together():
    recipe = films(Frames(first=0.5), self_conditioning=0.5)
    told = Model(system_of(replace(recipe, net=replace(recipe.net, image_channels=1))))
    assert told.sample(PROMPTS, given={0: clip()[0]}, steps=2).media.shape[1] == FRAMES
    with pytest.raises(UserError, match=r"set keep\.guidance to 1"):
        told.sample(PROMPTS, keep=Held(guidance=2.0))


# ---- files and the command line -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    frames = ((clip()[:, 0] + 1) * 127.5).round().byte().numpy()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.png")
    pictures[7].save(tmp_path / "b.png")
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:4], duration=40)
    Image.fromarray(np.concatenate(list(frames[:3]), axis=1)).save(tmp_path / "strip.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.new("L", (12, 12)).save(tmp_path / "large.png")
    (tmp_path / "broken.gif").write_bytes((tmp_path / "clip.gif").read_bytes()[:60])
    return tmp_path


DOTS = Wanted(1, (SIDE, SIDE))


def test_frames_of_files(files):
    near = {"atol": 1 / 127, "rtol": 0}
    for wanted in (DOTS, Wanted(1)):
        assert_close(read_frames(files / "a.png", wanted), clip()[:1], **near)
        assert_close(read_frames(files / "clip.gif", wanted), clip()[:4], **near)
    assert_close(read_frames(files / "strip.png", DOTS), clip()[:3], **near)
    assert read_frames(files / "strip.png", Wanted()).shape == (1, 3, SIDE, 3 * SIDE)
    for name, why in (("broken.gif", "read as a film"), ("none.png", "used: the file is missing"), ("", "used")):
        with pytest.raises(UserError, match=f"cannot be {why}"):
            read_frames(files / name, DOTS)


@pytest.mark.parametrize("name", ["out.webp", "out.mkv", "out.png"])
@pytest.mark.parametrize("enlarge", [None, 1, 3])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_what_is_saved_can_be_given(model, tmp_path, name, enlarge, samples):
    out, said = model.sample(["a dot"] * samples, steps=2), []
    exact = from_uint8(to_uint8(out.media))
    wanted = replace(DOTS, fps=out.settings.fps, say=said.append)
    path = out.save(tmp_path / name, enlarge)
    assert torch.equal(read_frames(path, wanted), exact[0])  # though each pixel may be a square, and gaps between
    assert said == ([] if samples == 1 else [
        f"{path} shows {samples} samples, and the first is taken (of the others, {path}:2 is the second)."])
    for i in range(samples):
        assert torch.equal(read_frames(f"{path}:{i + 1}", wanted), exact[i])
    with pytest.raises(UserError, match=f"shows {samples} samples?, and there is no {samples + 1}"):
        read_frames(f"{path}:{samples + 1}", wanted)
    assert len(said) <= 1


@pytest.mark.parametrize("enlarge", [1, 3])
def test_an_mp4_can_be_given(model, tmp_path, enlarge):
    """Of odd sides, when the file has a row and a column twice, and of several samples."""
    media = torch.stack([clip(), clip().flip(-1), -clip()])[..., :7, :5]
    path = write_film(from_uint8(sheets(media, 2)), tmp_path / "x.mp4", 8, enlarge)
    for i in range(3):
        found = read_frames(f"{path}:{i + 1}", Wanted(1, (7, 5), 8.0))
        assert_close(found, media[i], atol=0.25 / enlarge, rtol=0)


def test_a_file_may_have_a_colon_in_its_name(files):
    (files / "clip.gif").rename(files / "clip:2")
    assert_close(read_frames(files / "clip:2", DOTS), clip()[:1], atol=1 / 127, rtol=0)


def test_frames_larger_by_no_whole_factor_stay_as_they_are(files):
    assert read_frames(files / "large.png", DOTS).shape == (1, 1, 12, 12)
    assert read_frames(files / "clip.gif", Wanted(1, (SIDE // 2, SIDE))).shape == (1, 1, SIDE, SIDE)


def test_a_strip_whose_gaps_would_fit_is_not_taken_for_one_with_gaps():
    strip = torch.rand(1, 4, 24)  # four frames with gaps of two, if these were white, or six without
    sheet = sheet_of(strip, 4, 4)
    assert (sheet.columns, sheet.gap) == (6, 0)
    assert torch.equal(sheet.tiles(strip)[2], strip[..., 8:12])
    strip[..., [4, 5, 10, 11, 16, 17]] = 1.0
    assert sheet_of(strip[..., :22], 4, 4).columns == 4


@pytest.mark.parametrize("suffix", ["mkv", "gif"])
@pytest.mark.parametrize(("rate", "taken"), [
    (8, [0, 1, 2, 3, 4, 5, 6, 7]), (16, [0, 2, 4, 6]), (4, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
    (12, [0, 1, 3, 4, 6])])
def test_a_film_of_another_rate_is_brought_to_that_of_the_samples(tmp_path, suffix, rate, taken):
    said = []
    path = write_film(clip(), tmp_path / f"x.{suffix}", rate, 1)
    found = read_frames(path, replace(DOTS, fps=8.0, say=said.append))
    assert_close(found, from_uint8(to_uint8(clip()[taken])), atol=0, rtol=0)
    assert bool(said) == (rate != 8)
    assert all(f"{len(taken)} frames are taken for its 8" in sentence for sentence in said)
    assert ("some of them twice" in "".join(said)) == (rate < 8)
    assert len(read_frames(path, DOTS)) == 8


def test_a_film_of_a_variable_rate_is_taken_by_its_times():
    """Eight frames a second on average, most of them in the first third."""
    times, said = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.875]), []
    film = Film(np.arange(8), times, 8.0)
    found = at_rate(Path("x.mp4"), film, replace(DOTS, fps=8.0, say=said.append))
    assert found.frames.tolist() == [0, 2, 5, 6, 6, 7, 7, 7]
    assert "at each moment the nearest" in said[0]
    assert at_rate(Path("x.mp4"), film, DOTS) is film
    close = Film(np.arange(8), np.round(np.arange(8) / 8, 2), 8.0)  # as a GIF rounds times
    assert at_rate(Path("x.gif"), close, replace(DOTS, fps=8.0)) is close


@pytest.fixture
def run(model, monkeypatch, tmp_path):
    """A command of ``fromnoise sample`` on the model of clips; what it made."""
    outputs = []
    monkeypatch.setattr(cli, "load_model", lambda *_: model)
    monkeypatch.setattr(cli, "is_model", lambda word: word == "films")
    monkeypatch.setattr(cli, "usual_sampling", lambda _: model.recipe.sample)
    sample = model.sample
    monkeypatch.setattr(model, "sample", lambda *a, **k: outputs.append(sample(*a, **k)) or outputs[-1])

    def command(*words):
        cli.main(["films", "a dot", "--n", "1", "--steps", "2", "--out", str(tmp_path / "out.png"), *map(str, words)])
        return outputs[-1]

    return command


def test_tasks_of_the_command_line(run, files, tmp_path, capsys):
    clip4, a = read_frames(files / "clip.gif", DOTS), read_frames(files / "a.png", DOTS)
    b = read_frames(files / "b.png", DOTS)
    out = run("--first", files / "a.png", "--last", files / "b.png").media[0]
    assert torch.equal(out[[0, 7]], torch.cat([a, b]))
    assert torch.equal(run("--extend", files / "clip.gif").media[0, :4], clip4)
    assert torch.equal(run("--extend-back", files / "clip.gif").media[0, -4:], clip4)
    out = run("--extend", files / "clip.gif", "--last", files / "b.png", "--frames", "14", "--overlap", "3")
    assert torch.equal(out.media[0][[0, 1, 2, 3, 13]], torch.cat([clip4, b]))
    assert (out.settings.frames, out.settings.overlap) == (14, 3)
    assert "Window 1 is made.\nWindow 2 is made.\n" in capsys.readouterr().err
    out = run("--clip", files / "clip.gif", "--slow", "3").media[0]
    assert len(out) == 10
    assert torch.equal(out[::3], clip4)
    out = run("--clip", files / "clip.gif", "--inside", files / "mask.png").media[0]
    assert len(out) == 4
    assert torch.equal(out[..., :4], clip4[..., :4])
    assert not torch.equal(out, clip4)
    out = run("--first", files / "a.png", "--schedule", "pyramid", "--schedule.delay", "2", "--keep.history", "0.05")
    assert out.settings.schedule == Pyramid(delay=2)
    assert out.settings.keep == Held(history=0.05)
    told = read_picture(tmp_path / "out.png")["settings"]
    assert told == out.settings
    assert told.given


def test_a_command_takes_one_of_several_samples_at_the_rate_of_the_model(run, model, tmp_path, capsys):
    media = torch.stack([clip(), clip().flip(-1)])
    two = write_film(from_uint8(sheets(media)), tmp_path / "two.mkv", 2 * model.recipe.fps, 1)
    exact = from_uint8(to_uint8(media))
    for word, i in ((two, 0), (f"{two}:2", 1)):
        assert torch.equal(run("--extend", word).media[0, :4], exact[i, ::2])
    assert torch.equal(run("--clip", f"{two}:2", "--slow", "2").media[0, ::2], exact[1])
    said = capsys.readouterr().err
    assert said.count("shows 2 samples, and the first is taken") == 1
    assert said.count("samples have 24: 4 frames are taken for its 8, at each moment the nearest.\n") == 2
    assert torch.equal(run("--extend", f"{two}:2", "--fps", "48", "--frames", "9").media[0, :8], exact[1])


def test_a_mask_that_moves_is_slowed_down_with_its_clip(run, tmp_path):
    moving = write_film(clip(4), tmp_path / "moving.mkv", 6, 1)  # of a quarter of the frames a second of samples
    mask = read_frames(moving, DOTS) > 0
    out = run("--clip", moving, "--slow", "2", "--inside", moving).media[0, ::2]
    assert torch.equal(out[~mask], read_frames(moving, DOTS)[~mask])


def test_a_clip_is_made_again_from_what_its_file_says(run, files, tmp_path, capsys):
    run("--first", files / "a.png", "--schedule", "pyramid", "--frames", "6")
    kept = Image.open(tmp_path / "out.png").copy()
    (tmp_path / "out.png").rename(tmp_path / "kept.png")
    again = run("--like", tmp_path / "kept.png", "--first", files / "a.png")
    assert again.settings.frames == 6
    assert again.settings.schedule == Pyramid()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(kept))
    run("--like", tmp_path / "kept.png", "--first", files / "b.png")
    assert "will not come out the same" in capsys.readouterr().err
    with pytest.raises(UserError, match="made of frames that are not in the file"):
        run("--like", tmp_path / "kept.png")


@pytest.mark.parametrize(("words", "sentence"), [
    (("--clip", "clip.gif"), "give it together"), (("--slow", "2"), "give it together"),
    (("--clip", "clip.gif", "--slow", "2", "--first", "a.png"), "gives all its frames"),
    (("--first", "a.png", "--extend", "clip.gif"), "same frames"),
    (("--first", "clip.gif"), "one picture each"), (("--first", "large.png"), "frames that are given are 12x12"),
    (("--first", "a.png", "--last", "large.png"), "different sizes"),
    (("--extend", "clip.gif", "--frames", "3"), "ask for more"),
    (("--clip", "clip.gif", "--inside", "large.png"), "size of the samples"),
    (("--extend", "none.mp4"), "none.mp4"), (("--extend", "."), "it is a folder"), (("--slow", "1"), "slow"),
    (("--fps", "60", "--out", "a.gif", "--first", "none.png"), "A GIF shows at most 50"),  # before any work
    (("--frames", "1", "--out", "a.mp4", "--first", "none.png"), "saved as .png"),
])
def test_commands_that_cannot_be(run, files, monkeypatch, words, sentence):
    monkeypatch.chdir(files)
    with pytest.raises(UserError, match=sentence):
        run(*words)


# ---- learned ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_checkpoint_does_many_tasks(tmp_path):
    """A dot that goes a pixel a frame and comes back at the sides: what is given says where it is, or may be, in all
    other frames."""
    recipe = films(Frames(clock="each", first=0.2, ends=0.2, prefix=0.2, every=0.2), steps=800, batch=32,
                   checkpoint_every=800)
    net = house(width=64, heads=4, depth=3, patch=8, places=False, token_shift=False)
    recipe = replace(recipe, net=net, objective=Objective(prediction="x0", times=Uniform()))
    model = Model(train(recipe, tmp_path / "run").system)
    count, held_out = 48, range(900_000, 900_048)

    def paths(known, frames=FRAMES, **choices):
        """(where the dot is, where it should be) ``[B, T, 2]``."""
        truth = DotSource(frames).pictures(held_out, [0])
        given = Given(truth[:, known], known)
        made = model.sample(["a dot"] * count, given=given, frames=frames, steps=12, guidance=1.0, **choices).media
        assert torch.equal(made[:, known], truth[:, known])
        return places(made), places(truth)

    def away(known, *rest, **choices):
        made, true = paths(known, *rest, **choices)
        return float((made - true).norm(dim=-1).mean())

    assert away([0, 1]) < 0.25  # extension forwards
    assert away([4, 5, 6, 7]) < 0.25  # backwards
    assert away([0, 2, 4, 6]) < 0.25  # interpolation
    assert away([0, 1, 2, 3], schedule="autoregressive") < 0.25
    assert away([0, 1, 2, 3], 32, overlap=4) < 0.25  # four times the length of training
    assert away([0, 1, 2, 3], 32, overlap=4, keep=Held(history=0.05)) < 0.25
    for known in ([0], [0, 7]):  # several ways lead on from the first frame, and from it to the last
        made, _ = paths(known)
        steps = (made[:, 1:] - made[:, :-1]).norm(dim=-1)
        assert abs(float(steps[:, [k - 1 if k else 0 for k in known]].mean()) - 1) < 0.25  # it meets what is given
        assert abs(float(steps.mean()) - 1) < 0.2
