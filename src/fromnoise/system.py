"""A recipe built: everything that has weights in one module, a kind of system for each kind of recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fromnoise.denoise import Denoiser, Guidance
from fromnoise.latents import DC, KL
from fromnoise.nets import Trunk, UNet
from fromnoise.nets.trunk.house import from_older
from fromnoise.process import LossVariance
from fromnoise.recipe import AnyRecipe, Coder, Net, Recipe, load_recipe
from fromnoise.text import FrozenText, Tokenizer, words_of
from fromnoise.types import Encoded, UserError
from fromnoise.weights import load_weights

AT_ONCE = 2**18  # pixels: 256 pictures of 32 px, one of 512
NET = "denoiser.net."  # how the names of the network's weights begin
TEMPORAL = f"{NET}temporal."  # and those of its layers along time


class Built(nn.Module):
    """What training, checkpoints and run folders ask of a system of any kind.

    recipe: what it was built by;  tokenizer: what it learned of the data before its first step, as text, without which
    its weights mean nothing;  latents: its autoencoder.
    """

    recipe: Any
    latents: Any
    tokenizer = ""

    @classmethod
    def of(cls, recipe: Any, captions: Sequence[str] = (), tokenizer: str | None = None) -> Self:
        """The system of a recipe.  tokenizer: that of a run begun before; a new run learns one of the captions."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def multiple(self) -> int:
        """What both sides of a picture are multiples of, in pixels."""
        return self.latents.factor

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent size of media of ``height`` x ``width``; UserError where the network cannot take it."""
        multiple = self.multiple
        if height < 1 or width < 1 or height % multiple or width % multiple:
            raise UserError(f"A picture of {width}x{height} does not fit this model: both sides must be "
                            f"multiples of {multiple} pixels.")
        return height // self.latents.factor, width // self.latents.factor

    def learned(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def frozen(self) -> dict[str, Tensor]:
        """What training leaves as it is, by its name in the state."""
        return {}

    def words(self, captions: Sequence[str]) -> Sequence[str]:
        """The words of the captions that it learns from."""
        return ()

    def remarks(self, captions: Sequence[str]) -> list[str]:
        """What a user should know of the captions before training."""
        return []

    def prepare(self, captions: Sequence[str], out: Path, message: Callable[[str], None]) -> None:
        """What is made once of the captions before training in the run folder ``out``."""


class Coding(Built):
    """An autoencoder alone.  The same recipe gives the same initial weights."""

    def __init__(self, recipe: Coder, latents: nn.Module | None = None):
        """latents: the autoencoder itself, where it is there already."""
        super().__init__()
        self.recipe = recipe
        if latents is not None:
            self.latents = latents
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.latents = recipe.latents.build(recipe.data.channels)
        self.latents.latent_frames(recipe.data.frames)  # refuses films that it cannot take

    @classmethod
    def of(cls, recipe: Coder, captions: Sequence[str] = (), tokenizer: str | None = None) -> Self:
        return cls(recipe)


class System(Built):
    """Text encoder, latents and denoiser.  The same recipe, tokenizer and seed give the same initial weights."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer | None):
        super().__init__()
        self.recipe = recipe
        check_upsampling(recipe)
        check_end_to_end(recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.latents = recipe.latents.build(recipe.data.channels)
            torch.manual_seed(recipe.seed)  # the rest begins alike behind every autoencoder
            self.text = recipe.text.build(tokenizer)  # type: ignore[arg-type]
            check_pooled(recipe.net, self.text.pooled_width)
            net = recipe.net.build(self.latents.channels, self.text.width, self.text.pooled_width, recipe.acts)
        if recipe.joint:
            self.latents.follow()  # type: ignore[union-attr]
        else:
            self.latents.requires_grad_(False)
        check_threshold(recipe, recipe.sample.guidance)
        frames = self.latents.latent_frames(recipe.data.frames)  # refuses films that it cannot take
        told = recipe.net.told_frames
        if told >= frames:
            raise UserError(f"The network is told {told} frames before each (net.told_frames), and clips have "
                            f"{frames}: ask for more with --data.frames, or tell it fewer.")
        if recipe.net.reads_actions and recipe.data.frames == 1:
            raise UserError("An action leads from a frame to the next (net.actions): ask for 2 or more with "
                            "--data.frames.")
        if recipe.net.reads_actions and frames != recipe.data.frames:
            raise UserError("An action leads to one frame, and these latents hold several: name an autoencoder of "
                            "single frames with --latents.")
        if recipe.net.reads_fps and not recipe.fps:
            raise UserError("This network is told frames a second (net.time.numbers fps, or net.fps), and its data are "
                            "pictures: leave that out, or name data of films.")
        if recipe.encoding.draw and not hasattr(self.latents, "posterior"):
            raise UserError(f"encoding.draw needs latents that are a distribution (kl), and these are "
                            f"{recipe.latents.kind}: leave it out.")
        told = recipe.net.image_channels
        if recipe.train.self_conditioning and told != self.latents.channels:
            raise UserError(f"train.self_conditioning tells the network {self.latents.channels} channels beside those "
                            f"of x, and net.image_channels is {told}: set it to {self.latents.channels}.")
        self.denoiser = Denoiser(net, recipe.path, recipe.objective.prediction)
        # Only training uses it, but it is learned, averaged, saved and resumed as every other weight.
        self.variance = LossVariance() if recipe.objective.learned_variance else None
        if recipe.train.only == "temporal":
            self.hold_pictures()

    @classmethod
    def of(cls, recipe: Recipe, captions: Sequence[str] = (), tokenizer: str | None = None) -> Self:
        text = recipe.text
        return cls(recipe, text.learn_tokenizer(captions) if tokenizer is None else text.load_tokenizer(tokenizer))

    def hold_pictures(self) -> None:
        """Keep training from all but the layers along time.  UserError where there are none."""
        if not any(name.startswith(TEMPORAL) for name, _ in self.named_parameters()):
            raise UserError('train.only "temporal" trains the layers along time, and this network has none: set '
                            f"net.temporal.{self.recipe.net.temporal.WHERE}, or leave train.only out.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(TEMPORAL))

    @property
    def tokenizer(self) -> str:  # type: ignore[override]
        return self.text.learned

    @property
    def multiple(self) -> int:
        return math.lcm(self.recipe.net.multiple * self.latents.factor, self.recipe.upsample.factor)

    def words(self, captions: Sequence[str]) -> Sequence[str]:
        return words_of(captions)

    def remarks(self, captions: Sequence[str]) -> list[str]:
        cut = self.text.count_cut(captions)
        return [f"{cut} of {len(captions)} captions have more than the {self.text.window} tokens of text.max_length: "
                "the rest is not read."] if cut else []

    def prepare(self, captions: Sequence[str], out: Path, message: Callable[[str], None]) -> None:
        if not isinstance(self.text, FrozenText):
            return
        if self.text.choice.cache == "disk" and getattr(self.recipe.data, "endless", False):
            raise UserError(f"The captions of {self.recipe.data.kind} have no end, so they cannot all be encoded "
                            "first: choose --text.cache memory.")
        self.text.prepare(captions, out / "text", message)

    def frozen(self) -> dict[str, Tensor]:
        """What training leaves as it is: the entries of the autoencoder in the state, unless it goes on learning."""
        if self.recipe.joint:
            return {}
        return {f"latents.{name}": tensor for name, tensor in self.latents.state_dict().items()}

    def train(self, mode: bool = True) -> Self:
        """As any module; an autoencoder that is trained already is never in training."""
        super().train(mode)
        if not self.recipe.joint:
            self.latents.eval()
        return self

    @torch.no_grad()
    def encode(self, media: Tensor) -> Encoded:
        """What the autoencoder says of media ``[B, T, C, H, W]``, in float32 whatever training computes in."""
        with torch.autocast(media.device.type, enabled=False):
            if self.recipe.encoding.draw:
                return Encoded(*self.latents.posterior(media))  # type: ignore[union-attr]
            return Encoded(self.latents.encode(media))

    @staticmethod
    def at_once(height: int, width: int, frames: int = 1) -> int:
        """How many pictures or films the autoencoder is given at once: about as many pixels, whatever their size."""
        return max(1, AT_ONCE // (frames * height * width))


SYSTEMS: dict[str, type[Built]] = {"diffusion": System, "autoencoder": Coding}


def build_system(recipe: AnyRecipe, captions: Sequence[str] = (), tokenizer: str | None = None) -> Built:
    """The system of a recipe of any kind; see ``Built.of``."""
    return SYSTEMS[recipe.kind].of(recipe, captions, tokenizer)


def load_system(run: str | Path, device: str = "auto") -> tuple[Built, int, tuple[str, ...]]:
    """(system, steps trained, words of its captions) of a run folder, whatever its kind.

    UserError for a folder that is missing, has no weights, is damaged or comes from a newer version.
    """
    recipe = load_recipe(run_recipe(run))
    tensors, tokenizer, step, words = load_weights(Path(run))
    if isinstance(recipe, Recipe) and isinstance(recipe.net, Trunk):
        tensors = from_older(tensors, NET, recipe.net)
    system = build_system(recipe, tokenizer=tokenizer)
    if wrong := mismatch({k: v.shape for k, v in system.state_dict().items()}, tensors):
        raise UserError(f"The weights in {run} do not belong to its recipe: {wrong}.")
    system.load_state_dict(tensors)
    return system.to(resolve_device(device)), step, words


def run_recipe(run: str | Path) -> Path:
    """The recipe.json of a run folder; UserError where there is none."""
    path = Path(run) / "recipe.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder (it has no recipe.json): give the folder that "
                        "`fromnoise train` wrote.")
    return path


def mismatch(expected: dict[str, torch.Size], tensors: dict[str, Tensor]) -> str:
    """What is first wrong between the weights a recipe calls for and those of a file, or an empty string."""
    for name, shape in expected.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name].shape != shape:
            return f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(shape)}"
    return next((f"{name} has no place in it" for name in tensors if name not in expected), "")


