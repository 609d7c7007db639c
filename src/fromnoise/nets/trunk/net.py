"""The trunk's network; ``Trunk`` (settings) says what each part is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks import (
    UNDISTURBED,
    Around,
    BlockSpec,
    Cache,
    Clock,
    Frames,
    JointBlock,
    Perturbation,
    Ring,
    StreamLayer,
    TemporalLayer,
    Tokens,
    feature_maps,
    patchify,
    unpatchify,
)
from fromnoise.blocks.magnitude import unit, unit_silu, unit_sum
from fromnoise.nets.trunk.acting import ActionIn, ActionToken, ByToken, check_actions, followers, led
from fromnoise.nets.trunk.clips import Along, Clip, Grid, Pack, frames_of, same_batch
from fromnoise.nets.trunk.detour import Detour, Trip, check_route
from fromnoise.nets.trunk.inputs import PLACE_WAVES, ClassTokens, Conditioner, Head, Places, TextIn
from fromnoise.nets.trunk.outcomes import Outcome, OutcomeHead, foretelling
from fromnoise.nets.trunk.padding import add_words, pad_picture, pad_text
from fromnoise.nets.trunk.refusals import unpackable
from fromnoise.nets.trunk.routing import MaskDiT, NoRouting, Route
from fromnoise.nets.trunk.settings import Trunk, refuse
from fromnoise.nets.trunk.sight import frames_mask, joint_mask, reads_mask, words_mask
from fromnoise.nets.trunk.stage import Stage, disturbed, unit_layer
from fromnoise.nets.trunk.start import reset_parameters
from fromnoise.nets.trunk.unit_inputs import UnitConditioner, UnitHead, UnitPatchIn, UnitTextIn
from fromnoise.types import Acts, Condition, UserError


class TrunkNet(nn.Module):
    """``(x [B, T, C, H, W], t [B, T], condition) -> [B, T, C, H, W]``.

    perturb disturbs some of the blocks.  route says which patches go through the routed ones (``spec.routing``), all of
    them where there is none.  With a ``cache`` (causal masks only) x are the frames after those held, and the text is
    looked at once.  With layers along time (``spec.temporal``) blocks see each frame as a picture with a text of its
    own, which is then looked at again with every frame.
    """

    def __init__(self, spec: Trunk, channels: int, text_width: int | None, pooled_width: int | None = None,
                 acts: Acts | None = None):
        super().__init__()
        self.spec, self.channels = spec, channels
        D, features = spec.width, spec.time.width or spec.width
        inside = (channels + spec.image_channels) * spec.patch**2
        self.patch_in = UnitPatchIn(inside, D) if spec.magnitude else nn.Linear(
            inside, D, bias=spec.patch_bias) if not spec.bottleneck else nn.Sequential(
            nn.Linear(inside, spec.bottleneck, bias=spec.patch_bias), nn.Linear(spec.bottleneck, D))
        self.place_in = nn.Linear(2 * PLACE_WAVES, D, bias=False) if spec.places else None
        self.class_in = ClassTokens(spec, pooled_width) if spec.class_tokens and pooled_width else None
        self.text_in = None if text_width is None or self.class_in else (
            UnitTextIn if spec.magnitude else TextIn)(spec.text, text_width, D)
        self.time_in = (UnitConditioner if spec.magnitude else Conditioner)(spec.time, D, text_width, pooled_width)
        self.places = Places(spec)
        self.pad = nn.ParameterDict({name: torch.zeros(D) for name in ("text", "picture")} if spec.text.pad_to else {})
        self.stages = nn.ModuleDict(self.stack(features, self.text_in is not None))
        self.attention_layers = spec.meets
        self.detour = None if isinstance(spec.routing, NoRouting) else Detour(spec.routing, D, spec.meets)
        outside = channels * (2 if spec.learned_sigma else 1)
        self.head = UnitHead(spec, outside) if spec.magnitude else Head(spec, features, outside)
        if not spec.magnitude:
            reset_parameters(self)
        # Last, so that the weights of pictures begin as they do without.
        self.temporal = nn.ModuleDict({
            str(block): TemporalLayer(D, features, spec.attention, spec.temporal, block)
            for block in range(spec.meets) if spec.temporal.every and (block + 1) % spec.temporal.every == 0})
        token = isinstance(spec.actions, ByToken)
        self.leaders = int(token)  # tokens before the patches of each frame
        self.action_token = ActionToken(acts, D) if token and acts else None
        self.action_in = ActionIn(acts, features) if spec.reads_actions and not token and acts else None
        self.outcomes = OutcomeHead(D, spec.outcomes) if spec.outcomes else None

    def stack(self, features: int, told: bool) -> dict[str, Stage]:
        """The blocks, in the order in which tokens meet them; ``told``: whether there is a text."""
        spec, m = self.spec, self.spec.modulation
        block = BlockSpec(width=spec.width, features=features, attention=spec.attention, norm=spec.norm,
                          feed_forward=spec.feed_forward, modulation=m, norm_eps=spec.norm_eps,
                          norm2_eps=spec.norm2_eps or spec.norm_eps, norm_gain=spec.norm_gain, sandwich=spec.sandwich)
        stages: dict[str, Stage] = {}
        index = iter([*range(spec.meets), *range(1000, 1000 + 2 * spec.refine)])  # refining blocks come last

        def stage(name: str, count: int, streams: tuple[str, ...], layers, skips: int = 0, sublayers: int = 2) -> None:
            maps = {s: nn.Linear(features, m.parts(sublayers) * spec.width, bias=m.bias) for s in streams
                    if m.source in ("shared", "table") and s in layers(0)}
            blocks = [JointBlock(next(index), block, layers(i)) for i in range(count)]
            if count:
                stages[name] = Stage(blocks, streams, maps, spec.width, m.source == "table", skips)

        layer = partial(unit_layer if spec.magnitude else StreamLayer, block)
        text = ("text",) if told else ()
        last = spec.double - 1 if spec.text_ends else None
        before = spec.class_from if spec.class_tokens else 0
        single = partial(layer, parallel=spec.parallel)
        stage("cross_stream", spec.cross, ("picture",), lambda i: {"picture": layer(cross=told)})
        stage("read_stream", spec.read, (*text, "picture"), lambda i: {
            **({"text": layer(asks=False, modulated=False, normed=False)} if told else {}), "picture": layer()})
        stage("double_stream", spec.double, (*text, "picture"), lambda i: {
            **({"text": layer(asks=i != last)} if told else {}), "picture": layer(alone=i < spec.alone)})
        stage("before", before, ("all",), lambda i: {"all": single()}, 0, 1 if spec.parallel else 2)
        stage("single_stream", spec.single - before, ("all",), lambda i: {"all": single()},
              spec.single // 2 if spec.long_skips else 0, 1 if spec.parallel else 2)
        stage("refine_text", spec.refine if told else 0, ("text",), lambda i: {"text": layer(modulated=False)})
        stage("refine_picture", spec.refine, ("picture",), lambda i: {"picture": layer(modulated=spec.refine_clock)})
        return stages

    def forward(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED,
                cache: Cache | Ring | None = None, route: Route | None = None) -> Tensor:
        return self.whole(x, t, condition, perturb, cache, route)[:, :, : self.channels]

    def whole(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED,
              cache: Cache | Ring | None = None, route: Route | None = None) -> Tensor:
        """All channels that come out, a learned variance among them."""
        if cache is not None and not self.spec.causal:
            field = "net.temporal.causal is not set" if self.temporal else 'net.mask is "full"'
            raise UserError(f"Only a causal network can go on from what it has seen: {field}.")
        if cache is not None and perturb.layers:
            raise UserError("A disturbed network would remember wrongly: give it no cache.")
        if self.spec.reads_actions:
            check_actions(condition.actions, *x.shape[:2])
        if self.leaders and perturb.layers and x.shape[1] > 1 and not self.temporal:
            raise UserError("A disturbed network takes each patch by itself, and net.actions token puts others between "
                            "them: leave the disturbance out.")
        check_route(self.detour, route, bool(perturb.layers))
        if not self.temporal:
            clip = self.enter(x, t, condition, cache)
            picture = self.run(Pack.of([clip]), condition, perturb, cache, route)
            self.foretell(picture, clip, len(x))
            return self.leave(clip, picture)
        return self.framewise(x, t, condition, perturb, cache)

    def framewise(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation,
                  cache: Cache | Ring | None) -> Tensor:
        """``whole`` where there are layers along time: frames are pictures of the batch, each with its own text."""
        B, T = x.shape[:2]
        told = condition.of_frames(T)
        clip = self.enter(x.flatten(0, 1)[:, None], t.expand(B, T).reshape(-1, 1), told)
        frames = Frames.of(T, F.silu(clip.features[:, -1]).unflatten(0, (B, T)), self.spec.causal, cache)
        places = len(clip.streams["picture"]) - clip.leaders
        along = Along(self.temporal, frames, math.prod(clip.grid), places)
        picture = self.run(Pack.of([clip]), told, perturb, along=along)
        self.foretell(picture, clip, B)
        return self.leave(clip, picture).view(B, T, -1, *x.shape[-2:])

    def remember(self, x: Tensor, t: Tensor, condition: Condition, cache: Ring) -> None:
        """Look at a finished frame, so that the ``cache`` holds what those to come see of it."""
        self(x, t, condition, cache=cache)

    def foretold(self, x: Tensor, t: Tensor, condition: Condition,
                 cache: Cache | None = None) -> tuple[Tensor, Outcome | None]:
        """``forward``, and what is foretold of each frame; None by a network that foretells nothing."""
        with foretelling(self.outcomes) as said:
            output = self(x, t, condition, cache=cache)
        return output, said[0] if said else None

    def foretell(self, picture: Tensor, clip: Clip, count: int) -> None:
        """Let the head say what comes of the frames of ``count`` clips, to whoever listens (``foretelling``).

        picture: their tokens;  frames are clips of their own where they are apart.
        """
        if self.outcomes is not None:
            patches = followers(picture, clip.grid[0], clip.leaders)[:, : math.prod(clip.grid)]
            self.outcomes(patches.unflatten(1, (clip.grid[0], -1)).mean(2).reshape(count, -1, patches.shape[-1]))

    def packed(self, clips: Sequence[tuple[Tensor, Tensor, Condition]]) -> list[Tensor]:
        """What ``forward`` says of each of the clips ``(x, t, condition)``, all of them in one sequence.

        Each has its own frames, height, width, clocks and text; the batch is the same for all.  Nobody sees another
        clip.  UserError for a network whose blocks cannot be told where a clip ends.
        """
        refuse(unpackable(self.spec))
        same_batch(x for x, _, _ in clips)
        entered = [self.enter(*clip) for clip in clips]
        pack = Pack.of(entered)
        parts = self.run(pack, clips[0][2]).split_with_sizes(list(pack.places), dim=1)
        return [self.leave(clip, part)[:, :, : self.channels] for clip, part in zip(entered, parts, strict=True)]

    def enter(self, x: Tensor, t: Tensor, condition: Condition, cache: Cache | Ring | None = None) -> Clip:
        """Media, clocks and text as tokens."""
        B, T, _, H, W = x.shape
        grid = (T, H // self.spec.patch, W // self.spec.patch)
        text, mask = self.words(condition, cache)
        if self.spec.time.numbers == "size" and condition.numbers is None:
            condition = replace(condition, numbers=x.new_tensor([[H, W]]).expand(B, 2))
        told, m = text is not None, self.spec.modulation
        features = self.time_in(self.times(t.expand(B, -1), told), condition, self.head.out.weight.dtype)
        if self.action_in is not None and condition.actions is not None:
            features = self.acted(features, self.action_in(condition.actions, features.dtype), told)
        silu = unit_silu if self.spec.magnitude else F.silu
        clocks = self.clocks(silu(features) if m.silu else features, told, grid)
        if m.source == "none":  # the noise level is a word
            text, mask = add_words(features[:, told and self.spec.text.clean :], text, mask)
            clocks = (None, None)
        streams, real = self.streams(self.patches(x, condition, grid), text, mask, clocks, grid, cache)
        if self.action_token is not None:
            picture = streams["picture"]
            streams["picture"] = led(picture, self.action_token(condition.actions, picture.x, T), T)
        return Clip(streams, real, features, told, grid, self.leaders)

    def acted(self, features: Tensor, said: Tensor, told: bool) -> Tensor:
        """Features ``[B, R, F]`` of ``times``, with what is ``said`` ``[B, T, F]`` of actions added to the frames'."""
        text, frames = features.tensor_split([int(told and self.spec.text.clean)], dim=1)
        return torch.cat([text, frames + said], dim=1)

    def leave(self, clip: Clip, picture: Tensor) -> Tensor:
        """The picture's tokens as media, with all channels that come out."""
        T, rows, columns = clip.grid
        picture = followers(picture, T, clip.leaders)
        tokens = self.head(picture[:, : math.prod(clip.grid)], self.clocks(clip.features, clip.told, clip.grid)[1])
        p = self.spec.patch
        return self.head.picture(unpatchify(tokens, p, (T, self.head.channels, rows * p, columns * p)))

    @property
    def taps(self) -> list[JointBlock]:
        """The blocks but those that refine, in the order of their numbers, for ``Tap``."""
        blocks = [cast(JointBlock, block) for stage in self.stages.values() for block in cast(Stage, stage).blocks]
        return sorted((block for block in blocks if block.index < self.spec.meets), key=lambda block: block.index)

    def picture(self, said: dict[str, Tensor], x: Tensor) -> Tensor:
        """The features ``[B, T, D, h, w]`` in what a block said: words come first, what fills the picture up last."""
        frames = 1 if self.temporal else x.shape[1]
        grid = (frames, x.shape[3] // self.spec.patch, x.shape[4] // self.spec.patch)
        tokens, places = said.get("all", said.get("picture")), math.prod(grid)
        assert tokens is not None
        filled = places + (-places % self.spec.text.pad_to if self.spec.text.pad_to else frames * self.leaders)
        maps = feature_maps(followers(tokens[:, -filled:], frames, self.leaders)[:, :places], grid)
        return maps if frames == x.shape[1] else maps.view(*x.shape[:2], *maps.shape[2:])

    def patches(self, x: Tensor, condition: Condition, grid: Grid) -> Tensor:
        """Patches as tokens ``[B, T h w, D]`` that know their place."""
        if self.spec.image_channels:
            if condition.image is None:
                raise ValueError("this network reads image of the condition, which has none")
            x = torch.cat([x, condition.image.expand(*x.shape[:2], -1, -1, -1)], dim=2)
        return self.located(self.patch_in(patchify(x, self.spec.patch)), grid)

    def located(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Patches ``[B, T h w, D]`` with what tells them their place, where that is added to them."""
        if self.place_in is not None:
            told = self.place_in(self.places.waves(*grid[1:], self.place_in.weight))
            tokens = tokens + (told if grid[0] == 1 else told.repeat(grid[0], 1))
        added = self.places.added(grid, tokens)
        if added is not None and self.spec.magnitude:
            return unit_sum(tokens, unit(added).expand_as(tokens), 0.5)
        return tokens if added is None else tokens + added

    def words(self, condition: Condition, cache: Cache | Ring | None) -> tuple[Tensor | None, Tensor | None]:
        """Text tokens ``[B, L, D]`` and which are real ``[B, L]``; none where the cache holds them already."""
        if self.text_in is None or condition.text is None or (cache is not None and cache.words):
            return None, None
        return self.text_in(condition.text), condition.mask

    def times(self, t: Tensor, told: bool) -> Tensor:
        """``[B, R]`` times: 0 for a text that is told so, then those of the frames, ``t`` ``[B, 1 or T]``."""
        return torch.cat([torch.zeros_like(t[:, :1]), t], dim=1) if told and self.spec.text.clean else t

    def clocks(self, features: Tensor, told: bool, grid: Grid) -> tuple[Clock, Clock]:
        """The clocks of text and picture, from ``features`` ``[B, R, F]`` of ``times``.

        A text that is not clean is told the mean of what the frames are told.
        """
        if features.shape[1] == 1:
            return (clock := Clock(features)), clock
        clean = told and self.spec.text.clean
        text, picture = (features[:, :1], features[:, 1:]) if clean else (features.mean(1, keepdim=True), features)
        return Clock(text), Clock(picture, None if picture.shape[1] == 1 else frames_of(grid, features.device))

    def streams(self, picture: Tensor, text: Tensor | None, mask: Tensor | None,
                clocks: tuple[Clock | None, Clock | None], grid: Grid,
                cache: Cache | Ring | None) -> tuple[dict[str, Tokens], Tensor | None]:
        """Tokens with their clocks and places, and which words are real."""
        held = cache if cache is not None and cache.words else None  # the text, from an earlier forward
        lengths = held.lengths if held else None if mask is None else mask.sum(1)
        if text is not None and self.spec.text.pad_to:
            text, mask, lengths = pad_text(text, mask, self.pad["text"], self.spec.text.pad_to)
        words = held.words if held else 0 if text is None else text.shape[1]
        turns = self.places.turns(grid, words, lengths, 0 if cache is None else cache.passed, picture)
        streams = {"picture": Tokens(picture, clocks[1], turns[1])}
        if self.spec.text.pad_to:
            streams["picture"] = pad_picture(streams["picture"], self.pad["picture"], self.spec.text.pad_to)
        if text is not None:
            streams = {"text": Tokens(self.places.add_words(text), clocks[0], turns[0]), **streams}
        return streams, mask

    def run(self, pack: Pack, condition: Condition, perturb: Perturbation = UNDISTURBED,
            cache: Cache | Ring | None = None, route: Route | None = None, along: Along | None = None) -> Tensor:
        """Text and picture through all blocks; the picture's tokens as they come out."""
        spec, streams = self.spec, pack.streams
        around = Around(grid=pack.grids[0], mix=pack.shifted if spec.token_shift else None)
        trip = self.trip(route, pack.grids[0], len(streams["picture"]))

        def through(stage: str, streams: dict[str, Tokens], around: Around) -> dict[str, Tokens]:
            if stage not in self.stages:
                return streams
            return self.stages[stage](streams, partial(disturbed, around, perturb, streams, trip), trip, along)

        if spec.refine and "text" in streams:
            streams = through("refine_text", streams, replace(around, mask=words_mask(spec, pack)))
        if spec.refine:
            streams = through("refine_picture", streams, replace(around, mask=frames_mask(spec, pack)))
        if self.class_in is not None:
            first = through("before", {"all": streams["picture"]}, around)["all"]
            told = self.class_in(condition.pooled, len(first.x))
            clock = None if first.clock is None else first.clock.mean()
            streams = {"text": Tokens(told, clock, self.places.unturned(first.turns, told)), "picture": first}
            pack = replace(pack, words=(len(streams["text"]),))
        words = len(streams["text"]) if "text" in streams else 0
        if "cross_stream" in self.stages:
            around = replace(around, mask=joint_mask(spec, self.places, pack.without_words(), None))
            if words:
                around = replace(around, text=streams["text"].x, text_mask=reads_mask(pack))
            return through("cross_stream", streams, around)["picture"].x
        around = replace(around, mask=joint_mask(spec, self.places, pack, cache, routed=route is not None),
                         join=self.places.joining(cache))
        streams = through("double_stream", through("read_stream", streams, around), around)
        if "single_stream" not in self.stages:
            return streams["picture"].x
        joined = Tokens.cat(streams["text"], streams["picture"]) if words else streams["picture"]
        return through("single_stream", {"all": joined}, around)["all"].x[:, words:]

    def trip(self, route: Route | None, grid: Grid, places: int) -> Trip | None:
        """The way of the patches; ``places``: how many tokens a picture is, with padding."""
        if self.detour is None:
            return None
        mask, patches = self.detour.mask, math.prod(grid)
        if mask is not None:
            mask = mask.expand(1, patches, -1)
            mask = self.located(mask, grid) if isinstance(self.spec.routing, MaskDiT) else mask
        return Trip(self.detour, route, patches, places, mask)
