"""Frozen encoders as the text of a recipe: how they read, what is kept, weights of words and long prompts."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_encoders import clip, gemma, qwen3, qwen_tokenizer, t5, t5gemma

from fromnoise.cli import main
from fromnoise.cli.train import resolve
from fromnoise.config import from_dict, to_dict
from fromnoise.generate import load
from fromnoise.nets import house
from fromnoise.recipe import Recipe
from fromnoise.recipes.digits import digits
from fromnoise.recipes.shapes import shapes
from fromnoise.system import System
from fromnoise.text import FAMILIES, Frozen, Trained, emphasis, read_prompts
from fromnoise.text.hidden import hidden_states
from fromnoise.text.prompts import windows
from fromnoise.train import train
from fromnoise.types import UserError

TEXTS = ["a red circle", "", "a blue square above a green ring", "a red circle"]


def save(folder, parts):
    """Encoders and tokenizers in the layout of a pipeline."""
    for i, (model, tokenizer) in enumerate(parts):
        last = f"_{i + 1}" if i else ""
        model.save_pretrained(folder / f"text_encoder{last}")
        tokenizer.save_pretrained(folder / f"tokenizer{last}")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    for name, (model, tokenizer) in {"clip": clip(16, 1, length=40), "t5": t5(), "qwen": (qwen3(), qwen_tokenizer()),
                                     "gemma": gemma("right")}.items():
        model.save_pretrained(root / name)  # a single encoder, its tokenizer beside it
        tokenizer.save_pretrained(root / name)
    save(root / "sd3", [clip(8, 1, projected=True), clip(12, 2, projected=True), t5()])
    save(root / "clip_t5", [clip(16, 1), t5()])
    return root


def built(folder, **fields):
    return Frozen(folder=str(folder), **fields).build()


def same(a, b, size=1e-5):
    """Two conditions, compared where they are real."""
    assert (a.pooled is None) == (b.pooled is None)
    if a.pooled is not None:
        assert torch.allclose(a.pooled, b.pooled, atol=size)
    if a.text is not None:
        assert a.text.shape == b.text.shape
        real = torch.ones(a.text.shape[:2], dtype=torch.bool) if a.mask is None else a.mask
        if a.mask is not None or b.mask is not None:
            assert torch.equal(a.mask, b.mask)
        assert torch.allclose(a.text[real], b.text[real], atol=size)


# ---- which encoder it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "family", "cls"), [
    ("clip", "clip", "CLIPTextModel"), ("t5", "t5", "T5EncoderModel"), ("qwen", "lm", "Qwen3ForCausalLM"),
    ("gemma", "lm", "Gemma2Model")])
def test_a_folder_says_what_it_holds(folders, name, family, cls):
    found = Frozen(folder=str(folders / name)).resolved()
    assert (found.family, found.classes, len(found.sha256)) == (family, (cls,), 64)
    assert found.resolved() == found
    assert from_dict(Frozen, to_dict(found)) == found


def test_half_of_a_model_is_read_by_the_config_of_the_whole(tmp_path):
    model, tokenizer = t5gemma()
    save(tmp_path, [(model, tokenizer)])
    config = tmp_path / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["T5GemmaEncoder"]}))
    found = Frozen(folder=str(tmp_path), family="prx").resolved()
    assert found.classes == ("T5GemmaEncoder",)
    same(found.build().encode(TEXTS), FAMILIES["prx"].build([(model, tokenizer)]).encode(TEXTS))
    assert dataclasses.replace(found, combine="mean").rule(tmp_path).towers[0].layers == (1, 2)


@pytest.mark.parametrize("family", ["clip", "clip_t5", "sd3"])
def test_a_recipe_reads_as_the_family_does(folders, family):
    """The slow twin: the towers called directly on the whole batch."""
    ours = built(folders / family, family=family)
    twin = dataclasses.replace(ours.spec).build(ours.parts)
    condition = ours.encode(TEXTS)
    same(condition, twin.encode(TEXTS))
    assert condition.text.dtype == torch.float32
    assert (ours.width, ours.pooled_width) == (condition.text.shape[-1], condition.pooled.shape[-1])
    assert [t.layers for t in ours.spec.towers] == [t.layers for t in FAMILIES[family].towers]


def test_what_a_text_becomes_does_not_depend_on_its_neighbours(folders):
    for name in ("t5", "qwen", "gemma"):
        encoder = built(folders / name)
        together, alone = encoder.encode(TEXTS), encoder.encode(TEXTS[2:3])
        real = together.mask[2] if together.mask is not None else slice(None)
        assert torch.allclose(together.text[2][real], alone.text[0], atol=1e-5)
        empty = encoder.encode([""])
        assert empty.text.shape[1] >= 1
        assert empty.mask is None  # there is something to look at


def test_readings_can_be_changed(folders):
    encoder = built(folders / "qwen", layers=(-2, 1), padding="masked", chat=True, max_length=60, pooled="mean")
    text = encoder.encode(["a cat", "a much longer sentence"])
    model, tokenizer = encoder.parts[0]
    said = tokenizer.apply_chat_template([{"role": "user", "content": "a cat"}], tokenize=False,
                                         add_generation_prompt=True)
    ids = tokenizer(said, return_tensors="pt").input_ids
    with torch.no_grad():
        want = hidden_states(model, ids, None, (-2, 1), True).states
    n = ids.shape[1]
    assert torch.allclose(text.text[0, :n], torch.cat(want, -1)[0], atol=1e-5)
    assert text.mask[0].sum() == n
    assert torch.allclose(text.pooled[0], text.text[0, :n].mean(0), atol=1e-5)
    dropped = built(folders / "qwen", template="say {}", drop=4)
    longer = built(folders / "qwen", template="say {}", drop=0)
    assert torch.allclose(dropped.encode(["it"]).text, longer.encode(["it"]).text[:, 4:], atol=1e-6)
    assert built(folders / "clip", max_length=4000).max_length(0) == 40  # it has no more places
    assert built(folders / "clip", pooled="none").pooled_width is None
    silent = built(folders / "clip", empty="zeros").encode(["", "a"])
    assert not bool(silent.text[0].any())
    assert bool(silent.text[1].any())


def test_layers_are_averaged_evenly_or_as_learned(folders):
    """Each is normalised first; a mix begins as the even average, and its weights are trained."""
    mean, mix = (built(folders / "qwen", combine=how) for how in ("mean", "mix"))
    states = []
    for layer in (1, 2, 3, 4):
        state = built(folders / "qwen", layers=(layer,)).encode(["a cat"]).text
        spread = (state.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        states.append((state - state.mean(-1, keepdim=True)) / spread)
    assert torch.allclose(mean.encode(["a cat"]).text, torch.stack(states).mean(0), atol=1e-5)
    assert torch.allclose(mix.encode(["a cat"]).text, mean.encode(["a cat"]).text, atol=1e-5)
    weights = mix.mixes["0"].weights
    assert [name for name, _ in mix.named_parameters()] == ["mixes.0.weights"]
    weights.data = torch.tensor([0.0, 3.0, -1.0, 0.5])
    text = mix.encode(["a cat"]).text
    want = sum(w * s for w, s in zip(weights.softmax(0), states, strict=True))
    assert torch.allclose(text, want, atol=1e-5)
    text.square().sum().backward()
    assert bool(weights.grad.abs().max() > 0)
    assert all(p.grad is None for p in mix.parts[0][0].parameters())


def test_what_is_wrong_is_said(folders, tmp_path, monkeypatch):
    def refused(match, **fields):
        with pytest.raises(UserError, match=match):
            Frozen(**fields).resolved()

    refused("There is no folder .*nowhere.*text.folder", folder=str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    refused("holds no text encoder text_encoder: there is neither", folder=str(tmp_path / "bare"))
    refused("text_encoder_2: there is no folder", folder=str(folders / "clip"), family="clip_t5")
    refused("several encoders .*text.family", folder=str(folders / "sd3"))
    model, _ = t5()
    model.save_pretrained(tmp_path / "t5")
    refused("There is no tokenizer in .*tokenizer.json.*T5EncoderModel needs", folder=str(tmp_path / "t5"))
    with pytest.raises(UserError, match=r"text\.padding kept"):
        built(folders / "t5", padding="kept")
    import builtins

    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(r"need transformers: pip install 'fromnoise\[diffusers\]'", folder=str(folders / "clip"))


def test_encoders_stay_where_they_are_told(folders):
    dropped = built(folders / "clip", offload="dropped")
    assert dropped.held == []
    want = built(folders / "clip").encode(TEXTS)
    same(dropped.encode(TEXTS), want)
    assert dropped.held == []
    beside = built(folders / "clip").to("meta")
    assert next(beside.parts[0][0].parameters()).device.type == "meta"
    off = built(folders / "clip", offload="cpu").to("meta")
    assert next(off.parts[0][0].parameters()).device.type == "cpu"
    half = built(folders / "clip", precision="bfloat16")
    assert next(half.parts[0][0].parameters()).dtype == torch.bfloat16
    assert half.encode(["a"]).text.dtype == torch.float32


# ---- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "t5", "qwen", "sd3"])
def test_answers_on_disk_are_the_same(folders, name, tmp_path):
    family = "sd3" if name == "sd3" else "auto"
    plain = built(folders / name, family=family)
    kept = built(folders / name, family=family, cache="disk")
    kept.prepare(TEXTS, tmp_path)
    kept.where = []  # whatever would be encoded now could not be
    kept.held = []
    same(kept.encode(TEXTS), plain.encode(TEXTS))
    short = built(folders / name, family=family, cache="disk", cache_precision="bfloat16")
    short.prepare(TEXTS, tmp_path)
    same(short.encode(TEXTS), plain.encode(TEXTS), size=0.05)
    assert len(list(tmp_path.glob("*/shard-00000.safetensors"))) == 2  # two keys, a shard each
    assert sum(len(s.places) for s in (kept.store, short.store)) == 2 * 3  # texts once each


def test_what_was_stopped_is_gone_on_with(folders, tmp_path, monkeypatch):
    from fromnoise.text import store

    monkeypatch.setattr(store, "SHARD", 2)
    texts = ["a", "b", "c", "d", "e"]
    encoder = built(folders / "clip", cache="disk")
    calls = []

    def stopping(some, rows=encoder.rows):
        calls.append(list(some))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rows(some)

    monkeypatch.setattr(encoder, "rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        encoder.prepare(texts, tmp_path)
    encoder.prepare(texts, tmp_path)
    assert calls == [["", "a"], ["b", "c"], ["d", "e"], ["d", "e"]]
    encoder.prepare(texts, tmp_path)
    assert len(calls) == 4
    same(encoder.encode(texts), built(folders / "clip").encode(texts))
    shard = sorted(tmp_path.glob("*/shard-*"))[1]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"shard-00001.safetensors is damaged: delete"):
        encoder.prepare(texts, tmp_path)


def test_answers_in_memory_are_the_same_and_no_more_than_told(folders, monkeypatch):
    encoder, asked = built(folders / "t5", cache="memory", cache_texts=2), []
    rows = encoder.rows
    monkeypatch.setattr(encoder, "rows", lambda texts: (asked.extend(texts), rows(texts))[1])
    encoder.store.held.clear()
    same(encoder.encode(TEXTS), built(folders / "t5").encode(TEXTS))
    assert len(encoder.store.held) == 2
    assert asked == ["a red circle", "", "a blue square above a green ring", "a red circle"]  # it was the oldest
    encoder.encode(["a red circle"])
    assert len(asked) == 4


# ---- weights of words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "text", "weights"), [
    ("a cat", "a cat", {}),
    ("(red) cat", "red cat", {"red": 1.1}),
    ("((red)) cat", "red cat", {"red": 1.21}),
    ("[red] cat", "red cat", {"red": 1 / 1.1}),
    ("(red:1.3) [blue] cat", "red blue cat", {"red": 1.3, "blue": 1 / 1.1}),
    ("(a (red:2) cat:0.5)", "a red cat", {"a": 0.5, "red": 1.0, "cat": 0.5}),
    (r"\(red\) \[x\] \\", r"(red) [x] \ "[:-1], {}),
    ("red) cat]", "red) cat]", {}),
    ("(red cat", "red cat", {"red": 1.1, "cat": 1.1}),
    ("at 10:30 [red:2] cat", "at 10:30 red:2 cat", {"red:2": 1 / 1.1}),
    ("(red:x) cat", "red:x cat", {"red:x": 1.1}),
    ("", "", {}),
])
def test_brackets_weigh_words(prompt, text, weights):
    plain, found = emphasis(prompt)
    assert (plain, len(found)) == (text, len(text))
    want = [1.0] * len(text)
    for word, weight in weights.items():
        at = text.index(word)
        want[at : at + len(word)] = [weight] * len(word)
    solid = [i for i, letter in enumerate(text) if not letter.isspace()]
    assert [found[i] for i in solid] == pytest.approx([want[i] for i in solid])


def encoders(folders):
    yield built(folders / "clip")
    yield built(folders / "qwen", chat=True)
    yield built(folders / "gemma", padding="masked")
    yield built(folders / "sd3", family="sd3")
    for kind in ("bytes", "bpe"):
        spec = Trained(width=16, max_length=40, tokenizer=kind)
        yield spec.build(spec.learn_tokenizer(["a red circle above a blue square"]))


@torch.no_grad()
def test_a_weight_of_one_changes_nothing(folders):
    for encoder in encoders(folders):
        plain = encoder.encode(["a red circle", "a ring"])
        said = read_prompts(encoder, ["a (red:1.0) circle", "a ring"], weighted=True)
        same(said, plain, size=0.0 if isinstance(encoder.spec, Trained) else 1e-5)


@torch.no_grad()
def test_the_tokens_of_a_word_are_weighed(folders):
    """Only its own tokens, by its weight beside the others', and their mean size stays (in every tower)."""
    for encoder in encoders(folders):
        if len(getattr(encoder.spec, "towers", "one")) == 3:
            continue
        plain = encoder.encode(["a red circle"])
        text = read_prompts(encoder, ["a (red:3) circle"], weighted=True).text
        ratio = text.norm(dim=-1)[0] / plain.text.norm(dim=-1)[0]
        low, high = ratio.min(), ratio.max()
        assert float(high / low) == pytest.approx(3, rel=1e-3)
        assert 1 <= int((ratio > 2 * low).sum()) <= 6  # "red" or " red", once for each encoder
        assert float(text.abs().mean()) == pytest.approx(float(plain.text.abs().mean()), rel=0.01)


