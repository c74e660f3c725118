"""The users service: its tables, its changes and their events, the stream that it serves, a consumer of its own."""
