"""Views of a selection: table of samples, histograms, explanation of one sample, and sweep of all cuts."""
