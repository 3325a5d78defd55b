"""pythia-cli, which measures itself: `pythia-cli bench`. Only this file knows its options and its JSON."""

import json
import subprocess
from pathlib import Path

import numpy

PRECISIONS = ("exact",)
"""More when `bench` has them."""

WORKS = {"pp512": "prefill_tok_s", "tg32": "decode_tok_s"}
"""The works that `bench` can do, and where its JSON has them."""


def run(binary: Path, *arguments) -> str:
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def versions(binary: Path) -> str:
    return run(binary, "--version").strip()


def measure(binary: Path, model: Path, precision: str, threads: int, repeats: int) -> list[dict]:
    """All works in one run, as `works.measure` reports each."""
    common = ("--model", model, "--precision", precision, "--threads", threads, "--json")
    sizes = ("--prompt-tokens", 512, "--new-tokens", 32, "--repeats", repeats)
    report = json.loads(run(binary, "bench", *common, *sizes))
    return [
        {"work": work, "unit": "tok/s", "median": report[key], "samples": [report[key]]}
        for work, key in WORKS.items()
    ]


def log_probabilities(binary: Path, model: Path, precision: str, threads: int, ids: list[int]) -> numpy.ndarray:
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    common = ("--model", model, "--precision", precision, "--threads", threads, "--json")
    top = json.loads(run(binary, "next", "--ids", ",".join(map(str, ids)), "--top", rows, *common))["top"]
    logprobs = numpy.empty(rows, numpy.float64)
    logprobs[[candidate["id"] for candidate in top]] = [candidate["logprob"] for candidate in top]
    return logprobs
