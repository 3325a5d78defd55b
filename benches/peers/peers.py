#!/usr/bin/env python3
"""Measures pythia-cli and its peers in turn on the same synthetic weights. README.md tells how to install them."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import engines
import report
from works import WORKS, measure

HERE = Path(__file__).resolve().parent
SIZES = ("70m", "160m", "410m", "1.4b")
PROMPT = [(i * 7919 + 11) % 50254 for i in range(48)]
"""What `check` compares the distributions after."""


def main():
    args = arguments()
    try:
        args.command(args)
    except (RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, summary, selects=True):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=function)
        if selects:
            sub.add_argument("-s", "--sizes", nargs="+", default=SIZES, metavar="SIZE")
            sub.add_argument(
                "-e", "--engines", nargs="+", metavar="ENGINE[:PRECISION]", help="default: all that are installed"
            )
            sub.add_argument("--threads", type=int, default=2)
            sub.add_argument("--cache", type=Path, default=cache_folder(), help="default: %(default)s")
            sub.add_argument(
                "--pythia-cli", type=Path, default=HERE.parents[1] / "target/release/pythia-cli", metavar="FILE"
            )
        return sub

    command("prepare", prepare, "Write the synthetic models and convert them for each engine")
    command("check", check, "Compare each engine's next-token distribution with the first one's")
    run = command("run", run_all, "Measure, and print a Markdown table")
    run.add_argument("-w", "--works", nargs="+", choices=WORKS, default=["pp512", "tg32", "b8"])
    run.add_argument("--repeats", type=int, default=3, help="of each work in a process (default: %(default)s)")
    run.add_argument("--rounds", type=int, default=1, help="through all engines (default: %(default)s)")
    run.add_argument("--budget", type=float, default=10, help="seconds after which a work is not repeated")
    run.add_argument("--wrap", type=shlex.split, default=[], metavar="CMD", help="such as 'taskset -c 0,1'")
    run.add_argument("--json", type=Path, metavar="FILE", help="where each result is appended as a line of JSON")
    table = command("table", print_table, "Print the table of what `run --json` wrote", selects=False)
    table.add_argument("json", type=Path, metavar="FILE")
    one = command("one", measure_one, "One engine and size in this process: what `run` starts", selects=False)
    one.add_argument("job", type=json.loads)
    return parser.parse_args()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pythia-cli" / "peers"


def selected(args) -> list[tuple[str, str]]:
    """Engines and precisions that are asked for and installed; notices about others."""
    chosen = [name.partition(":") for name in args.engines or engines.ENGINES]
    pairs = []
    for name, _, precision in chosen:
        if name not in engines.ENGINES:
            raise RuntimeError(f"no engine is called {name}: there are {', '.join(engines.ENGINES)}")
        try:
            module = engines.engine(name)
        except ImportError as error:
            notice(f"{name} is skipped: {error}; see README.md")
            continue
        if name == "pythia-cli" and not args.pythia_cli.exists():
            notice(f"{name} is skipped: there is no {args.pythia_cli}; see README.md")
            continue
        if precision and precision not in module.PRECISIONS:
            raise RuntimeError(f"{name} has no {precision}: there are {', '.join(module.PRECISIONS)}")
        pairs += [(name, p) for p in ([precision] if precision else module.PRECISIONS)]
    return pairs


def notice(text: str):
    print(f"notice: {text}", file=sys.stderr, flush=True)


def model_folder(args, size: str) -> Path:
    """The synthetic model, written if it is not there."""
    folder = args.cache / size
    if not (folder / "model.safetensors").exists():
        done = subprocess.run([args.pythia_cli, "synth", size, folder], stdout=sys.stderr)
        if done.returncode != 0:
            raise RuntimeError(f"pythia-cli synth {size} failed")
    return folder


def prepared(args, size: str, name: str, precision: str) -> Path:
    """What the engine reads, converted if it is not there."""
    model = model_folder(args, size)
    return model if name == "pythia-cli" else engines.engine(name).prepare(model, precision, model)


def prepare(args):
    for size in args.sizes:
        for name, precision in selected(args):
            print(prepared(args, size, name, precision))


def run_all(args):
    pairs = selected(args)
    machine = report.machine(args.threads, versions(args, pairs))
    jobs = [(size, *pair) for size in args.sizes for pair in pairs]
    paths = {job: prepared(args, *job) for job in jobs}
    results = []
    for number in range(args.rounds):
        for size, name, precision in jobs:
            job = {
                "size": size,
                "engine": name,
                "precision": precision,
                "path": str(paths[size, name, precision]),
                "threads": args.threads,
                "works": args.works,
                "repeats": args.repeats,
                "budget": args.budget,
                "binary": str(args.pythia_cli),
            }
            for result in measured_apart(job, args.wrap):
                result |= {"round": number, "size": size, "engine": name, "precision": precision}
                result |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "machine": machine}
                results.append(result)
                notice(f"{size} {name} {precision} {result['work']}: {result['median']:.4g} {result['unit']}")
                if args.json:
                    with args.json.open("a") as lines:
                        lines.write(json.dumps(result) + "\n")
    print(report.table(results))


def versions(args, pairs) -> list[str]:
    names = dict.fromkeys(name for name, _ in pairs)
    return [
        engines.engine(n).versions(*[args.pythia_cli] * (n == "pythia-cli")) for n in names
    ]


def measured_apart(job: dict, wrap: list[str]) -> list[dict]:
    """The results of one engine, from a process of its own; none, with a notice, where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "TOKENIZERS_PARALLELISM": "false"}
    command = [*wrap, sys.executable, str(Path(__file__).resolve()), "one", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        notice(f"{job['size']} {job['engine']} {job['precision']} failed")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure_one(args):
    job = args.job
    module = engines.engine(job["engine"])
    if job["engine"] == "pythia-cli":
        results = module.measure(
            Path(job["binary"]), Path(job["path"]), job["precision"], job["threads"], job["repeats"]
        )
        for result in results:
            if result["work"] in job["works"]:
                print(json.dumps(result), flush=True)
        return
    engine = module.Engine(Path(job["path"]), job["precision"], job["threads"])
    for work in job["works"]:
        print(json.dumps(measure(engine, work, job["repeats"], job["budget"])), flush=True)


def check(args):
    """Not apart: nothing is timed."""
    pairs = selected(args)
    for size in args.sizes:
        expected = None
        for name, precision in pairs:
            path, module = prepared(args, size, name, precision), engines.engine(name)
            if name == "pythia-cli":
                found = module.log_probabilities(args.pythia_cli, path, precision, args.threads, PROMPT)
            else:
                found = module.Engine(path, precision, args.threads).log_probabilities(PROMPT)
            expected = found if expected is None else expected
            print(f"{size:5} {name:13}{precision:6} {report.agreement(expected, found)}", flush=True)


def print_table(args):
    print(report.table([json.loads(line) for line in args.json.read_text().splitlines()]))


if __name__ == "__main__":
    main()
