"""Experiment 2: does a compressive memory help HRM, and where must it sit?"""

from dataclasses import replace

from lib.character.claims import on_wikitext
from lib.character.figures import common
from lib.character.models.hrm import HRMConfig
from lib.character.objectives import Segments
from lib.character.parameters import CharacterParameters
from lib.character.variants import Variant, baselines
from lib.experiment import Experiment
from lib.parameters import whole
from lib.results.claims import change


class Exp02(CharacterParameters):
    """The shared parameters with the report's patience of 3, and fewer seeds: HRM is slow."""

    seeds: int = whole(6, 1, 1_000)
    patience: int = whole(3, 1, 10_000)


HIDDEN, INPUT = HRMConfig(memory="hidden"), HRMConfig(memory="input")
RESET, CARRY = Segments(2), Segments(2, carry=True)

# The report's five rows and the controls: memory emptied, and memory without look-ahead. Every
# window begins with an empty memory at validation and test. Without look-ahead a *carry* row then
# reads nothing, and a *reset* row equals the one with its memory emptied, bit for bit.
VARIANTS = {
    "hrm": Variant(HRMConfig(), RESET, "HRM"),
    "hidden_reset": Variant(HIDDEN, RESET, "HRM+Memory reset"),
    "hidden_carry": Variant(HIDDEN, CARRY, "HRM+Memory carry"),
    "hidden_emptied": Variant(
        replace(HIDDEN, memory_off=True), RESET, "HRM+Memory, memory emptied"
    ),
    "hidden_carry_causal": Variant(
        replace(HIDDEN, causal_memory=True), CARRY, "HRM+Memory carry, no look-ahead"
    ),
    "infini_reset": Variant(INPUT, RESET, "Infini-HRM reset"),
    "infini_carry": Variant(INPUT, CARRY, "Infini-HRM carry"),
    "infini_emptied": Variant(replace(INPUT, memory_off=True), RESET, "Infini-HRM, memory emptied"),
    "infini_carry_causal": Variant(
        replace(INPUT, causal_memory=True), CARRY, "Infini-HRM carry, no look-ahead"
    ),
    "hrm_trained_low": Variant(HRMConfig(update="original"), RESET, "HRM, trained L-module"),
}

LOOKS_AHEAD = "segment 2 reads its own window's later symbols, at test too"
UNUSED = (
    "equal parameters; in training segments read only what earlier batches wrote, at validation"
    " and test an empty memory"
)

claim = on_wikitext("exp02", "R4, Experiment 2")

CLAIMS = (
    claim(
        "infini-beats-hrm",
        "An infini-attention input layer (memory reset) helps HRM",
        change("infini_reset", "hrm"),
        "as the report ran it: 168,452 against 152,064 parameters, one more attention layer; "
        + LOOKS_AHEAD,
        reported=-4.7,
    ),
    claim(
        "memory-does-it",
        "What helps is the memory, not the additional attention layer",
        change("infini_reset", "infini_emptied"),
        "equal parameters: the same network with its memory emptied before every read; with memory"
        f" {LOOKS_AHEAD}",
        explains="infini-beats-hrm",
    ),
    claim(
        "reset-beats-carry",
        "Resetting the memory every batch beats carrying it over shuffled batches",
        change("infini_reset", "infini_carry"),
        "equal networks and updates; only what a training batch inherits differs: at test both"
        f" begin empty; in both {LOOKS_AHEAD}",
        reported=100 * (11.53 / 12.03 - 1),
    ),
    claim(
        "carry-helps-training",
        "Training with carried memory helps a model that is used without",
        change("infini_carry_causal", "infini_emptied"),
        UNUSED,
        explains="reset-beats-carry",
    ),
    claim(
        "hidden-reset-fails",
        "Memory inside the hidden states (reset) harms HRM",
        change("hidden_reset", "hrm"),
        "reconstructed from its parameter count, 193,024; of the added matrices only query, output"
        f" and gate of H are trained; {LOOKS_AHEAD}",
        expect="above",
        reported=86.9,
    ),
    claim(
        "hidden-memory-does-it",
        "What is stored inside the hidden states, later symbols included, helps",
        change("hidden_reset", "hidden_emptied"),
        "equal parameters: the same cells with their memories emptied before every read; with"
        f" memory {LOOKS_AHEAD}, so that its perplexity is not a language model's",
        explains="hidden-reset-fails",
    ),
    claim(
        "hidden-carry-helps-training",
        "Training with memory carried inside the hidden states helps a model that is used without",
        change("hidden_carry_causal", "hidden_emptied"),
        UNUSED,
        explains="hidden-carry-fails",
    ),
    claim(
        "hidden-carry-fails",
        "Memory inside the hidden states (carried) harms HRM",
        change("hidden_carry", "hrm"),
        "reconstructed from its parameter count, 193,024; only query, output and gate of H trained;"
        f" {LOOKS_AHEAD}",
        expect="above",
        reported=92.1,
    ),
    claim(
        "untrained-l-module",
        "Training the L-module, which the report's code left out, helps HRM",
        change("hrm_trained_low", "hrm"),
        "equal parameters and updates; original against refactored update rule",
        kind="own",
    ),
)

E02 = Experiment(
    slug="02_infini_hrm",
    question="Does a compressive memory help HRM, and where must it sit?",
    parameters=Exp02,
    texts=Exp02.texts,
    variants={**VARIANTS, **baselines()},
    baseline="hrm",
    report="exp02",
    figures={
        "perplexity": common.perplexity(
            list(VARIANTS), ("infini_reset", "hrm"), "exp02", counted=("bigram",), diamonds=False
        ),
        "curves": common.curves(list(VARIANTS), highest=20),
    },
    claims=CLAIMS,
)
