"""A registered checkpoint draws by default from the policy that was evaluated."""

from __future__ import annotations

from transformers import GenerationConfig

from posttrain.checkpoints.generation import set_sampling


def test_it_draws_at_the_evaluated_temperature_from_all_tokens_and_ends_as_before(tmp_path):
    GenerationConfig(eos_token_id=[3, 7], pad_token_id=0, repetition_penalty=1.1).save_pretrained(tmp_path)
    set_sampling(tmp_path, 0.7)
    habits = GenerationConfig.from_pretrained(tmp_path)
    assert (habits.do_sample, habits.temperature, habits.top_k, habits.top_p) == (True, 0.7, 0, 1.0)
    assert (habits.eos_token_id, habits.pad_token_id, habits.repetition_penalty) == ([3, 7], 0, 1.1)


def test_a_folder_without_habits_gets_none(tmp_path):
    set_sampling(tmp_path, 0.7)
    assert list(tmp_path.iterdir()) == []
