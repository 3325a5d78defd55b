"""One module per engine. Each has

    PRECISIONS                                   what it can be asked for, by its own names
    versions() -> str                            of the packages it consists of
    prepare(model, precision, cache) -> Path     converts the folder of a model to what the engine reads, once
    Engine(path, precision, threads)             opens that
        .prefill(ids) -> seconds                 one prompt, logits of its last token
        .decoder(prompts, most) -> decode        reads the prompts
            decode(new) -> seconds               up to `most` greedy tokens after them, the same again at each call
        .generate(prompts, new) -> seconds       prompts and greedy tokens
        .log_probabilities(ids) -> array [V]     of the token after `ids`

A prompt is a list of token ids. The prompts of one call are equally long, and no token ends a sequence. An engine
that measures itself has `.measure(works, repeats)` instead of the first three: what `works.measure` gives, for each.
"""

from importlib import import_module
from types import ModuleType

ENGINES = {
    "pythia-cli": "pythia",
    "llama.cpp": "llama_cpp",
    "transformers": "transformers",
    "CTranslate2": "ctranslate2",
}
"""The modules by the names that people know them by."""


def engine(name: str) -> ModuleType:
    """The module of an engine. Raises ImportError where it is not installed."""
    return import_module(f".{ENGINES[name]}", __name__)
