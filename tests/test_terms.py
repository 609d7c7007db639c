"""Extra terms of the loss: closed forms, what they listen to, and runs that use them."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fromnoise.blocks import AttentionSpec
from fromnoise.cli.train import resolve
from fromnoise.data.shapes import Shapes
from fromnoise.nets import Tap, Trunk, UNet, house
from fromnoise.nets.trunk.presets import z_image
from fromnoise.process import Cosine, Flow, Objective, convert, target
from fromnoise.recipe import Recipe, Training, without_effect
from fromnoise.recipes import digits
from fromnoise.system import System
from fromnoise.terms import Contrastive, Direction, Dispersive, Hub, Projector, Repa, Run, Step, alignment
from fromnoise.terms.alignment import resampled, spatially_normal
from fromnoise.text import Trained
from fromnoise.text.tokenizers import ByteTokenizer
from fromnoise.train import train
from fromnoise.train.checkpoint import list_checkpoints
from fromnoise.train.loop import Trainer
from fromnoise.train.methods import Diffusion
from fromnoise.train.metrics import read_metrics
from fromnoise.train.teachers import HubTeacher, RunTeacher
from fromnoise.types import Condition, UserError
from fromnoise.weights import load_weights

PREDICTIONS = ("x0", "eps", "v", "velocity")


def tiny(**training) -> Recipe:
    settings = {"steps": 8, "batch": 6, "threads": 1, "checkpoint_every": 4, "preview_every": 0, **training}
    return Recipe(name="tiny", data=Shapes(objects=1, height=16, width=16), text=Trained(width=16, max_length=16),
                  net=house(width=16, depth=3, heads=2), train=Training(**settings))


def randomised(module):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return module


def a_step(prediction="velocity", path=None, batch=5, frames=2) -> Step:
    path = path or Flow()
    x0, eps, output = torch.randn(3, batch, frames, 3, 4, 4).unbind(0)
    t = torch.rand(batch, frames) * 0.8 + 0.1
    return Step(output.requires_grad_(), path.add_noise(x0, eps, t), x0, eps, t, path,
                Objective(prediction=prediction, loss="velocity", max_weight=7.0))


# ---- closed forms --------------------------------------------------------------------------------------------


def test_dispersive_of_two_vectors():
    h = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # 4 apart, 2 a feature
    assert float(Dispersive(temperature=0.5).loss(h)) == pytest.approx(math.log((2 + 2 * math.exp(-4)) / 4))
    right = torch.tensor([[3.0, 0.0], [0.0, 0.1]])  # at right angles, whatever their lengths
    assert float(Dispersive(distance="cosine").loss(right)) == pytest.approx(math.log((2 + 2 * math.exp(-2)) / 4))


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_dispersive_equals_its_slow_twin_and_its_gradient(distance):
    spec, h = Dispersive(distance=distance, temperature=0.7), torch.randn(6, 1, 3, 2, 2, dtype=torch.double)
    a, b = h.float().requires_grad_(), h.clone().requires_grad_()

    def apart(u, v):
        return ((u - v) ** 2).mean() if distance == "l2" else 1 - (u * v).sum() / (u.norm() * v.norm())

    terms = [torch.exp(-apart(u, v) / 0.7) for u in b.flatten(1) for v in b.flatten(1)]
    twin = torch.stack(terms).mean().log()
    loss = spec.loss(a)
    torch.testing.assert_close(loss.double(), twin)
    torch.testing.assert_close(*(torch.autograd.grad(y, z)[0].double() for y, z in ((loss, a), (twin, b))),
                               rtol=1e-4, atol=1e-6)


def test_dispersive_is_0_where_all_is_one_and_ends_where_all_is_apart():
    h = torch.randn(1, 8).expand(5, -1) * 30
    assert float(Dispersive().loss(h)) == pytest.approx(0, abs=1e-6)
    far = (1e3 * torch.eye(5)).requires_grad_()
    loss = Dispersive().loss(far)
    assert loss.item() == pytest.approx(-math.log(5))
    assert float(torch.autograd.grad(loss, far)[0].abs().max()) == 0


@pytest.mark.parametrize("path", [Flow(), Cosine()])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_direction_is_of_the_velocity_whatever_is_predicted(prediction, path):
    step = a_step(prediction, path)
    right = target(prediction, path, step.x0, step.eps, step.t)
    assert float(Direction().loss(replace(step, output=right))) == pytest.approx(0, abs=1e-5)
    velocity = target("velocity", path, step.x0, step.eps, step.t)
    for factor, want in ((3.0, 0.0), (-0.5, 2.0)):
        said = convert("velocity", prediction, path, factor * velocity, step.x, step.t)
        assert float(Direction().loss(replace(step, output=said))) == pytest.approx(want, abs=1e-4)


def test_direction_by_hand():
    zero, t = torch.zeros(1, 1, 2, 1, 1), torch.full((1, 1), 0.5)
    eps, output = zero.clone(), zero.clone()
    eps[0, 0, :, 0, 0], output[0, 0, :, 0, 0] = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
    step = Step(output, eps / 2, zero, eps, t, Flow(), Objective())
    assert float(Direction().loss(step)) == pytest.approx(1 - math.cos(math.pi / 4))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_contrastive_moves_the_target_away_from_another_sample(prediction):
    """loss + weight term has the gradient of (1 - weight) |output - (own - weight other) / (1 - weight)|^2."""
    step, weight = a_step(prediction), 0.3
    own = target(prediction, step.path, step.x0, step.eps, step.t)
    velocity = (step.eps - step.x0)[[4, 0, 1, 2, 3]]  # of the sample before it in the batch
    t = step.t[:, :, None, None, None]
    other = {"velocity": velocity, "x0": step.x - t * velocity, "eps": step.x + (1 - t) * velocity}
    other["v"] = ((1 - t) * other["eps"] - t * other["x0"]) / torch.hypot(1 - t, t)
    moved = (own - weight * other[prediction]) / (1 - weight)
    objective = step.objective
    closed = (1 - weight) * (step.output - moved).square() * objective.weight(step.t, step.path)[:, :, None, None, None]
    loss = objective.losses(step.output, step.x0, step.eps, step.t, step.path).mean()
    total = loss + weight * Contrastive().loss(step)
    torch.testing.assert_close(*(torch.autograd.grad(y, step.output)[0] for y in (total, closed.mean())),
                               rtol=1e-4, atol=1e-6)


def test_one_sample_has_no_other():
    assert float(Contrastive(weight=0.1).loss(a_step(batch=1))) == 0


def test_alignment_is_minus_the_cosine():
    a, b = torch.randn(2, 2, 3, 6, 4, 5).unbind(0)
    cosines = (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))
    torch.testing.assert_close(alignment(a, b), -cosines.mean())
    assert float(alignment(a, 7 * a)) == pytest.approx(-1)


def test_the_projector_is_three_layers_for_each_place():
    net = Projector(Repa(width=9), 5, 7)
    h = torch.randn(2, 3, 5, 4, 4)
    first, second, third = (net.layers[i] for i in (0, 2, 4))
    want = h[1, 2, :, 3, 0]
    for i, layer in enumerate((first, second, third)):
        want = layer.weight[:, :, 0, 0] @ want + layer.bias
        want = want * torch.sigmoid(want) if i < 2 else want
    torch.testing.assert_close(net(h)[1, 2, :, 3, 0], want)
    assert Projector(Repa(projector="conv"), 5, 7)(h).shape == (2, 3, 7, 4, 4)


def test_features_are_normalised_over_places_and_resampled():
    features = torch.randn(2, 1, 3, 6, 6) * 4 + 9
    normal = spatially_normal(features)
    torch.testing.assert_close(normal.mean((-2, -1)), torch.zeros(2, 1, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((-2, -1)), torch.ones(2, 1, 3))
    ramp = (torch.arange(8.0) + 0.5).expand(1, 1, 1, 8, 8)
    assert resampled(ramp, ramp) is ramp
    halved = resampled(ramp, torch.zeros(1, 1, 2, 4, 4))[0, 0, 0]
    torch.testing.assert_close(halved[:, 1:-1], 2 * (torch.arange(1.0, 3.0) + 0.5).expand(4, 2))
    spec, h, y = Repa(spatial_norm=True), torch.randn(2, 1, 3, 6, 6), torch.randn(2, 1, 3, 6, 6)
    torch.testing.assert_close(spec.loss(h, y * 5 + 2), spec.loss(h, y))
    assert float(spec.loss(h, y)) == pytest.approx(float(alignment(h, spatially_normal(y))))


# ---- what is listened to -------------------------------------------------------------------------------------

NETS = {
    "transformer": house(width=32, depth=3, heads=2),
    "double and single": Trunk(width=32, attention=AttentionSpec(heads=2), patch=4, double=2, single=2, refine=1,
                               text_ends=False),
    "filled up": replace(z_image(width=32, heads_=2, depth=3, refine=1), patch=4),
    "cross": Trunk(width=32, attention=AttentionSpec(heads=2), patch=4, cross=3),
    "unet": UNet(width=16, multipliers=(1, 2)),
    "unet with attention": UNet(width=16, multipliers=(1, 2), depths=(1, 1), blocks=2),
}


@pytest.mark.parametrize("name", NETS)
def test_every_block_is_heard_and_nothing_is_changed(name):
    net = randomised(NETS[name].build(3, 12))
    x, t, condition = torch.randn(2, 2, 3, 16, 16), torch.rand(2, 2), Condition(torch.randn(2, 5, 12))
    quiet = net(x, t, condition)
    blocks = range(len(net.taps))
    assert len(blocks) >= 3
    with Tap(net, blocks) as tap:
        assert torch.equal(net(x, t, condition), quiet)
    assert not any(module._forward_hooks for module in net.modules())
    found = [tap.features(block, x) for block in blocks]
    assert all(f.shape[:2] == x.shape[:2] and f.ndim == 5 for f in found)
    assert all(not torch.equal(a, b) for a, b in zip(found, found[1:], strict=False) if a.shape == b.shape)
    # a block hears those before it and none behind it
    for block in blocks:
        net.zero_grad()
        with Tap(net, {block}) as tap:
            net(x, t, condition)
        tap.features(block, x).square().sum().backward()
        felt = [any(p.grad is not None and bool(p.grad.any()) for p in b.parameters()) for b in net.taps]
        assert all(felt[: block + 1])
        assert not any(felt[block + 1 :])


@pytest.mark.parametrize("name", ["transformer", "double and single", "filled up", "cross"])
def test_features_lie_where_their_patches_do(name):
    """Of a picture changed in one patch, the first block hears most there."""
    net = randomised(NETS[name].build(3, 12))
    x, t, condition = torch.randn(1, 2, 3, 16, 16), torch.rand(1, 2), Condition(torch.randn(1, 5, 12))
    changed = x.clone()
    changed[0, 1, :, 4:8, 12:16] += 5
    with torch.no_grad():
        found = []
        for media in (x, changed):
            with Tap(net, {0}) as tap:
                net(media, t, condition)
            found.append(tap.features(0, media))
    change = (found[1] - found[0]).norm(dim=2)[0]
    assert change.shape == (2, 4, 4)
    assert int(change.argmax()) == 16 + 1 * 4 + 3


def test_pictures_of_a_unet_have_the_size_of_their_scale():
    net, x = NETS["unet"].build(3, 12), torch.randn(1, 1, 3, 16, 16)
    with Tap(net, range(len(net.taps))) as tap:
        net(x, torch.rand(1, 1), Condition(torch.randn(1, 5, 12)))
    sides = [tap.features(i, x).shape[-1] for i in range(len(net.taps))]
    assert sides == [16, 8, 8, 8, 16]  # down, down, the middle, up, up


def test_which_block_is_meant():
    assert Repa().place(28) == 7
    assert Repa().place(4) == 1
    assert Repa(block=-1).place(4) == 3
    assert Dispersive().place(12) == 5
    with pytest.raises(UserError, match=r"train.repa.block 4 is not a block of this network: its blocks are 0 to 3"):
        Repa(block=4).place(4)


# ---- training ------------------------------------------------------------------------------------------------


def weights_of(run) -> dict[str, bytes]:
    newest = list_checkpoints(run / "checkpoints")[0][1]
    return {p.name: p.read_bytes() for p in newest.glob("*.safetensors")}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher")
    train(tiny(steps=4), run)
    return run


def aligned(teacher, **training):
    return tiny(repa=Repa(weight=0.5, width=8, teacher=Run(run=str(teacher))), **training)


def test_terms_without_weight_change_nothing(tmp_path):
    train(tiny(steps=4), tmp_path / "plain")
    off = tiny(steps=4, repa=Repa(width=7, teacher=Run(run="nowhere")), dispersive=Dispersive(temperature=2.0),
               contrastive=Contrastive(weight=0.0), direction=Direction(weight=0.0))
    train(off, tmp_path / "off")
    assert weights_of(tmp_path / "plain") == weights_of(tmp_path / "off")
    assert weights_of(tmp_path / "plain").keys() == {"weights.safetensors", "ema.safetensors", "optimizer.safetensors"}
    assert read_metrics(tmp_path / "off" / "metrics.jsonl")[0].keys() == {"step", "loss", "lr", "seconds",
                                                                          "core_seconds"}


@pytest.mark.parametrize("term", [{"dispersive": Dispersive(weight=0.5)}, {"contrastive": Contrastive(weight=0.05)},
                                  {"direction": Direction(weight=1.0)}])
def test_a_term_is_added_with_its_weight(term):
    """The first loss of a fresh network, part by part."""
    name, spec = next(iter(term.items()))
    plain, with_term = (Diffusion(randomised_system(recipe)) for recipe in (tiny(), tiny(**term)))
    batch = tiny().data.open("train").batch(range(6), [0] * 6)
    alone, both = plain.loss(batch, 0, 3), with_term.loss(batch, 0, 3)
    parts = with_term.parts()
    assert plain.parts() == {} == with_term.parts()
    assert parts["denoising"] == alone.item()
    assert parts[name] != 0
    assert both.item() == pytest.approx(alone.item() + spec.weight * parts[name])


def randomised_system(recipe) -> System:
    torch.manual_seed(5)
    return randomised(System(recipe, ByteTokenizer()))


def test_alignment_reaches_the_blocks_before_and_the_projector_alone(teacher):
    method = Diffusion(randomised_system(replace(aligned(teacher), seed=3)))
    batch = tiny().data.open("train").batch(range(6), [0] * 6)
    method.loss(batch, 0, 0)
    x0 = batch.media
    net = method.system.denoiser.net
    with method.terms.listen() as tap:
        net(x0, torch.full((6, 1), 0.5), method.system.text.encode(batch.text))
    method.terms.aligned.loss(tap.features(0, x0), x0).backward()
    assert all(p.grad is not None for p in method.terms.aligned.projector.parameters())
    assert any(p.grad is not None for p in net.taps[0].parameters())
    assert not any(p.grad is not None for block in net.taps[1:] for p in block.parameters())
    assert not any(p.requires_grad for p in method.terms.aligned.teacher.system.parameters())


def test_a_teacher_is_learned_from(tmp_path, teacher):
    """With a teacher that stays, the cosine rises; the model's file and size know nothing of it."""
    result = train(aligned(teacher, steps=40), tmp_path)
    said = [line["repa"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert said[-1] < said[0] - 0.1
    names = load_weights(tmp_path)[0]
    assert names.keys() == dict(result.system.named_parameters()).keys()
    assert not any("projector" in name for name in names)
    assert "method.safetensors" in weights_of(tmp_path)


def test_a_stopped_run_with_terms_ends_in_the_same_weights(tmp_path, teacher, monkeypatch):
    recipe = aligned(teacher, dispersive=Dispersive(weight=0.1), contrastive=Contrastive(weight=0.05))
    train(recipe, tmp_path / "whole")
    original = Trainer.train_step

    def crash(self, batch):
        if self.step == 6:
            raise RuntimeError
        return original(self, batch)

    monkeypatch.setattr(Trainer, "train_step", crash)
    with pytest.raises(RuntimeError):
        train(recipe, tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "train_step", original)
    train(recipe, tmp_path / "stopped")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "stopped")


def test_measuring_threads_leaves_no_trace(tmp_path, teacher, monkeypatch):
    """The trial steps, too, send gradients into the projector."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(aligned(teacher, steps=2), tmp_path / "given")
    train(aligned(teacher, steps=2, threads=0), tmp_path / "measured")
    assert weights_of(tmp_path / "given") == weights_of(tmp_path / "measured")


def test_the_initial_weights_of_the_network_are_those_without(teacher):
    a, b = (System(recipe, ByteTokenizer()) for recipe in (tiny(), aligned(teacher)))
    torch.manual_seed(9)
    before = torch.get_rng_state()
    Diffusion(b)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("net", [UNet(width=8, multipliers=(1, 2)),
                                 Trunk(width=16, attention=AttentionSpec(heads=2), patch=4, double=1, single=2)])
def test_other_networks_learn_from_a_teacher_of_another_kind(tmp_path, teacher, net):
    recipe = replace(aligned(teacher, steps=2, dispersive=Dispersive(weight=0.1)), net=net)
    train(recipe, tmp_path)
    assert -1 <= read_metrics(tmp_path / "metrics.jsonl")[-1]["repa"] <= 1


# ---- teachers ------------------------------------------------------------------------------------------------


def test_a_run_teaches_what_its_block_says(teacher):
    student = System(tiny(), ByteTokenizer())
    media = tiny().data.open("train").batch(range(3), [0] * 3).media
    spec = Run(run=str(teacher), block=1, time=0.0)
    look = RunTeacher(spec, student)
    tokens = []
    hook = look.system.denoiser.net.taps[1].register_forward_hook(lambda m, i, out: tokens.append(out["all"]))
    with torch.no_grad():
        look.system.denoiser(media, torch.tensor(0.0), look.system.text.encode([""] * 3))
    hook.remove()
    torch.testing.assert_close(look(media), tokens[0][:, -16:].transpose(1, 2).reshape(3, 1, 16, 4, 4))
    noisy = RunTeacher(replace(spec, time=0.5), student)(media)
    assert not torch.allclose(noisy, look(media), atol=1e-2)
    assert torch.equal(noisy, RunTeacher(replace(spec, time=0.5), student)(media))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 4,
         "image_size": 16}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def vision(kind):
    """(a tiny model of transformers, what its patches are for pixels at its own size)."""
    transformers = pytest.importorskip("transformers")
    with_class = {k: v for k, v in SIZES.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
    match kind:
        case "dinov2 with registers":
            net = transformers.Dinov2WithRegistersModel(
                transformers.Dinov2WithRegistersConfig(**with_class, num_register_tokens=3))
            return net, lambda x: net(x).last_hidden_state[:, 4:]
        case "dinov3":
            net = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=2))
            return net, lambda x: net(x).last_hidden_state[:, 3:]
        case "siglip":
            net = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES))
            return net, lambda x: net(x).last_hidden_state
        case _:
            net = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES))

            def patches(x):
                """Without masking and without shuffling, by its own parts."""
                embeddings = net.embeddings
                h = embeddings.patch_embeddings(x) + embeddings.position_embeddings[:, 1:]
                first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
                h = torch.cat([first.expand(len(h), -1, -1), h], 1)
                for layer in (net.encoder.layer if hasattr(net, "encoder") else net.layers):
                    h = layer(h)
                    h = h[0] if isinstance(h, tuple) else h
                return net.layernorm(h)[:, 1:]

            return net, patches


@pytest.mark.parametrize("kind", ["dinov2 with registers", "dinov3", "siglip", "vit mae"])
def test_a_teacher_of_transformers_says_its_patches(kind, tmp_path):
    net, patches = vision(kind)
    randomised(net.eval())
    net.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    look = HubTeacher(Hub(model=str(tmp_path)), System(tiny(), ByteTokenizer()))
    media = torch.rand(3, 2, 3, 16, 16) * 2 - 1
    pixels = ((media.flatten(0, 1) + 1) / 2 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        want = patches(pixels)
    found = look(media)
    assert found.shape == (3, 2, 16, 4, 4)
    torch.testing.assert_close(found.movedim(2, -1).reshape(6, 16, 16), want, rtol=1e-3, atol=1e-4)
    assert want.std(1).min() > 0
    assert look(torch.zeros(1, 1, 1, 32, 48)).shape == (1, 1, 16, 4, 6)  # grey, larger and not square


def test_a_recipe_with_a_teacher_of_transformers_trains(tmp_path):
    net, _ = vision("dinov2 with registers")
    net.save_pretrained(tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    repa = Repa(weight=0.5, projector="conv", spatial_norm=True, teacher=Hub(model=str(tmp_path / "dino")))
    train(tiny(steps=2, repa=repa), tmp_path / "run")
    assert -1 <= read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["repa"] <= 1


# ---- what is wrong is a sentence -----------------------------------------------------------------------------


def test_what_cannot_be(tmp_path, teacher):
    with pytest.raises(UserError, match="is not a run folder"):
        train(tiny(repa=Repa(weight=1, teacher=Run(run=str(tmp_path / "none")))), tmp_path / "a")
    with pytest.raises(UserError, match="cannot teach this run: its pictures have 3 channels"):
        train(replace(digits(), train=aligned(teacher).train), tmp_path / "b")
    with pytest.raises(UserError, match="of one, a direction is only a sign"):
        train(replace(digits(), train=tiny(direction=Direction(weight=1)).train), tmp_path / "c")
    with pytest.raises(UserError, match=r"train.repa.teacher.block 3 is not a block"):
        train(tiny(repa=Repa(weight=1, teacher=Run(run=str(teacher), block=3))), tmp_path / "d")
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"The teacher .* cannot be had"):
        train(tiny(repa=Repa(weight=1, teacher=Hub(model=str(tmp_path)))), tmp_path / "e")
    assert not any((tmp_path / name / "recipe.json").exists() for name in "abcde")


def test_a_teacher_needs_pictures(teacher):
    aligned_with = Diffusion(System(aligned(teacher), ByteTokenizer())).terms.aligned
    with pytest.raises(UserError, match="looks at pictures"):
        aligned_with.loss(torch.randn(2, 1, 16, 4, 4), torch.empty(2, 1, 0, 0, 0))


def test_terms_on_the_command_line(tmp_path):
    line = ["shapes", "--train.repa.weight", "0.5", "--train.repa.teacher", str(tmp_path),
            "--train.dispersive.distance", "cosine", "--train.contrastive.weight", "0.05"]
    recipe, _, _ = resolve(line)
    assert recipe.train.repa == Repa(weight=0.5, teacher=Run(run=str(tmp_path)))
    idle = without_effect(recipe)
    assert idle["train.dispersive.distance"] == "train.dispersive.weight is 0"
    assert "train.repa.width" not in idle
    assert not any(field.startswith("train.contrastive") for field in idle)
