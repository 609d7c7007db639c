"""Frozen text encoders against what diffusers' own pipelines feed their networks, on tiny random models."""

import dataclasses

import pytest
import torch
from tiny_encoders import LM, clip, gemma, qwen3, qwen_tokenizer, qwen_vl, randomised, t5

from fromnoise.folders import Component, Pipeline, open_pipeline
from fromnoise.interop.encoders import load_text
from fromnoise.text import FAMILIES, Tower, Towers
from fromnoise.text.hidden import hidden_states
from fromnoise.text.opening import load_tokenizer, text_of
from fromnoise.types import UserError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a red circle", "A Blue square above two green triangles,  at night", ""]

@pytest.fixture(autouse=True)
def without_gradients():
    """As diffusers' pipelines run: torch takes other roads where gradients are asked for, and they differ by 1e-5."""
    with torch.no_grad():
        yield


def small(spec, **changes):
    """A family with its numbers made small."""
    return dataclasses.replace(spec, towers=tuple(
        dataclasses.replace(tower, **{k: v for k, v in changes.items() if getattr(tower, k)}) for tower in spec.towers))


def equal(a, b):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= 1e-6 * max(1.0, float(b.abs().max()))


# ---- one test a family -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
def test_stable_diffusion(mask):
    model, tokenizer = clip(16, 1)
    model.config.use_attention_mask = mask
    theirs = diffusers.StableDiffusionPipeline(None, model, tokenizer, None, diffusers.DDIMScheduler(), None, None,
                                               requires_safety_checker=False)
    spec = FAMILIES["sd"]
    if mask:
        spec = dataclasses.replace(spec, towers=(dataclasses.replace(spec.towers[0], attend_padding=False),))
    ours = spec.build([(model, tokenizer)])
    want, empty = theirs.encode_prompt(PROMPTS, "cpu", 1, True, ["", "worst", "x"])
    equal(ours.encode(PROMPTS).text, want)
    equal(ours.encode(["", "worst", "x"], negative=True).text, empty)
    assert ours.encode(PROMPTS).mask is None


def test_sdxl():
    parts = [clip(16, 1), clip(24, 2, projected=True)]
    theirs = diffusers.StableDiffusionXLPipeline(None, parts[0][0], parts[1][0], parts[0][1], parts[1][1], None,
                                                 diffusers.EulerDiscreteScheduler(), add_watermarker=False)
    want, none, pooled, no_pooled = theirs.encode_prompt(PROMPTS, device="cpu")
    zeros = dataclasses.replace(FAMILIES["sdxl"], empty="zeros").build(parts)
    got, silent = zeros.encode(PROMPTS), zeros.encode([""] * 3, negative=True)
    for a, b in ((got.text, want), (got.pooled, pooled), (silent.text, none), (silent.pooled, no_pooled)):
        equal(a, b)
    assert not bool(silent.text.any())
    _, negative, _, negative_pooled = theirs.encode_prompt(PROMPTS, device="cpu", negative_prompt=["bad", "so", "ugly"])
    told = zeros.encode(["bad", "so", "ugly"], negative=True)
    equal(told.text, negative)
    equal(told.pooled, negative_pooled)


def test_sd3():
    parts = [clip(8, 1, projected=True), clip(12, 2, projected=True), t5()]
    theirs = diffusers.StableDiffusion3Pipeline(
        transformer=None, scheduler=None, vae=None, text_encoder=parts[0][0], tokenizer=parts[0][1],
        text_encoder_2=parts[1][0], tokenizer_2=parts[1][1], text_encoder_3=parts[2][0], tokenizer_3=parts[2][1])
    want, _, pooled, _ = theirs.encode_prompt(PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False)
    got = FAMILIES["sd3"].build(parts).encode(PROMPTS)
    equal(got.text, want)
    equal(got.pooled, pooled)
    assert got.text.shape == (3, 20 + 256, 24)
    assert got.mask is None


def test_flux_1():
    parts = [clip(16, 1), t5()]
    theirs = diffusers.FluxPipeline(None, None, *parts[0], *parts[1], None)
    want, pooled, _ = theirs.encode_prompt(PROMPTS, None, device="cpu")
    got = FAMILIES["flux1"].build(parts).encode(PROMPTS)
    equal(got.text, want)
    equal(got.pooled, pooled)


