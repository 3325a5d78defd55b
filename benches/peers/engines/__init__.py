"""One module per engine. Each has

    PRECISIONS                                   what it can be asked for, by its own names
    versions() -> str                            of the packages it consists of; ImportError if one is missing
    prepare(model, precision, cache) -> Path     converts the folder of a model to what the engine reads, once
    Engine(path, precision, threads)             opens it
        .prefill(ids) -> seconds                 one prompt, logits of its last token
        .decoder(prompts, most)                  reads the prompts, and returns
            decode(new) -> seconds               which decodes up to `most` tokens greedily after them, again at each call
        .generate(prompts, new) -> seconds       both together
        .log_probabilities(ids) -> array [V]     of the token after `ids`

A prompt is a list of token ids; those of one call are equally long, and no token ends a sequence. pythia-cli measures
itself: its module has `measure(binary, model, precision, threads, work, repeats)` instead of the last group.
"""

from importlib import import_module

ENGINES = {
    "pythia-cli": "pythia",
    "llama.cpp": "llama_cpp",
    "transformers": "transformers",
    "CTranslate2": "ctranslate2",
}
"""The modules by the names that people know them by."""


def engine(name: str):
    """The module of an engine. Raises ImportError where its packages are not installed."""
    return import_module(f".{ENGINES[name]}", __name__)
