"""One module an experiment: parameters, variants, figures and claims."""
