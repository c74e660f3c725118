"""The users service: its tables, its changes and their events, its gRPC stream, and a consumer of its own."""