def test_flux_2():
    """The processor of Mistral tokenizes with the template: no token is added before it."""
    tokenizer = qwen_tokenizer("left")
    model = randomised(transformers.MistralForCausalLM(transformers.MistralConfig(num_hidden_layers=4, **LM)), 6)
    want = diffusers.Flux2Pipeline._get_mistral_3_small_prompt_embeds(
        model, Processor(tokenizer), PROMPTS, max_sequence_length=260, hidden_states_layers=(1, 2, 3))
    got = small(FAMILIES["flux2"], layers=(1, 2, 3), max_length=260).build([(model, tokenizer)]).encode(PROMPTS)
    equal(got.text, want)
    assert got.mask is None


class Processor:
    """The part of Mistral's processor that reads text, which keeps its padding options among the tokenizer's."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages, padding, truncation, max_length, **options):
        return self.tokenizer.apply_chat_template(messages, padding=padding, truncation=truncation,
                                                  max_length=max_length, **options)


def test_flux_2_klein():
    model, tokenizer = qwen3(), qwen_tokenizer()
    want = diffusers.Flux2KleinPipeline._get_qwen3_prompt_embeds(
        model, tokenizer, PROMPTS, max_sequence_length=90, hidden_states_layers=(1, 2, 4))
    got = small(FAMILIES["flux2_klein"], layers=(1, 2, 4), max_length=90).build([(model, tokenizer)]).encode(PROMPTS)
    equal(got.text, want)
    assert got.text.shape == (3, 90, 48)


@pytest.mark.parametrize("head", [True, False])
def test_z_image(head):
    model, tokenizer = qwen3(head=head), qwen_tokenizer()
    theirs = diffusers.ZImagePipeline(None, None, model, tokenizer, None)
    want = theirs._encode_prompt(list(PROMPTS), device="cpu", max_sequence_length=120)
    got = small(FAMILIES["z_image"], max_length=120).build([(model, tokenizer)]).encode(PROMPTS)
    for row, mask, real in zip(got.text, got.mask, want, strict=True):
        equal(row[mask], real)
        assert not bool(row[~mask].any())
        assert bool(mask[: len(real)].all())


@pytest.mark.parametrize("side", ["right", "left"])
def test_qwen_image(side):
    model, tokenizer = qwen_vl(), qwen_tokenizer(side)
    theirs = diffusers.QwenImagePipeline(None, None, model, tokenizer, None)
    want, mask = theirs.encode_prompt(PROMPTS, device="cpu", max_sequence_length=512)
    got = FAMILIES["qwen_image"].build([(model, tokenizer)]).encode(PROMPTS)
    equal(got.text, want)
    assert torch.equal(got.mask, mask.bool())
    short, _ = theirs.encode_prompt(PROMPTS, device="cpu", max_sequence_length=150)
    equal(small(FAMILIES["qwen_image"], max_length=150).build([(model, tokenizer)]).encode(PROMPTS).text, short)


@pytest.mark.parametrize("family", ["pixart_alpha", "pixart_sigma"])
def test_pixart(family):
    model, tokenizer = t5()
    cls = diffusers.PixArtAlphaPipeline if family == "pixart_alpha" else diffusers.PixArtSigmaPipeline
    theirs = cls(tokenizer, model, None, None, None)
    want, mask, *_ = theirs.encode_prompt(PROMPTS, False, device="cpu")
    got = FAMILIES[family].build([(model, tokenizer)]).encode(PROMPTS)
    equal(got.text, want)
    assert torch.equal(got.mask, mask.bool())


def test_sana():
    model, tokenizer = gemma("left")  # the pipeline turns it to the right
    theirs = diffusers.SanaPipeline(tokenizer, model, None, None, None)
    ours = small(FAMILIES["sana"], max_length=60, instruction="Say more.\nPrompt: ").build([(model, tokenizer)])
    ours_got, ours_negative = ours.encode(PROMPTS), ours.encode(["bad"] * 3, negative=True)
    want, mask, negative, negative_mask = theirs.encode_prompt(
        PROMPTS, negative_prompt="bad", device="cpu", max_sequence_length=60,
        complex_human_instruction=["Say more.", "Prompt: "])
    equal(ours_got.text, want)
    assert torch.equal(ours_got.mask, mask.bool())
    equal(ours_negative.text, negative)
    assert torch.equal(ours_negative.mask, negative_mask.bool())


def test_lumina_2():
    """What is wanted stands behind a system prompt, and what is not stands alone."""
    model, tokenizer = gemma("right")
    theirs = diffusers.Lumina2Pipeline(None, None, None, model, tokenizer)
    ours = FAMILIES["lumina2"].build([(model, tokenizer)])
    want, mask, negative, negative_mask = theirs.encode_prompt(PROMPTS, negative_prompt=["bad"] * 3, device="cpu")
    got, silent = ours.encode(PROMPTS), ours.encode(["bad"] * 3, negative=True)
    equal(got.text, want)
    assert torch.equal(got.mask, mask.bool()) if got.mask is not None else bool(mask.all())
    equal(silent.text, negative)
    assert torch.equal(silent.mask, negative_mask.bool())
    assert int(silent.mask.sum()) == 9  # three letters each


@pytest.mark.parametrize(("name", "config"), [("MistralModel", "MistralConfig"), ("LlamaModel", "LlamaConfig"),
                                              ("Gemma2Model", "Gemma2Config"), ("Qwen3Model", "Qwen3Config")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_language_models_by_layer_and_side(name, config, side):
    """Every layer, whichever side padding stands on, is what the model says of the text alone."""
    model = randomised(getattr(transformers, name)(getattr(transformers, config)(num_hidden_layers=3, **LM)), 11)
    tokenizer = qwen_tokenizer(side)
    for layer in (0, 1, -2, -1):
        spec = Towers(towers=(Tower(layers=(layer,), max_length=90, padding="removed"),))
        got = spec.build([(model, tokenizer)]).encode(PROMPTS[:2])
        for row, mask, text in zip(got.text, got.mask, PROMPTS, strict=False):
            ids = tokenizer(text, return_tensors="pt").input_ids
            alone = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
            assert float((row[mask] - alone).abs().max()) <= 2e-5 * max(1.0, float(alone.abs().max()))


def test_the_texts_of_the_families_are_those_of_the_pipelines():
    import inspect

    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    from fromnoise.text.families import FLUX2_SYSTEM, LUMINA2_TEMPLATE, QWEN_IMAGE_TEMPLATE, SANA_INSTRUCTION

    assert SYSTEM_MESSAGE == FLUX2_SYSTEM
    asked = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
    assert "\n".join(asked) == SANA_INSTRUCTION
    lumina = diffusers.Lumina2Pipeline(None, None, None, None, None)
    assert f"{lumina.system_prompt} <Prompt Start> {{}}" == LUMINA2_TEMPLATE
    theirs = diffusers.QwenImagePipeline(None, None, None, None, None)
    assert theirs.prompt_template_encode == QWEN_IMAGE_TEMPLATE
    for family, cls in (("sd3", diffusers.StableDiffusion3Pipeline), ("flux1", diffusers.FluxPipeline),
                        ("flux2", diffusers.Flux2Pipeline), ("flux2_klein", diffusers.Flux2KleinPipeline),
                        ("z_image", diffusers.ZImagePipeline), ("qwen_image", diffusers.QwenImagePipeline),
                        ("pixart_alpha", diffusers.PixArtAlphaPipeline), ("sana", diffusers.SanaPipeline),
                        ("pixart_sigma", diffusers.PixArtSigmaPipeline)):
        default = inspect.signature(cls.__call__).parameters["max_sequence_length"].default
        assert FAMILIES[family].towers[-1].max_length == default, family


# ---- the parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [qwen3, qwen_vl, lambda: t5()[0], lambda: clip(8, 1)[0]])
def test_before_and_after_the_final_normalisation(make):
    """transformers' last hidden state is after the norm; the one before it gives that by the norm."""
    from fromnoise.text.hidden import final_norm_of, without_head

    model, ids = make(), torch.tensor([[5, 6, 7, 8], [9, 3, 2, 1]])
    after = hidden_states(model, ids, None, (-1,), True).states[0]
    before = hidden_states(model, ids, None, (-1,), False).states[0]
    assert float((after - before).abs().max()) > 0.1
    equal(final_norm_of(without_head(model))(before), after)
    three = hidden_states(model, ids, None, (0, 1, -1), True).states
    equal(three[-1], after)
    with pytest.raises(IndexError):
        hidden_states(model, ids, None, (17,), True)


