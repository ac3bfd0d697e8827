"""From result files to a Markdown report: statistics, tables, figures, and the paper's values beside them."""
