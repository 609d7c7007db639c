"""What is written opens in diffusers and comes back the same."""

import pytest
import torch

from fromnoise.folders import Pipeline, open_pipeline
from fromnoise.interop.autoencoder import load_latents, to_diffusers
from fromnoise.interop.encoders import labels_of
from fromnoise.interop.save import scheduler_of, write_model, write_pipeline, write_schedule
from fromnoise.interop.schedules import schedule_of
from fromnoise.latents import KL
from fromnoise.process import DDPM, VP, Cosine, Flow, ScaledLinear, Shifted, ZeroTerminal
from fromnoise.text import Labels
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")


def test_a_written_pipeline_opens_in_diffusers(tmp_path):
    torch.manual_seed(0)
    ours = KL(widths=(8, 16), groups=4, channels=3, mean=(0.2,), std=(2.0,)).build(3)
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
                                 down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
                                 add_attention=False)
    write_model(tmp_path / "vqvae", *to_diffusers(ours))
    write_model(tmp_path / "unet", "UNet2DModel", {k: v for k, v in unet.config.items() if not k.startswith("_")},
                unet.state_dict())
    kind = write_schedule(tmp_path / "scheduler", ScaledLinear(), "v")
    classes = {"vqvae": "AutoencoderKL", "unet": "UNet2DModel", "scheduler": kind}
    write_pipeline(tmp_path, "LDMPipeline", {name: ("diffusers", cls) for name, cls in classes.items()})
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(theirs, diffusers.LDMPipeline)
    assert isinstance(theirs.scheduler, diffusers.DDIMScheduler)
    media = torch.randn(1, 1, 3, 8, 12)
    with torch.no_grad():
        want = (theirs.vqvae.encode(media[:, 0]).latent_dist.mean - 0.2) * theirs.vqvae.config.scaling_factor
        torch.testing.assert_close(ours.encode(media)[:, 0], want)
    assert all(torch.equal(v, unet.state_dict()[k]) for k, v in theirs.unet.state_dict().items())
    again = load_latents(open_pipeline(tmp_path).part("vqvae"))
    assert again.spec == ours.spec
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize(("path", "prediction"), [
    (Flow(), "velocity"), (ScaledLinear(), "eps"), (DDPM(), "x0"), (ZeroTerminal(), "v"),
    (DDPM(beta_end=0.01, levels=500), "v"), (ZeroTerminal(base=DDPM()), "v"), (VP(), "eps"),
    (VP(beta_min=0.3, beta_max=12.5), "v"),
])
def test_schedules_come_back(path, prediction):
    kind, config = scheduler_of(path, prediction)
    theirs = getattr(diffusers, kind)(**config)  # which takes every setting that is written
    back = schedule_of(kind, theirs.config)
    assert (back.path, back.prediction, back.clip) == (path, prediction, None)
    times = back.times(10)
    assert (len(times), float(times[0]), float(times[-1])) == (11, pytest.approx(1.0, abs=1e-12), 0.0)


def test_the_levels_of_a_continuous_path_are_on_it():
    theirs = diffusers.DDIMScheduler(**scheduler_of(VP(), "eps")[1])
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(theirs.alphas_cumprod.double(), VP().alpha(t).square(), rtol=1e-4, atol=1e-7)
    with pytest.raises(UserError, match="trained_betas have no counterpart"):
        schedule_of("DDIMScheduler", {"trained_betas": DDPM().betas().sqrt().tolist()})


def test_a_shift_is_the_schedulers():
    kind, config = scheduler_of(Shifted(by=3.0), "velocity")
    even = torch.linspace(1, 0.1, 10, dtype=torch.float64)
    times = schedule_of(kind, config, "FluxPipeline").times(10)[:-1]
    torch.testing.assert_close(times, Flow().shift(even, 3.0))


@pytest.mark.parametrize(("path", "prediction"), [(Cosine(), "eps"), (Flow(), "x0"), (Shifted(base=DDPM()), "eps"),
                                                  (ScaledLinear(), "velocity")])
def test_what_diffusers_does_not_have_is_said(path, prediction):
    with pytest.raises(UserError, match="diffusers has no scheduler for the path"):
        scheduler_of(path, prediction)


def test_classes_by_name_and_number(tmp_path):
    pipeline = Pipeline(tmp_path, "DiTPipeline", {}, {"id2label": {"0": "tench, Tinca tinca", "1": "goldfish"}})
    spec = labels_of(pipeline, 3, 4)
    assert spec == Labels(names=("tench, Tinca tinca", "goldfish", "2"), width=4)
    encoder = spec.build()
    pooled = encoder.encode(["Tinca tinca", "goldfish", "1", "2", ""]).pooled
    assert torch.equal(pooled, encoder.table[[0, 1, 1, 2, 3]])
    for wrong in ("goldfisch", "3", "-1"):
        with pytest.raises(UserError, match=f'"{wrong}" is not a class of this model, which are the numbers 0 to 2'):
            encoder.encode([wrong])
    with pytest.raises(UserError, match='Did you mean "goldfish"'):
        encoder.encode(["goldfisch"])
