"""The representation autoencoder: its encoders and its decoder against diffusers' AutoencoderRAE."""

import json

import pytest
import torch
from parity import Exact, draw, randomised
from safetensors.torch import load_file, save_file
from test_autoencoder import close

from fromnoise.config import from_dict
from fromnoise.interop.rules import patch_rows, same, shaped, stacked, take
from fromnoise.latents import Representation
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
autoencoder_rae = pytest.importorskip("diffusers.models.autoencoders.autoencoder_rae")
transformers = pytest.importorskip("transformers")
F64 = torch.float64
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
ENCODERS = {  # (class, config, patch): heads of 64, as diffusers has them
    "dinov2": ("Dinov2WithRegisters", {"image_size": 518, "patch_size": 14, "num_register_tokens": 4}, 14),
    "siglip2": ("SiglipVision", {"image_size": 256, "patch_size": 16}, 16),
    "mae": ("ViTMAE", {"image_size": 224, "patch_size": 16}, 16),
}
MEAN, STD = [0.375, 0.5, 0.625], [0.1875, 0.25, 0.3125]  # the same in every precision


def save_encoder(name, folder):
    """An encoder with random weights, gain and bias of its last norm included."""
    kind, config, _ = ENCODERS[name]
    torch.manual_seed(0)
    net = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SMALL, **config))
    randomised(net).float().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return net.double().eval()


def build(folder, **more):
    return Representation(encoder=str(folder), width=16, depth=2, heads=4, **{"patch": 16, **more}).build(3).double()


