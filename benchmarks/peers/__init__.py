"""Libraries for the same purpose, each used through its public API as its documentation shows."""
