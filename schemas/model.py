"""Where the weights start: from nothing, a hub, a folder, a GGUF file, or a registered version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.fields import AboveZero, ModelUri, Positive

Quantization = Literal["nf4", "int8"]
ChatTemplate = Annotated[str, Field(min_length=1)]
KV_HEADS, ROPE_THETA, INITIALIZER_RANGE = 2, 500_000.0, 0.02  # of a Llama whose recipe does not say


class ScratchModel(Frozen):
    """A new model in the shape of a known family, with a byte-level BPE trained on the kept corpus."""

    source: Literal["scratch"]
    """A new model."""
    architecture: Literal["llama", "gpt2", "t5"] = "llama"
    """`llama` (as Llama 3: grouped-query attention, RoPE), `gpt2` (learned positions) or `t5` (encoder-decoder, gated GELU)."""
    hidden_size: Positive = 128
    """Width of the residual stream."""
    layers: Positive = 4
    """Number of transformer blocks; of an encoder-decoder, in each of the two."""
    heads: Positive = 4
    """Query heads per block; must divide hidden_size."""
    kv_heads: Positive | None = None
    """Key and value heads per block, `llama` only; must divide heads; null is 2."""
    intermediate_size: Positive | None = None
    """Width of the feed-forward layer; null is 8/3 of hidden_size, rounded up to a multiple of 32; for `gpt2` 4 times."""
    vocab_size: Annotated[int, Field(ge=300)] = 4096
    """Tokens of the byte-level BPE (256 bytes and the special tokens included)."""
    max_length: Positive = 2048
    """Longest sequence in tokens."""
    rope_theta: AboveZero | None = None
    """Base of the rotary position frequencies, `llama` only; null is 500,000."""
    initializer_range: AboveZero | None = None
    """Standard deviation of new weights, `llama` only; null is 0.02, which is little for a narrow model: arXiv 1910.05895 takes
    √(2 / (5 hidden_size)), 0.06 at 128."""
    tie_embeddings: bool = True
    """Share the embedding matrix with the output head; `t5` always does."""

    @model_validator(mode="after")
    def _fields_apply(self) -> ScratchModel:
        wanted = {name: getattr(self, name) for name in ("kv_heads", "rope_theta", "initializer_range")}
        for name, value in wanted.items():
            if value is not None and self.architecture != "llama":
                raise refused(
                    where=f"model.{name}",
                    found=f"{value} with architecture {self.architecture}",
                    allowed="null: it is a field of llama",
                    remedy=f"remove {name}, or choose architecture llama",
                )
        if self.architecture == "t5" and not self.tie_embeddings:
            raise refused(
                where="model.tie_embeddings",
                found="false with architecture t5",
                allowed="true: transformers ties them in every T5",
                remedy="remove tie_embeddings",
            )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchModel:
        parts = [("heads", self.heads, "hidden_size", self.hidden_size)]
        if self.architecture == "llama":
            parts.append(("kv_heads", self.kv_heads or KV_HEADS, "heads", self.heads))
        for name, part, whole_name, whole in parts:
            if whole % part:
                raise refused(
                    where=f"model.{name}",
                    found=f"{part} with {whole_name} {whole}",
                    allowed=f"a divisor of {whole_name}",
                    remedy=f"choose {name} so that it divides {whole}",
                )
        if self.architecture == "llama" and (self.hidden_size // self.heads) % 2:
            raise refused(
                where="model.heads",
                found=f"{self.heads} with hidden_size {self.hidden_size}: an odd width per head",
                allowed="an even width per head",
                remedy="rotary positions turn pairs: choose other heads",
            )
        return self


class HubModel(Frozen):
    """A model of the Hugging Face hub, or of its local cache."""

    source: Literal["hub"]
    """The Hugging Face hub."""
    name: Annotated[str, Field(min_length=1)]
    """Repository, such as HuggingFaceTB/SmolLM2-135M."""
    revision: str = "main"
    """Branch, tag or commit; a commit makes the run repeatable."""
    trust_remote_code: bool = False
    """Run Python code that the repository ships."""
    chat_template: ChatTemplate | None = None
    """How a chat becomes text: a Jinja file (`./my.jinja`), or one of `default`, `chatml`, `llama3`, `gemma`, `mistral` and
    `zephyr`; null = the tokenizer's own, or `default` where it has none. Saved with the model."""
    quantization: Quantization | None = None
    """Hold the frozen weights under a LoRA in 4 bits (`nf4`, on CUDA) or 8 (`int8`) while it trains; evaluation and the registry
    use the weights as they are. Needs the extra `quant`."""
    resize_embeddings: bool = False
    """Give a model that has fewer embeddings than its tokenizer has tokens one for each, the mean of the old ones, of input and
    output. `full` trains the new rows, and so does `lora` in every stage until one has trained in full: they are saved with its
    adapter. The other methods train none, and may only come after a stage that does."""

    @model_validator(mode="after")
    def _resizes_what_it_can_save(self) -> HubModel:
        if self.resize_embeddings and self.trust_remote_code:
            raise refused(
                where="model.resize_embeddings",
                found="true with trust_remote_code",
                allowed="false: the resized model is saved, and the code of its repository is not",
                remedy="resize it with transformers, or take a model that transformers knows",
            )
        return self


class LocalModel(Frozen):
    """A folder written by `save_pretrained`, tokenizer included, or the artifacts of a registered version."""

    source: Literal["local"]
    """A folder on this machine."""
    path: Annotated[str, Field(min_length=1)]
    """Path of the folder."""
    chat_template: ChatTemplate | None = None
    """As of model.source hub."""
    quantization: Quantization | None = None
    """As of model.source hub."""
    resize_embeddings: bool = False
    """As of model.source hub."""


class GgufModel(Frozen):
    """A file in llama.cpp's format: its tensors are dequantised to float32, its tokenizer is taken. Needs the extra `gguf`."""

    source: Literal["gguf"]
    """A GGUF file on this machine."""
    path: Annotated[str, Field(min_length=1)]
    """Path of the file."""
    chat_template: ChatTemplate | None = None
    """As of model.source hub."""
    resize_embeddings: bool = False
    """As of model.source hub."""


class RegistryModel(Frozen):
    """A version that posttrain registered, in the MLflow of the section `tracking`."""

    source: Literal["registry"]
    """The MLflow registry."""
    uri: ModelUri
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`; where an alias points is looked up once, when a run starts."""
    chat_template: ChatTemplate | None = None
    """As of model.source hub."""
    quantization: Quantization | None = None
    """As of model.source hub."""
    resize_embeddings: bool = False
    """As of model.source hub."""


Model = Annotated[ScratchModel | HubModel | LocalModel | GgufModel | RegistryModel, Field(discriminator="source")]
