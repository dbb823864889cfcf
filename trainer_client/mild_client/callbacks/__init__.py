"""Callbacks for training frameworks, one module each; each module imports its framework."""