def test_encoders_are_frozen_and_no_part_of_what_is_saved():
    model, tokenizer = clip(8, 1)
    encoder = Towers().build([(model, tokenizer)])
    assert not encoder.state_dict()
    assert not list(encoder.parameters())
    encoder.train()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    encoder.to(torch.float64)
    condition = encoder.encode(["a"])
    assert condition.text.dtype == torch.float64
    assert not condition.text.requires_grad


def test_what_is_cut_is_said():
    model, tokenizer = clip(8, 1)
    encoder = FAMILIES["sd"].build([(model, tokenizer)])
    assert encoder.cut("a cat") is None
    said = encoder.cut("a" * 19)
    assert said == f'The prompt has 21 tokens but the text encoder reads 20: it was cut after "...{"a" * 18}".'
    assert encoder.count_cut(["a", "a" * 18, "a" * 19]) == 1
    chat = small(FAMILIES["qwen_image"], max_length=90).build([(qwen3(), qwen_tokenizer())])
    assert "reads 90" in (chat.cut("a" * 4000) or "")


def test_a_folder_gives_its_encoders(tmp_path):
    parts = [clip(8, 1, projected=True), clip(12, 2, projected=True), t5()]
    theirs = diffusers.StableDiffusion3Pipeline(
        transformer=None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=parts[0][0],
        tokenizer=parts[0][1], text_encoder_2=parts[1][0], tokenizer_2=parts[1][1], text_encoder_3=parts[2][0],
        tokenizer_3=parts[2][1])
    theirs.save_pretrained(tmp_path)
    pipeline = open_pipeline(tmp_path)
    assert text_of(pipeline) == FAMILIES["sd3"]
    want, _, pooled, _ = theirs.encode_prompt(PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False)
    got = load_text(pipeline).encode(PROMPTS)
    equal(got.text, want)
    equal(got.pooled, pooled)
    assert load_text(pipeline, dtype=torch.bfloat16).encode(["a"]).text.dtype == torch.bfloat16
    file = tmp_path / "text_encoder_2" / "model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"text_encoder_2 holds its weights as model\.bin, a pickle"):
        load_text(pipeline)


