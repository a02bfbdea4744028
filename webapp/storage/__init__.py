"""All SQL: tables, transactions, and everything that is read or written."""