def test_letters_are_weighed_where_they_stand(folders):
    encoder = built(folders / "clip")  # a token a letter
    with torch.no_grad():
        plain = encoder.encode(["abcd"]).text
        text = read_prompts(encoder, ["a(bc:2)d"], weighted=True).text
    ratio = (text / plain)[0].mean(-1)
    assert torch.allclose(ratio / ratio[0], torch.tensor([1.0, 1, 2, 2, 1] + [1] * 35), atol=1e-3)


# ---- long prompts -------------------------------------------------------------------------------------------


def test_windows_hold_whole_words():
    def fits(text):
        return len(text) <= 8

    def of(text):
        return [text[a:b] for a, b in windows(fits, text)]

    assert of("one two three four") == ["one two", "three", "four"]
    assert of("short") == ["short"]
    assert of("") == [""]
    assert of("incredibly long") == ["incredib", "ly long"]
    assert of("   ") == ["   "]


@torch.no_grad()
def test_windows_are_read_one_after_the_other(folders):
    for encoder in (built(folders / "clip"), built(folders / "t5", max_length=20),
                    Trained(width=16, max_length=20, tokenizer="bytes").build(
                        Trained(tokenizer="bytes").learn_tokenizer([]))):
        short, words = "a red ring", "a red circle above the blue square and a green ring at night"
        same(read_prompts(encoder, [short, "b"], long=True), encoder.encode([short, "b"]))
        parts = [words[a:b] for a, b in windows(encoder.fits, words)]
        assert len(parts) > 1
        assert all(encoder.fits(part) for part in parts)
        assert " ".join(parts) == words
        got = read_prompts(encoder, [words], long=True)
        alone = [encoder.encode([part]) for part in parts]
        assert torch.allclose(got.text[0][got.mask[0]], torch.cat([c.text[0] for c in alone]), atol=1e-5)
        both = read_prompts(encoder, [short, words], long=True)
        n = encoder.encode([short]).text.shape[1]
        assert torch.allclose(both.text[0, :n], encoder.encode([short]).text[0], atol=1e-5)
        assert both.mask[0].sum() == n
        loud = read_prompts(encoder, [words.replace("night", "(night:2)")], weighted=True, long=True)
        assert torch.equal(loud.text[:, :n], got.text[:, :n])  # another window
        assert not torch.allclose(loud.text, got.text, atol=0.01)


