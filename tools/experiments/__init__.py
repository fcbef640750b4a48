"""One script per claim that was checked, and a table of what came out (README.md)."""
