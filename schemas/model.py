"""Where the weights start: from nothing, from a hub, or from a folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused

Positive = Annotated[int, Field(ge=1)]


class ScratchModel(Frozen):
    """A new decoder in the shape of Llama 3 (grouped-query attention, RoPE) with a byte-level BPE trained on the kept corpus."""

    source: Literal["scratch"]
    """A new model."""
    architecture: Literal["llama"] = "llama"
    """Family of the new model."""
    hidden_size: Positive = 128
    """Width of the residual stream."""
    layers: Positive = 4
    """Number of transformer blocks."""
    heads: Positive = 4
    """Query heads per block; must divide hidden_size."""
    kv_heads: Positive = 2
    """Key and value heads per block; must divide heads."""
    intermediate_size: Positive | None = None
    """Width of the feed-forward layer; null is 8/3 of hidden_size rounded up to a multiple of 32."""
    vocab_size: Annotated[int, Field(ge=300)] = 4096
    """Tokens of the byte-level BPE (256 bytes and the special tokens included)."""
    max_length: Positive = 2048
    """Longest sequence in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 500_000.0
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = True
    """Share the embedding matrix with the output head."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchModel:
        for name, part, whole_name, whole in (
            ("heads", self.heads, "hidden_size", self.hidden_size),
            ("kv_heads", self.kv_heads, "heads", self.heads),
        ):
            if whole % part:
                raise refused(
                    f"model.{name}",
                    f"{part} with {whole_name} {whole}",
                    f"a divisor of {whole_name}",
                    f"choose {name} so that it divides {whole}",
                )
        if (self.hidden_size // self.heads) % 2:
            raise refused("model.heads", f"{self.heads} with hidden_size {self.hidden_size}: an odd width per head",
                          "an even width per head", "rotary positions turn pairs: choose other heads")  # fmt: skip
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


class LocalModel(Frozen):
    """A folder written by `save_pretrained`, tokenizer included."""

    source: Literal["local"]
    """A folder on this machine."""
    path: Annotated[str, Field(min_length=1)]
    """Path of the folder."""


Model = Annotated[ScratchModel | HubModel | LocalModel, Field(discriminator="source")]