def test_what_has_no_windows_says_so(folders):
    with pytest.raises(UserError, match="inside a template"):
        read_prompts(built(folders / "qwen", chat=True), ["a"], long=True)
    with pytest.raises(UserError, match="read 20 and 256 tokens"):
        read_prompts(built(folders / "sd3", family="sd3"), ["a"], long=True)
    from fromnoise.text import Labels

    with pytest.raises(UserError, match="reads no sentences"):
        read_prompts(Labels(names=("cat",), width=4).build(), ["cat"], weighted=True)


# ---- a recipe with them -------------------------------------------------------------------------------------


def tiny(folder, recipe=shapes, **text) -> Recipe:
    recipe = recipe()
    train_spec = dataclasses.replace(recipe.train, steps=4, batch=4, threads=1, checkpoint_every=2, preview_every=0)
    net = house(width=16, depth=1, heads=2) if recipe.net.kind == "trunk" else \
        dataclasses.replace(recipe.net, width=8, multipliers=(1, 2))
    return dataclasses.replace(recipe, text=Frozen(folder=str(folder), **text), net=net, train=train_spec)


def weights_of(run):
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("text", [{"family": "clip"}, {"family": "lm", "combine": "mix", "pooled": "mean"},
                                  {"family": "t5", "cache": "memory", "cache_texts": 3}])
