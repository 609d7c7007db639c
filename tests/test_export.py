"""What we write is opened by diffusers: whole pipelines, and the networks and schedules of our own runs."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_pipelines import CASES, NAMES, dit

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.interop.configs import WRITERS, config_of
from fromnoise.interop.transformers import FAMILIES
from fromnoise.nets.trunk import presets
from fromnoise.types import Condition, UserError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_comes_back_as_it_was_opened(name, tmp_path):
    CASES[name][0]()[0].save_pretrained(tmp_path / "theirs")
    assert main(["export", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    before, after = (diffusers.DiffusionPipeline.from_pretrained(tmp_path / d) for d in ("theirs", "ours"))
    assert type(before) is type(after)
    assert before.components.keys() == after.components.keys()
    for part, module in before.components.items():
        if isinstance(module, torch.nn.Module):
            mine = after.components[part].state_dict()
            assert mine.keys() == module.state_dict().keys(), part
            for key, value in module.state_dict().items():
                idle = (name.startswith("sd3") and "add_q_proj" in key) or "norm_added_q" in key
                if not (idle and mine[key].abs().max() == 0):
                    torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-6, msg=f"{part} {key}")
    assert before.scheduler.config == after.scheduler.config


def test_what_was_changed_is_written(tmp_path):
    CASES["sd3"][0]()[0].save_pretrained(tmp_path / "theirs")
    model = fn.load(tmp_path / "theirs", "cpu")
    with torch.no_grad():
        for p in model.system.denoiser.net.parameters():
            p.add_(0.01)
    from fromnoise.interop.export import export

    export(model, tmp_path / "ours")
    again = fn.load(tmp_path / "ours", "cpu")
    noise = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = (m.sample("a red circle", steps=3, noise=noise, size=(16, 16)).media for m in (model, again))
    torch.testing.assert_close(a, b)


def test_classes_are_written(tmp_path):
    dit().save_pretrained(tmp_path / "theirs")
    index = tmp_path / "theirs" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": NAMES}))
    assert main(["export", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    before, after = (diffusers.DiTPipeline.from_pretrained(tmp_path / d) for d in ("theirs", "ours"))
    assert after.labels == before.labels
    for key, value in before.transformer.state_dict().items():
        torch.testing.assert_close(after.transformer.state_dict()[key], value)


PUBLISHED = {"sd3": "SD3Transformer2DModel", "flux1": "FluxTransformer2DModel", "flux2": "Flux2Transformer2DModel",
             "pixart": "PixArtTransformer2DModel", "qwen_image": "QwenImageTransformer2DModel",
             "z_image": "ZImageTransformer2DModel"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trunk_has_its_published_config(name):
    spec = presets.PRESETS[name]()
    kind, config = config_of(spec, 16, 64, 48, 64)
    assert kind == PUBLISHED[name]
    assert FAMILIES[kind].spec(config) == spec


def test_what_has_no_counterpart_is_said():
    with pytest.raises(UserError, match="cannot be exported"):
        config_of(presets.PRESETS["uvit"](), 4, 64, None, 32)
    assert set(WRITERS) <= set(FAMILIES)


@pytest.mark.parametrize("preset", ["sd3", "flux1"])
def test_a_run_of_a_preset_is_opened_by_diffusers(preset, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", "shapes", "--preset", preset, "--out", str(run), "--train.steps", "3", "--train.batch", "4",
                 "--evaluate.samples", "4", "--train.threads", "1", "--net.patch", "2",
                 "--net.time.scale", "1000"]) == 0
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert "stays with the run" in capsys.readouterr().out
    cls = getattr(diffusers, PUBLISHED[preset])
    peer = cls.from_pretrained(out, subfolder="transformer")
    assert diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(out, subfolder="scheduler").config.shift == 1.0
    net = fn.load(run, "cpu").system.denoiser.net
    for p, q in ((net, peer),):
        assert sum(v.numel() for v in p.parameters()) <= sum(v.numel() for v in q.parameters())
    x, text = torch.randn(2, 1, 3, 8, 12), torch.randn(2, 5, 96)
    t, pooled = torch.tensor([0.3, 0.8]), torch.randn(2, 96)
    with torch.no_grad():
        mine = net(x, t[:, None], Condition(text=text, pooled=pooled))[:, 0]
        if preset == "sd3":
            its = peer(x[:, 0], encoder_hidden_states=text, pooled_projections=pooled, timestep=t * 1000).sample
        else:
            from parity import ids, packed

            its = peer(packed(x[:, 0]), encoder_hidden_states=text, pooled_projections=pooled, timestep=t,
                       img_ids=ids(4, 6, 3), txt_ids=torch.zeros(5, 3)).sample
            mine = packed(mine)
    torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
