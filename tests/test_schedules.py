"""Schedules of diffusers as ours: the same noise levels, the same timesteps, the same samples."""

import pytest
import torch

from fromnoise.interop.schedules import schedule_of
from fromnoise.process import Cosine, Flow, ScaledLinear, ZeroTerminal, from_x0
from fromnoise.sample import solve
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ONE = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
ZERO = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}

CASES = {  # (class, config): the first of each pipeline's own, then what people change
    "sd1 ddim": ("DDIMScheduler", SD | ONE),
    "sd2 v ddim": ("DDIMScheduler", SD | ONE | {"prediction_type": "v_prediction"}),
    "zero terminal ddim": ("DDIMScheduler", ZERO | {"clip_sample": False}),
    "dit ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim trailing": ("DDIMScheduler", SD | {"clip_sample": False, "timestep_spacing": "trailing"}),
    "sample prediction": ("DDIMScheduler", SD | ONE | {"prediction_type": "sample"}),
    "sdxl euler": ("EulerDiscreteScheduler", SD | {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler linspace": ("EulerDiscreteScheduler", SD),
    "euler trailing": ("EulerDiscreteScheduler", SD | {"timestep_spacing": "trailing"}),
    "euler karras": ("EulerDiscreteScheduler", SD | {"use_karras_sigmas": True}),
    "euler exponential": ("EulerDiscreteScheduler", SD | {"use_exponential_sigmas": True}),
    "euler to its first level": ("EulerDiscreteScheduler", SD | {"final_sigmas_type": "sigma_min"}),
    "zero terminal euler": ("EulerDiscreteScheduler", ZERO),
    "cosine euler": ("EulerDiscreteScheduler", {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing",
                                                "prediction_type": "v_prediction"}),
    "pixart dpm": ("DPMSolverMultistepScheduler", {"beta_end": 0.02}),
    "sd dpm": ("DPMSolverMultistepScheduler", SD | {"steps_offset": 1, "timestep_spacing": "leading"}),
    "dpm karras": ("DPMSolverMultistepScheduler", SD | {"use_karras_sigmas": True}),
    "dpm trailing": ("DPMSolverMultistepScheduler", SD | {"timestep_spacing": "trailing"}),
    "zero terminal dpm": ("DPMSolverMultistepScheduler", ZERO),
    "sana dpm": ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True,
                                                 "flow_shift": 3.0}),
    "unipc": ("UniPCMultistepScheduler", SD),
}


def theirs(kind, config, steps, **told):
    scheduler = getattr(diffusers, kind)(**config)
    scheduler.set_timesteps(steps, **told)
    return scheduler


def denoiser(path):
    """x0 of a bimodal law, in one dimension at a time."""
    def x0(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        return 0.8 * torch.tanh(0.8 * alpha * x / (sigma.square() + 0.3 * alpha.square()))

    return x0


def loop(scheduler, schedule, times, noise):
    """diffusers' sampling loop on that denoiser, told the prediction it asks for."""
    x, x0 = noise * getattr(scheduler, "init_noise_sigma", 1.0), denoiser(schedule.path)
    for timestep, t in zip(scheduler.timesteps, times, strict=False):
        seen = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        output = from_x0(schedule.prediction, schedule.path, x0(seen, t), seen, t)
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    euler = isinstance(scheduler, diffusers.EulerDiscreteScheduler)  # its states are x / alpha, to the last
    return x * schedule.path.alpha(times[-1]) if euler else x


@pytest.mark.parametrize("steps", [4, 25])
@pytest.mark.parametrize("case", CASES)
def test_times_and_samples_are_those_of_diffusers(case, steps):
    kind, config = CASES[case]
    schedule, scheduler = schedule_of(kind, config), theirs(kind, config, steps)
    times = schedule.times(steps)
    assert len(times) == steps + (case != "euler to its first level")  # whose last step stands still
    # Between two levels this one interpolates sigma / alpha, and all others and we its logarithm.
    told = schedule.told(times[:steps])
    torch.testing.assert_close(told, scheduler.timesteps[: len(told)].double(), rtol=0,
                               atol=0.1 if "linspace" in case else 2e-3)
    if hasattr(scheduler, "sigmas"):
        ratio = schedule.path.sigma(times) / (1 if schedule.path == Flow() else schedule.path.alpha(times))
        torch.testing.assert_close(ratio, scheduler.sigmas[: len(ratio)].double(), rtol=2e-5, atol=1e-7)
    noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = loop(scheduler, schedule, times, noise)
    got = solve(denoiser(schedule.path), noise * schedule.noise_scale(times), path=schedule.path,
                solver=schedule.solver, grid=times)
    assert float((got - want).abs().max()) < 2e-5 * max(1.0, float(want.abs().max()))


FLOWS = {  # (config, pipeline, tokens, what the pipeline gives to set_timesteps)
    "sd3": ({"shift": 3.0}, "StableDiffusion3Pipeline", None),
    "sd3.5 by size": ({"use_dynamic_shifting": True, "max_shift": 1.16}, "StableDiffusion3Pipeline", 1024),
    "flux dev": ({"shift": 3.0, "use_dynamic_shifting": True}, "FluxPipeline", 4096),
    "flux schnell": ({"shift": 1.0}, "FluxPipeline", 4096),
    "flux 2": ({"shift": 3.0, "use_dynamic_shifting": True}, "Flux2Pipeline", 4096),
    "flux 2, large": ({"shift": 3.0, "use_dynamic_shifting": True}, "Flux2KleinPipeline", 5000),
    "z-image": ({"shift": 3.0}, "ZImagePipeline", 4096),
    "qwen-image": ({"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192,
                    "shift_terminal": 0.02}, "QwenImagePipeline", 3000),
    "linear": ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, "FluxPipeline", 2000),
}


