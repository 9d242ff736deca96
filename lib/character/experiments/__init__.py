"""One module an experiment: parameters, variants, figures, claims."""
