"""Folders in the layout of diffusers: what is read, and what is said of a wrong one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fromnoise.folders import download, open_component, open_pipeline
from fromnoise.interop.assemble import assemble
from fromnoise.interop.autoencoder import load_latents
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")

SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"


def autoencoder():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4,
                                   down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)


@pytest.fixture
def folder(tmp_path):
    """A whole pipeline of little: a U-Net, an autoencoder and a scheduler."""
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8),
                                 layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
                                 up_block_types=("UpBlock2D",) * 2, add_attention=False)
    diffusers.LDMPipeline(vqvae=autoencoder(), unet=unet, scheduler=diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    return tmp_path


def edit(path: Path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_pipeline_is_read(folder):
    pipeline = open_pipeline(folder)
    assert pipeline.kind == "LDMPipeline"
    assert {name: part.kind for name, part in pipeline.components.items()} == {
        "vqvae": "AutoencoderKL", "unet": "UNet2DModel", "scheduler": "DDIMScheduler"}
    assert pipeline.part("scheduler").config["num_train_timesteps"] == 1000
    weights = pipeline.part("vqvae").weights()
    assert weights.keys() == autoencoder().state_dict().keys()
    edit(folder / "model_index.json", lambda d: d.update(safety_checker=["transformers", "X"]))
    assert open_pipeline(folder).part("vqvae").weights()  # a part that is not asked for may be missing
    with pytest.raises(UserError, match="names no text_encoder: it has scheduler, unet, vqvae"):
        pipeline.part("text_encoder")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_hold_what_one_file_does(tmp_path, variant):
    model = autoencoder()
    model.save_pretrained(tmp_path, max_shard_size="20KB", variant=variant)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    part = open_component(tmp_path)
    for asked in (None, variant):  # the only variant there is is taken unasked
        weights = part.weights(asked)
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
        assert len(weights) == len(model.state_dict())


def test_the_variant_asked_for_is_read(tmp_path):
    model = autoencoder()
    model.save_pretrained(tmp_path)
    model.half().save_pretrained(tmp_path, variant="fp16")
    part = open_component(tmp_path)
    assert part.weights()["encoder.conv_in.weight"].dtype == torch.float32
    assert part.weights("fp16")["encoder.conv_in.weight"].dtype == torch.float16
    assert part.weights("fp16", torch.float32)["encoder.conv_in.weight"].dtype == torch.float32
    assert part.weights("bf16")["encoder.conv_in.weight"].dtype == torch.float32  # plain where there is no such variant
    model.bfloat16().save_pretrained(tmp_path, variant="bf16")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="only as bf16 and fp16: choose one"):
        part.weights()


def test_weights_are_mapped_and_not_copied(tmp_path):
    """The module's weights are the very tensors of the file, and none was allocated or drawn before."""
    autoencoder().save_pretrained(tmp_path)
    state = torch.get_rng_state()
    part = open_component(tmp_path)
    module = load_latents(part)
    assert torch.equal(torch.get_rng_state(), state)
    tensors = part.weights()
    taken = assemble(lambda: nn.Conv2d(3, 8, 3), {k: tensors[f"encoder.conv_in.{k}"] for k in ("weight", "bias")}, "")
    assert taken.weight.data_ptr() == tensors["encoder.conv_in.weight"].data_ptr()
    assert not any(p.is_meta or p.requires_grad for p in module.parameters())


def test_what_a_module_computes_is_real():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("frequencies", torch.logspace(0, 1, 4), False)
            self.linear, self.gain = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    made = assemble(Waves, Waves().state_dict(), "x")
    assert torch.equal(made.frequencies, torch.logspace(0, 1, 4))
    assert not made.linear.weight.is_meta


# ---- wrong folders ---------------------------------------------------------------------------------------


def drop(name):
    return lambda folder: (folder / name).unlink()


def pickled(folder):
    file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def truncated(folder):
    file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def retensored(change):
    def apply(folder):
        file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return apply


def sharded(change):
    def apply(folder):
        for file in (folder / "vqvae").glob("*.safetensors"):
            file.unlink()
        autoencoder().save_pretrained(folder / "vqvae", max_shard_size="60KB")
        edit(folder / "vqvae" / "diffusion_pytorch_model.safetensors.index.json", change)

    return apply


