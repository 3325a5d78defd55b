"""pythia-cli, which measures itself: `pythia-cli bench`. Only this file knows its options and its JSON."""

import json
import os
import subprocess
from pathlib import Path

import numpy
from works import WORKS, result

BINARY = Path(os.environ.get("PYTHIA_CLI", Path(__file__).resolve().parents[3] / "target/release/pythia-cli"))

if not BINARY.exists():
    raise ImportError(f"there is no {BINARY}: build it, or set PYTHIA_CLI")

PRECISIONS = ("exact", "bf16", "int8", "int4")


def run(*arguments) -> str:
    """What the command prints."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.removeprefix("error: ").partition("\n")[0])
    return done.stdout


def versions() -> str:
    return run("--version").strip()


def synth(size: str, folder: Path):
    """Writes the synthetic model that all engines read."""
    run("synth", size, folder)


def prepare(model: Path, precision: str, cache: Path) -> Path:
    """It reads the folder as it is, and keeps quantised weights in its own cache."""
    return model


class Engine:
    def __init__(self, path: Path, precision: str, threads: int):
        self.path = path
        self.options = ("--model", path, "--precision", precision, "--threads", threads, "--json")

    def measure(self, works: list[str], repeats: int) -> list[dict]:
        """`bench` per batch. What it has no name for, g64, is the time of its two parts; its decoding starts after the prompt, of which
        64 tokens count at most."""

        def bench(batch, prompt, new):
            shape = ("--batch-sizes", batch, "--prompt-tokens", prompt, "--new-tokens", new, "--repeats", repeats)
            return json.loads(run("bench", *shape, *self.options))

        medians = {}
        if "pp512" in works or "tg32" in works:
            report = bench(1, WORKS["pp512"].prompt, WORKS["tg32"].new)
            medians |= {"pp512": report["prefill_tok_s"], "tg32": report["decode_tok_s"]}
        if "b8" in works:
            medians["b8"] = bench(8, 64, WORKS["b8"].new)["decode_tok_s"]
        if "g64" in works:
            report = bench(64, 32, 32)
            medians["g64"] = 1 / (32 / report["prefill_tok_s"] + 32 / report["decode_tok_s"])
        return [result(work, [median]) for work, median in medians.items() if work in works]

    def log_probabilities(self, ids: list[int]) -> numpy.ndarray:
        rows = json.loads((self.path / "config.json").read_text())["vocab_size"]
        report = json.loads(run("next", "--ids", ",".join(map(str, ids)), "--top", rows, *self.options))
        logprobs = numpy.empty(rows)
        logprobs[[token["id"] for token in report["top"]]] = [token["logprob"] for token in report["top"]]
        return logprobs