def test_sd3_without_t5(tmp_path):
    """What its network reads in the place of T5 are zeros."""
    parts = [clip(8, 1, projected=True), clip(12, 2, projected=True)]
    net = diffusers.SD3Transformer2DModel(sample_size=8, in_channels=4, num_layers=1, attention_head_dim=8,
                                          num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16,
                                          pooled_projection_dim=24, out_channels=4)
    theirs = diffusers.StableDiffusion3Pipeline(
        transformer=net, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=parts[0][0],
        tokenizer=parts[0][1], text_encoder_2=parts[1][0], tokenizer_2=parts[1][1], text_encoder_3=None,
        tokenizer_3=None)
    theirs.save_pretrained(tmp_path)
    want, _, pooled, _ = theirs.encode_prompt(PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False)
    got = load_text(open_pipeline(tmp_path)).encode(PROMPTS)
    equal(got.text, want)
    equal(got.pooled, pooled)
    assert got.text.shape == (3, 20 + 256, 24)
    index = (tmp_path / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index.replace("text_encoder_2", "other"))
    (tmp_path / "text_encoder_2").rename(tmp_path / "other")
    with pytest.raises(UserError, match="lacks one of the CLIPs"):
        load_text(open_pipeline(tmp_path))


def test_a_wrong_encoder_is_explained(tmp_path):
    def pipeline(kind="StableDiffusionPipeline", **parts):
        return Pipeline(tmp_path, kind, parts)

    with pytest.raises(UserError, match="How WanPipeline reads prompts is not known here"):
        text_of(pipeline("WanPipeline"))
    with pytest.raises(UserError, match="saved without its text encoders"):
        text_of(pipeline())
    (tmp_path / "config.json").write_text("{}")
    for library, kind in (("os", "system"), ("transformers", "pipeline"), ("transformers", "CLIPTokenizer")):
        part = Component("text_encoder", library, kind, tmp_path)
        with pytest.raises(UserError, match="is not a model of transformers: it is not opened"):
            load_text(pipeline(text_encoder=part, tokenizer=part))
    model, _ = clip(8, 1)
    model.save_pretrained(tmp_path / "te")
    part = Component("text_encoder", "transformers", "CLIPTextModel", tmp_path / "te")
    nothing = Component("tokenizer", "transformers", "CLIPTokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match="tokenizer"):
        load_text(pipeline(text_encoder=part, tokenizer=nothing))
    from safetensors.torch import load_file, save_file

    file = tmp_path / "te" / "model.safetensors"
    tensors = load_file(file)
    lost = next(key for key in tensors if key.endswith("final_layer_norm.weight"))
    save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensor is missing, the first .*final_layer_norm"):
        load_text(pipeline(text_encoder=part, tokenizer=nothing))


def test_code_in_a_folder_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')
    with pytest.raises(UserError, match="cannot be opened as CLIPTokenizer"):
        load_tokenizer(Component("tokenizer", "transformers", "CLIPTokenizer", tmp_path))
    assert not (tmp_path / "ran").exists()


def test_as_many_models_as_towers():
    with pytest.raises(ValueError, match="2 towers"):
        Towers(towers=(Tower(), Tower())).build([])
