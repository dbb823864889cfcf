"""Views of a selection: table of samples, histograms, explanation of a sample, sweep of the threshold."""
