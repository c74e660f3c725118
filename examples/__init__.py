"""Two small services, and a demonstration that runs them: ``python -m examples.demo``."""
