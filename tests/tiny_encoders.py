"""Tiny random text encoders and their tokenizers, made on the spot."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
        "{% else %}{{ m['content'][0]['text'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}")


def randomised(model, seed=0, size=0.3):
    """Every parameter random, so that none hides behind a constant."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = size * torch.randn(p.shape, generator=generator) + (0.7 if p.ndim == 1 else 0)
    return model.eval()


def letters():
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def clip(width, seed, projected=False, layers=3, length=20):
    vocabulary = [*letters(), *(c + "</w>" for c in letters()), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[],
                                           model_max_length=length)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=16, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=length, projection_dim=width + 2, bos_token_id=512,
        eos_token_id=513, pad_token_id=513)
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return randomised(cls(config), seed), tokenizer


def t5(width=24):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    tokenizer = transformers.T5Tokenizer(vocab=pieces + [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz ,."],
                                         extra_ids=0, model_max_length=512)
    config = transformers.T5Config(vocab_size=40, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return randomised(transformers.T5EncoderModel(config), 3), tokenizer


def qwen_tokenizer(side="right"):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {t: i for i, t in enumerate([*letters(), *special])}
    return transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special[1:],
                                       chat_template=CHAT, padding_side=side)


LM = {"vocab_size": 264, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
      "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 256, "bos_token_id": 256, "eos_token_id": 256}


def qwen3(layers=4, head=True):
    cls = transformers.Qwen3ForCausalLM if head else transformers.Qwen3Model
    return randomised(cls(transformers.Qwen3Config(num_hidden_layers=layers, **LM)), 4)


def qwen_vl():
    text = {k: v for k, v in LM.items() if k != "head_dim"} | {
        "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                                    "rope_theta": 1e4}}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return randomised(transformers.Qwen2_5_VLForConditionalGeneration(config), 5)


def gemma(side="left"):
    config = transformers.Gemma2Config(num_hidden_layers=2, **LM)
    return randomised(transformers.Gemma2Model(config), 7), qwen_tokenizer(side)


def t5gemma():
    """The encoder of T5Gemma, saved with the config of the whole as published ones are, and a tokenizer."""
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder, T5GemmaModuleConfig

    module = T5GemmaModuleConfig(num_hidden_layers=2, **LM)
    config = transformers.T5GemmaConfig(encoder=module, decoder=module, vocab_size=LM["vocab_size"])
    tokenizer = qwen_tokenizer()
    tokenizer.model_max_length = 40
    model = randomised(T5GemmaEncoder(config.encoder), 7)

    def save_pretrained(folder, **options):
        T5GemmaEncoder.save_pretrained(model, folder, **options)
        config.save_pretrained(folder)

    model.save_pretrained = save_pretrained
    return model, tokenizer


def mistral(layers=31):
    """Mistral 3, which also sees pictures, and a tokenizer in place of its processor, which needs torchvision."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "head_dim": 8, "image_size": 28, "patch_size": 14}
    text = {"model_type": "mistral", "num_hidden_layers": layers, **LM}
    config = transformers.Mistral3Config(text_config=text, vision_config={"model_type": "pixtral", **vision})
    return randomised(transformers.Mistral3ForConditionalGeneration(config), 6), qwen_tokenizer("left")
