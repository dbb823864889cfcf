"""Adapters to training frameworks, one a file; each needs its framework, and nothing else here does."""
