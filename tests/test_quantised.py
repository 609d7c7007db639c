"""Vector and scalar quantisation: against diffusers, against the equations, and against counting."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from parity import draw, randomised
from safetensors.torch import save_file
from test_autoencoder import SHAPES, close

from fromnoise.config import from_dict
from fromnoise.folders import open_component
from fromnoise.interop.autoencoder import from_diffusers, load_latents, to_diffusers, vq_spec
from fromnoise.interop.convolutional import NoCounterpart
from fromnoise.latents import FSQ, VQ, ForeignLatents
from fromnoise.latents.fsq import EPS, Grid
from fromnoise.latents.quantised import closest
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64
ATTENDED = {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"]}
MODELS = {
    "ldm": SHAPES | {"latent_channels": 3, "num_vq_embeddings": 16, "scaling_factor": 0.5},
    "vq-gan": SHAPES | ATTENDED | {"latent_channels": 8, "vq_embed_dim": 5, "num_vq_embeddings": 33},
    "amused": SHAPES | {"latent_channels": 6, "vq_embed_dim": 6, "num_vq_embeddings": 20, "lookup_from_codebook": True,
                        "mid_block_add_attention": False, "layers_per_block": 1, "scaling_factor": 1.0},
}
TINY = {"widths": (8, 8), "groups": 4, "depth": 1, "attention": False}


def pair(name):
    theirs = randomised(diffusers.VQModel(**MODELS[name])).eval()
    ours = vq_spec(theirs.config).build(3).double()
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize("name", MODELS)
def test_vq_equals_diffusers(name):
    """Encode, codes, decode and, through the codebook, the gradients of everything; penalties are theirs recombined."""
    ours, theirs = pair(name)
    media = draw(2, 2, 3, 12, 20)
    flat, scale = media.flatten(0, 1), theirs.config.scaling_factor
    theirs_raw = theirs.encode(flat).latents
    close(ours.encode(media).flatten(0, 1), theirs_raw * scale, F64)
    _, _, (_, _, codes) = theirs.quantize(theirs_raw)
    assert torch.equal(ours.codes(media).flatten(), codes)
    assert len(codes.unique()) > 3
    decoded = theirs.decode(theirs_raw)
    close(ours.decode(ours.encode(media)).flatten(0, 1), decoded.sample, F64)
    close(ours.decode(ours.lookup(ours.codes(media))).flatten(0, 1), decoded.sample, F64)

    found, pull = ours.eval().code(media, draw(2, 2, ours.channels, 3, 5)), draw(*flat.shape, seed=3)
    close(found.media.flatten(0, 1), decoded.sample, F64)
    assert torch.equal(found.codes, ours.codes(media))
    # Their beta of 1/4 stands before the codebook's term, the paper's before the other.
    penalty = found.penalties["commitment"] / ours.spec.commitment + 0.25 * found.penalties["codebook"]
    close(penalty, decoded.commit_loss, F64)
    ((found.media.flatten(0, 1) * pull).sum() + penalty).backward()
    ((decoded.sample * pull).sum() + decoded.commit_loss).backward()
    gradients = from_diffusers({key: p.grad for key, p in theirs.named_parameters()})
    for key, parameter in ours.named_parameters():
        if parameter.requires_grad:
            close(parameter.grad, gradients[key], F64)


@pytest.mark.parametrize("name", MODELS)
def test_vq_is_opened_and_exported(name, tmp_path):
    _, theirs = pair(name)
    theirs.float().save_pretrained(tmp_path)
    ours = load_latents(open_component(tmp_path))
    kind, config, tensors = to_diffusers(ours)
    again = getattr(diffusers, kind)(**config)
    again.load_state_dict(tensors)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert vq_spec(again.config) == ours.spec
    assert ours.codebook == theirs.config.num_vq_embeddings


@pytest.mark.parametrize("config", [
    SHAPES | {"norm_type": "spatial", "block_out_channels": [32] * 3, "norm_num_groups": 32},
    SHAPES | {"down_block_types": ATTENDED["down_block_types"]},
    SHAPES | {"act_fn": "relu"},
])
def test_a_vq_model_without_counterpart_is_run_by_diffusers(config, tmp_path):
    theirs = randomised(diffusers.VQModel(**config)).float()
    with pytest.raises(NoCounterpart):
        vq_spec(theirs.config)
    theirs.save_pretrained(tmp_path)
    ours, media = load_latents(open_component(tmp_path)), torch.randn(1, 1, 3, 8, 12)
    assert isinstance(ours, ForeignLatents)
    close(ours.decode(ours.encode(media))[0], theirs.decode(theirs.encode(media[0]).latents).sample, torch.float32)


@pytest.mark.parametrize("spec", [VQ(unit=True, **TINY), VQ(mean=(0.5,), **TINY), FSQ(**TINY)])
def test_what_diffusers_has_not_is_not_exported(spec):
    with pytest.raises(UserError, match="diffusers"):
        to_diffusers(spec.build(3))


# ---- the codebook ----------------------------------------------------------------------------------------


def test_the_nearest_entry_is_nearest_however_few_are_compared_at_once():
    places, entries = draw(50, 4), draw(17, 4, seed=2)
    expected = (places[:, None] - entries).square().sum(-1).argmin(1)
    for memory in (1, 100, 10**6):
        assert torch.equal(closest(places, entries, memory), expected)


def vq(**more):
    torch.manual_seed(0)
    return VQ(codebook=6, channels=2, **TINY, **more).build(3).double().train()


def test_a_running_average_is_that_of_its_equations():
    """Van den Oord et al. 2017, appendix A.1: m = decay m + (1 - decay) sum of latents, the same for counts, e = m / N.

    An entry that was chosen at no pass stays.
    """
    model = vq(learned="average", restart=0, decay=0.8)
    quantiser, seen = model.quantiser, set()
    quantiser.entries.data = draw(6, 2, seed=4)
    quantiser.usage.data.fill_(1)
    counts, sums = torch.ones(6, dtype=F64), quantiser.entries.detach().clone()
    for step in range(5):
        raw = draw(40, 2, seed=step).abs()
        codes = quantiser.nearest(raw)
        chosen = F.one_hot(codes, 6).double()
        counts = 0.8 * counts + 0.2 * chosen.sum(0) * 6 / 40
        sums = 0.8 * sums + 0.2 * chosen.T @ raw * 6 / 40
        quantiser.learn(raw, codes, draw(40, 2))
        torch.testing.assert_close(quantiser.entries.data, sums / counts[:, None])
        torch.testing.assert_close(quantiser.usage.data, counts)
        seen |= set(codes.tolist())
    assert 0 < len(seen) < 6


def test_a_codebook_of_averages_has_no_gradient_and_one_of_gradients_has():
    for learned in ("gradient", "average"):
        model, media = vq(learned=learned), draw(2, 1, 3, 8, 8)
        found = model.code(media, draw(2, 1, 2, 4, 4))
        assert set(found.penalties) == {"commitment"} | ({"codebook"} if learned == "gradient" else set())
        (found.media.sum() + sum(found.penalties.values())).backward()
        assert (model.quantiser.entries.grad is not None) == (learned == "gradient")
        assert model.encoder.enter.weight.grad.abs().max() > 0


@pytest.mark.parametrize("learned", ["gradient", "average"])
def test_unused_entries_are_put_at_latents_that_the_noise_names(learned):
    model, media, noise = vq(learned=learned, restart=0.1), draw(2, 1, 3, 8, 8), draw(2, 1, 2, 4, 4, seed=5)
    quantiser = model.quantiser
    quantiser.usage.data = torch.tensor([1, 0.05, 1, 1, 0.0, 1], dtype=F64)
    quantiser.entries.data[1] = quantiser.entries.data[4] = 1e3  # nobody chooses them
    raw = model.encode(media).movedim(2, -1).reshape(-1, 2)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.code(media, noise)
    first, second = noise.movedim(2, -1).reshape(-1, 2)[:, 0].argsort()[:2]
    torch.testing.assert_close(quantiser.entries.data[[1, 4]], raw[torch.stack([first, second])])
    assert torch.equal(quantiser.usage.data[[1, 4]], torch.ones(2, dtype=F64))
    once = quantiser.entries.detach().clone()
    model.load_state_dict(state)
    model.code(media, noise)
    assert torch.equal(quantiser.entries.data, once)  # a function of the state and the noise
    model.load_state_dict(state)
    model.eval().code(media, noise)
    assert torch.equal(quantiser.entries.data, state["quantiser.entries"])  # only training teaches


def test_a_fresh_codebook_comes_to_lie_among_the_latents():
    model, media = vq(), draw(2, 1, 3, 8, 8)
    raw = model.encode(media).movedim(2, -1).reshape(-1, 2)
    before = F.mse_loss(model.code(media, draw(2, 1, 2, 4, 4)).latents.movedim(2, -1).reshape(-1, 2), raw)
    after = F.mse_loss(model.code(media, draw(2, 1, 2, 4, 4)).latents.movedim(2, -1).reshape(-1, 2), raw)
    assert after < before / 2
    assert torch.cdist(model.quantiser.entries.data, raw).min(1).values.max() < 1e-12


def test_unit_codes_compare_directions_alone():
    model, media = vq(unit=True), draw(2, 1, 3, 8, 8)
    latents = model.encode(media)
    torch.testing.assert_close(latents.norm(dim=2), torch.ones_like(latents.norm(dim=2)))
    cosine = latents.movedim(2, -1) @ F.normalize(model.quantiser.entries, dim=1).T
    assert torch.equal(model.codes(media), cosine.argmax(-1))
    model.quantiser.entries.data *= torch.arange(1, 7)[:, None]
    assert torch.equal(model.codes(media), cosine.argmax(-1))


# ---- finite scalars --------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(2,), (3,), (8, 5), (4, 3, 2), (7, 6, 5)])
def test_the_grid_is_that_of_its_equations(levels):
    """All codes enumerated: entries are the levels over floor(L / 2), all differ, each leads back to its number."""
    grid = Grid(levels).double()
    codes = torch.arange(grid.size)
    entries = grid.lookup(codes)
    ranges = [[(i - n // 2) / (n // 2) for i in range(n)] for n in levels]
    expected = [combination[::-1] for combination in itertools.product(*ranges[::-1])]  # the first channel fastest
    assert torch.equal(entries, torch.tensor(expected, dtype=F64))
    assert torch.equal(grid.nearest(entries), codes)
    z = torch.linspace(-9, 9, 4001, dtype=F64)[:, None].expand(-1, len(levels))
    confined, n = grid.confined(z), torch.tensor(levels, dtype=F64)
    reach, offset = (n - 1) * (1 - EPS) / 2, 0.5 * (n % 2 == 0)
    torch.testing.assert_close(confined * (n // 2), torch.tanh(z + torch.tan(offset / reach)) * reach - offset)
    for channel, count in enumerate(levels):
        seen = (confined[:, channel] * (count // 2)).round().unique()
        assert seen.tolist() == [i - count // 2 for i in range(count)]  # every level is reached, and no other


def test_fsq_rounds_with_the_gradient_of_what_is_not_rounded():
    torch.manual_seed(0)
    model = FSQ(levels=(8, 5, 4), **TINY, mean=(0.1, 0.2, 0.3), std=(2.0,)).build(3).double()
    media = draw(2, 1, 3, 8, 8)
    found = model.code(media, draw(2, 1, 3, 4, 4))
    half = torch.tensor([4.0, 2.0, 2.0], dtype=F64)[:, None, None]
    torch.testing.assert_close(model.raw(found.latents), (model.raw(model.encode(media)) * half).round() / half)
    assert (found.penalties, model.codebook) == ({}, 160)
    assert torch.equal(found.codes, model.codes(media))
    torch.testing.assert_close(model.lookup(found.codes), found.latents)
    torch.testing.assert_close(model.decode(model.lookup(found.codes)), found.media)
    pull = draw(*found.latents.shape, seed=7)
    (straight,) = torch.autograd.grad((found.latents * pull).sum(), model.quant.weight)
    (smooth,) = torch.autograd.grad((model.encode(media) * pull).sum(), model.quant.weight)
    torch.testing.assert_close(straight, smooth)


@pytest.mark.parametrize("spec", [VQ(codebook=6, channels=2, **TINY), FSQ(levels=(3, 2), **TINY)])
def test_a_code_that_there_is_none_of_is_refused(spec):
    model = spec.build(3)
    for code in (-1, 6):
        with pytest.raises(ValueError, match="not all from 0 to 5"):
            model.lookup(torch.full((1, 1, 2, 2), code))


@pytest.mark.parametrize(("spec", "fields", "words"), [
    (VQ, {"widths": [32, 48]}, "groups"), (VQ, {"attended": [3]}, "levels from 0 to 2"),
    (VQ, {"mean": [0.0, 1.0]}, "one a channel"), (VQ, {"codebook": 1}, "codebook"),
    (FSQ, {"levels": [8, 1]}, "levels"), (FSQ, {"levels": [2] * 32}, "at most"),
    (FSQ, {"decoder_widths": [32]}, "as many levels"),
])
def test_a_spec_that_cannot_be_is_refused(spec, fields, words):
    with pytest.raises(UserError, match=words):
        from_dict(spec, fields)


def test_a_file_without_its_codebook_is_told_from_a_whole_one(tmp_path):
    _, theirs = pair("ldm")
    theirs.float().save_pretrained(tmp_path)
    tensors = {key: tensor for key, tensor in theirs.state_dict().items() if "quantize" not in key}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"2 tensors are missing, the first quantiser\.entries"):
        load_latents(open_component(tmp_path))
