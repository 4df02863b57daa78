"""Writes a tiny Llama of random weights, and a tokenizer trained on the spot: tiny_model.py FOLDER.

Run by the real SGLang's interpreter: it needs torch, tokenizers and safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# The tokenizer comes to some 420 tokens. It knows nothing of the ids beyond; SGLang shows each as token 0.
VOCABULARY, HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, HEAD = 512, 64, 2, 4, 2, 128, 16
CORPUS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "prefill and decode servers transfer key value caches over the network",
    "hello world, this is a tiny tokenizer used for a proxy test 0123456789",
    "Wörter über Umlaute, 日本語 テスト 你好 世界",
] * 20
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer() -> Tokenizer:
    """Bytes and some merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=509, initial_alphabet=alphabet))
    made.add_special_tokens(["<s>", "</s>", "<pad>"])
    return made


def weights() -> dict[str, torch.Tensor]:
    """Random, and the same on every machine.

    Of 32 bits each: what prefill computes anew differs from what decode computed by the last bits, and among
    400 random tokens of 16 bits several have an equal second best, so that either could come.
    """
    torch.manual_seed(0)

    def wide(*shape: int, spread: float = 0.3) -> torch.Tensor:
        return torch.randn(*shape) * spread

    ones = torch.ones(HIDDEN)
    made = {
        "model.embed_tokens.weight": wide(VOCABULARY, HIDDEN, spread=1.0),
        "lm_head.weight": wide(VOCABULARY, HIDDEN),
        "model.norm.weight": ones,
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        made[at + "self_attn.q_proj.weight"] = wide(HEADS * HEAD, HIDDEN)
        made[at + "self_attn.k_proj.weight"] = wide(KV_HEADS * HEAD, HIDDEN)
        made[at + "self_attn.v_proj.weight"] = wide(KV_HEADS * HEAD, HIDDEN)
        made[at + "self_attn.o_proj.weight"] = wide(HIDDEN, HEADS * HEAD)
        made[at + "mlp.gate_proj.weight"] = wide(INNER, HIDDEN)
        made[at + "mlp.up_proj.weight"] = wide(INNER, HIDDEN)
        made[at + "mlp.down_proj.weight"] = wide(HIDDEN, INNER)
        made[at + "input_layernorm.weight"] = ones.clone()
        made[at + "post_attention_layernorm.weight"] = ones.clone()
    return made


def main() -> None:
    """Writes all files of the model."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    words.save(str(folder / "tokenizer.json"))
    tokens = (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>"))
    ids = {name: words.token_to_id(token) for name, token in tokens}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096, "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, **names}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        **{f"{name}_token_id": number for name, number in ids.items()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(), str(folder / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main()
