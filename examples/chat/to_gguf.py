"""Writes the GGUF file from the Hugging Face folder: `python to_gguf.py [--source safetensors] [--out gguf/...]`.

Matrices become Q8_0, vectors stay float32. llama.cpp splits text with its `qwen2` rule, the one the tokenizer was
trained with, so both give the same ids.
"""

# The stubs of torch, safetensors and gguf leave some members untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import quants
from safetensors.torch import load_file

HERE = Path(__file__).parent
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`; KeyError for a tensor Qwen2 does not have."""
    stem, kind = name.removeprefix("model.").rsplit(".", 1)
    if stem == "embed_tokens":
        return f"token_embd.{kind}"
    if stem == "norm":
        return f"output_norm.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def write_header(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("Hostler chat")
    writer.add_description("A very small chat model that knows a page of facts.")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {added["content"] for added in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(vocabulary[config["eos_token"]])
    writer.add_pad_token_id(vocabulary[config["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(config["chat_template"])


def write_tensor(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    data = tensor.float().numpy()
    if tensor.dim() < 2:
        writer.add_tensor(gguf_name(name), data)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(gguf_name(name), quants.quantize(data, kind), raw_dtype=kind)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=HERE / "safetensors")
    parser.add_argument("--out", type=Path, default=HERE / "gguf" / "hostler-chat.gguf")
    options = parser.parse_args()
    source: Path = options.source
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out, "qwen2")
    write_header(writer, read_json(source / "config.json"))
    write_tokenizer(writer, read_json(source / "tokenizer.json"), read_json(source / "tokenizer_config.json"))
    for name, tensor in sorted(load_file(source / "model.safetensors").items()):
        write_tensor(writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