def test_a_run_goes_on_exactly(folders, tmp_path, text):
    name = {"clip": "clip", "lm": "qwen", "t5": "t5"}[text["family"]]
    recipe = tiny(folders / name, **text)
    whole = train(recipe, tmp_path / "whole")
    assert not any("model" in key and "layers" in key for key in whole.system.text.state_dict())
    half = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=4))
    import fromnoise.train.loop as loop

    step = loop.Trainer.train_step

    def dies(self, batch):
        if self.step == 3:
            raise RuntimeError("killed")
        return step(self, batch)

    loop.Trainer.train_step = dies
    try:
        with pytest.raises(RuntimeError, match="killed"):
            train(half, tmp_path / "cut")
    finally:
        loop.Trainer.train_step = step
    train(half, tmp_path / "cut")
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")
    if text.get("combine") == "mix":
        assert bool(whole.system.text.mixes["0"].weights.abs().max() > 0)
    model = load(tmp_path / "whole")
    output = model.sample("a (red:1.3) circle", steps=2, weighted=True, long=True)
    output.save(tmp_path / "a.png")
    assert main(["sample", "--like", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes()[:2000] == (tmp_path / "b.png").read_bytes()[:2000]


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_from_disk_never_runs_the_encoder(folders, tmp_path, monkeypatch):
    """And has the same losses."""
    from fromnoise.text import FrozenText

    train(tiny(folders / "clip", digits), tmp_path / "plain")
    read, step = FrozenText.read, [0]
    asked = []
    monkeypatch.setattr(FrozenText, "read", lambda self, *args: (asked.append(step[0]), read(self, *args))[1])
    import fromnoise.train.loop as loop

    original = loop.Trainer.train_step
    monkeypatch.setattr(loop.Trainer, "train_step", lambda self, batch: (step.__setitem__(0, 1),
                                                                         original(self, batch))[1])
    train(tiny(folders / "clip", digits, cache="disk", offload="dropped"), tmp_path / "disk")
    assert asked
    assert 1 not in asked
    assert losses(tmp_path / "disk") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    with pytest.raises(UserError, match=r"captions of shapes have no end.*text\.cache memory"):
        train(tiny(folders / "clip", cache="disk"), tmp_path / "endless")


KILLED = """
import dataclasses, sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_frozen_text import digits, tiny
from fromnoise.text import FrozenText, store
from fromnoise.train import train
from fromnoise.train.loop import Trainer

store.SHARD, store.GROUP = 8, 4  # several shards of so few captions
read, step = FrozenText.read, Trainer.train_step
FrozenText.read = lambda self, *args: (time.sleep({wait}), read(self, *args))[1]
Trainer.train_step = lambda self, batch: (time.sleep({wait}), step(self, batch))[1]
recipe = tiny(Path({folder!r}), digits, cache="disk")
train(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=12)), Path({out!r}))
"""


@pytest.mark.long
def test_a_run_killed_twice_with_its_text_on_disk_ends_in_the_same_bytes(folders, tmp_path):
    """SIGKILL once while captions are encoded, and once between two checkpoints."""
    def process(out, wait):
        code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folders / "clip"), out=str(out), wait=wait)
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    def kill_at(pattern):
        running = process(tmp_path / "killed", 0.1)
        while not list((tmp_path / "killed").glob(pattern)):
            time.sleep(0.01)
            assert running.poll() is None, running.stderr.read()
        running.kill()
        running.wait()

    whole = process(tmp_path / "whole", 0.0)
    assert whole.wait() == 0, whole.stderr.read()
    kill_at("text/*/shard-00001.safetensors")
    shards = len(list((tmp_path / "killed").glob("text/*/shard-*")))
    assert shards < len(list((tmp_path / "whole").glob("text/*/shard-*")))
    kill_at("checkpoints/step-000004")
    last = process(tmp_path / "killed", 0.0)
    assert last.wait() == 0, last.stderr.read()
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for path in (tmp_path / "whole").glob("text/*/shard-*"):
        assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_a_folder_that_changed_or_is_gone_is_said(folders, tmp_path):
    import shutil

    shutil.copytree(folders / "clip", tmp_path / "clip")
    train(tiny(tmp_path / "clip"), tmp_path / "run")
    text = json.loads((tmp_path / "run" / "recipe.json").read_text())["text"]
    assert (text["family"], text["classes"], text["folder"]) == ("clip", ["CLIPTextModel"], str(tmp_path / "clip"))
    (tmp_path / "clip").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"no folder .*clip.* is gone: put it back, or name its new folder"):
        load(tmp_path / "run")
    train(tiny(tmp_path / "moved"), tmp_path / "run")  # the same encoder elsewhere goes on
    (tmp_path / "run" / "recipe.json").write_text((tmp_path / "run" / "recipe.json").read_text())
    load(tmp_path / "run")
    other, _ = clip(16, 9, length=40)
    other.save_pretrained(tmp_path / "moved")
    with pytest.raises(UserError, match=r"files have changed.*Put the files back"):
        load(tmp_path / "run")
    with pytest.raises(UserError, match=r"is not the one that .* was trained with: its files have changed"):
        train(tiny(tmp_path / "moved"), tmp_path / "run")