def check_threshold(recipe: Recipe, guidance: Guidance) -> None:
    """UserError where x0 would be kept in the range of pictures, and x0 are latents, which have no such range."""
    if guidance.threshold != "none" and recipe.latent:
        raise UserError(f"The threshold {guidance.threshold} is for models of pixels, and this one has latents of kind "
                        f"{recipe.latents.kind}: leave the threshold out.")


def check_pooled(net: Net, given: int | None) -> None:
    """UserError for a U-Net that reads another vector of a whole text than the one, if any, of ``given`` features."""
    if not isinstance(net, UNet) or net.pooled not in ("linear", "mlp"):
        return
    if given is None:
        raise UserError(f'net.pooled "{net.pooled}" reads one vector of a whole text, and this text gives words alone: '
                        "add --text.pooled mean, or take --net.pooled mean.")
    if net.pooled_width not in (0, given):
        raise UserError(f"net.pooled_width is {net.pooled_width}, and the vector of a text has {given} features here: "
                        "set it to 0, which takes what the text gives.")


def check_end_to_end(recipe: Recipe) -> None:
    """UserError for a recipe whose autoencoder is to go on learning and cannot."""
    if not recipe.joint:
        return
    if not isinstance(recipe.latents, KL | DC):
        raise UserError("train.end_to_end is for autoencoders with an encoder to train and no codebook (kl, dc), and "
                        f"this one is {recipe.latents.kind}: name another folder with --latents, or leave it out.")
    if not recipe.train.repa.weight:
        raise UserError("train.end_to_end trains the autoencoder by the alignment of REPA too: set train.repa.weight "
                        "(the paper: 0.5), or leave it out.")
    if recipe.encoding.cached:
        raise UserError("Latents that are kept would be those of the autoencoder as it was, and train.end_to_end moves "
                        "it: encode in every step (--encoding.no-cached), or leave it out.")


