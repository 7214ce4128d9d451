"""What measures and reports; see docs/reports.md."""
