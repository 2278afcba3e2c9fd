"""One data set in every shape that people publish: a question with a good and a bad answer, and a question with its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
TRIPLES = [(f"What is {n}?", f"It is good {n}.", f"No {n}.") for n in range(6)]


def user(content: str) -> Row:
    return {"role": "user", "content": content}


def bot(content: str) -> Row:
    return {"role": "assistant", "content": content}


def gpt(speaker: str, content: str) -> Row:
    return {"from": speaker, "value": content}


def parts(content: str) -> list[Row]:
    half = len(content) // 2
    return [{"type": "text", "text": content[:half]}, {"type": "text", "text": content[half:]}]


def hh(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


PAIRS: dict[str, Callable[[str, str, str], Row]] = {
    "TRL standard": lambda q, c, r: {"prompt": q, "chosen": c, "rejected": r},
    "TRL conversational": lambda q, c, r: {"prompt": [user(q)], "chosen": [bot(c)], "rejected": [bot(r)]},
    "TRL implicit": lambda q, c, r: {"chosen": [user(q), bot(c)], "rejected": [user(q), bot(r)]},
    "one message a side": lambda q, c, r: {"prompt": q, "chosen": bot(c), "rejected": bot(r)},
    "mixed": lambda q, c, r: {"prompt": q, "chosen": [bot(c)], "rejected": r},
    "bytes": lambda q, c, r: {"prompt": q.encode(), "chosen": c, "rejected": r.encode()},
    "JSON text": lambda q, c, r: {f: json.dumps([user(q), bot(a)]) for f, a in (("chosen", c), ("rejected", r))} | {"prompt": q},
    "Python text": lambda q, c, r: {"chosen": str([user(q), bot(c)]), "rejected": str([user(q), bot(r)])},
    "content parts": lambda q, c, r: {"prompt": [user("") | {"content": parts(q)}], "chosen": [bot(c)], "rejected": [bot(r)]},
    "prompt in front": lambda q, c, r: {"prompt": q * 3, "chosen": q * 3 + c, "rejected": q * 3 + r},
    "HH": lambda q, c, r: {"chosen": hh(q, c), "rejected": hh(q, r)},
    "HH, prompt apart": lambda q, c, r: {"prompt": hh(q, ""), "chosen": c, "rejected": r},
    "HH, headings": lambda q, c, r: {f: f"### Human: {q}\n### Assistant: {a}" for f, a in (("chosen", c), ("rejected", r))},
    "HH, CRLF": lambda q, c, r: {f: hh(q, a).replace("\n", "\r\n") for f, a in (("chosen", c), ("rejected", r))},
    "Orca": lambda q, c, r: {"system": "", "question": q, "chosen": c, "rejected": r},
    "Alpaca DPO": lambda q, c, r: {"prompt": None, "instruction": q, "input": "", "chosen": c, "rejected": r},
    "ShareGPT DPO": lambda q, c, r: {"conversations": [gpt("human", q)], "chosen": gpt("gpt", c), "rejected": gpt("gpt", r)},
    "ms-swift": lambda q, c, r: {"messages": [user(q), bot(c)], "rejected_response": r},
    "ms-swift messages": lambda q, c, r: {"messages": [user(q), bot(c)], "rejected_messages": [user(q), bot(r)]},
    "ms-swift query": lambda q, c, r: {"query": q, "response": c, "rejected_response": r},
    "Argilla": lambda q, c, r: {"instruction": q, "chosen_response": c, "rejected_response": r},
    "Argilla, prompt": lambda q, c, r: {"prompt": q, "chosen_response": c, "rejected_response": r},
    "UltraFeedback": lambda q, c, r: {
        "instruction": q,
        "completions": [{"response": r, "overall_score": 1}, {"response": c, "overall_score": "7.5"}],
    },
    "UltraFeedback binarised": lambda q, c, r: {
        "prompt": q, "chosen": [user(q), bot(c)], "rejected": [user(q), bot(r)], "messages": [user(q), bot(c)],
    },
    "Nectar": lambda q, c, r: {"prompt": hh(q, ""), "answers": [{"answer": r, "rank": 7.0}, {"answer": c, "rank": 1.0}]},
    "scores apart": lambda q, c, r: {"prompt": q, "responses": [r, c], "scores": [0.1, 0.9]},
    "ranks apart": lambda q, c, r: {"prompt": q, "responses": [r, c], "ranks": [2, 1]},
    "several rejected": lambda q, c, r: {"prompt": q, "chosen": c, "rejected": [r]},
    "solutions": lambda q, c, r: {"problem": q, "correct": [c], "incorrect": [r]},
    "HelpSteer3": lambda q, c, r: {"context": [user(q)], "response1": c, "response2": r, "overall_preference": -2},
    "HelpSteer2 preference": lambda q, c, r: {"prompt": q, "response_1": r, "response_2": c, "preference_strength": 1},
    "SHP": lambda q, c, r: {"history": q, "human_ref_A": r, "human_ref_B": c, "labels": 0, "score_A": 3, "score_B": 20},
    "PKU": lambda q, c, r: {"prompt": q, "response_0": r, "response_1": c, "better_response_id": 1, "safer_response_id": 1},
    "PKU, safety": lambda q, c, r: {"prompt": q, "response_0": c, "response_1": r, "safer_response_id": 0},
    "arena": lambda q, c, r: {"winner": "model_b", "conversation_a": [user(q), bot(r)], "conversation_b": [user(q), bot(c)]},
    "arena, columns": lambda q, c, r: {
        "prompt": json.dumps([q]), "response_a": json.dumps([c]), "response_b": json.dumps([r]),
        "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0,
    },
    "two and a winner": lambda q, c, r: {"prompt": q, "response_a": r, "response_b": c, "winner": "B"},
    "OpenAI": lambda q, c, r: {
        "input": {"messages": [user(q)], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [bot(c)], "non_preferred_output": [bot(r)],
    },
    "AlpacaEval": lambda q, c, r: {"instruction": q, "output_1": r, "output_2": c, "preference": 2.0},
    "Stack Exchange": lambda q, c, r: {"question": q, "response_j": c, "response_k": r},
    "WebGPT": lambda q, c, r: {"question": {"full_text": q}, "answer_0": r, "answer_1": c, "score_0": -0.5, "score_1": 0.5},
}  # fmt: skip
TALKS: dict[str, Callable[[str, str], Row]] = {
    "messages": lambda q, a: {"messages": [user(q), bot(a)]},
    "messages, other names": lambda q, a: {"messages": [user(q) | {"role": "Human"}, bot(a) | {"role": "model"}]},
    "messages, padded": lambda q, a: {"messages": [user(q) | {"tool_calls": None, "name": None}, bot(a) | {"tool_calls": []}]},
    "JSON text": lambda q, a: {"messages": json.dumps([user(q), bot(a)])},
    "content parts": lambda q, a: {"messages": [user("") | {"content": parts(q)}, bot("") | {"content": parts(a)}]},
    "ShareGPT": lambda q, a: {"conversations": [gpt("human", q), gpt("gpt", a)]},
    "prompt and completion": lambda q, a: {"prompt": q, "completion": a},
    "prompt and response": lambda q, a: {"prompt": [user(q)], "response": [bot(a)]},
    "Assistant in front": lambda q, a: {"prompt": q, "completion": f"Assistant: {a}"},
    "Alpaca": lambda q, a: {"instruction": q, "input": None, "output": a},
    "Alpaca, no input": lambda q, a: {"instruction": q, "input": "<noinput>", "output": a},
    "Alpaca, list": lambda q, a: {"instruction": q, "input": [], "output": a},
    "Dolly": lambda q, a: {"instruction": q, "context": "", "response": a},
    "Orca": lambda q, a: {"system_prompt": "", "question": q, "response": a},
    "ms-swift": lambda q, a: {"query": q, "response": a, "history": []},
    "question and answer": lambda q, a: {"question": q, "answer": a},
    "input and output": lambda q, a: {"input": q, "output": a},
    "Guanaco": lambda q, a: {"text": f"### Human: {q}### Assistant: {a}"},
    "Alpaca text": lambda q, a: {"text": f"### Instruction:\n{q}\n\n### Response:\n{a}"},
}