def renamed(name):
    return lambda index: index["weight_map"].update({"encoder.conv_in.weight": name})


FAULTS = {
    "model_index.json, only": (lambda f: ((f / "model_index.json").unlink(), (f / "sd15.ckpt").touch()), ),
    "it has no model_index.json\\.": (drop("model_index.json"),),
    "no \"_class_name\"": (lambda f: edit(f / "model_index.json", lambda d: d.pop("_class_name")),),
    "not valid JSON": (lambda f: (f / "model_index.json").write_text("{"),),
    "must hold a JSON object, and it holds list": (lambda f: (f / "vqvae" / "config.json").write_text("[]"),),
    "names the part vqvae, but there is no folder .*vqvae: the pipeline is incomplete":
        (lambda f: (f / "vqvae").rename(f / "other"),),
    "There is no file .*vqvae/config.json": (drop("vqvae/config.json"),),
    "names \"../vqvae\", which is not a plain file name":
        (lambda f: edit(f / "model_index.json", lambda d: d.update({"../vqvae": ["diffusers", "X"]})),),
    "diffusion_pytorch_model.bin, a pickle.*save_pretrained": (pickled,),
    "has no weights": (drop("vqvae/diffusion_pytorch_model.safetensors"),),
    "diffusion_pytorch_model.safetensors is damaged or incomplete": (truncated,),
    "1 tensor is missing, the first encoder.enter.bias \\[8\\]": (retensored(lambda t: t.pop("encoder.conv_in.bias")),),
    "1 tensor is not of this model, the first more \\[2\\]": (retensored(lambda t: t.update(more=torch.ones(2))),),
    "which is \\[9\\] and should be \\[8\\]":
        (retensored(lambda t: t.update({"encoder.conv_in.bias": torch.ones(9)})),),
    "names ghost.safetensors, which is not there": (sharded(renamed("ghost.safetensors")),),
    "\"../../secret.safetensors\", which is not a plain": (sharded(renamed("../../secret.safetensors")),),
    "\"/etc/passwd\", which is not a plain": (sharded(renamed("/etc/passwd")),),
    "not an index of shards": (sharded(lambda d: d.pop("weight_map")),),
    "does not hold the tensor \"phantom\"": (sharded(lambda d: d["weight_map"].update(phantom=next(iter(
        d["weight_map"].values())))),),
    "holds shards of weights but not their index": (lambda f: (sharded(lambda d: None)(f), drop(
        "vqvae/diffusion_pytorch_model.safetensors.index.json")(f)),),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_wrong_folder_is_explained(folder, words):
    FAULTS[words][0](folder)
    with pytest.raises(UserError, match=words) as error:
        load_latents(open_pipeline(folder).part("vqvae"))
    assert "\n" not in str(error.value)


def test_a_part_is_not_a_pipeline_and_the_other_way_round(folder):
    with pytest.raises(UserError, match="one part of a pipeline"):
        open_pipeline(folder / "vqvae")
    with pytest.raises(UserError, match=r"There is no file .*config\.json"):
        open_component(folder)
    with pytest.raises(UserError, match="There is no folder"):
        open_component(folder / "nothing")


@pytest.mark.parametrize(("name", "words"), [
    ("nowhere", "not a hub id"),
    ("./some/folder", "not a hub id"),
    ("bad id/x", "cannot be a hub id"),
    ("owner/model", "hub cannot be reached"),
])
def test_a_hub_id_that_cannot_be_had_is_explained(name, words, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=words):
        download(name)


def test_a_cached_hub_id_opens_offline(folder, monkeypatch, tmp_path_factory):
    """A hub cache holds links out of the snapshot's folder; those are followed."""
    import huggingface_hub.constants as constants

    cache = tmp_path_factory.mktemp("cache")
    snapshot = cache / "models--owner--model" / "snapshots" / ("0" * 40)
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        target = snapshot / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    refs = cache / "models--owner--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert open_pipeline("owner/model").part("vqvae").weights()
