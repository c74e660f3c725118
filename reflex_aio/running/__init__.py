"""One run of a spec, and runs one after another."""
