"""The table of an experiment beside its report, a table a text."""

import pandas as pd

from lib.character.figures.common import metric
from lib.experiment import Experiment
from lib.results import tables
from lib.results.store import Results


def against_report(results: Results, experiment: Experiment) -> list[pd.DataFrame]:
    """Ours beside the report's, in the order of the texts.

    The change is that of the column that decides on the text; the report's figures stand beside the
    text on which they were measured, that of the first claim, and are blank elsewhere.
    """
    own = experiment.claims[0].texts if experiment.claims else ()
    return [
        tables.against_reported(
            results.on(text), experiment, metric(text), bool(own) and text.startswith(own)
        )
        for text in results.corpora
    ]
