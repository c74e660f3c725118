"""Cursors in a table: the position of each consumer, and the stores that move it."""
