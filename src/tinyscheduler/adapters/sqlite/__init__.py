"""The embedded queue and the ledger of attempts: one SQLite database, one adapter."""
