"""PyTorch with transformers, as installed: eager mode, scaled-dot-product attention, f32 or bf16 throughout."""

import time
from copy import deepcopy
from pathlib import Path

import numpy
import torch
import transformers

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}


def versions() -> str:
    return f"PyTorch {torch.__version__}, transformers {transformers.__version__}"


def prepare(model: Path, precision: str, cache: Path) -> Path:
    """It reads the folder as it is."""
    return model


class Engine:
    def __init__(self, path: Path, precision: str, threads: int):
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=PRECISIONS[precision]).eval()
        self.model.generation_config.eos_token_id = None  # No token ends a sequence.

    def forward(self, ids: torch.Tensor, cache=None):
        return self.model(ids, cache=cache, use_cache=True, logits_to_keep=1)

    def prefill(self, ids: list[int]) -> float:
        ids = torch.tensor([ids])
        start = time.perf_counter()
        self.forward(ids)
        return time.perf_counter() - start

    def decoder(self, prompts: list[list[int]], most: int):
        read = self.forward(torch.tensor(prompts))

        def decode(new: int) -> float:
            # The loop of `generate` without what else `generate` does for each token.
            cache, logits = deepcopy(read.cache), read.logits
            start = time.perf_counter()
            for _ in range(new):
                logits = self.forward(logits[:, -1].argmax(-1, keepdim=True), cache).logits
            return time.perf_counter() - start

        return decode

    def generate(self, prompts: list[list[int]], new: int) -> float:
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        start = time.perf_counter()
        self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new)
        return time.perf_counter() - start

    def log_probabilities(self, ids: list[int]) -> numpy.ndarray:
        return self.forward(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).numpy()
