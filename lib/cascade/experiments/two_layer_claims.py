"""Claims of seed 002 (Experiment 12), and the rows that decide them."""

from lib.cascade.experiments.cascade import against_base, common_change, on_wikitext
from lib.results.claims import claim_maker

EXPERIMENT, SLUG = "cascade_two_layer", "12_two_layer_stage"
SEED, TWICE = "Seed 002", "Base applied twice"
IDENTITY = "Base's head, starts as the base"


_claim = claim_maker(EXPERIMENT, SLUG, "seed 002", min_seeds=3)


CLAIMS = (
    _claim(
        "improves-hard",
        "A two-layer stage improves the hard tokens it is trained on",
        against_base(SEED),
        "same tokens, base applied once (the seed applied it twice)",
        reported=-52.3,
    ),
    _claim(
        "one-pass",
        "The base is at least ten times worse on hard tokens than on all tokens",
        against_base(TWICE, "base_ppl", "base_all_ppl"),
        "base applied once; no randomness",
        expect="above",
        threshold=900.0,
        reported=100 * (24343.01 / 12.5 - 1),
        min_seeds=1,
    ),
    _claim(
        "double-pass",
        "The 24,343 is the base applied to its own output",
        against_base(TWICE),
        "identical packed tokens, two passes against one; no randomness",
        expect="above",
        threshold=10_000.0,
        min_seeds=1,
    ),
    _claim(
        "low-cosine-is-hard",
        "Low-cosine tokens are harder for the base than the others",
        against_base(TWICE, "base_ppl", "base_easy_ppl"),
        "one pass, split by the seed's rule",
        expect="above",
        min_seeds=1,
    ),
    _claim(
        "low-cosine-is-hard-inside",
        "... also when the ends of records are left out",
        against_base(TWICE, "base_inner_ppl", "base_easy_ppl"),
        "the label of an end-of-record token is the start of an unrelated record",
        expect="above",
        min_seeds=1,
    ),
    _claim(
        "improves-all",
        "Handing hard tokens to the stage improves the perplexity of all tokens",
        against_base(SEED, "cascade_all_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
    ),
    _claim(
        "hard-beats-random",
        "Training on hard tokens is better for them than on random ones",
        common_change("Hard", "Random tokens"),
        "equal tokens, steps, rate and initial weights",
    ),
    _claim(
        "hard-beats-first",
        "... than on the first tokens of the text",
        common_change("Hard", "First tokens"),
        "equal tokens, steps, rate and initial weights",
    ),
    _claim(
        "hard-beats-loss",
        "... than on the tokens that the base really gets wrong",
        common_change("Hard", "Highest loss"),
        "equal tokens, steps, rate and initial weights",
    ),
    _claim(
        "packs-beat-single",
        "A pack of hard tokens is a useful context for each other",
        common_change("Hard", "Length 1"),
        "packs of 128 against every token alone",
    ),
    _claim(
        "four-layers",
        "Four added layers are better than two",
        common_change("4 layers", "Hard"),
        "equal tokens and steps; seed 002's open list",
    ),
    _claim(
        "more-data",
        "More text is better at equal steps",
        common_change("Hard", "Hard, half the text"),
        "equal steps; seed 002's open list",
    ),
    _claim(
        "larger-ratio",
        "A hard ratio of 30 % is better over all tokens than 10 %",
        common_change("Hard ratio x3", "Hard", "cascade_all_ppl"),
        "all test tokens; seed 002's open list",
    ),
    _claim(
        "base-head-hard",
        "A stage that starts as the base improves hard tokens",
        against_base(IDENTITY),
        "same tokens, base applied once, base's frozen head",
    ),
    _claim(
        "base-head-inside",
        "... also when the ends of records are left out",
        against_base(IDENTITY, "inner_ppl", "base_inner_ppl"),
        "an end of record is always followed by the template's first word",
    ),
    _claim(
        "wikitext",
        "The cascade of seed 002 improves WikiText-2 as well",
        on_wikitext(against_base(SEED, "wikitext_cascade_all_ppl", "wikitext_base_all_ppl")),
        "all tokens of another corpus; seed 002's open list",
    ),
)