def test_the_initial_weights_of_a_network_do_not_depend_on_the_encoder_s_own(folders):
    recipe = tiny(folders / "clip")
    a, b = (System(recipe, None).denoiser.state_dict() for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("args", [["--text", "{}/clip"], ["--text", "clip", "--text.folder", "{}/clip"],
                                  ["--text", "frozen", "--text.folder", "{}/clip", "--text.layers", "-2", "-1"]])
def test_the_command_line_takes_encoders(folders, args):
    from fromnoise.cli.train import resolve

    recipe, *_ = resolve(["shapes", *(a.format(folders) for a in args)])
    assert isinstance(recipe.text, Frozen)
    assert recipe.text.folder == str(folders / "clip")
    assert recipe.text.layers == ((-2, -1) if "--text.layers" in args else ())
    assert recipe.text.resolved().family == "clip"


@pytest.mark.parametrize("preset", ["sdxl", "edm2"])
def test_a_u_net_takes_the_vector_that_the_text_gives(folders, preset):
    """A preset's U-Net reads the pooled text, whatever its width; a text without one is refused."""
    recipe = resolve(["shapes", "--preset", preset, "--text", str(folders / "clip")])[0].resolved()
    system = System(recipe, None)
    with torch.no_grad():
        said = system.denoiser(torch.zeros(2, 1, 3, 32, 32), torch.full((2, 1), 0.5), system.text.encode(["a", "b"]))
    assert said.shape == (2, 1, 3, 32, 32)
    with pytest.raises(UserError, match=r"this text gives words alone: add --text.pooled mean"):
        System(dataclasses.replace(recipe, text=Frozen(folder=str(folders / "qwen"))).resolved(), None)
    System(dataclasses.replace(recipe, text=Frozen(folder=str(folders / "qwen"), pooled="mean")).resolved(), None)
    with pytest.raises(UserError, match=r"net.pooled_width is 7, and .* has 16 features here"):
        System(dataclasses.replace(recipe, net=dataclasses.replace(recipe.net, pooled_width=7)), None)
