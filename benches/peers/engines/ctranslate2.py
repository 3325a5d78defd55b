"""CTranslate2, as installed. The weights stay f16 on disk, and are widened or quantised when they are loaded."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import numpy
from ctranslate2.converters import TransformersConverter

PRECISIONS = {"f32": "float32", "int8": "int8_float32"}


def versions() -> str:
    return f"CTranslate2 {ctranslate2.__version__}"


class Converter(TransformersConverter):
    """With made-up tokens, as synthetic weights have no tokenizer: token `i` is called `i`."""

    def load_tokenizer(self, tokenizer_class, model, **_):
        rows = self.rows
        return SimpleNamespace(
            get_vocab=lambda: {str(i): i for i in range(rows)}, bos_token="0", eos_token="0", unk_token="0"
        )

    def load_model(self, model_class, path, **options):
        model = super().load_model(model_class, path, **options)
        self.rows = model.config.vocab_size
        # transformers 5 has other names for these two than the converter looks for.
        model.embed_out = model.lm_head
        model.config.rotary_pct = json.loads((Path(path) / "config.json").read_text())["rotary_pct"]
        return model


def prepare(model: Path, precision: str, cache: Path) -> Path:
    folder = cache / "ctranslate2-f16"
    if not folder.exists():
        part = folder.with_suffix(".part")
        Converter(str(model), load_as_float16=True).convert(str(part), quantization="float16", force=True)
        part.rename(folder)
    return folder


class Engine:
    def __init__(self, path: Path, precision: str, threads: int):
        self.generator = ctranslate2.Generator(
            str(path), compute_type=PRECISIONS[precision], inter_threads=1, intra_threads=threads
        )

    def prefill(self, ids: list[int]) -> float:
        # The time to the first token: all tokens but the last in one pass without logits, then the last with them.
        # A whole pass (`forward_batch`) would compute the logits of every token.
        return self.generate([ids], 1)

    def decoder(self, prompts: list[list[int]], most: int):
        # There is no way to keep what the prompt left in the cache, so its time, up to the first token, is taken off.
        first = min(self.generate(prompts, 1) for _ in range(3))
        return lambda new: self.generate(prompts, new + 1) - first

    def generate(self, prompts: list[list[int]], new: int) -> float:
        tokens = [[str(i) for i in ids] for ids in prompts]
        start = time.perf_counter()
        results = self.generator.generate_batch(
            tokens, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False
        )
        seconds = time.perf_counter() - start
        assert all(len(result.sequences_ids[0]) == new for result in results), "CTranslate2 stopped early"
        return seconds

    def log_probabilities(self, ids: list[int]) -> numpy.ndarray:
        return numpy.array(self.generator.forward_batch([ids], return_log_probs=True))[0, -1]
