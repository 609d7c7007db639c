"""Self-conditioning: the network is told its own last estimate, in a share of training steps and in every solve."""

from dataclasses import replace

import pytest
import torch

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.denoise import SelfConditioned
from fromnoise.nets import UNet
from fromnoise.recipe import Training
from fromnoise.recipes import digits
from fromnoise.system import System
from fromnoise.text import ByteTokenizer
from fromnoise.train.methods.diffusion import Diffusion
from fromnoise.types import Condition

TINY = ["--net", "unet", "--net.width", "8", "--net.groups", "4", "--net.multipliers", "1", "2", "--net.image-channels",
        "1", "--text.width", "16", "--train.steps", "4", "--train.batch", "8", "--train.threads", "1",
        "--evaluate.samples", "10", "--train.preview-every", "0", "--train.self-conditioning", "0.5"]


def test_the_last_answer_is_told():
    told = []

    def denoise(x, t, condition):
        told.append(condition.image)
        return x + len(told)

    remembering, x, t = SelfConditioned(denoise), torch.randn(2, 1, 3, 4, 4), torch.tensor(0.5)
    first = remembering(x, t, Condition())
    second = remembering(x, t, Condition())
    assert not told[0].any()
    assert torch.equal(told[1], first)
    remembering(torch.cat([x, x]), t, Condition())  # a guided call: a block for each condition
    assert torch.equal(told[2], torch.cat([second, second]))
    remembering(x, t, Condition())
    assert torch.equal(told[3], (torch.cat([x, x]) + 3)[:2])


def test_a_share_of_the_steps_sees_an_estimate(monkeypatch):
    recipe = replace(digits(), net=UNet(width=8, groups=4, multipliers=(1, 2), image_channels=1),
                     train=Training(self_conditioning=0.5))
    method, seen = Diffusion(System(recipe, ByteTokenizer())), []
    for p in method.system.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, t = torch.randn(2, 1, 1, 8, 8), torch.tensor([[0.2], [0.9]])
    with torch.no_grad():
        condition = method.system.text.encode(["a", "b"])
        for step in range(60):
            seen.append(method.with_estimate(x, t, condition, 0, step).image)
        want = method.system.denoiser(x, t, replace(condition, image=torch.zeros_like(x)))
    shown = [image for image in seen if image.any()]
    assert 18 <= len(shown) <= 42
    assert all(torch.equal(image, want) for image in shown)
    again = [bool(method.with_estimate(x, t, condition, 0, step).image.any()) for step in range(60)]
    assert again == [bool(image.any()) for image in seen]


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert main(["train", "digits", "--out", str(run), *TINY]) == 0
    model = fn.load(run, "cpu")
    with torch.no_grad():
        for p in model.system.denoiser.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    a = model.sample("the digit 3", steps=4, guidance=2.0).media
    assert torch.equal(a, model.sample("the digit 3", steps=4, guidance=2.0).media)
    monkeypatch.setattr(SelfConditioned, "last", property(lambda self: None, lambda self, value: None), raising=False)
    assert not torch.equal(a, model.sample("the digit 3", steps=4, guidance=2.0).media)
    capsys.readouterr()
    assert main(["tune", str(run), "--nfe", "4"]) == 2
    assert "own last answer" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--net.image-channels", "2"], ["--net", "transformer"]])
def test_a_network_without_room_is_refused(extra, tmp_path, capsys):
    args = ["--train.self-conditioning", "0.5", *(["--net", "unet", *extra] if "transformer" not in extra else extra)]
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *args]) == 2
    assert "net.image_channels" in capsys.readouterr().err
