"""Libraries that people choose between, each publishing and consuming by its public API, as its documentation shows."""
