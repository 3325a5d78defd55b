"""What was measured, for people."""

import os
import platform
import time
from pathlib import Path
from statistics import median

import numpy


def machine(threads: int, versions: list[str]) -> dict:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": versions,
    }


def cpu() -> str:
    """The model of the CPU, and which of the instructions that matter here it has."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    have = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f in flags]
    number = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    parts = [fields.get("model name", platform.processor() or platform.machine()), number, " ".join(have)]
    return ", ".join(part for part in parts if part)


def table(results: list[dict]) -> str:
    """Markdown: the machine and the versions, and a row per size and engine; `–` where nothing was measured."""
    if not results:
        return "Nothing was measured."
    cells, columns = {}, {}
    for r in results:
        row = cells.setdefault((r["size"], r["engine"], r["precision"]), {})
        row.setdefault(r["work"], []).append(r["median"])
        columns[r["work"]] = r["unit"]
    about = results[-1]["machine"]
    lines = [
        f"{about['date']}, {about['cpu']}, {about['cores']} cores, {about['threads']} threads, {about['system']}.  ",
        "; ".join(about["versions"]) + ".",
        "",
        "| size | engine | weights | " + " | ".join(f"{work}, {unit}" for work, unit in columns.items()) + " |",
        "|---|---|---|" + "---:|" * len(columns),
    ]
    sizes = list(dict.fromkeys(r["size"] for r in results))
    for key in sorted(cells, key=lambda key: sizes.index(key[0])):
        lines.append("| " + " | ".join([*key, *(cell(cells[key].get(work)) for work in columns)]) + " |")
    return "\n".join(lines)


def cell(medians: list[float] | None) -> str:
    """The median of the rounds, in three digits."""
    if medians is None:
        return "–"
    value = median(medians)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def agreement(expected: numpy.ndarray, found: numpy.ndarray) -> str:
    """How far two distributions are apart, both as log-probabilities."""
    expected, found = normalised(expected), normalised(found)
    largest = numpy.abs(expected - found).max()
    divergence = (numpy.exp(expected) * (expected - found)).sum()
    top = "the same" if expected.argmax() == found.argmax() else "another"
    return f"log-probabilities at most {largest:.1e} apart, KL divergence {divergence:.1e}, {top} most probable token"


def normalised(logprobs: numpy.ndarray) -> numpy.ndarray:
    """Free of the rounding of an engine's own softmax, so that the divergence cannot be negative."""
    logprobs = logprobs.astype(numpy.float64)
    return logprobs - numpy.log(numpy.exp(logprobs).sum())
