"""A plan as a table, JSON, CSV or Markdown."""
