"""A server that draws for PPO: a small one that speaks vLLM's protocol and samples from the real model with its LoRA."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from posttrain.losses import surrogate
from posttrain.models.policy import Policy
from posttrain.sampling import served
from posttrain.sampling.sampler import Sampling
from posttrain.sampling.served import Server
from posttrain.training.loop import train
from posttrain.training.ppo.served_policy import ServedPolicy
from schemas.errors import Refusal
from schemas.ppo_parts import ServedSampler

END = 0


class Serving:
    """Completions of token ids by plain transformers and torch, one token after the other."""

    def __init__(self, base, says_end: bool = True) -> None:
        self.base, self.says_end = base, says_end
        self.policies, self.loads = {"policy": base}, 0

    def __call__(self, body, before):
        if "lora_path" in body:
            self.loads += 1
            self.policies[body["lora_name"]] = PeftModel.from_pretrained(copy.deepcopy(self.base), body["lora_path"]).eval()
            return 200, "loaded"
        if "lora_name" in body:
            del self.policies[body["lora_name"]]
            return 200, "unloaded"
        return 200, json.dumps({"choices": [self.choice(body, index) for index in range(body["n"])]})

    @torch.no_grad()
    def choice(self, body, index):
        numbers = torch.Generator().manual_seed(body["seed"] + 1000 * index)
        ids, tokens, logprobs = list(body["prompt"]), [], []
        while len(tokens) < body["max_tokens"] and (not tokens or tokens[-1] not in body["stop_token_ids"]):
            logits = self.policies[body["model"]](torch.tensor([ids])).logits[0, -1]
            logs = (logits / body["temperature"]).log_softmax(-1)
            tokens.append(int(torch.multinomial(logs.exp(), 1, generator=numbers)))
            logprobs.append(float(logs[tokens[-1]]))
            ids.append(tokens[-1])
        ended = tokens[-1] in body["stop_token_ids"]
        if ended and not self.says_end:
            tokens, logprobs = tokens[:-1], logprobs[:-1]
        said = {"tokens": [f"token_id:{token}" for token in tokens], "token_logprobs": logprobs}
        return {"index": index, "finish_reason": "stop" if ended else "length", "logprobs": said}


@pytest.fixture
def serve(chat_server, tmp_path, ppo_job, tiny_llama, lora, monkeypatch):
    """Builds a job whose responses a server draws: (job, objective, what serves)."""
    monkeypatch.setattr(served, "PAUSE", 0.001)

    def build(serving: Serving | None = None, **changes):
        serving = serving or Serving(tiny_llama())
        spec = {"url": chat_server(serving).url, "model": "policy", "allow_http": True, "adapters": str(tmp_path / "adapters")}
        spec |= changes.pop("sampler", {})
        method = lora()
        job, objective, _ = ppo_job(
            model=tiny_llama(), method=method, sampler=spec, peft=method.model_dump(), **{"temperature": 0.8} | changes
        )
        server = Server(ServedSampler.model_validate(spec))
        policy = ServedPolicy(server, tmp_path / "adapters", objective.collect.tokenizer, method, Policy("nowhere"))
        objective.collect = replace(objective.collect, served=policy, sampler=None)
        return job, objective, serving

    return build


def test_a_server_draws_from_the_policy_of_each_iteration(serve, points, tmp_path):
    """Its LoRA is loaded before each, with a critic of its own on the policy, and the one before forgotten."""
    job, _, serving = serve(value_model="adapter", learning_rate=0.05)
    train(job)
    found = points(job.out)
    assert len(found) == serving.loads == 3
    assert all(point["sampler_kl"] < 1e-6 for point in found)
    assert found[-1]["kl_per_response"] > 1e-3
    assert len(serving.policies) == 2  # the base and the last
    assert list((tmp_path / "adapters").iterdir()) == []
    assert hasattr(job.scorer.model.base_model.model, "critic")


def test_a_server_that_lags_behind_is_corrected_by_truncated_importance_weights(serve, points):
    """From the second iteration on it draws from the first one's policy: the weights are those of the equation."""
    job, objective, _ = serve(learning_rate=0.05, sampler={"max_mismatch": 100.0, "importance_cap": 1.1})
    serving = objective.collect.served.server
    loads, honest = iter([True, False, False]), serving.load
    serving.load = lambda adapter: honest(adapter) if next(loads) else None
    collected, collect = [], objective.collect
    objective.collect = lambda iteration: collected.append(collect(iteration)) or collected[-1]
    train(job)
    found = points(job.out)
    assert found[0]["sampler_kl"] < 1e-6
    assert found[-1]["sampler_kl"] > 1e-3
    assert found[-1]["importance_capped"] > 0
    ratios = np.exp(collected[-1].scored.logprobs.numpy() - collected[-1].sampled.numpy())
    np.testing.assert_allclose(objective.experience.importance.numpy(), np.minimum(ratios, 1.1), rtol=1e-5)


