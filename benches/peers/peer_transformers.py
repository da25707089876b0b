"""transformers and PEFT on PyTorch: a step is a forward with a DynamicCache and an argmax."""

from __future__ import annotations

from collections.abc import Callable

import measure
import peft
import torch
import transformers

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Transformers:
    def __init__(self, path: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(path, dtype=DTYPES[dtype])
        self.cache = transformers.DynamicCache()
        self.chosen = torch.zeros(0)

    def read(self, tokens: torch.Tensor) -> None:
        with torch.inference_mode():
            output = self.model(input_ids=tokens, past_key_values=self.cache, logits_to_keep=1)
            self.chosen = output.logits[:, -1].argmax(-1)
            self.chosen.tolist()

    def begin(self, prompts: list[list[int]], room: int) -> None:
        self.cache = transformers.DynamicCache()
        self.read(torch.tensor(prompts))

    def step(self) -> None:
        self.read(self.chosen[:, None])

    def trainer(self, rows: list[list[int]], checkpointing: bool) -> Callable[[], None]:
        config = peft.LoraConfig(
            r=measure.RANK, lora_alpha=measure.ALPHA, target_modules=measure.PROJECTIONS
        )
        model = peft.get_peft_model(self.model, config)
        model.train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=measure.LEARNING_RATE)
        batch = torch.tensor(rows)

        def step() -> None:
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

        return step


if __name__ == "__main__":
    measure.main(Transformers)
