"""Measurements: what streaming, inserting and waking cost, each as a ratio to the raw driver in the same run."""
