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

SIZES = ("70m", "160m", "410m", "1.4b")

PROMPT = WORKS["tg32"].prompts()[0]
"""What `check` compares the distributions after."""


def main():
    args = arguments()
    try:
        args.command(args)
    except (RuntimeError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function):
        summary = function.__doc__.partition("\n")[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=function)
        return sub

    def selecting(sub):
        names = ", ".join(engines.ENGINES)
        sub.add_argument("-s", "--sizes", nargs="+", default=SIZES, metavar="SIZE", help="default: %(default)s")
        sub.add_argument(
            "-e", "--engines", nargs="+", default=list(engines.ENGINES), metavar="ENGINE[:PRECISION]", help=names
        )
        sub.add_argument("-t", "--threads", type=int, default=2, metavar="N", help="default: %(default)s")
        sub.add_argument("--cache", type=Path, default=cache(), metavar="DIR", help="default: %(default)s")
        return sub

    selecting(command("prepare", prepare))
    selecting(command("check", check))
    run = selecting(command("run", run_all))
    run.add_argument("-w", "--works", nargs="+", choices=WORKS, default=["pp512", "tg32", "b8"])
    run.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="of a work in a process (default: %(default)s)"
    )
    run.add_argument("--rounds", type=int, default=1, metavar="N", help="through all engines (default: %(default)s)")
    run.add_argument("--budget", type=float, default=10, metavar="S", help="no repeat after so many seconds")
    run.add_argument("--wrap", type=shlex.split, default=[], metavar="CMD", help="such as 'taskset -c 0,1'")
    run.add_argument("--json", type=Path, metavar="FILE", help="append each result to it, a line of JSON")
    command("table", print_table).add_argument("json", type=Path, metavar="FILE")
    command("one", measure_one).add_argument("job", type=json.loads)
    return parser.parse_args()


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pythia-cli" / "peers"


def notice(text: str):
    print(f"notice: {text}", file=sys.stderr, flush=True)


def selected(args) -> list[tuple[str, str]]:
    """Engines and precisions that are asked for and installed; a notice for each that is not."""
    pairs = []
    for asked in args.engines:
        name, _, precision = asked.partition(":")
        if name not in engines.ENGINES:
            raise RuntimeError(f"no engine is called {name}: there are {', '.join(engines.ENGINES)}")
        try:
            known = engines.engine(name).PRECISIONS
        except ImportError as error:
            notice(f"{name} is skipped: {error}; README.md tells how to install it")
            continue
        if precision and precision not in known:
            raise RuntimeError(f"{name} has no precision {precision}: there are {', '.join(known)}")
        pairs += [(name, p) for p in ([precision] if precision else known)]
    return pairs


def prepared(args, size: str, name: str, precision: str) -> Path:
    """What the engine reads of a size: the synthetic model, or what it was converted to."""
    folder = args.cache / size
    if not (folder / "model.safetensors").exists():
        engines.engine("pythia-cli").synth(size, folder)
    return engines.engine(name).prepare(folder, precision, folder)


def prepare(args):
    """Write the synthetic models and convert them for each engine"""
    for size in args.sizes:
        for pair in selected(args):
            print(prepared(args, size, *pair), flush=True)


def check(args):
    """Compare each engine's distribution of the next token with the first one's"""
    for size in args.sizes:
        expected = None
        for name, precision in selected(args):
            path = prepared(args, size, name, precision)
            try:
                engine = engines.engine(name).Engine(path, precision, args.threads)
                found = engine.log_probabilities(PROMPT)
            except RuntimeError as error:
                notice(f"{size} {name} {precision} is skipped: {error}")
                continue
            expected = found if expected is None else expected
            print(f"{size:5} {name:13} {precision:6} {report.agreement(expected, found)}", flush=True)


def run_all(args):
    """Measure, and print a table in Markdown"""
    pairs = selected(args)
    versions = [engines.engine(name).versions() for name in dict.fromkeys(name for name, _ in pairs)]
    machine = report.machine(args.threads, versions)
    jobs = [(size, *pair) for size in args.sizes for pair in pairs]
    paths = {job: prepared(args, *job) for job in jobs}
    results = []
    for number in range(args.rounds):
        for size, name, precision in jobs:
            about = {"size": size, "engine": name, "precision": precision}
            for found in measured_apart(args, about, paths[size, name, precision]):
                notice(f"{size} {name} {precision} {found['work']}: {found['median']:.4g} {found['unit']}")
                now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "round": number}
                results.append(now | about | found | {"machine": machine})
                if args.json:
                    with args.json.open("a") as lines:
                        lines.write(json.dumps(results[-1]) + "\n")
    print(report.table(results))


def measured_apart(args, about: dict, path: Path) -> list[dict]:
    """The results of one engine and size, from a process of its own; fewer, with a notice, where it fails."""
    given = {name: getattr(args, name) for name in ("threads", "works", "repeats", "budget")}
    job = json.dumps(about | given | {"path": str(path)})
    command = [*args.wrap, sys.executable, str(Path(__file__).resolve()), "one", job]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        notice(f"{about['size']} {about['engine']} {about['precision']} failed")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure_one(args):
    """One engine and size in this process, which is what `run` starts"""
    job = args.job
    engine = engines.engine(job["engine"]).Engine(Path(job["path"]), job["precision"], job["threads"])
    if hasattr(engine, "measure"):
        results = engine.measure(job["works"], job["repeats"])
    else:
        results = (measure(engine, work, job["repeats"], job["budget"]) for work in job["works"])
    for found in results:
        print(json.dumps(found), flush=True)


def print_table(args):
    """Print the table of what `run --json` wrote"""
    print(report.table([json.loads(line) for line in args.json.read_text().splitlines()]))


if __name__ == "__main__":
    main()