def decoder_rules(depth, patch):
    found = [*same("enter", "decoder_embed", "weight", "bias"), *same("norm", "decoder_norm", "weight", "bias"),
             *patch_rows("leave", "decoder_pred", 3, patch), *shaped("token", "trainable_cls_token", (16,), (1, 1, 16))]
    for i in range(depth):
        ours, theirs = f"blocks.{i}.layers.image", f"decoder_layers.{i}"
        for a, b in (("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("heads.out", "attention.to_out.0"),
                     ("feed_forward.inner", "intermediate.dense"), ("feed_forward.outer", "output.dense")):
            found += same(f"{ours}.{a}", f"{theirs}.{b}", "weight", "bias")
        found += stacked(f"{ours}.heads.qkv", [f"{theirs}.attention.to_{c}" for c in "qkv"], True)
    return found


@pytest.mark.parametrize("name", ENCODERS)
def test_it_equals_diffusers(name, tmp_path):
    """Latents, pictures and the decoder's gradients; at 32 px, where diffusers is told to see that size."""
    _, _, patch = ENCODERS[name]
    net = save_encoder(name, tmp_path)
    theirs = diffusers.AutoencoderRAE(
        encoder_type="dinov2" if name == "siglip2" else name, encoder_hidden_size=64, encoder_patch_size=patch,
        encoder_num_hidden_layers=2,
        decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, patch_size=16, encoder_input_size=2 * patch, encoder_norm_mean=MEAN,
        encoder_norm_std=STD, latents_mean=torch.full((64, 1, 1), 0.375), latents_std=torch.full((64, 1, 1), 1.5))
    if name == "siglip2":  # whose class in diffusers 0.42 cannot be made with transformers 5
        theirs._encoder_forward_fn = autoencoder_rae._siglip2_encoder_forward
    theirs.encoder, net.config.mask_ratio = net, 0.0
    last = net.post_layernorm if name == "siglip2" else net.layernorm
    last.weight = last.bias = None  # as diffusers does it
    theirs.double().eval()
    randomised(theirs.decoder)
    ours = build(tmp_path, mean=[0.375] * 64, std=[1.5 + 1e-5]).eval()
    rules = decoder_rules(2, 16)
    ours.decoder.load_state_dict(take(theirs.decoder.state_dict(), rules))
    assert (ours.channels, ours.factor, ours.codebook) == (64, 16, 0)

    media = draw(2, 1, 3, 32, 32).clamp(-1, 1)
    theirs.decoder.decoder_pos_embed = theirs.decoder.decoder_pos_embed.double()
    with torch.no_grad(), Exact():
        expected, latents = theirs.encode((media[:, 0] + 1) / 2).latent, ours.encode(media)
    close(latents[:, 0], expected, F64)
    back, mine = theirs.decode(latents[:, 0]).sample * 2 - 1, ours.decode(latents)
    close(mine[:, 0], back, F64)
    pull = draw(*back.shape, seed=3)
    (back * pull).sum().backward()
    (mine[:, 0] * pull).sum().backward()
    gradients = take({key: p.grad for key, p in theirs.decoder.named_parameters()}, rules)
    for key, parameter in ours.decoder.named_parameters():
        close(parameter.grad, gradients[key], F64)


def test_the_encoder_is_frozen_and_no_part_of_the_module(tmp_path):
    net = save_encoder("dinov2", tmp_path)
    model = build(tmp_path).train()
    assert all(name.startswith("decoder.") for name, _ in model.named_parameters())
    assert all(name.startswith("decoder.") for name in model.state_dict())
    assert not any(p.requires_grad for p in model.encoder.model.parameters())
    assert not model.encoder.model.training
    assert next(model.encoder.model.parameters()).dtype == F64  # it moves along
    before = {key: p.clone() for key, p in model.encoder.model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model.code(draw(2, 1, 3, 32, 32), draw(2, 1, 64, 2, 2)).media.square().mean().backward()
    optimizer.step()
    for key, parameter in model.encoder.model.named_parameters():
        assert torch.equal(parameter, before[key])
    assert len(before) == len(list(net.parameters()))


def test_noise_is_given_to_the_decoder_in_training_alone(tmp_path):
    """Its strength is uniform in [0, tau], one for each picture, and a function of the noise."""
    save_encoder("siglip2", tmp_path)
    model, media = build(tmp_path, noise=0.5, mean=(0.2,), std=(3.0,)), draw(4, 1, 3, 32, 32)
    clean, noise = model.encode(media), draw(4, 1, 64, 2, 2, seed=6)
    torch.testing.assert_close(model.eval().code(media, noise).latents, clean)
    found = model.train().code(media, noise)
    strength = (found.latents - clean) * 3 / noise
    torch.testing.assert_close(strength, strength[:, :, :1, :1, :1].expand_as(strength))
    torch.testing.assert_close(found.media, model.decode(found.latents))
    again = model.code(media[:1], noise[:1])
    torch.testing.assert_close(again.latents, found.latents[:1])
    many = draw(2000, 1, 4, 1, 1, seed=8)
    model.encoder = lambda pictures, grid: torch.zeros(len(pictures), 4, 1, 1, dtype=F64)
    model.decode = lambda latents: latents
    latents = model.code(torch.zeros(2000, 1, 3, 16, 16, dtype=F64), many).latents * 3 + 0.2
    drawn = (latents / many).flatten(1)[:, 0].sort().values
    assert float((drawn - torch.linspace(0, 0.5, 2000, dtype=F64)).abs().max()) < 0.02


def test_features_have_mean_zero_and_variance_one_at_every_place(tmp_path):
    save_encoder("dinov2", tmp_path)
    latents = build(tmp_path).encode(draw(1, 1, 3, 32, 48))
    assert latents.shape == (1, 1, 64, 2, 3)
    torch.testing.assert_close(latents.mean(2), torch.zeros_like(latents[:, :, 0]))
    assert float((latents.var(2, correction=0) - 1).abs().max()) < 1e-4


def test_grey_pictures_are_seen_in_three_equal_channels(tmp_path):
    save_encoder("siglip2", tmp_path)
    spec = Representation(encoder=str(tmp_path), width=16, depth=1, heads=4)
    grey = torch.rand(1, 1, 1, 32, 32)
    torch.testing.assert_close(spec.build(1).encode(grey), spec.build(3).encode(grey.expand(-1, -1, 3, -1, -1)))
    assert spec.build(1).decode(torch.zeros(1, 1, 64, 2, 2)).shape == (1, 1, 1, 32, 32)
    with pytest.raises(UserError, match="1 or 3 channels"):
        spec.build(4)


def test_an_encoder_that_cannot_be_had_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        Representation(encoder=str(tmp_path / "nowhere")).build(3)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="kind bert"):
        Representation(encoder=str(tmp_path)).build(3)
    save_encoder("mae", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(dict(list(load_file(file).items())[:-5]), file, {"format": "pt"})
    with pytest.raises(UserError, match="tensors are missing"):
        Representation(encoder=str(tmp_path)).build(3)
    with pytest.raises(UserError, match="multiple of its heads"):
        from_dict(Representation, {"width": 64, "heads": 5})
