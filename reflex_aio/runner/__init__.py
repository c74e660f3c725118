"""Runs many specs in one process, and shares them with other processes."""
