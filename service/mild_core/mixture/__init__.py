"""Weibull mixtures: distribution, optimiser and fit."""
