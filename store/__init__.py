"""Records, key format, SQL, counters, ledger, catalog. Imports nothing else of ours."""
