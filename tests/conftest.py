"""What every test shares: one plugin for each concern."""

pytest_plugins = [
    "pytester",
    "tests.fix_signals",
    "tests.fix_leaks",
    "tests.fix_servers",
    "tests.fix_databases",
    "tests.fix_statements",
    "tests.fix_standbys",
    "tests.fix_proxy",
    "tests.fix_poolers",
    "tests.fix_processes",
]
