"""Callbacks for training frameworks, one module for each framework, which the module imports."""
