"""What changes the key of which stage, on a real store with small finished results."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from posttrain.evaluation.gates import check_gates
from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from schemas.evaluation import Gate, Gates
from schemas.load import validate_recipe
from schemas.recipe import STAGES

# What each stage leaves behind for the later ones.
OUTPUTS = {
    "validate": {"instructions": "instructions.parquet", "preferences": "preferences.parquet"}, "register": {},
    "filter": {"kept": "kept.parquet"}, "pretrain": {"model": "model/weights"}, "sft": {"model": "model/weights"},
    "reward": {"reward": "reward/weights"}, "align": {"adapter": "adapter/weights"}, "evaluate": {"evaluation": "e.json"},
    "benchmark": {"benchmarks": "b.json"},
}  # fmt: skip


def changed(document: dict, field: str, value) -> dict:
    """A copy of a recipe document with one dotted field set."""
    document = place = copy.deepcopy(document)
    *parents, last = field.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return document


def keys(document: dict, store: Store, content: str | None = None) -> dict[str, str]:
    """The key of every stage of a recipe; finishes each with results whose bytes are its key, or the given content."""
    chain, found = Chain(validate_recipe(document, "tiny.yaml"), store), {}
    for stage in chain.recipe.stages:
        identity = chain.identity(stage)

        def make(folder: Path, stage: str = stage, text: str = content or identity.key) -> Built:
            for path in OUTPUTS[stage].values():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_text(text + path)
            return Built({}, {name: path.split("/")[0] for name, path in OUTPUTS[stage].items()})

        found[stage] = store.build(identity, make).result.key
    return found


def test_a_recipe_with_every_section_has_every_stage(document, store):
    document["evaluation"]["benchmarks"] = [{"task": "arc_easy"}]
    assert list(keys(document, store)) == list(STAGES)


@pytest.mark.parametrize(
    ("field", "value", "rebuilt"),
    [
        ("alignment.beta", 0.3, "align evaluate register"),
        ("alignment.loss", "hinge", "align evaluate register"),
        ("alignment.learning_rate", 1e-4, "align evaluate register"),
        ("alignment.peft", {"method": "full"}, "align evaluate register"),
        ("reward.epochs", 2, "reward"),
        ("reward.margin", 0.5, "reward"),
        ("sft.epochs", 2, "sft reward align evaluate register"),
        ("pretrain.tokens", 2000, "pretrain sft reward align evaluate register"),
        ("model.hidden_size", 64, "pretrain sft reward align evaluate register"),
        ("model.initializer_range", 0.1, "pretrain sft reward align evaluate register"),
        ("filtering.preset", "none", "filter pretrain sft reward align evaluate register"),
        ("filtering.dedup", {"exact": False}, "filter pretrain sft reward align evaluate register"),
        ("data.holdout", 0.2, "validate filter pretrain sft reward align evaluate register"),
        ("data.checks", {"max_drop_rate": 0.3}, "validate sft reward align evaluate register"),
        ("seed", 1, "pretrain sft reward align evaluate register"),
        ("compute.dtype", "bfloat16", "pretrain sft reward align evaluate register"),
        ("evaluation.prompts", 8, "evaluate"),
        ("evaluation.samples", 2, "evaluate"),
        ("evaluation.gates", {"kl_per_token": {"max": 0.4}}, ""),
        ("registry.model", "other", "register"),
        ("tracking.uri", "http://elsewhere", ""),
        ("name", "other", ""),
        ("compute.log_every", 3, ""),
        ("compute.num_processes", 2, "pretrain sft reward align evaluate register"),
        ("compute.strategy", "fsdp2", ""),  # with one process there is nothing to share
        ("compute.checkpoint_seconds", 1.0, ""),
        ("compute.device", "cpu", ""),
        ("tracking.experiment", "other", ""),
    ],
)
def test_a_changed_field_changes_the_keys_of_its_stages_and_of_those_after_them(document, store, field, value, rebuilt):
    before, after = keys(document, store), keys(changed(document, field, value), store)
    assert [stage for stage in before if before[stage] != after[stage]] == rebuilt.split()


@pytest.mark.parametrize(
    ("source", "rebuilt"),
    [
        ("corpus", "filter pretrain sft reward align evaluate register"),
        ("instructions", "validate sft reward align evaluate register"),
        ("preferences", "validate sft reward align evaluate register"),
    ],
)
def test_new_content_of_a_source_reaches_every_stage_that_depends_on_it(document, store, source, rebuilt):
    before = keys(document, store)
    with Path(document["data"][source]).open("a") as stream:
        stream.write("{}\n")
    after = keys(document, store)
    assert [stage for stage in before if before[stage] != after[stage]] == rebuilt.split()


def test_a_stage_that_is_rebuilt_to_the_same_bytes_keeps_the_keys_after_it(document, store):
    """Looser checks that drop the same rows: what was trained on them is still right."""
    before = keys(document, store, "same bytes")
    after = keys(changed(document, "data.checks", {"max_drop_rate": 0.3}), store, "same bytes")
    assert [stage for stage in before if before[stage] != after[stage]] == ["validate"]


def test_a_source_that_moved_keeps_every_key(document, store, tmp_path):
    before = keys(document, store)
    moved = Path(document["data"]["corpus"]).rename(tmp_path / "elsewhere.jsonl")
    assert keys(changed(document, "data.corpus", str(moved)), store) == before


def test_a_changed_beta_reuses_what_stands_before_alignment(document, store):
    keys(document, store)
    chain = Chain(validate_recipe(changed(document, "alignment.beta", 0.3), "tiny.yaml"), Store(store.root))
    for stage in ("validate", "filter", "pretrain", "sft"):
        assert chain.stored(stage).reused
    with pytest.raises(LookupError, match="stage align of recipe tiny is not finished"):
        chain.stored("align")


def test_what_a_recipe_says_of_columns_goes_with_the_files_and_counts(document, store):
    plain = {"path": document["data"]["preferences"]}
    before, same = keys(document, store), keys(changed(document, "data.preferences", plain), store)
    said = changed(document, "data.preferences", plain | {"ignore": ["label"]})
    (file,) = Chain(validate_recipe(said, "tiny.yaml"), store).sources["preferences"]
    assert file.reading.ignore == ("label",)
    assert same == before
    assert keys(said, store)["validate"] != before["validate"]


def test_without_the_stages_before_it_a_stage_has_no_identity(document, store):
    with pytest.raises(LookupError, match=r"stage .* is not finished"):
        Chain(validate_recipe(document, "tiny.yaml"), store).identity("sft")


def test_policies_stack_an_adapter_on_the_checkpoint_before_it(document, store):
    found = keys(document, store)
    chain = Chain(validate_recipe(document, "tiny.yaml"), store)
    policies = chain.policies()
    assert list(policies) == ["base", "sft", "aligned"]
    assert policies["base"].base == str(store.root / "pretrain" / found["pretrain"] / "model")
    assert policies["sft"].base == policies["aligned"].base == str(store.root / "sft" / found["sft"] / "model")
    assert policies["sft"].adapters == ()
    assert policies["aligned"].adapters == (store.root / "align" / found["align"] / "adapter",)


def test_a_reward_model_starts_as_the_parent_policy_or_as_its_own_checkpoint(document, store, tmp_path):
    """The policy that was trained before is no input of a reward model that starts elsewhere."""
    found = keys(document, store)
    chain = Chain(validate_recipe(document, "tiny.yaml"), store)
    assert chain.reward_start() == chain.policies()["sft"]
    assert [origin.name for origin in chain.identity("reward").inputs] == ["pretrain", "sft", "validate.preferences"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    elsewhere = changed(document, "reward.model", {"source": "local", "path": str(tmp_path / "bert")})
    other = Chain(validate_recipe(elsewhere, "tiny.yaml"), store)
    assert other.reward_start().base == str(tmp_path / "bert")
    assert [origin.name for origin in other.identity("reward").inputs] == ["reward_model", "validate.preferences"]
    assert keys(changed(elsewhere, "sft.epochs", 2), store)["reward"] == other.identity("reward").key != found["reward"]


def test_evaluation_by_the_reward_model_follows_what_that_is(document, store):
    judged = changed(document, "evaluation.judge", {"source": "reward_model"})
    before, after = keys(judged, store), keys(changed(judged, "reward.epochs", 2), store)
    assert [stage for stage in before if before[stage] != after[stage]] == ["reward", "evaluate"]
    assert (
        Chain(validate_recipe(judged, "tiny.yaml"), store).judging_model() == store.root / "reward" / before["reward"] / "reward"
    )


def test_a_local_model_counts_by_content(document, store, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    local = {name: section for name, section in document.items() if name != "pretrain"}
    local["model"] = {"source": "local", "path": str(folder)}
    before = keys(local, store)
    assert "filter" not in before
    moved = folder.rename(tmp_path / "moved")
    elsewhere = changed(local, "model", {"source": "local", "path": str(moved)})
    assert keys(elsewhere, store) == before
    (moved / "config.json").write_text("{ }")
    after = keys(elsewhere, store)
    assert [stage for stage in before if before[stage] != after[stage]] == ["sft", "reward", "align", "evaluate", "register"]


def test_a_hub_model_counts_by_name_and_revision(document, store):
    hub = {name: section for name, section in document.items() if name != "pretrain"}
    hub["model"] = {"source": "hub", "name": "someone/model", "revision": "abc"}
    found = [keys(changed(hub, *change), store)["sft"] for change in
             [("name", "tiny"), ("model.revision", "def"), ("model.name", "someone/other")]]  # fmt: skip
    assert len(set(found)) == 3


def test_continued_pretraining_counts_its_model_by_content_alone(document, store, tmp_path):
    """Where a folder lies, and under which branch a commit was found, is no part of the key."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    found = [keys(changed(document, "model", {"source": "local", "path": str(tmp_path / n)}), store) for n in ("here", "there")]
    assert found[0] == found[1]


