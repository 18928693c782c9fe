"""Makes a tiny random Llama that a real vLLM can serve on a CPU: `python tiny_llama.py DIRECTORY`.

The weights are random but seeded, so the same versions of torch and transformers give the same model. It is
small (2.4M parameters) so that a server's scheduler, cache and metrics are exercised, not its arithmetic.
This file is run by path, with the interpreter that has vLLM; nothing of the generator imports it.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

SPECIALS = ("<s>", "</s>", "<unk>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
VOCABULARY = 256 + len(SPECIALS)  # every byte is a token, so a prompt's length is its bytes
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(positions: int) -> Any:
    """A byte-level tokenizer without merges: one token a byte, then the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    transformers: Any = import_module("transformers")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: Any, positions: int, seed: int) -> Any:
    """A random LlamaForCausalLM in bfloat16: hidden 256, 4 layers, 8 query heads, 4 KV heads."""
    import torch

    transformers: Any = import_module("transformers")
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


def main(arguments: list[str]) -> int:
    """Save the model and the tokenizer into the directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--positions", type=int, default=2048, help="longest context, in tokens")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args(arguments)
    args.directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(args.positions)
    model = make_model(tokenizer, args.positions, args.seed)
    model.save_pretrained(args.directory)
    tokenizer.save_pretrained(args.directory)
    print(f"{args.directory}: {sum(p.numel() for p in model.parameters()):,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
