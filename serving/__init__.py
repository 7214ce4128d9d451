"""The programs that serve; see docs/architecture.md."""
