"""What needs an optional dependency: one module for each, imported by its own name."""
