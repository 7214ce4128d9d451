"""The programs that train; see docs/architecture.md."""
