"""What larger models would take on the machine that was measured: an estimate from bytes and FLOPs.

- A token reads the weights of all layers and of the head once. The rate is that of the bytes which decoding
  the largest measured model read in a second.
- A prompt takes 2 FLOPs for each weight of the layers and each token, and attention 4 for each layer, each
  dimension of the queries and each pair of a token with itself or one before it.
- A LoRA step takes that and the head, and as much again for the gradients of activations. What the adapter
  takes itself is not counted. Either rate is that of the largest measured model.
- Memory is the weights, and the keys and values of 4,096 tokens in 16 bits.

Caches are less use to weights that do not fit them, and quantised weights cost arithmetic that is not
counted.
"""

from __future__ import annotations

import dataclasses

FORMATS = {"bf16": 2.0, "Q4_K": 4.8 / 8}
"""Bytes of a weight."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model as its configuration has it."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def head(self) -> int:
        return self.hidden * self.vocabulary

    def layer_maps(self) -> int:
        """Weights of the maps of all layers."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def parameters(self) -> int:
        """With an embedding that is not the head."""
        return self.layer_maps() + 2 * self.head()

    def token_bytes(self, width: float) -> float:
        return (self.layer_maps() + self.head()) * width

    def prompt_flops(self, tokens: int) -> float:
        pairs = tokens * (tokens + 1) / 2
        attention = 4 * self.layers * self.heads * self.head_dim * pairs
        return 2.0 * self.layer_maps() * tokens + attention

    def step_flops(self, tokens: int) -> float:
        return 2 * (self.prompt_flops(tokens) + 2.0 * self.head() * tokens)

    def cache_bytes(self, tokens: int) -> int:
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim * tokens


SHAPES = [
    Shape("Qwen2.5-7B", 28, 3584, 18944, 28, 4, 128, 152064),
    Shape("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152064),
]


def table(measured: Shape, seconds: dict[str, float], prompt: int) -> str:
    """The estimates in Markdown, by the seconds of a token, a prompt and a step of an `f32` model."""
    bandwidth = measured.token_bytes(4) / seconds["token"]
    prefill = measured.prompt_flops(prompt) / seconds["prompt"]
    training = measured.step_flops(prompt) / seconds["step"]
    lines = [
        f"By {bandwidth / 1e9:.1f} GB/s of decoding, {prefill / 1e9:.0f} GFLOP/s of prefill and "
        f"{training / 1e9:.0f} GFLOP/s of training:",
        "",
        "| | memory | a token | prefill of 512 | LoRA, tokens/s |",
        "|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        prompt_seconds = shape.prompt_flops(prompt) / prefill
        trained = prompt * training / shape.step_flops(prompt)
        for name, width in FORMATS.items():
            memory = shape.parameters() * width + shape.cache_bytes(4096)
            token = shape.token_bytes(width) / bandwidth
            lines.append(
                f"| {shape.name}, {name} | {memory / 1e9:.1f} GB | {token:.2f} s | "
                f"{prompt_seconds:.0f} s | {trained:.1f} |"
            )
    return "\n".join(lines)
