"""The programs that ask a server; see docs/architecture.md."""
