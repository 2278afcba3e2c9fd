"""What PPO's numbers must be to each other, and which of its fields mean nothing beside others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from schemas.base import refused

if TYPE_CHECKING:
    from schemas.ppo import PPO

Problems = Iterator[PydanticCustomError]


def problems_of(spec: PPO) -> Problems:
    """What is wrong with a section whose fields are each right."""
    yield from _counts(spec)
    yield from _lengths(spec)
    yield from _never(spec)
    yield from _meaningless(spec)
    yield from _equal_names(spec)


def _counts(spec: PPO) -> Problems:
    """Numbers of responses, prompts and steps that do not go together."""
    if spec.rollouts % spec.samples:
        yield refused(
            where="alignment.rollouts",
            found=f"{spec.rollouts} with samples {spec.samples}",
            allowed=f"a multiple of {spec.samples}",
            remedy="change one of them",
        )
    if spec.minibatches > spec.rollouts // spec.samples:
        yield refused(
            where="alignment.minibatches",
            found=f"{spec.minibatches} with {spec.rollouts // spec.samples} prompts",
            allowed="at most one per prompt",
            remedy="lower it, or raise rollouts",
        )
    if spec.kl.adaptive and spec.rollouts >= 5 * spec.kl.horizon:
        yield refused(
            where="alignment.kl.horizon",
            found=f"{spec.kl.horizon:g} with rollouts {spec.rollouts}",
            allowed=f"more than {spec.rollouts / 5:g}: one iteration would take the whole coefficient away",
            remedy="raise horizon: 10000 is the paper's",
        )
    if spec.advantage != "gae" and spec.samples < 2:
        yield refused(
            where="alignment.samples",
            found=f"{spec.samples} with advantage {spec.advantage}",
            allowed="2 or more",
            remedy="set samples=4, say: responses to one prompt are compared",
        )


def _lengths(spec: PPO) -> Problems:
    """Tokens of a response beside those of the whole."""
    if spec.max_new_tokens > spec.max_length - 2:
        yield refused(
            where="alignment.max_new_tokens",
            found=f"{spec.max_new_tokens} with max_length {spec.max_length}",
            allowed=f"at most {spec.max_length - 2}, which leaves room for a prompt",
            remedy="lower it, or raise max_length",
        )
    if spec.overlong_buffer is not None and spec.overlong_buffer > spec.max_new_tokens:
        yield refused(
            where="alignment.overlong_buffer",
            found=f"{spec.overlong_buffer} with max_new_tokens {spec.max_new_tokens}",
            allowed=f"at most {spec.max_new_tokens}",
            remedy="lower it: it counts the last tokens before a response is cut",
        )


def _never(spec: PPO) -> Problems:
    """Iterations that would never come."""
    if spec.critic.warmup_iterations >= spec.iterations:
        yield refused(
            where="alignment.critic.warmup_iterations",
            found=f"{spec.critic.warmup_iterations} with iterations {spec.iterations}",
            allowed=f"less than {spec.iterations}: the policy trains in the iterations after",
            remedy="lower it, or raise iterations",
        )
    if spec.reference_refresh and spec.reference_refresh.iterations >= spec.iterations:
        yield refused(
            where="alignment.reference_refresh.iterations",
            found=f"{spec.reference_refresh.iterations} with iterations {spec.iterations}",
            allowed=f"less than {spec.iterations}: the reference would never move",
            remedy="lower it, or remove reference_refresh",
        )


def _equal_names(spec: PPO) -> Problems:
    """Sources that would share one curve."""
    for field, sources in (("reward", spec.reward), ("monitor", spec.monitor)):
        labels = [source.label for source in sources]
        for label in dict.fromkeys(labels):
            if labels.count(label) > 1:
                yield refused(
                    where=f"alignment.{field}",
                    found=f"two sources of the name {label}",
                    allowed="names that differ",
                    remedy="rename or remove one of them",
                )


@dataclass(frozen=True)
class Meaning:
    """A field that is read only where `reads` says so."""

    field: str
    reads: Callable[[PPO], bool]
    needs: str
    """What a recipe must have for the field to be read."""
    beside: str
    """The field that decides, which a refusal shows."""


def _gae(spec: PPO) -> bool:
    return spec.advantage == "gae"


def _compared(spec: PPO) -> bool:
    return spec.kl.coefficient > 0


# The critic's come first: of several problems the first is shown.
_CRITIC = ("value_clip", "value_coefficient", "value_model", "critic", "gamma", "lam", "lambda_value", "whiten_rewards")
MEANINGS = (
    *(Meaning(name, _gae, "advantage gae", "advantage") for name in _CRITIC),
    Meaning("critic.trains_trunk", lambda s: s.value_model == "trunk", "value_model trunk", "value_model"),
    Meaning("scale_rewards", lambda s: s.advantage == "grpo", "advantage grpo", "advantage"),
    Meaning("ratio", lambda s: not _gae(s), "advantage rloo or grpo, whose advantages are a response's", "advantage"),
    Meaning("ratio", lambda s: s.surrogate == "clip", "surrogate clip", "surrogate"),
    Meaning("dual_clip", lambda s: s.surrogate == "clip", "surrogate clip", "surrogate"),
    Meaning("dynamic_sampling", lambda s: s.samples > 1, "samples of 2 or more, which can differ", "samples"),
    Meaning("overlong_penalty", lambda s: s.overlong_buffer is not None, "overlong_buffer", "overlong_buffer"),
    Meaning("kl.estimator", _compared, "a coefficient above 0", "kl.coefficient"),
    Meaning("kl.place", _compared, "a coefficient above 0", "kl.coefficient"),
    Meaning("reference_refresh", _compared, "a kl.coefficient above 0, without which there is no reference", "kl.coefficient"),
    Meaning("stop.kl_per_response", _compared, "a kl.coefficient above 0, without which none is measured", "kl.coefficient"),
    Meaning("stop.monitor_falls", lambda s: bool(s.monitor), "a monitor", "monitor"),
    Meaning("stop.patience", lambda s: s.stop.monitor_falls is not None, "stop.monitor_falls", "stop.monitor_falls"),
    Meaning("keep", lambda s: s.keep != "best" or s.held_out_prompts > 0, "held_out_prompts above 0", "held_out_prompts"),
    Meaning("early_stop", lambda s: s.held_out_prompts > 0, "held_out_prompts above 0", "held_out_prompts"),
)  # fmt: skip


def _meaningless(spec: PPO) -> Problems:
    """Values that nothing would read."""
    for meaning in MEANINGS:
        value, default = _at(spec, meaning.field), _at(_defaults(spec), meaning.field)
        if value != default and not meaning.reads(spec):
            yield refused(
                where=f"alignment.{meaning.field}",
                found=f"{_said(value)} with {meaning.beside} {_said(_at(spec, meaning.beside))}",
                allowed=meaning.needs,
                remedy=f"remove {meaning.field.rpartition('.')[2]}",
            )
    yield from _no_ensemble(spec)
    if spec.sampler is not None and spec.peft.method != "lora":
        yield refused(
            where="alignment.sampler",
            found=f"a server, with peft.method {spec.peft.method}",
            allowed="peft.method lora, which servers load while they run",
            remedy="set alignment.peft.method=lora, or remove sampler",
        )
    if spec.critic.init == "reward_model" and spec.value_model == "trunk":
        yield refused(
            where="alignment.critic.init",
            found="reward_model with value_model trunk",
            allowed="value_model adapter: the reward model's head reads the hidden states of its own LoRA",
            remedy="set value_model=adapter, or init=zero",
        )
    if spec.critic.warmup_iterations and spec.critic.trains_trunk:
        yield refused(
            where="alignment.critic.warmup_iterations",
            found=f"{spec.critic.warmup_iterations} with critic.trains_trunk true",
            allowed="0: the trunk is the policy's, which warm-up leaves alone",
            remedy="remove one of them",
        )
    if spec.kl.estimator == "k1" and spec.kl_place == "loss":
        yield refused(
            where="alignment.kl.estimator",
            found="k1 in the loss",
            allowed="k2 or k3 in the loss, or place reward: the mean gradient of k1 over the policy's own samples is 0",
            remedy="set kl.estimator=k2, whose gradient is that of the divergence",
        )


def _no_ensemble(spec: PPO) -> Problems:
    """A penalty on disagreement needs several that can disagree, none of which counts against the others."""
    weights = [source.weight for source in spec.reward if source.source in ("model", "registry")]
    if spec.ensemble_penalty and (len(weights) < 2 or min(weights) <= 0):
        yield refused(
            where="alignment.ensemble_penalty",
            found=f"{spec.ensemble_penalty:g} with reward models of weights {weights}",
            allowed="two reward models or more, of weights above 0",
            remedy="name more of them in alignment.reward, or remove ensemble_penalty",
        )


def _at(section: Any, field: str) -> Any:
    for name in field.split("."):
        section = getattr(section, name)
    return section


def _defaults(spec: PPO) -> PPO:
    """A section with nothing but what must be given; it is not validated."""
    return type(spec).model_construct(reward=spec.reward, algorithm=spec.algorithm)


def _said(value: Any) -> str:
    """A value as a recipe writes it."""
    if value is None or value == ():
        return "null"
    dumped = value.model_dump(exclude_defaults=True) if hasattr(value, "model_dump") else value
    if isinstance(dumped, bool):
        return str(dumped).lower()
    return f"{dumped:g}" if isinstance(dumped, float) else str(dumped)