def test_the_weights_scale_the_policy_loss_of_their_tokens(serve):
    job, objective, _ = serve(kl={"coefficient": 0.0}, advantage="rloo", samples=4, rollouts=16)
    objective.enter(0)
    rows, scorer = range(len(objective.examples)), job.scorer.train()
    scores = scorer([objective.examples[row] for row in rows])
    plain = objective.loss(scores, rows)[0]
    weights = torch.linspace(0.5, 1.5, len(objective.experience.advantages))
    objective.experience = replace(objective.experience, importance=weights)
    weighed = objective.loss(scorer([objective.examples[row] for row in rows]), rows)[0]
    expected = -(weights * objective.experience.advantages).sum()  # every ratio is 1 yet
    assert float(weighed.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(plain.detach()) != pytest.approx(float(expected), rel=1e-2)


def test_another_policy_behind_the_server_is_refused(serve, tiny_llama):
    job, _, _ = serve(Serving(tiny_llama(seed=7, initializer_range=0.5)))
    with pytest.raises(Refusal, match="nats per token from the policy that trains") as refused:
        train(job)
    assert refused.value.where == "alignment.sampler.model"


def test_a_server_that_keeps_the_last_token_to_itself_gets_it_added(tiny_llama, chat_server):
    """Its probability is unknown, and weighs 1."""
    serving = Serving(tiny_llama(vocabulary=4), says_end=False)
    spec = {"url": chat_server(serving).url, "model": "policy", "allow_http": True, "adapters": "none"}
    plan = Sampling(max_new_tokens=40, temperature=1.0, seed=3, samples=5, ends=(END,), pad=1)
    (drawn,) = Server(ServedSampler.model_validate(spec)).draw([np.array([2, 3], np.int32)], plan)
    ended = [each for each in drawn if each.tokens[-1] == END]
    assert ended
    assert all(np.isnan(each.logprobs[-1]) and len(each.tokens) == len(each.logprobs) for each in ended)
    weights, found = surrogate.importance(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, float("nan")]), 1.2)
    assert weights.tolist() == pytest.approx([1.2, 1.0])
    assert found == {"sampler_kl": pytest.approx(np.exp(0.5) - 1 - 0.5), "importance_capped": 1.0}


def test_a_failure_that_passes_is_asked_again_and_one_that_stays_is_refused(tiny_llama, chat_server, monkeypatch):
    monkeypatch.setattr(served, "PAUSE", 0.001)
    serving = Serving(tiny_llama())
    spec = {"model": "policy", "allow_http": True, "adapters": "none", "retries": 2}
    plan = Sampling(max_new_tokens=3, temperature=1.0, seed=3, samples=2, ends=(END,), pad=1)
    prompts = [np.array([2, 3], np.int32)]
    for status, before, works in ((503, 2, True), (503, 3, False), (404, 1, False)):
        url = chat_server(lambda body, n, s=status, b=before: (s, "no") if n < b else serving(body, n)).url
        server = Server(ServedSampler.model_validate({**spec, "url": url}))
        if works:
            assert len(server.draw(prompts, plan)[0]) == 2
        else:
            with pytest.raises(Refusal, match=f"status {status} at /completions"):
                server.draw(prompts, plan)


def test_what_is_no_completion_is_refused(chat_server):
    spec = {"url": chat_server(lambda body, n: "text").url, "model": "policy", "allow_http": True, "adapters": "none"}
    plan = Sampling(max_new_tokens=3, temperature=1.0, seed=3, samples=1, ends=(END,), pad=1)
    with pytest.raises(Refusal, match="no completion with token ids"):
        Server(ServedSampler.model_validate(spec)).draw([np.array([2, 3], np.int32)], plan)
