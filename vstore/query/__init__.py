"""From a query to hits with a receipt."""