@pytest.fixture
def with_template(document, tmp_path) -> dict:
    """The recipe on a checkpoint, with a template in a file of its own, and a reward model with another."""
    for name in ("llama", "bert"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / f"{name}.jinja").write_text(name)
    model = {"source": "local", "path": str(tmp_path / "llama"), "chat_template": str(tmp_path / "llama.jinja")}
    return changed(document, "model", model)


def test_the_content_of_a_template_is_in_the_keys_of_the_stages_that_encode(with_template, store, tmp_path):
    before = keys(with_template, store)
    (tmp_path / "llama.jinja").rename(tmp_path / "moved.jinja")
    moved = changed(with_template, "model.chat_template", str(tmp_path / "moved.jinja"))
    assert keys(moved, store) == before
    (tmp_path / "moved.jinja").write_text("changed")
    after = keys(moved, store)
    assert [stage for stage in before if before[stage] == after[stage]] == ["validate", "filter"]


def test_without_a_template_no_key_knows_of_the_field(with_template, store, tmp_path):
    plain = changed(with_template, "model.chat_template", None)
    own = changed(plain, "reward.model", {"source": "local", "path": str(tmp_path / "bert")})
    keys(own, store)
    chain = Chain(validate_recipe(own, "tiny.yaml"), store)
    assert "chat_template" not in json.dumps([chain.identity(stage).fields for stage in chain.recipe.stages])


