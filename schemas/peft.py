"""What a stage trains: every weight, or one parameter-efficient method with its own settings.

Each class is one member of the union that `peft.method` chooses from; `posttrain/peft/methods.py` says what each can do.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen
from schemas.fields import AboveZero, BelowOne, NonNegative, Positive

Momentum = Annotated[float, Field(gt=0, lt=1)]
Targets = Annotated[
    Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)],
    Field(description="Names of the linear layers; `all-linear` is all but the output head."),
]
Alpha = Annotated[AboveZero, Field(description="Scale; the update is multiplied by alpha / r.")]
VirtualTokens = Annotated[
    Positive, Field(description="Length of the soft prompt in tokens; it takes as many positions from the model's context.")
]


def unsuitable(allowed: str) -> PydanticCustomError:
    """A validation error on one field of a method; the place and the value found are those of the field."""
    return PydanticCustomError("unsuitable", "{allowed}", {"allowed": allowed})


class Method(Frozen):
    """A member of the union. Defaults are validated, too: a rule between two fields holds when only one of them is given."""

    model_config = ConfigDict(validate_default=True)


class Full(Method):
    """Train every weight."""

    method: Literal["full"]
    """Every weight."""


class LoRA(Method):
    """Low-rank adaptation (arXiv 2106.09685), through Hugging Face peft."""

    method: Literal["lora"]
    """Low-rank adaptation."""
    r: Positive = 16
    """Rank."""
    alpha: Alpha = 32
    dropout: BelowOne = 0.0
    """Dropout before the first low-rank matrix."""
    target_modules: Targets = "all-linear"
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv 2312.03732)."""
    use_dora: bool = False
    """Decompose into magnitude and direction (arXiv 2402.09353)."""
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"] = "default"
    """First values. The update starts at zero with `default`, `gaussian` and `orthogonal`; `pissa` (arXiv 2404.02948, with a
    randomised decomposition as `pissa_niter_16`) and `olora` (arXiv 2406.01775) start at the main part of the weight and take it
    out of the frozen one. All start as the base and are saved as a plain LoRA: the last three with twice the rank."""

    @field_validator("init")
    @classmethod
    def _init_fits(cls, init: str, info: ValidationInfo) -> str:
        if info.data.get("use_dora") and init not in ("default", "gaussian"):
            raise unsuitable("default or gaussian with use_dora: the others change the weight whose magnitude DoRA takes")
        if init == "orthogonal" and info.data.get("r", 0) % 2:
            raise unsuitable("another init, or an even r: orthogonal splits the rank in two halves")
        return init


class AdaLoRA(Method):
    """LoRA in singular-value form whose ranks move to the layers that need them (arXiv 2303.10512), through peft.

    The three phases of the rank budget are shares of the stage's optimizer steps.
    """

    method: Literal["adalora"]
    """Low-rank adaptation with a rank budget."""
    init_r: Positive = 12
    """Rank of every layer at the start."""
    target_r: Positive = 8
    """Mean rank of the layers at the end; at most init_r."""
    alpha: AboveZero = 32
    """Scale; the update is multiplied by alpha / init_r."""
    dropout: BelowOne = 0.0
    """Dropout before the update."""
    target_modules: Targets = "all-linear"
    warmup_share: BelowOne = 0.1
    """Share of the steps before the first rank is taken away."""
    final_share: BelowOne = 0.3
    """Share of the steps at the end in which the ranks stay as they are; together with warmup_share below 1."""
    interval: Positive = 1
    """Optimizer steps between two decisions about ranks."""
    sensitivity_decay: Momentum = 0.85
    """Smoothing of each weight's sensitivity (β₁ of the paper)."""
    uncertainty_decay: Momentum = 0.85
    """Smoothing of the sensitivity's uncertainty (β₂ of the paper)."""
    orthogonality: NonNegative = 0.1
    """Weight of the penalty that keeps both sets of singular vectors orthogonal (gamma of the paper)."""

    @field_validator("target_r")
    @classmethod
    def _shrinks(cls, target_r: int, info: ValidationInfo) -> int:
        if target_r > info.data.get("init_r", target_r):
            raise unsuitable(f"at most init_r, {info.data['init_r']}")
        return target_r

    @field_validator("final_share")
    @classmethod
    def _leaves_time(cls, final_share: float, info: ValidationInfo) -> float:
        if final_share + info.data.get("warmup_share", 0.0) >= 1:
            raise unsuitable(f"below 1 together with warmup_share, {info.data['warmup_share']}")
        return final_share


class VeRA(Method):
    """Vector-based random adaptation: two trained vectors per layer around shared random matrices (arXiv 2310.11454)."""

    method: Literal["vera"]
    """Vector-based random matrix adaptation."""
    r: Positive = 256
    """Rank of the shared random matrices."""
    d_initial: AboveZero = 0.1
    """First value of the vector in the middle."""
    dropout: BelowOne = 0.0
    """Dropout before the update."""
    target_modules: Targets = "all-linear"


class OFT(Method):
    """Orthogonal fine-tuning: each weight is turned by a block-diagonal rotation of its input (arXiv 2306.07280)."""

    method: Literal["oft"]
    """Orthogonal fine-tuning."""
    block_size: Annotated[int, Field(ge=2)] = 32
    """Width of a rotation; must divide the input width of every target layer."""
    dropout: BelowOne = 0.0
    """Share of the rotations that are the identity in a training step."""
    neumann: bool = True
    """Approximate the Cayley transform by five terms of its series (arXiv 2506.19847) instead of inverting a matrix."""
    target_modules: Targets = "all-linear"


