"""mlx-lm on MLX's default device: a step is a forward with a key-value cache and an argmax.

The steps of one text are those of mlx-lm's own loop, which starts the next before it reads the last. The
dtype `q8` or `q4` quantises at load, in groups of 64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import measure
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.trainer import default_loss, grad_checkpoint
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16, "q8": mx.float16, "q4": mx.float16}


class Mlx:
    def __init__(self, path: str, dtype: str, _threads: int) -> None:
        self.model, _ = load_model(Path(path), lazy=True)
        self.model.set_dtype(DTYPES[dtype])
        if dtype in ("q8", "q4"):
            nn.quantize(self.model, group_size=64, bits=int(dtype[1]))
        mx.eval(self.model.parameters())
        self.stream: Iterator[tuple[int, mx.array]] | None = None
        self.cache: list[object] = []
        self.chosen = mx.zeros(0)

    def begin(self, prompts: list[list[int]], room: int) -> None:
        self.stream = None
        if len(prompts) == 1:
            self.stream = generate_step(mx.array(prompts[0]), self.model, max_tokens=room)
            next(self.stream)
            return
        self.cache = make_prompt_cache(self.model)
        self.read(mx.array(prompts))

    def read(self, tokens: mx.array) -> None:
        logits = self.model(tokens, cache=self.cache)
        self.chosen = mx.argmax(logits[:, -1], axis=-1)
        self.chosen.tolist()

    def step(self) -> None:
        if self.stream:
            next(self.stream)
        else:
            self.read(self.chosen[:, None])

    def trainer(self, rows: list[list[int]], checkpointing: bool) -> Callable[[], None]:
        model = self.model
        model.freeze()
        kinds = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}
        keys = [f"{kinds.get(name[0], 'mlp')}.{name}" for name in measure.PROJECTIONS]
        scale = measure.ALPHA / measure.RANK
        config = {"rank": measure.RANK, "scale": scale, "dropout": 0.0, "keys": keys}
        linear_to_lora_layers(model, len(model.layers), config)
        if checkpointing:
            grad_checkpoint(model.layers[0])
        model.train()
        optimizer = optimizers.AdamW(learning_rate=measure.LEARNING_RATE)
        batch = mx.array(rows)
        lengths = mx.array([[0, len(row)] for row in rows])
        gradient = nn.value_and_grad(model, default_loss)

        def step() -> None:
            (loss, _), gradients = gradient(model, batch, lengths)
            gradients, _ = optimizers.clip_grad_norm(gradients, 1.0)
            optimizer.update(model, gradients)
            mx.eval(model.trainable_parameters(), tree_map(mx.array, optimizer.state), loss)

        return step


if __name__ == "__main__":
    measure.main(Mlx)
