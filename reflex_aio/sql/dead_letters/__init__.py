"""The errors table: events that consumers gave up on."""
