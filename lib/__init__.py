"""The library behind the notebooks, in the order in which data flow.

    parameters, provenance   what every run is given, and what every number stands on
    text                     corpora, alphabets, windows, tokens
    models                   block -> transformer -> HRM, memories, LCT; the pretrained base
    training                 objectives -> fit -> checkpoint -> sweep
    analysis                 statistics, count models, checks, early exit
    cascade, context         two rooms of their own: stage models, and the context recurrence
    results, figures         tables, claims, verdicts; plots drawn from tables
    experiments, notebook    one module an experiment; what notebooks do at their start

Read ``models/transformer.py``, then ``training/fit.py``, then anything.
"""
