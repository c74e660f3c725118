"""How an events table is read: pages, the tail that streams share, connections that are kept."""
