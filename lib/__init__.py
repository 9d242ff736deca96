"""The library behind the notebooks, in the order in which data flow.

    runs                     keys, files, sweeps of many runs, devices
    text, base               corpora, alphabets, windows; the pretrained base
    parameters, training     what a run is given, checked; the one loop
    experiment, results      an experiment as data; tables, claims, verdicts
    figures, toy, notebook   plots drawn from tables; one sentence through a mechanism; what
                             notebooks do at their start
    character, cascade, context, depth
                             the studies: models, methods, figures, one module an experiment

Read ``character/models/transformer.py``, then ``training/loop.py``, then anything.
"""
