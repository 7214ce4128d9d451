"""The programs that export; see docs/architecture.md."""
