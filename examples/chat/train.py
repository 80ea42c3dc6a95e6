"""Trains the example chat model from nothing: `python train.py [--steps N] [--out safetensors]`.

Writes a Hugging Face folder (Qwen2 architecture, bfloat16) that transformers and vLLM load. CPU only, two threads.
"""

# The stubs of torch, tokenizers and transformers leave some members untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dialogs import Page, Turn, dialogue, page
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

SEED = 2008
VOCABULARY = 1536
BATCH = 32
PEAK_RATE = 2e-3
WARMUP_STEPS = 200
IGNORED = -100
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# transformers 5 gives every Qwen2 model this splitting rule, whatever tokenizer.json says, so training uses it too.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Sample:
    """Token ids, and the ids to predict: `IGNORED` where the text is not the assistant's."""

    ids: list[int]
    labels: list[int]


def segments(system: str | None, turns: list[Turn]) -> list[tuple[str, bool]]:
    """The dialogue in ChatML, cut into (text, is it the assistant's)."""
    parts: list[tuple[str, bool]] = []
    if system is not None:
        parts.append((f"{START}system\n{system}{END}\n", False))
    for question, answer in turns:
        parts.append((f"{START}user\n{question}{END}\n{START}assistant\n", False))
        parts.append((f"{answer}{END}", True))
        parts.append(("\n", False))
    return parts


def train_tokenizer(facts: Page) -> Tokenizer:
    rng = random.Random(SEED)
    texts: list[str] = []
    for _ in range(20_000):
        system, turns = dialogue(facts, rng)
        texts += [system or "", *(text for one in turns for text in one)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (END_OF_TEXT, START, END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, system: str | None, turns: list[Turn]) -> Sample:
    ids: list[int] = []
    labels: list[int] = []
    for text, answered in segments(system, turns):
        part: list[int] = tokenizer.encode(text).ids
        ids += part
        labels += part if answered else [IGNORED] * len(part)
    return Sample(ids, labels)


def batches(tokenizer: Tokenizer, facts: Page, steps: int) -> list[list[Sample]]:
    """Samples of like length share a batch, so that little is padding; the batches come in random order."""
    rng = random.Random(SEED + 1)
    pool = sorted(
        (encode(tokenizer, *dialogue(facts, rng)) for _ in range(steps * BATCH)), key=lambda sample: len(sample.ids)
    )
    cut = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
    rng.shuffle(cut)
    return cut


def tensors(batch: list[Sample], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(sample.ids) for sample in batch)
    ids = [sample.ids + [pad] * (width - len(sample.ids)) for sample in batch]
    labels = [sample.labels + [IGNORED] * (width - len(sample.labels)) for sample in batch]
    return torch.tensor(ids), torch.tensor(labels)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """LookupError if the vocabulary lacks the token."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise LookupError(token)
    return found


def new_model(tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    torch.manual_seed(SEED)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=token_id(tokenizer, END),
            pad_token_id=token_id(tokenizer, END_OF_TEXT),
        )
    )


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train_model(model: Qwen2ForCausalLM, data: list[list[Sample]], pad: int) -> float:
    """Returns the mean loss over the last 100 steps, in nats per assistant token."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98), fused=True
    )
    model.train()
    started = time.monotonic()
    losses: list[float] = []
    for step, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, len(data))
        ids, labels = tensors(batch, pad)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            print(f"step {step + 1}/{len(data)} loss {recent:.4f} {time.monotonic() - started:.0f}s", flush=True)
    return sum(losses[-100:]) / len(losses[-100:])


def write_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_model(model: Qwen2ForCausalLM, out: Path) -> None:
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    cast: Any = model.to  # its decorator hides the type of its argument
    cast(torch.bfloat16).save_pretrained(out)
    generation = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "eos_token_id": [end, pad],
        "pad_token_id": pad,
    }
    (out / "model.safetensors").chmod(0o644)
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "safetensors")
    options = parser.parse_args()
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = page()
    tokenizer = train_tokenizer(facts)
    data = batches(tokenizer, facts, options.steps)
    print(f"{sum(len(s.ids) for b in data for s in b):,} tokens in {len(data) * BATCH:,} dialogues")
    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    loss = train_model(model, data, token_id(tokenizer, END_OF_TEXT))
    write_tokenizer(tokenizer, options.out)
    write_model(model, options.out)
    print(f"loss over the last 100 steps: {loss:.4f}")


if __name__ == "__main__":
    main()
