"""Benchmarks: the cost of streams, inserts and wake-ups, each as a ratio to the raw driver in the same run."""

import os

# gRPC writes notes on its connections to standard error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
