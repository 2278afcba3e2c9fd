"""The model card of a registered version: what it is, what it was made of and measured by, and what nobody knows about it.

The form is that of the Hugging Face hub (Mitchell et al. 2019, arXiv 1810.03993): YAML between dashes, then Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from posttrain.report.text import interval, limits, number
from schemas.estimates import Estimate
from schemas.recipe import Recipe, policies
from schemas.results import GateReport, Metrics, Origin, TemplateReport
from schemas.text import visible

CARD = "README.md"
SHOWN = (
    "win_rate", "length_controlled_win_rate", "preference_accuracy", "calibration_error", "kl_per_token", "perplexity_ratio",
    "length_ratio", "eos_share", "distinct_2", "judge_agreement", "feedback_auc", "benchmark",
)  # fmt: skip
"""How the names of the numbers begin that a card shows."""
_FOLDERS = re.compile(r"(?<![\w:/.])~?/(?:[^,/]+/)*")  # of one machine, which nobody else needs to know
_ESCAPED = re.compile(r"([\\`*_{}\[\]<>|#])")


@dataclass(frozen=True)
class Facts:
    """What a card says that no recipe knows."""

    base: str
    """The model that training started from, in words."""
    hub_name: str | None
    """Its name on the hub, where it is from there."""
    licence: str | None
    """Identifier of its licence; None where nobody said."""
    data: tuple[Origin, ...]
    """Data sources by content."""
    rows: Mapping[str, Metrics]
    """By stage of the data, its counts."""
    template: TemplateReport
    metrics: Metrics
    gates: tuple[GateReport, ...]
    warnings: tuple[str, ...]
    environment: Mapping[str, str]


def model_card(recipe: Recipe, facts: Facts) -> str:
    """The text of README.md."""
    assert recipe.registry
    parts = [
        f"# {recipe.registry.model}",
        _summary(recipe, facts),
        "## Use\n\n" + _use(recipe, facts),
        "## Training\n\n" + _training(recipe, facts),
        "## Data\n\n" + _data(facts),
        "## Evaluation\n\n" + _evaluation(recipe, facts),
        "## Limits\n\n" + _limits(recipe, facts),
        "## Licence\n\n" + _licence(facts),
    ]
    return f"---\n{_front(recipe, facts)}---\n\n" + "\n\n".join(parts) + "\n"


def description(card: str) -> str:
    """A card without its front matter and title: what stands below a model's name where no hub reads it, in MLflow for one.

    Lists there show the first line alone.
    """
    return card.partition("\n---\n")[2].lstrip().partition("\n")[2].lstrip()


def _front(recipe: Recipe, facts: Facts) -> str:
    tags = ["posttrain", recipe.alignment.algorithm, *filter(None, [_method(recipe)])]
    front = {
        "license": facts.licence or "unknown",
        "base_model": facts.hub_name,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [tag for tag in tags if tag != "none"],
    }
    text: str = yaml.safe_dump({name: value for name, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    return text


def _method(recipe: Recipe) -> str | None:
    section = recipe.section("align") or recipe.sft
    return section.peft.method if section else None


def _summary(recipe: Recipe, facts: Facts) -> str:
    steps = [name for name in recipe.stages if name in ("pretrain", "sft", "reward", "align")]
    return f"{_plain(facts.base)}, trained by the recipe `{recipe.name}` in the stages {', '.join(steps)}."


def _use(recipe: Recipe, facts: Facts) -> str:
    assert recipe.registry
    loaded = f'`mlflow.pyfunc.load_model("models:/{recipe.registry.model}@champion")`'
    return (
        f"It answers chats: {loaded}, or transformers (and peft) with the folders beside this card. "
        f"The chat template ({_plain(facts.template.origin)}) is saved with the tokenizer. "
        "`generation_config.json` has the tokens that end an answer, and draws at temperature "
        f"{recipe.evaluation.temperature:g}, as it was evaluated."
    )


def _training(recipe: Recipe, facts: Facts) -> str:
    rows = [["stage", "learning rate", "method", "loss"]]
    for stage in ("pretrain", "sft", "reward", "align"):
        if (section := recipe.section(stage)) is not None:
            rate = section.learning_rate if isinstance(section.learning_rate, float) else None
            method = getattr(getattr(section, "peft", None), "method", "full")
            rows.append([stage, number(rate) if rate else "chosen by size", method, getattr(section, "loss", "-")])
    commit = facts.environment.get("git_commit", "unknown")
    return (
        f"{_table(rows)}\n\nSeed {recipe.seed}; posttrain at commit `{commit}`. The recipe is an artifact of the run in MLflow."
    )


def _data(facts: Facts) -> str:
    sources = [["source", "read from", "SHA-256"]]
    sources += [[each.name, _plain(_FOLDERS.sub("", each.location)), f"`{each.digest[:16]}`"] for each in facts.data]
    counts = [["stage", "count", "rows"]]
    counts += [
        [stage, name.replace("_", " "), number(value)]
        for stage, metrics in facts.rows.items()
        for name, value in metrics.items()
        if "kept" in name or "quarantined" in name or "rejected" in name
    ]
    return _table(sources) + ("\n\n" + _table(counts) if len(counts) > 1 else "")


def _evaluation(recipe: Recipe, facts: Facts) -> str:
    """As measured when the version was registered; a later run on the same weights may have measured more."""
    names = [name for name in facts.metrics if name.startswith(SHOWN) and not name.endswith(("_low", "_high"))]
    rows = [["number", "value", "95% interval"]]
    for name in names:
        found = Estimate.of(facts.metrics, name)
        rows.append([name, number(found.value), interval(found.interval)])
    told = f"On held-out rows, the candidate `{policies(recipe)[-1]}` against its ancestors. Judge: {_judge(recipe)}."
    if facts.gates:
        gates = [["gate", "measured", "asked", ""]]
        gates += [
            [each.name, number(each.value), limits(each.limit), "passed" if each.passed else "failed"] for each in facts.gates
        ]
        return f"{told}\n\n{_table(rows)}\n\n{_table(gates)}"
    return f"{told}\n\n{_table(rows)}\n\nThe recipe sets no gate."


def _judge(recipe: Recipe) -> str:
    judge = recipe.evaluation.judge
    if judge is None:
        return "none, so that answers were not compared"
    told = {"function": "the function", "reward_model": "the reward model of this run", "endpoint": "the language model"}
    name = getattr(judge, "name", getattr(judge, "model", ""))
    return f"{told[judge.source]} {f'`{name}`' if name else ''}".strip()


def _limits(recipe: Recipe, facts: Facts) -> str:
    held = int(facts.metrics.get("held_out_prompts", 0))
    said = [
        f"The numbers are of {number(held)} held-out prompts from the sources of the training data; others may do worse.",
        f"Answers were sampled up to {recipe.evaluation.max_new_tokens} tokens; longer ones were not looked at.",
        "Nothing here measures truth, safety, bias or memorised rows beyond what the judge and the benchmarks measure.",
    ]
    if not recipe.evaluation.benchmarks:
        said.append("No benchmark was run: what alignment costs elsewhere is not known.")
    return "\n".join(f"- {_plain(each)}" for each in (*said, *facts.warnings))


def _licence(facts: Facts) -> str:
    if facts.licence is None:
        return "The licence of the base model is not known: find it out, and those of the data, before you hand this model on."
    return f"The base model has the licence `{facts.licence}`; the data have licences of their own."


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text of others, as Markdown that means nothing but itself, on one line."""
    return _ESCAPED.sub(r"\\\1", visible(" ".join(text.split())))
