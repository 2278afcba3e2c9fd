"""What a person should know about a run that is no reason to refuse it: printed, and kept in report, JSON and MLflow."""

from __future__ import annotations

from posttrain.data.sources import SAMPLE_SCHEME
from schemas.data import SOURCES
from schemas.judge import EndpointJudge, FunctionJudge
from schemas.recipe import Recipe, policies
from schemas.results import Metrics
from schemas.sources import addresses

PATIENCE = 5  # iterations in a row after which a person is told
EXPLAINS = 0.02  # share of the returns' variance below which a critic explains nothing
USELESS_CRITIC = (
    "the critic explains {share:.0%} of the returns: GAE acts as a discount; use rloo or give it a rate of its own "
    "(alignment.critic.learning_rate)"
)
NOTHING_VARIES = (
    "no prompt had responses with different rewards for {iterations:.0f} iterations: nothing is learned; "
    "raise samples or temperature, or take other prompts"
)

TOY_JUDGE = "posttrain.data.samples:sentiment"


def of_recipe(recipe: Recipe) -> tuple[str, ...]:
    """What is seen before the run."""
    return (*_toy_judge(recipe), *_other_temperature(recipe), *_short_budget(recipe))


def _other_temperature(recipe: Recipe) -> tuple[str, ...]:
    """PPO maximises the reward of answers drawn at one temperature; those at another are another policy's."""
    trained, judged = getattr(recipe.alignment, "temperature", None), recipe.evaluation.temperature
    if trained is None or trained == judged:
        return ()
    return (
        f"evaluation.temperature: {judged:g}, while alignment optimises answers at temperature {trained:g}; give both the same",
    )


def _short_budget(recipe: Recipe) -> tuple[str, ...]:
    """A language model as judge is asked about every prompt, in both orders where it compares two."""
    judge, spec = recipe.evaluation.judge, recipe.evaluation
    if not isinstance(judge, EndpointJudge):
        return ()
    known = policies(recipe)
    times = 2 * (len(known) - 1) if judge.mode == "pairwise" else len(known)
    asked = spec.prompts * spec.samples * times + (2 * judge.pairs if recipe.data.preferences is not None else 0)
    if asked <= judge.max_calls:
        return ()
    return (f"evaluation.judge.max_calls: {judge.max_calls:,}, and up to {asked:,} questions: some prompts will not be judged",)


def _toy_judge(recipe: Recipe) -> tuple[str, ...]:
    judge, data = recipe.evaluation.judge, recipe.data
    given = (address for name in SOURCES for address in addresses(getattr(data, name)))
    own = not any(address.startswith(SAMPLE_SCHEME) for address in given)
    if own and isinstance(judge, FunctionJudge) and judge.name == TOY_JUDGE:
        return (
            f"evaluation.judge: {TOY_JUDGE} is a toy sentiment judge for the sample reviews; name one for this data, or null",
        )
    return ()


def of_stage(stage: str, metrics: Metrics) -> tuple[str, ...]:
    """What a stage's numbers say, each in a sentence."""
    rose = _loss_rose(stage, metrics)
    return (*([rose] if rose else []), *(f"{stage}: {sentence}" for sentence in of_ppo(metrics)))


def of_ppo(metrics: Metrics) -> tuple[str, ...]:
    """That the critic of PPO explained nothing in the last iterations, or that no prompt taught anything."""
    explains, flat = metrics.get("critic_explains"), metrics.get("iterations_without_variance", 0.0)
    useless = [USELESS_CRITIC.format(share=max(0.0, explains))] if explains is not None and explains < EXPLAINS else []
    return (*useless, *([NOTHING_VARIES.format(iterations=flat)] if flat >= PATIENCE else []))


def _loss_rose(stage: str, metrics: Metrics) -> str | None:
    """That the held-out loss rose in training, and what became of it; None where it did not, or was not measured.

    `validation_loss` is that of the stage's result, `validation_loss_last` that after the last step where the result is not it.
    """
    start, kept = metrics.get("validation_loss_start"), metrics.get("validation_loss")
    if start is None or kept is None:
        return None
    last = metrics.get("validation_loss_last", kept)
    rose = f"{stage}: held-out loss rose from {start:.3f} to {last:.3f}"
    if last == kept:
        return f"{rose}: lower the learning rate or use keep: best" if kept > start else None
    if kept < start:
        best = f"the result is step {metrics['best_step']:.0f} with {kept:.3f}"
        return f"{rose}; {best}: lower the learning rate" if last > start else None
    return f"{rose}, and no step lowered it: the result is what the stage started from; lower the learning rate"