def check_upsampling(recipe: Recipe) -> None:
    """UserError for a recipe that enlarges pictures and cannot be told the small ones."""
    if recipe.upsample.factor == 1:
        return
    if recipe.latent:
        raise UserError("upsample.factor is for models of pixels: latents are kept without the pictures that small "
                        "ones are made of. Leave --latents out.")
    if recipe.train.self_conditioning:
        raise UserError("A network is told one picture beside x: the small one (upsample.factor) or its own last "
                        "estimate (train.self_conditioning). Set one of them to what it is by default.")
    told = recipe.upsample.channels(recipe.data.channels)
    if recipe.net.image_channels != told:
        raise UserError(f"A network that enlarges these pictures is told {told} channels beside those of x, the small "
                        f"picture and the level of its noise, and net.image_channels is {recipe.net.image_channels}: "
                        "set it so, or leave it at 0.")


def resolve_device(name: str) -> torch.device:
    """The device asked for, or with "auto" the best there is; UserError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'"{name}" is not a device: use cpu, cuda, cuda:0, mps or auto.') from None
    there = {"cpu": lambda: device.index in (None, 0),
             "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
             "mps": torch.backends.mps.is_available}
    if device.type not in there or not there[device.type]():
        raise UserError(f'There is no device "{name}" on this machine: use auto or cpu '
                        "(`fromnoise doctor` lists what is there).")
    return device


def autocast(device: torch.device, precision: str):
    """The autocast context of a run: bfloat16 where asked for, or by itself on GPUs that have it."""
    bfloat16 = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()  # a disabled one costs time
