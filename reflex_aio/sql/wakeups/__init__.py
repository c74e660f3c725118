"""How streams hear of new events, in this process and others."""
