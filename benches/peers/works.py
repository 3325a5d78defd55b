"""What is measured, in the same way for every engine."""

import time
from dataclasses import dataclass
from statistics import median

VOCABULARY = 50254
"""Token ids below this are tokens in every Pythia size; the rows above are padding."""


@dataclass(frozen=True)
class Work:
    """`batch` sequences of `prompt` tokens, then `new` more tokens of each. `kind` says which part is timed."""

    kind: str
    batch: int
    prompt: int
    new: int

    @property
    def amount(self) -> int:
        """What is done in the time, in `unit`s."""
        return {"prefill": self.prompt, "decode": self.batch * self.new, "generate": self.batch}[self.kind]

    @property
    def unit(self) -> str:
        return "seq/s" if self.kind == "generate" else "tok/s"

    def prompts(self) -> list[list[int]]:
        """Some token ids, others in each sequence: speed does not depend on which."""
        return [[(i * 7919 + b * 104729) % VOCABULARY for i in range(self.prompt)] for b in range(self.batch)]


WORKS = {
    "pp512": Work("prefill", 1, 512, 0),
    "tg32": Work("decode", 1, 64, 32),
    "b8": Work("decode", 8, 64, 32),
    "g64": Work("generate", 64, 32, 32),
}
"""README.md says what each is."""

WARM_UP = 4
"""So many tokens are decoded before the first measurement, after a whole prompt."""


def measure(engine, name: str, repeats: int, budget: float) -> dict:
    """One work, `repeats` times after a warm-up; fewer, but once at least, when `budget` seconds are over."""
    work = WORKS[name]
    prompts = work.prompts()
    match work.kind:
        case "prefill":
            run = lambda _: engine.prefill(prompts[0])  # noqa: E731
        case "decode":
            run = engine.decoder(prompts, work.new)
        case "generate":
            run = lambda new: engine.generate(prompts, new)  # noqa: E731
    run(WARM_UP)
    until = time.perf_counter() + budget
    seconds = [run(work.new)]
    while len(seconds) < repeats and time.perf_counter() < until:
        seconds.append(run(work.new))
    return result(name, [work.amount / s for s in seconds])


def result(name: str, rates: list[float]) -> dict:
    """A line of the JSON: the rates of all repeats, and their median."""
    return {"work": name, "unit": WORKS[name].unit, "median": median(rates), "samples": rates}
