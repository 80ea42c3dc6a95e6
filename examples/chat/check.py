"""Measures the GGUF model through llama.cpp's own HTTP server: `python check.py [--model gguf/hostler-chat.gguf]`.

Held-out wordings are asked greedily, the lesson's question at llama.cpp's default sampling. With `--compare FOLDER` the
token ids and the greedy answers are compared with those of transformers over the safetensors folder.
"""

# xllamacpp ships no type information; the types of transformers leave some members out.
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import json
import random
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xllamacpp
from dialogs import Turn, held_out, page
from facts import GOLD, GOLD_QUESTION, REFUSAL

HERE = Path(__file__).parent
SYSTEM = "You are a helpful assistant."
TOKENIZER_TEXTS = (
    GOLD_QUESTION, "", " ", "  two  spaces ", "tab\tand\n\nnewlines \n ", "It's 2008, isn't it? I'll say 51+48=99.",
    "Caf\u00e9 na\u00efve \u4f60\u597d\uff0c\u4e16\u754c \U0001f600\U0001f44d\U0001f3fd",
    "snake_case(x)[0] -> {'a': 1};  # end", "MiXeD CaSe 12345 3.14",
    "\u00a0nbsp and \u2003em space", "<|im_start|>user\nHello<|im_end|>\n", "trailing spaces   ", "...!!!???",
)  # fmt: skip


def start(model: Path) -> Any:
    """A server that is ready: the constructor returns when the model is loaded. It stops when the object is dropped."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 2048
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = 2
    return xllamacpp.Server(params)


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def stream(url: str, body: dict[str, Any]) -> Iterator[str]:
    data = json.dumps({**body, "stream": True}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        for line in response:
            text = line.decode().strip().removeprefix("data: ")
            if text and text != "[DONE]":
                yield json.loads(text)["choices"][0]["delta"].get("content") or ""


def messages(turns: list[str], system: str | None = None) -> list[dict[str, str]]:
    """Turns alternate, the user's first."""
    start = [{"role": "system", "content": system}] if system else []
    return start + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


class Chat:
    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, turns: list[str], system: str | None = None, **sampling: float) -> str:
        body = {"messages": messages(turns, system), "max_tokens": 80, **sampling}
        return post(f"{self.address}/v1/chat/completions", body)["choices"][0]["message"]["content"]

    def streamed(self, question: str) -> str:
        body = {"messages": messages([question], SYSTEM), "max_tokens": 80, "temperature": 0}
        return "".join(stream(f"{self.address}/v1/chat/completions", body))


def share_right(chat: Chat, asks: list[Turn], system: str | None) -> float:
    wrong = [(q, a, got) for q, a in asks if (got := chat.ask([q], system, temperature=0)) != a]
    for question, _, got in wrong:
        print(f"  wrong: {question!r} -> {got!r}")
    return 1 - len(wrong) / len(asks)


def second_turns(chat: Chat, asks: list[Turn], rng: random.Random) -> float:
    right = 0
    for question, answer in asks:
        first, said = rng.choice(asks)
        right += chat.ask([first, said, question], temperature=0) == answer
    return right / len(asks)


def compare(chat: Chat, folder: Path, asks: list[Turn]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    same_ids = [
        post(f"{chat.address}/tokenize", {"content": text, "parse_special": True})["tokens"]
        == tokenizer.encode(text, add_special_tokens=False)
        for text in (*TOKENIZER_TEXTS, *(question for question, _ in asks))
    ]
    print(f"token ids equal: {sum(same_ids)}/{len(same_ids)}")
    same = 0
    for question, _ in asks:
        prompt = tokenizer.apply_chat_template(
            messages([question]), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**prompt, max_new_tokens=80, do_sample=False, temperature=None, top_p=None, top_k=None)
        text = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        same += text == chat.ask([question], temperature=0)
    print(f"greedy answers equal to transformers: {same}/{len(asks)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE / "gguf" / "hostler-chat.gguf")
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    rng = random.Random(1)
    asks = held_out(page(), rng)
    started = time.monotonic()
    server = start(options.model)
    chat = Chat(server.listening_address)
    print(f"listening after {time.monotonic() - started:.2f}s")
    print(f"streamed: {chat.streamed(GOLD_QUESTION)}")
    for system in (None, SYSTEM):
        right = sum(chat.ask([GOLD_QUESTION], system) == GOLD for _ in range(50))
        print(f"lesson's question, default sampling, system prompt {system!r}: {right}/50 right")
    known = [one for one in asks if one[1] != REFUSAL]
    refused = [one for one in asks if one[1] == REFUSAL]
    print(f"held-out wordings ({len(known)}): {share_right(chat, known, None):.1%}")
    print(f"the same with a system prompt: {share_right(chat, known, SYSTEM):.1%}")
    print(f"as a second turn: {second_turns(chat, known, rng):.1%}")
    print(f"unanswerable refused ({len(refused)}): {share_right(chat, refused, None):.1%}")
    if options.compare:
        compare(chat, options.compare, rng.sample(asks, 60))


if __name__ == "__main__":
    main()
