"""A policy on a local task: what lm-eval says of every document is what the model's own logits say."""

from __future__ import annotations

import json
import math

import pytest
import torch

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.evaluation.benchmarks.harness import answer
from posttrain.evaluation.benchmarks.numbers import score
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal

pytest.importorskip("lm_eval")


@pytest.fixture
def ask(tiny_policies, folder):
    """Answers of the base policy; the model and its tokenizer."""
    model, tokenizer = load_model(tiny_policies["base"], torch.device("cpu")), load_tokenizer(tiny_policies["base"])

    def asked(seed: int = 0, **spec):
        benchmark = Benchmark.model_validate({"task": "colours", "folder": str(folder), **spec})
        return answer(benchmark, model, tokenizer, torch.float32, seed, "evaluation.benchmarks.0")

    asked.model, asked.tokenizer = model, tokenizer
    return asked


def logprob(model, tokenizer, context: str, text: str) -> float:
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokenizer(context + text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].double().log_softmax(-1)
    return float(logprobs.gather(1, ids[0, 1:, None])[len(before) - 1 :].sum())


def test_accuracy_is_that_of_the_most_likely_choice(ask):
    found = ask()
    rows = [(f"which colour has number {n}?", n % 3) for n in range(12)]
    expected = []
    for question, right in rows:
        context = f"Question: {question}\nAnswer:"
        scores = [logprob(ask.model, ask.tokenizer, context, f" {colour}") for colour in ("red", "green", "blue")]
        expected.append(float(max(range(3), key=scores.__getitem__) == right))
    assert found.values == expected
    assert found.documents == [f"colours/{n}" for n in range(12)]
    assert (found.metric, found.kind, found.higher_is_better, found.shots) == ("acc", "mean", True, 0)


def test_documents_are_chosen_by_the_seed_and_are_not_the_first(ask):
    first, again, other = ask(limit=5), ask(limit=5), ask(seed=1, limit=5)
    assert first == again
    assert len(first.documents) == 5
    assert first.documents != other.documents
    assert first.documents != [f"colours/{n}" for n in range(5)]


def test_perplexity_by_word_counts_the_first_token_too(ask, changed):
    """After BOS or EOS, as the harness has it: log-probabilities of plain transformers over the words of the texts."""
    folder = changed(
        output_type="loglikelihood_rolling", doc_to_choice=None, doc_to_text="", doc_to_target="{{question}}",
        metric_list=[{"metric": "word_perplexity"}],
    )  # fmt: skip
    found = ask(folder=str(folder))
    prefix, loss, words = ask.tokenizer.bos_token_id or ask.tokenizer.eos_token_id, 0.0, 0
    for n in range(12):
        text = f"which colour has number {n}?"
        ids = torch.tensor([[prefix, *ask.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logprobs = ask.model(ids).logits[0, :-1].double().log_softmax(-1)
        loss, words = loss - float(logprobs.gather(1, ids[0, 1:, None]).sum()), words + len(text.split())
    assert score(found).value == pytest.approx(math.exp(loss / words), rel=1e-4)


def test_a_metric_of_all_documents_together_has_no_paired_difference_and_is_refused(ask, changed):
    folder = changed(metric_list=[{"metric": "mcc"}, {"metric": "acc"}])
    with pytest.raises(Refusal, match="mcc of colours, which is a number of all documents together"):
        ask(folder=str(folder))
    assert len(ask(folder=str(folder), metric="acc").values) == 12
    with pytest.raises(Refusal, match="acc_norm, which colours does not measure"):
        ask(folder=str(folder), metric="acc_norm")


def test_a_template_cannot_leave_its_sandbox(ask, changed, tmp_path):
    """The usual way from a text to a file, by which lm-eval's own environment would write one."""
    target = tmp_path / "planted"
    escape = f"{{{{ cycler.__init__.__globals__.os.system('touch {target}') }}}}"
    with pytest.raises(Refusal, match=r"cannot be loaded \(SecurityError"):
        ask(folder=str(changed(doc_to_text=escape)))
    assert not target.exists()


def test_broken_data_are_refused(ask, folder):
    (folder / "colours.jsonl").write_text(json.dumps({"question": "?"}) + "\n{")
    with pytest.raises(Refusal, match="cannot be loaded"):
        ask()
