"""llama.cpp through the functions of its own C interface, which llama-cpp-python binds; its defaults throughout."""

import ctypes
import sys
import time
from pathlib import Path

import llama_cpp as llama
import numpy

from .gguf_file import write_gguf

PRECISIONS = {
    "f16": llama.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": llama.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_0-pure": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
}
"""q4_0 is what llama-quantize makes of it, with the output matrix in q6_K; pure has that in q4_0 as well."""

PADDING = 256
"""The cache of a sequence is a multiple of so many tokens."""


ERROR = 4
"""GGML_LOG_LEVEL_ERROR."""


@llama.llama_log_callback
def errors_only(level, text, _):
    if level == ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)


llama.llama_log_set(errors_only, None)
llama.llama_backend_init()


def versions() -> str:
    features = llama.llama_print_system_info().decode()
    on = [part.split("=")[0].strip() for part in features.split("|") if part.strip().endswith("= 1")]
    return f"llama.cpp of llama-cpp-python {llama.__version__} ({', '.join(on)})"


def prepare(model: Path, precision: str, cache: Path) -> Path:
    f16 = cache / "f16.gguf"
    if not f16.exists():
        write_gguf(model, f16)
    file = cache / f"{precision}.gguf"
    if not file.exists():
        params = llama.llama_model_quantize_default_params()
        params.ftype = PRECISIONS[precision]
        params.pure = precision.endswith("-pure")
        part = file.with_suffix(".part")
        if llama.llama_model_quantize(bytes(f16), bytes(part), params) != 0:
            raise RuntimeError(f"{f16}: llama_model_quantize to {precision} failed")
        part.rename(file)
    return file


class Engine:
    def __init__(self, path: Path, precision: str, threads: int):
        self.threads = threads
        self.model = llama.llama_model_load_from_file(bytes(path), llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp does not load it")
        self.rows = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def prefill(self, ids: list[int]) -> float:
        context = Context(self, 1, len(ids))
        start = time.perf_counter()
        context.decode([ids], 0)
        return time.perf_counter() - start

    def decoder(self, prompts: list[list[int]], most: int):
        context = Context(self, len(prompts), len(prompts[0]) + most)
        first = context.decode(prompts, 0)

        def decode(new: int) -> float:
            context.truncate(len(prompts[0]))
            start = time.perf_counter()
            context.continued(first, len(prompts[0]), new)
            return time.perf_counter() - start

        return decode

    def generate(self, prompts: list[list[int]], new: int) -> float:
        context = Context(self, len(prompts), len(prompts[0]) + new)
        start = time.perf_counter()
        context.continued(context.decode(prompts, 0), len(prompts[0]), new - 1)
        return time.perf_counter() - start

    def log_probabilities(self, ids: list[int]) -> numpy.ndarray:
        context = Context(self, 1, len(ids))
        context.decode([ids], 0)
        logits = context.logits(len(ids) - 1).astype(numpy.float64)
        return logits - logits.max() - numpy.log(numpy.exp(logits - logits.max()).sum())


class Context:
    """The cache of some sequences, each with room for `tokens`."""

    def __init__(self, engine: Engine, sequences: int, tokens: int):
        params = llama.llama_context_default_params()
        params.n_seq_max = sequences
        params.n_ctx = sequences * -(-tokens // PADDING) * PADDING
        params.n_threads = params.n_threads_batch = engine.threads
        self.rows = engine.rows
        self.context = llama.llama_init_from_model(engine.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {sequences} sequences of {tokens} tokens")
        self.batch = llama.llama_batch_init(params.n_ctx, 0, 1)
        self.at_once = llama.llama_n_batch(self.context)

    def __del__(self):
        if self.context:
            llama.llama_batch_free(self.batch)
            llama.llama_free(self.context)

    def decode(self, tokens: list[list[int]], position: int) -> list[int]:
        """Passes the tokens of each sequence, which stand at `position`, through the model: the most probable next."""
        best = []
        per_call = max(1, self.at_once // len(tokens[0]))
        for since in range(0, len(tokens), per_call):
            last = self.fill(tokens[since : since + per_call], since, position)
            if llama.llama_decode(self.context, self.batch) != 0:
                raise RuntimeError("llama_decode failed")
            best += [int(self.logits(i).argmax()) for i in last]
        return best

    def fill(self, tokens: list[list[int]], first: int, position: int) -> list[int]:
        """Puts the tokens into the batch; the first belong to sequence `first`. The places of the last of each."""
        n, last = 0, []
        for sequence, ids in enumerate(tokens, first):
            for i, token in enumerate(ids):
                self.batch.token[n] = token
                self.batch.pos[n] = position + i
                self.batch.n_seq_id[n] = 1
                self.batch.seq_id[n][0] = sequence
                self.batch.logits[n] = i + 1 == len(ids)
                n += 1
            last.append(n - 1)
        self.batch.n_tokens = n
        return last

    def continued(self, tokens: list[int], position: int, new: int):
        for i in range(new):
            tokens = self.decode([[token] for token in tokens], position + i)

    def logits(self, place: int) -> numpy.ndarray:
        row = llama.llama_get_logits_ith(self.context, place)
        return numpy.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self.rows,))

    def truncate(self, tokens: int):
        llama.llama_memory_seq_rm(llama.llama_get_memory(self.context), -1, tokens, -1)
