"""Re-rankers and the stage that applies them."""
