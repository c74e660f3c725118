"""The events table: inserting events, and streaming them in order without passing a gap."""