@pytest.mark.parametrize("steps", [3, 28])
@pytest.mark.parametrize("case", FLOWS)
def test_flows_are_those_of_the_pipelines(case, steps):
    import numpy as np
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    config, pipeline, tokens = FLOWS[case]
    kind = "FlowMatchEulerDiscreteScheduler"
    scheduler = getattr(diffusers, kind)(**config)
    c, told = scheduler.config, {}
    if config.get("use_dynamic_shifting"):
        told["mu"] = compute_empirical_mu(tokens, steps) if "2" in pipeline else calculate_shift(
            tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
    if pipeline.startswith(("Flux", "Qwen", "ZImage")):
        told["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, **told)
    schedule = schedule_of(kind, config, pipeline)
    times = schedule.times(steps, tokens)
    torch.testing.assert_close(times, scheduler.sigmas.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(schedule.told(times[:-1]), scheduler.timesteps.double(), rtol=1e-5, atol=1e-3)
    noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = loop(scheduler, schedule, times, noise)
    got = solve(denoiser(schedule.path), noise * schedule.noise_scale(times), path=schedule.path,
                solver=schedule.solver, grid=times)
    assert float((got - want).abs().max()) < 1e-5


def test_paths():
    assert schedule_of("DDIMScheduler", SD).path == ScaledLinear()
    assert schedule_of("DDIMScheduler", ZERO).path == ZeroTerminal(base=ScaledLinear())
    assert schedule_of("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}).path == Cosine()
    assert schedule_of("DDIMScheduler", {}).clip == 1.0
    assert schedule_of("DDIMScheduler", ONE).clip is None


def test_pndm_steps_on_the_levels_of_diffusers():
    config = SD | {"skip_prk_steps": True, "steps_offset": 1}
    scheduler = theirs("PNDMScheduler", config, 20)
    schedule = schedule_of("PNDMScheduler", config)
    times = schedule.times(20)
    assert schedule.solver == "ipndm_4"
    assert schedule.told(times[:-1]).round().tolist() == scheduler.timesteps.unique().flip(0).tolist()
    assert float(schedule.told(times[-1])) == pytest.approx(0, abs=1e-9)  # set_alpha_to_one is False


def test_a_step_that_stands_still_is_left_out():
    """DDIM from level 0 to level 0: diffusers evaluates there and changes nothing."""
    config = SD | {"clip_sample": False, "set_alpha_to_one": False}
    times = schedule_of("DDIMScheduler", config).times(10)
    assert len(times) == 10
    assert float(times[-1]) == pytest.approx(1e-3)


@pytest.mark.parametrize(("kind", "config", "words"), [
    ("LCMScheduler", {}, "scheduler LCMScheduler has no counterpart"),
    ("DDIMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
    ("DDIMScheduler", {"trained_betas": [0.1]}, "trained_betas"),
    ("DDIMScheduler", {"thresholding": True}, "thresholding True"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type 'continuous'"),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
    ("PNDMScheduler", {}, "without skip_prk_steps"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type 'dpmsolver'"),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type 'heun'"),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "must have prediction_type flow_prediction"),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas True"),
    ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas"),
])
def test_what_has_no_counterpart_is_named(kind, config, words):
    with pytest.raises(UserError, match=words):
        schedule_of(kind, config)


def test_what_cannot_be_asked_is_said():
    with pytest.raises(UserError, match="1000 levels and cannot take 1001 steps"):
        schedule_of("DDIMScheduler", SD).times(1001)
    with pytest.raises(UserError, match="number of its tokens is needed"):
        schedule_of("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}).times(4)
