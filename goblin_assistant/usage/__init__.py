"""What was spent and what may be spent: records, budgets, prices, reports."""
