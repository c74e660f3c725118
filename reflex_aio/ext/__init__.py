"""Integrations with optional dependencies, one module for each; import them by their own names."""
