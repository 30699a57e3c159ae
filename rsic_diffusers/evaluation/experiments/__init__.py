"""Commands that make the tables of docs/RESULTS.md."""
