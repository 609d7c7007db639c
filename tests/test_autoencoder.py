"""Our KL autoencoder against diffusers', with every parameter random."""

import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromnoise.folders import open_component
from fromnoise.interop.autoencoder import from_diffusers, kl_spec, load_latents, to_diffusers
from fromnoise.latents import KL, Foreign
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")

SHAPES = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
          "block_out_channels": [8, 16, 16], "norm_num_groups": 4, "layers_per_block": 2}
FAMILIES = {  # the settings in which the published autoencoders differ
    "sd": {"latent_channels": 4, "scaling_factor": 0.18215},
    "sdxl": {"latent_channels": 4, "scaling_factor": 0.13025},
    "playground": {"latent_channels": 4, "scaling_factor": 0.5, "latents_mean": [0.1, -0.2, 0.3, 0.4],
                   "latents_std": [1.0, 2.0, 3.0, 4.0]},
    "flux": {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False,
             "use_post_quant_conv": False},
    "no attention": {"latent_channels": 3, "mid_block_add_attention": False, "layers_per_block": 1},
}


def randomised(module, seed=0):
    """Every parameter and buffer random, so that none hides behind a constant."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data = (0.3 * noise + (0.5 if tensor.ndim == 1 else 0)).to(tensor.dtype)
    if hasattr(module, "bn"):
        module.bn.running_var.abs_().add_(0.1)
    return module.eval()


def pair(kind, config, dtype):
    theirs = randomised(getattr(diffusers, kind)(**config)).to(dtype)
    ours = kl_spec(kind, theirs.config, theirs.state_dict()).build(3).to(dtype)
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    return ours, theirs


def close(a, b, dtype):
    scale = float(b.detach().abs().max())
    assert float((a - b).detach().abs().max()) <= (1e-5 if dtype == torch.float32 else 1e-10) * max(scale, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_kl_equals_diffusers(family, dtype):
    ours, theirs = pair("AutoencoderKL", SHAPES | FAMILIES[family], dtype)
    generator = torch.Generator().manual_seed(1)
    media = torch.randn(2, 3, 3, 20, 28, generator=generator, dtype=dtype)  # odd multiples of 4, not square, 3 frames
    flat = media.flatten(0, 1)
    law = theirs.encode(flat).latent_dist
    mean, logvar = ours.moments(media)
    close(mean.flatten(0, 1), law.mean, dtype)
    close(logvar.flatten(0, 1), law.logvar, dtype)
    noise = torch.randn(mean.shape, generator=generator, dtype=dtype)
    drawn = ours.encode(media, noise)
    raw = law.mean + law.std * noise.flatten(0, 1)
    c = theirs.config
    if c.latents_mean:
        shift, scale = (torch.tensor(v, dtype=dtype).view(-1, 1, 1) for v in (c.latents_mean, c.latents_std))
        close(drawn.flatten(0, 1), (raw - shift) / scale * c.scaling_factor, dtype)
    else:
        close(drawn.flatten(0, 1), (raw - (c.shift_factor or 0)) * c.scaling_factor, dtype)
    assert torch.equal(ours.encode(media), ours.encode(media, torch.zeros_like(noise)))

    close(ours.decode(drawn).flatten(0, 1), theirs.decode(raw).sample, dtype)
    pull = torch.randn(flat.shape, generator=generator, dtype=dtype)
    (ours.decode(ours.encode(media, noise)).flatten(0, 1) * pull).sum().backward()
    (theirs.decode(raw).sample * pull).sum().backward()
    gradients = from_diffusers({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_autoencoder_of_flux_2_equals_diffusers(dtype):
    config = SHAPES | {"latent_channels": 4, "decoder_block_out_channels": [4, 8, 16]}
    ours, theirs = pair("AutoencoderKLFlux2", config, dtype)
    assert (ours.factor, ours.channels) == (8, 16)
    media = torch.randn(2, 1, 3, 24, 40, generator=torch.Generator().manual_seed(1), dtype=dtype)
    pipeline = diffusers.Flux2Pipeline
    raw = theirs.encode(media[:, 0]).latent_dist.mean
    mean, std = theirs.bn.running_mean.view(1, -1, 1, 1), (theirs.bn.running_var + 1e-4).sqrt().view(1, -1, 1, 1)
    latents = (pipeline._patchify_latents(raw) - mean) / std
    close(ours.encode(media)[:, 0], latents, dtype)
    close(ours.decode(latents[:, None])[:, 0],
          theirs.decode(pipeline._unpatchify_latents(latents * std + mean)).sample,
          dtype if dtype == torch.float32 else torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_opens_in_diffusers_and_comes_back(family, tmp_path):
    _, first = pair("AutoencoderKL", SHAPES | FAMILIES[family], torch.float32)
    first.save_pretrained(tmp_path)
    ours = load_latents(open_component(tmp_path))
    kind, config, tensors = to_diffusers(ours)
    again = getattr(diffusers, kind)(**config)
    again.load_state_dict(tensors)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert again.config.scaling_factor == pytest.approx(first.config.scaling_factor) or family == "playground"
    assert kl_spec(kind, again.config, tensors) == ours.spec


def test_flux_2_is_exported_too():
    ours, theirs = pair("AutoencoderKLFlux2", SHAPES | {"latent_channels": 4}, torch.float32)
    kind, config, tensors = to_diffusers(ours)
    again = getattr(diffusers, kind)(**config)
    again.load_state_dict(tensors)
    assert torch.allclose(again.bn.running_var, theirs.bn.running_var, rtol=1e-6)


def test_old_names_of_attention_are_read():
    ours, theirs = pair("AutoencoderKL", SHAPES, torch.float32)
    new = theirs.state_dict()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {re.sub("to_q|to_k|to_v|to_out.0", lambda m: names[m[0]], key): value for key, value in new.items()}
    assert old.keys() != new.keys()
    for name, tensor in from_diffusers(old).items():
        assert torch.equal(tensor, ours.state_dict()[name])


def test_published_sizes():
    """SD's and SDXL's autoencoder has 83,653,863 parameters, SD3's and Flux's 83,819,683 (config files of the hub)."""
    with torch.device("meta"):
        sd = KL().build(3)
        flux = KL(channels=16, quant=False, post_quant=False).build(3)
        theirs = diffusers.AutoencoderKL(**SHAPES | {
            "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32})
    count = [sum(p.numel() for p in m.parameters()) for m in (sd, flux, theirs)]
    assert count[0] == count[2] == 83_653_863
    assert count[1] == 83_819_683
    assert sd.factor == flux.factor == 8


@pytest.mark.parametrize(("change", "words"), [
    ({"act_fn": "gelu"}, "act_fn"),
    ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
    ({"out_channels": 4}, "channels"),
    ({"norm_num_groups": 5}, "groups"),
    ({"latents_mean": [0.0, 1.0], "latents_std": [1.0, 1.0]}, "one a channel"),
])
def test_what_has_no_counterpart_is_said(change, words):
    with pytest.raises(UserError, match=words):
        kl_spec("AutoencoderKL", SHAPES | change, {})


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        KL(widths=(4, 4, 4), groups=2).build(3).encode(torch.zeros(1, 1, 3, 10, 8))


# ---- those that diffusers runs -----------------------------------------------------------------------------

QWEN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 2.0, 0.5, 1.0]}
DEEP = {"latent_channels": 8, "attention_head_dim": 8, "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock", "encoder_block_out_channels": (8, 8, 16),
        "decoder_block_out_channels": (8, 8, 16), "encoder_layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1), "encoder_qkv_multiscales": ((), (), ()),
        "decoder_qkv_multiscales": ((), (), ()), "upsample_block_type": "interpolate", "scaling_factor": 0.41407}
FOREIGN = {  # (class, config, channels, factor)
    "AutoencoderDC": (DEEP, 8, 4),
    "VQModel": (SHAPES | {"latent_channels": 3, "num_vq_embeddings": 16, "vq_embed_dim": 5}, 5, 4),
    "AutoencoderKLQwenImage": (QWEN, 4, 4),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_autoencoder_of_diffusers_keeps_our_contract(kind, tmp_path):
    config, channels, factor = FOREIGN[kind]
    theirs = randomised(getattr(diffusers, kind)(**config))
    theirs.save_pretrained(tmp_path)
    ours = load_latents(open_component(tmp_path))
    assert (ours.channels, ours.factor) == (channels, factor)
    media = torch.randn(2, 2, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    latents = ours.encode(media)
    assert latents.shape == (2, 2, channels, 3, 5)
    for b, t in ((0, 0), (1, 1)):
        picture, z = media[b, t][None], latents[b, t][None]
        with torch.no_grad():
            if kind == "AutoencoderKLQwenImage":
                mean, std = (torch.tensor(QWEN[f"latents_{k}"]).view(1, 4, 1, 1) for k in ("mean", "std"))
                want = (theirs.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0] - mean) / std
                back = theirs.decode((z * std + mean)[:, :, None]).sample[:, :, 0]
            else:
                found = theirs.encode(picture)
                want = (found.latent if kind == "AutoencoderDC" else found.latents) * theirs.config.scaling_factor
                back = theirs.decode(z / theirs.config.scaling_factor).sample
        close(z, want, torch.float32)
        close(ours.decode(latents)[b, t][None], back, torch.float32)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)
    with pytest.raises(UserError, match=r"does not fit its config: 1 tensor is missing|The weights lack "):
        load_latents(open_component(tmp_path))


def test_without_diffusers_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"AutoencoderDC needs diffusers: pip install 'fromnoise\[diffusers\]'"):
        Foreign(name="AutoencoderDC", config={}).build(3)


def test_an_autoencoder_that_is_not_known_is_named():
    with pytest.raises(UserError, match="AutoencoderKLMochi has no counterpart here"):
        kl_spec("AutoencoderKLMochi", {}, {})


def test_a_pass_of_training_draws_latents_and_measures_the_divergence():
    """The divergence of torch's own normal distributions, and what ``encode`` and ``decode`` make of the same noise."""
    latents = randomised(KL(channels=3, widths=(8, 16), groups=4, mean=(0.3,), std=(1.7,), weight=0.25).build(3))
    media, noise = torch.randn(2, 1, 3, 6, 8), torch.randn(2, 1, 3, 3, 4)
    mean, logvar = latents.moments(media)
    normal = torch.distributions.Normal(mean, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    found = latents.code(media, noise)
    torch.testing.assert_close(found.penalties["kl"], 0.25 * expected)
    torch.testing.assert_close(found.latents, latents.encode(media, noise))
    torch.testing.assert_close(found.media, latents.decode(found.latents))
