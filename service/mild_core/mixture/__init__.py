"""Weibull mixtures: the distribution, the optimiser, and the fit to a histogram."""
