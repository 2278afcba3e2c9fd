"""The score head and the scorer: where rewards are read, what is trained, and the layouts that must agree."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
)

from posttrain.data.packing import Example
from posttrain.losses.reward import init_score
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.rewards.scorer import RewardScorer, reward_error, until_padding, with_score
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.layouts import LAYOUTS
from posttrain.scoring.scorer import PLAIN, inner_model
from posttrain.training.objectives import BradleyTerry
from schemas.peft import Full

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6), (7, 1, 9)]  # of prompt, chosen, rejected
FULL = Full(method="full")


def scored(model, spec=FULL) -> RewardScorer:
    return RewardScorer(with_score(model, spec, 0, "reward.peft"), CPU).eval()


def gpt2(**changes) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 97, "eos_token_id": 0, "pad_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**shape | changes, initializer_range=0.2)).eval()


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 97}
    config = BertConfig(**shape, pad_token_id=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config.num_labels = 1
    return BertForSequenceClassification(config).eval()


def test_a_decoders_reward_is_what_transformers_reads_at_the_last_token(tiny_llama, random_examples):
    """Its own class for sequences, given the same weights, pads on the right and reads before the padding (token 1)."""
    scorer, pairs = scored(tiny_llama(initializer_range=0.2)), random_examples(SIZES)
    inner = inner_model(scorer.model)
    config = copy.deepcopy(inner.config)
    config.num_labels = 1
    theirs = LlamaForSequenceClassification(config).eval()
    theirs.model.load_state_dict(inner.model.state_dict())
    theirs.score.load_state_dict(inner.score.state_dict())
    rows = [np.concatenate([pair.prompt, branch]) for pair in pairs for branch in pair.branches]
    ids = torch.ones(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=(ids != 1).long()).logits[:, 0]
        assert torch.allclose(scorer(pairs).per_branch(), expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["packed", "padded", PLAIN])
@pytest.mark.parametrize("build", ["llama", "gpt2"])
def test_every_layout_gives_the_rewards_of_separate_passes(tiny_llama, random_examples, build, layout):
    scorer = scored(tiny_llama(initializer_range=0.2) if build == "llama" else gpt2())
    assert reward_error(scorer, layout, random_examples(SIZES)) < 1e-5


def test_the_start_up_check_takes_the_packed_layout_where_it_is_exact(tiny_llama, random_examples):
    scorer, pairs = scored(tiny_llama()), random_examples(SIZES)
    choice = choose_layout(scorer, pairs, reward_error)
    assert (choice.layout, choice.attention) == ("packed", "segments")


def test_a_packed_layout_that_is_not_exact_is_not_taken(tiny_llama, random_examples, monkeypatch):
    """A layout that reads one token too early, as if no token were put after the last one."""
    packed = LAYOUTS["packed"]

    def early(model, examples, device, embed):
        at = packed(model, examples, device, embed)
        return type(at)(at.hidden.roll(1, 0), at.targets, at.branch, at.branches)

    monkeypatch.setitem(LAYOUTS, "packed", early)
    monkeypatch.setattr(
        "posttrain.rewards.scorer.packed", lambda model, examples, device, embed, width: early(model, examples, device, embed)
    )
    scorer = scored(tiny_llama(initializer_range=0.2))
    choice = choose_layout(scorer, random_examples(SIZES), reward_error)
    assert choice.layout == "padded"
    assert "packed would change scores by" in str(choice)


def test_an_encoders_reward_is_its_own_logit_with_the_response_as_second_text(random_examples):
    model, pairs = bert(), random_examples(SIZES)
    found = RewardScorer(with_score(model, FULL, 0, "reward.peft"), CPU, token_types=True)(pairs).per_branch()
    for (pair, branch), reward in zip([(p, b) for p in pairs for b in p.branches], found, strict=True):
        ids = torch.from_numpy(np.concatenate([pair.prompt, branch]))[None].long()
        kinds = torch.tensor([[0] * len(pair.prompt) + [1] * len(branch)])
        assert model(input_ids=ids, token_type_ids=kinds).logits.item() == pytest.approx(reward.item(), abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "ia3", "ln_tuning", "bitfit", "last_layers", "bottleneck"])
def test_what_is_trained_is_the_method_and_the_score_and_nothing_else_changes(tiny_llama, random_examples, method):
    from pydantic import TypeAdapter

    from schemas.peft import Peft

    spec = TypeAdapter(Peft).validate_python({"method": method})
    declared = set(trainable_state(wrap(tiny_llama(tie_word_embeddings=False), spec, 0, "reward.peft")))
    scorer = scored(tiny_llama(tie_word_embeddings=False), spec)
    own = set(trainable_state(scorer.model))
    score = {name for name in own if name.endswith("score.weight")}
    assert len(score) == 1
    assert own - score == {name for name in declared if not name.endswith("lm_head.weight")}
    before = {name: tensor.detach().clone() for name, tensor in scorer.model.named_parameters()}
    objective = BradleyTerry(random_examples(SIZES))
    optimizer = torch.optim.SGD(trainable_state(scorer.model).values(), lr=0.1)
    for _ in range(2):  # an adapter whose first factor is 0 moves the second one in the second step
        objective.loss(scorer(objective.examples), range(4))[0].backward()
        assert all(p.grad is not None for p in trainable_state(scorer.model).values())
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in scorer.model.named_parameters() if not torch.equal(before[name], tensor)}
    assert score <= changed <= own


def test_lora_on_every_layer_of_an_encoder_leaves_its_head_plain(lora):
    """The head is trained itself: an adapter in it would be saved apart from it."""
    model = with_score(bert(), lora(target_modules="all-linear"), 0, "reward.peft")
    trained = set(trainable_state(model))
    assert {name for name in trained if "lora_" not in name} == {f"base_model.model.classifier.{x}" for x in ("weight", "bias")}
    assert not any("lora_" in name and "classifier" in name for name in trained)


def test_the_seed_fixes_the_head(tiny_llama):
    first, again = (with_score(tiny_llama(), FULL, 5, "reward.peft").score.weight for _ in range(2))
    other = with_score(tiny_llama(), FULL, 6, "reward.peft").score.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_first_rewards_have_the_spread_that_the_head_is_given(tiny_llama, random_examples):
    """The last norm leaves states of mean square 1 (its weights are 1), so rewards over heads have variance d / (d + 1)."""
    scorer, pair = scored(tiny_llama(initializer_range=0.2)), random_examples([(5, 4, 7)])
    rewards = []
    torch.manual_seed(0)
    for _ in range(400):
        init_score(inner_model(scorer.model).score.weight)
        with torch.no_grad():
            rewards.append(float(scorer(pair).per_branch()[0]))
    assert np.std(rewards) == pytest.approx((32 / 33) ** 0.5, rel=0.1)


def test_padding_at_the_end_is_not_read():
    """Where EOS (0) pads too, transformers takes it for padding: the reward stands at the token before."""
    assert until_padding(np.array([5, 0, 7, 0, 0], np.int32), 0).tolist() == [5, 0, 7]
    assert until_padding(np.array([5, 0], np.int32), 1).tolist() == [5, 0]
    assert until_padding(np.array([0], np.int32), 0).tolist() == []


def test_an_empty_response_is_scored_at_the_end_of_the_prompt(tiny_llama, random_examples):
    scorer, (pair,) = scored(tiny_llama(initializer_range=0.2)), random_examples([(6, 3)])
    nothing = np.zeros(0, np.int32)
    with torch.no_grad():
        empty = scorer([Example(pair.prompt, (nothing,))]).per_branch()
        shorter = scorer([Example(pair.prompt[:-1], (pair.prompt[-1:],))]).per_branch()
    assert torch.allclose(empty, shorter, atol=1e-6)


def test_the_score_is_as_wide_as_what_the_output_head_reads():
    """OPT-350m projects the hidden state down before its head."""
    config = OPTConfig(vocab_size=97, hidden_size=32, word_embed_proj_dim=16, ffn_dim=48, num_hidden_layers=1,
                       num_attention_heads=4, do_layer_norm_before=False)  # fmt: skip
    scorer = scored(OPTForCausalLM(config))
    assert inner_model(scorer.model).score.weight.shape == (1, 16)
    assert scorer([Example(np.array([5, 6, 7], np.int32), (np.array([8, 9], np.int32),))]).values.shape == (1,)
