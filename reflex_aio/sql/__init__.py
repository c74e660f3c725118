"""Events and cursors in SQL tables."""
