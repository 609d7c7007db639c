"""The code that loads other people's networks, on tiny random ones made here."""

import json
import sys
import types

import pytest
import torch

from fromnoise.evaluate import panel
from fromnoise.evaluate.extractors import clip, dinov2, inception, to_bytes
from fromnoise.types import UserError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def pictures(n=6, channels=3, height=20, width=24):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of a tiny DINOv2 and a tiny CLIP, as their libraries write them, and the networks themselves."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 16}
    torch.manual_seed(0)
    nets = {"dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)),
            "clip": transformers.CLIPVisionModelWithProjection(
                transformers.CLIPVisionConfig(**sizes, intermediate_size=32, projection_dim=8))}
    folders = {}
    for name, net in nets.items():
        folders[name] = tmp_path_factory.mktemp(name)
        net.eval().save_pretrained(folders[name])
        config = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 20},
                  "crop_size": {"height": 16, "width": 16}}
        (folders[name] / "preprocessor_config.json").write_text(json.dumps(config))
    return nets, folders


@pytest.mark.parametrize(("name", "load", "width"), [("dinov2", dinov2, 16), ("clip", clip, 8)])
def test_features_are_those_of_the_network(checkpoints, name, load, width):
    nets, folders = checkpoints
    look, images = load(str(folders[name])), pictures(height=16, width=16)
    pixels = ((images + 1) / 2 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        out = nets[name](pixel_values=pixels)
    want = out.pooler_output if name == "dinov2" else out.image_embeds
    torch.testing.assert_close(look(images), want)
    assert want.shape == (6, width)
    assert want.std(0).min() > 0
    assert look(pictures()).shape == (6, width)  # cut and resized
    grey = pictures(channels=1)
    torch.testing.assert_close(look(grey[:, None]), look(grey.expand(-1, 3, -1, -1)))  # media, and grey
    assert not look(images).requires_grad


def test_batches_do_not_matter_and_a_panel_takes_them(checkpoints):
    look = dinov2(str(checkpoints[1]["dinov2"]))
    images = pictures(70)
    torch.testing.assert_close(look(images)[64:], look(images[64:]), rtol=1e-4, atol=1e-5)
    found = panel(images[:24], images[24:], null_repeats=2, features=look)
    assert found["energy distance, features"].std > 0


@pytest.mark.parametrize("load", [dinov2, clip])
def test_weights_that_cannot_be_had_are_a_sentence(tmp_path, load):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="cannot be had"):
        load(str(tmp_path))


@pytest.mark.parametrize(("load", "library", "name"), [
    (dinov2, "transformers", "features"),
    (clip, "transformers", "features"),
    (inception, "torch_fidelity", "inception"),
])
def test_a_missing_library_is_a_sentence(monkeypatch, load, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"pip install 'fromnoise\[{name}\]'"):
        load()


def test_pictures_that_cannot_be_looked_at(checkpoints):
    look = clip(str(checkpoints[1]["clip"]))
    with pytest.raises(UserError, match="looks at pictures"):
        look(torch.zeros(2, 2, 8, 8))
    with pytest.raises(UserError, match="looks at pictures"):
        look(torch.zeros(2, 4, 3, 8, 8))


def test_inception_is_given_bytes_and_its_weights_run_no_code(tmp_path, monkeypatch):
    """With a stand-in for the library, which asks for unpickling as torch-fidelity does."""
    class Stub(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            self.scale = torch.load(feature_extractor_weights_path, weights_only=False)
            assert features == ["2048"]

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)) * self.scale,)

    module = types.ModuleType("torch_fidelity")
    module.FeatureExtractorInceptionV3 = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save(torch.tensor(2.0), tmp_path / "good.pt")
    images = pictures(channels=1)
    torch.testing.assert_close(inception(tmp_path / "good.pt")(images),
                               2 * to_bytes(images).float().mean((2, 3)).expand(-1, 3))
    torch.save(print, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="more than tensors"):
        inception(tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be had"):
        inception(tmp_path / "none.pt")


def test_inception_of_torch_fidelity(tmp_path, monkeypatch):
    """The real library with random weights, where it is installed."""
    fidelity = pytest.importorskip("torch_fidelity")
    module = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        net = fidelity.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    images = pictures(2)
    found = inception(tmp_path / "weights.pth")(images)
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, net(to_bytes(images))[0])


def test_bytes_are_rounded_and_bounded():
    given = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert to_bytes(given).tolist() == [0, 0, 128, 255, 255]
