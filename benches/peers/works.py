"""What is measured, in the same way for every engine.

    pp512   A prompt of 512 tokens, logits of its last token only. Tokens per second.
    tg32    Greedy decoding of 32 tokens after a prompt of 64, one sequence. Tokens per second.
    b8      The same for 8 sequences decoded together. Tokens per second of all 8.
    g64     64 prompts of 32 tokens, 32 greedy tokens each, prompts included. Sequences per second.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

VOCABULARY = 50254
"""Token ids below this are tokens of every Pythia size; rows above are padding."""


@dataclass(frozen=True)
class Work:
    """`batch` sequences: `prompt` tokens each, then `new` ones."""

    batch: int
    prompt: int
    new: int
    unit: str = "tok/s"

    def prompts(self) -> list[list[int]]:
        """Some token ids, others in each sequence: speed does not depend on which."""
        return [[(i * 7919 + b * 104729) % VOCABULARY for i in range(self.prompt)] for b in range(self.batch)]


WORKS = {
    "pp512": Work(1, 512, 0),
    "tg32": Work(1, 64, 32),
    "b8": Work(8, 64, 32),
    "g64": Work(64, 32, 32, "seq/s"),
}


def measure(engine, name: str, repeats: int, budget: float) -> dict:
    """Runs one work after a warm-up; `repeats` times, fewer (but once at least) when `budget` seconds are over."""
    work = WORKS[name]
    if name == "pp512":
        ids = work.prompts()[0]
        seconds = repeated(lambda: engine.prefill(ids), lambda: engine.prefill(ids), repeats, budget)
        amount = work.prompt
    elif name == "g64":
        prompts = work.prompts()
        generate = lambda new: engine.generate(prompts, new)  # noqa: E731
        seconds = repeated(lambda: generate(2), lambda: generate(work.new), repeats, budget)
        amount = work.batch
    else:
        decode = engine.decoder(work.prompts(), work.new)
        seconds = repeated(lambda: decode(4), lambda: decode(work.new), repeats, budget)
        amount = work.batch * work.new
    rates = [amount / s for s in seconds]
    return {"work": name, "unit": work.unit, "median": median(rates), "samples": rates}


def repeated(
    warm_up: Callable[[], float], run: Callable[[], float], repeats: int, budget: float
) -> list[float]:
    """The seconds that each run says it took."""
    warm_up()
    until = time.perf_counter() + budget
    seconds = [run()]
    while len(seconds) < repeats and time.perf_counter() < until:
        seconds.append(run())
    return seconds