def test_a_reward_model_of_its_own_has_the_template_of_its_own(with_template, store, tmp_path):
    bert = {"source": "local", "path": str(tmp_path / "bert"), "chat_template": str(tmp_path / "bert.jinja")}
    own = changed(with_template, "reward.model", bert)
    before = keys(own, store)
    assert Chain(validate_recipe(own, "tiny.yaml"), store).reward_start().chat_template == "bert"
    (tmp_path / "bert.jinja").write_text("changed")
    after = keys(own, store)
    assert [stage for stage in before if before[stage] != after[stage]] == ["reward"]


def test_a_template_stays_with_the_policy_until_a_stage_saved_a_checkpoint(with_template, store):
    keys(with_template, store)
    chain = Chain(validate_recipe(with_template, "tiny.yaml"), store)
    assert (chain.source.chat_template, chain.policy_before("align").chat_template) == ("llama", None)
    keys(adapters := changed(changed(with_template, "pretrain", None), "sft", None), store)
    policy = Chain(validate_recipe(adapters, "tiny.yaml"), store).policy_before("register")
    assert (len(policy.adapters), policy.chat_template) == (1, "llama")


def test_gates_go_by_the_reward_of_the_candidate_with_its_interval(document, store):
    """Aligned: the last policy; that of SFT is another's."""
    chain = Chain(validate_recipe(document, "tiny.yaml"), store)
    numbers = {"reward_aligned": 0.7, "reward_aligned_low": 0.6, "reward_aligned_high": 0.8, "reward_sft": 0.2}
    for stage in chain.recipe.stages:

        def make(folder: Path, stage: str = stage) -> Built:
            for path in OUTPUTS[stage].values():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_text(path)
            outputs = {name: path.split("/")[0] for name, path in OUTPUTS[stage].items()}
            return Built(numbers if stage == "evaluate" else {}, outputs)

        store.build(chain.identity(stage), make)
    (gate,) = check_gates(Gates(mean_reward=Gate(lower_bound_above=0.5)), chain.measured())
    assert (gate.name, gate.value, gate.interval, gate.passed) == ("mean_reward", 0.7, (0.6, 0.8), True)
