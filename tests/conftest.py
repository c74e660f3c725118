"""What every test shares: one plugin for each concern."""

import os

# gRPC writes notes on its connections to standard error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

pytest_plugins = [
    "pytester",
    "tests.fix_deadlines",
    "tests.fix_seeds",
    "tests.fix_signals",
    "tests.fix_loops",
    "tests.fix_leaks",
    "tests.fix_servers",
    "tests.fix_databases",
    "tests.fix_mariadb",
    "tests.fix_proxy",
    "tests.fix_backends",
    "tests.fix_statements",
    "tests.fix_standbys",
    "tests.fix_poolers",
    "tests.fix_processes",
    "tests.fix_stress",
]