class LowRankProduct(Method):
    """An update that is a product of two matrices, of low rank."""

    method: Literal["loha", "lokr"]
    """Kind of the product."""
    r: Positive = 8
    """Rank of each of the two factors of `loha`, of the larger one of `lokr`."""
    alpha: Alpha = 16
    dropout: BelowOne = 0.0
    """Dropout on the rows of the update."""
    target_modules: Targets = "all-linear"


class LoHa(LowRankProduct):
    """Low-rank Hadamard product: the update is the elementwise product of two low-rank matrices (arXiv 2108.06098)."""

    method: Literal["loha"]
    """Low-rank Hadamard product."""


class LoKr(LowRankProduct):
    """Low-rank Kronecker product: the update is a small matrix ⊗ a low-rank one (arXiv 2309.14859)."""

    method: Literal["lokr"]
    """Low-rank Kronecker product."""
    factor: Positive | None = None
    """Height of the smaller factor; null takes the divisor next to the square root of the layer's width."""


class BottleneckAdapter(Method):
    """Small feed-forward layers inside the blocks (arXiv 1902.00751); the up-projection is zero at the start."""

    method: Literal["bottleneck"]
    """Bottleneck adapters."""
    variant: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """`houlsby`: after attention and after the feed-forward layer (arXiv 1902.00751); `pfeiffer`: after the feed-forward layer
    (arXiv 2005.00247); `parallel`: beside the feed-forward layer, on its input (arXiv 2110.04366)."""
    reduction_factor: Positive = 16
    """The bottleneck's width is the model's width divided by this, and at least 1."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Between the two projections."""
    scale: AboveZero = 1.0
    """Factor of the adapter's output."""


class PromptTuning(Method):
    """Trained embeddings before the input (arXiv 2104.08691)."""

    method: Literal["prompt_tuning"]
    """Soft prompt at the input."""
    virtual_tokens: VirtualTokens = 20
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """First values: embeddings of random tokens, of `text` (repeated or cut to fit), or normal noise of the embeddings' size."""
    text: Annotated[str, Field(pattern=r"\S")] | None = None
    """The text of init text."""

    @field_validator("text")
    @classmethod
    def _text_where_it_is_read(cls, text: str | None, info: ValidationInfo) -> str | None:
        if (text is not None) != (info.data.get("init") == "text"):
            raise unsuitable("a text with init text, null with another init")
        return text


class PrefixTuning(Method):
    """Trained keys and values before those of every attention layer (arXiv 2101.00190)."""

    method: Literal["prefix_tuning"]
    """Soft prompt in every layer."""
    virtual_tokens: VirtualTokens = 20
    init: Literal["zero", "random"] = "zero"
    """First keys and values. Zeros draw a share of the attention and give nothing, random ones disturb the model more."""
    projection_size: Positive | None = None
    """Width of a two-layer network that makes the prefix from embeddings while training; null trains the prefix itself."""


class PTuning(Method):
    """A soft prompt at the input that a small network makes from embeddings while training (arXiv 2103.10385)."""

    method: Literal["p_tuning"]
    """Soft prompt from a prompt encoder."""
    virtual_tokens: VirtualTokens = 20
    encoder: Literal["mlp", "lstm"] = "mlp"
    """Kind of the network: three linear layers, or a bidirectional LSTM of two layers and two linear ones."""
    hidden_size: Positive = 128
    """Width of the network."""


class IA3(Method):
    """Trained factors on keys, values and the feed-forward layer's inner activations (arXiv 2205.05638)."""

    method: Literal["ia3"]
    """Rescaling of inner activations."""
    target_modules: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """Names of the linear layers; `auto` is the keys, the values and the feed-forward layer of a known architecture."""
    feedforward_modules: tuple[str, ...] = ()
    """Those of target_modules whose input is scaled instead of their output; only with target_modules given."""

    @field_validator("feedforward_modules")
    @classmethod
    def _part_of_the_targets(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        targets = info.data.get("target_modules", "auto")
        if names and (targets == "auto" or not set(names) <= set(targets)):
            raise unsuitable("names that target_modules has, too")
        return names


class LNTuning(Method):
    """Train the normalisation layers (arXiv 2312.11420), through peft."""

    method: Literal["ln_tuning"]
    """Gains and biases of every normalisation layer."""


class BitFit(Method):
    """Train every bias and nothing else (arXiv 2106.10199)."""

    method: Literal["bitfit"]
    """Biases."""
    graft: bool = True
    """Give a model without any bias, such as Llama, biases of zero where its architecture provides for them; without, such a
    model is refused."""


class LastLayers(Method):
    """Train the last blocks and, by option, what comes after them."""

    method: Literal["last_layers"]
    """The last blocks."""
    layers: Positive = 2
    """Blocks, counted from the output; those of the decoder where there are an encoder and a decoder."""
    norm: bool = True
    """The normalisation layer after the last block, where there is one."""
    head: bool = False
    """The output head; where it shares the input embedding's matrix it gets its own copy, and the embedding stays frozen."""


Peft = Annotated[
    Full | LoRA | AdaLoRA | VeRA | OFT | LoHa | LoKr | BottleneckAdapter | PromptTuning | PrefixTuning | PTuning | IA3 | LNTuning
    | BitFit | LastLayers,
    Field(discriminator="method"),
]  # fmt: skip
